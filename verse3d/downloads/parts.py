"""The beginning of a file on disk, kept so that a broken transfer can go on without mixing two versions of it."""

import contextlib
import hashlib
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

from pydantic import ConfigDict

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import output_error, write_json
from verse3d.core.logs import logger
from verse3d.core.readers import KILOBYTE, RECORD_CONFIG, read_record
from verse3d.core.system import lock

_log = logger(__name__)
_NOTE_BYTES = 64 * KILOBYTE
_ZIP_STARTS_WITH = b"PK\x03\x04"


class TransferError(DataError):
    """A server did not deliver the file."""


class NoAnswerError(TransferError):
    """A server did not even answer."""


@dataclass(frozen=True)
class Origin:
    """What a server says about a file: enough to know it again.

    Attributes:
        url: where it was asked for.
        etag: its ETag, if any.
        last_modified: its Last-Modified, if any.
        total: its length in bytes, if known.
    """

    __pydantic_config__: ClassVar[ConfigDict] = RECORD_CONFIG

    url: str
    etag: str = ""
    last_modified: str = ""
    total: int | None = None

    def is_same(self, other: "Origin") -> bool:
        """Whether nothing that both know differs, and there is something that both know."""
        # What one of both does not know is not compared; if nothing is left, they are not known to be the same.
        pairs = [(self.etag, other.etag), (self.last_modified, other.last_modified), (self.total, other.total)]
        known = [mine == theirs for mine, theirs in pairs if mine and theirs]
        return self.url == other.url and bool(known) and all(known)

    @property
    def condition(self) -> str:
        """The value of If-Range: a server that knows the header sends everything anew if its file has changed."""
        # A weak ETag (W/) promises the same meaning, not the same bytes.
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


class Part:
    """The beginning of a file on disk; it keeps its hash, its length and where it is from.

    Beside it lies a note (``.json``) with its origin. Old bytes stay until the first new ones are known to belong to a
    zip file: an error page never replaces them.

    Raises:
        OutputError: the part cannot be opened, or another process is writing to it.
    """

    def __init__(self, path: Path, on_bytes: Callable[[int, int | None], None]) -> None:
        self.path = path
        self.note = path.with_name(path.name + ".json")
        self.origin = _read_note(self.note)
        self._on_bytes = on_bytes
        self._fresh: Origin | None = None
        try:
            self._file = path.open("r+b" if path.exists() else "w+b")
            _keep_for_us(self._file, path)
            # What is there is hashed once; what comes is hashed as it comes.
            self.digest = hashlib.file_digest(self._file, "sha256")
            self.size = self._file.tell()
        except OutputError:
            raise
        except OSError as error:
            raise output_error(path, error) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):  # what could not be written was reported by write
            self._file.close()

    def begin_anew(self, origin: Origin) -> None:
        """Let the next bytes be the first ones of a file from there."""
        self._fresh = origin

    @property
    def waits_for_bytes(self) -> bool:
        """Whether it was begun anew and nothing has come since."""
        return self._fresh is not None

    def write(self, data: bytes) -> None:
        """Append what the server sent."""
        try:
            if self._fresh is not None:
                self._start(self._fresh, data)
            self._file.write(data)
        except OutputError:
            raise
        except OSError as error:
            raise output_error(self.path, error) from error
        self.digest.update(data)
        self.size += len(data)
        self._on_bytes(self.size, self.origin.total if self.origin else None)

    def _start(self, origin: Origin, data: bytes) -> None:
        # The first piece may be shorter than four bytes, so the shorter one is compared.
        if not _ZIP_STARTS_WITH.startswith(data[: len(_ZIP_STARTS_WITH)]):
            raise TransferError(f"{origin.url} sent something else than a zip file; it begins {data[:24]!r}")
        self._file.seek(0)
        # Only here do old bytes go: the new ones are known to begin a zip.
        self._file.truncate()
        self.digest, self.size = hashlib.sha256(), 0
        self.origin, self._fresh = origin, None
        write_json(self.note, asdict(origin))

    def finish(self) -> None:
        """Bring everything to the disk."""
        try:
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise output_error(self.path, error) from error

    def remove(self) -> None:
        """Delete part and note."""
        remove_part(self.path)


def remove_part(path: Path) -> None:
    """Delete a part and its note, if they exist."""
    for one in (path, path.with_name(path.name + ".json")):
        one.unlink(missing_ok=True)


def _read_note(path: Path) -> Origin | None:
    """The origin of a part; None (so the part is not continued) if that is unknown or unreadable."""
    try:
        return read_record(path, Origin, max_bytes=_NOTE_BYTES)
    except DataError:
        return None


def _keep_for_us(file: Any, path: Path) -> None:  # noqa: ANN401 - any open file
    try:
        locked = lock(file, wait=False)
    except BlockingIOError as error:
        raise OutputError(f"another process is downloading to {path}", hint="wait for it, or end it") from error
    if not locked:
        _log.debug("%s cannot be locked", path)
