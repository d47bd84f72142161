"""The list of what was fetched, ``verse3d-downloads.lock.json``: read, checked and written."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, ClassVar

from pydantic import ConfigDict, Field

from verse3d.core.errors import DataError
from verse3d.core.files import write_json
from verse3d.core.readers import MEGABYTE, RECORD_CONFIG, Record, Whole, checked, read_record

LOCK_FILE = "verse3d-downloads.lock.json"
_LOCK_VERSION = 1
_LOCK_BYTES = 4 * MEGABYTE


@dataclass(frozen=True)
class Locked:
    """What the list says about an archive.

    Attributes:
        file: its name.
        bytes: its length.
        sha256: its hash, in hex.
        url: where it came from; empty if it was there already.
        etag: the server's name for its bytes, if any.
        recorded: when (UTC).
        mtime_ns: its time of modification: if that and the length are the same, the hash is not computed again.
    """

    __pydantic_config__: ClassVar[ConfigDict] = RECORD_CONFIG

    file: str
    bytes: Annotated[int, Field(ge=0)]
    sha256: Annotated[str, Field(pattern="^[0-9a-f]{64}$")]
    url: str
    etag: str
    recorded: str
    mtime_ns: int


class _Lock(Record):
    version: Whole
    files: list[dict[str, Any]]


def read_lock(path: Path) -> dict[str, Locked]:
    """What the list says, by the names of archives; nothing if there is none.

    Raises:
        DataError: it is damaged, or of another version.
    """
    if not path.exists():
        return {}
    hint = "move it away: archives that are there are then taken into a new list without downloading them"
    try:
        content = read_record(path, _Lock, max_bytes=_LOCK_BYTES)
        if content.version != _LOCK_VERSION:
            raise DataError(f"its version is {content.version}, not {_LOCK_VERSION}")
        rows = checked(content.files, list[Locked], str(path))
        if len({row.file for row in rows}) < len(rows):
            raise DataError("it names a file twice")
    except DataError as error:
        raise DataError(
            f"{path} is damaged, so nothing in the folder can be verified: {error.message}", hint=hint
        ) from error
    return {row.file: row for row in rows}


def write_lock(path: Path, locked: Mapping[str, Locked]) -> None:
    """Write the list, whole or not at all, in the order of the names.

    Raises:
        OutputError: it cannot be written.
    """
    files = [asdict(locked[name]) for name in sorted(locked)]
    write_json(path, {"version": _LOCK_VERSION, "files": files})
