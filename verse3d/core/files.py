"""Writing files whole or not at all, and reading the small ones."""

import contextlib
import errno
import glob
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError, OutputError
from verse3d.core.jsontext import parse_json

PathOrText = str | os.PathLike[str]
TEMPORARY_PREFIX = ".verse3d-"
_HINTS = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another folder",
    errno.EACCES: "you may not write there: choose another folder or change its permissions",
    errno.EPERM: "you may not write there: choose another folder or change its permissions",
    errno.EROFS: "that file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EEXIST: "a file of that name stands where a folder is needed",
}


_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def regular_file(path: Path) -> Path:
    """The path itself, if it leads to a file of bytes. Ask before opening what a user or another file names.

    A pipe or a device is not even opened: reading it could wait, or go on, for ever.

    Raises:
        DataError: nothing is there; it is a folder, a pipe, a socket or a device; or its name is impossible.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError as error:
        raise DataError(f"{path} does not exist") from error
    except (OSError, ValueError) as error:  # ValueError: NUL or a lone surrogate in the name
        raise DataError(f"cannot read {path}: {getattr(error, 'strerror', None) or error}") from error
    if not stat.S_ISREG(mode):
        kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "something special")
        raise DataError(f"{path} is {kind}, not a file", hint="name a file on disk")
    return path


def is_file(path: Path) -> bool:
    """Whether a file of bytes is there. No for names that the system refuses, where ``Path.is_file`` raises."""
    return os.path.isfile(path)  # noqa: PTH113


def resolved(path: Path) -> Path:
    """The path without links in it; merely absolute where the system refuses the name or runs in a circle."""
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError):  # RuntimeError: links that lead to each other; ValueError: NUL
        return path.absolute()


def output_error(path: Path, error: OSError) -> OutputError:
    """The error to raise when ``path`` could not be written because of ``error``."""
    reason = error.strerror or str(error)
    return OutputError(f"cannot write {path}: {reason}", hint=_HINTS.get(error.errno or 0, ""))


def make_folder(path: Path) -> Path:
    """Create the folder and its parents if they are missing, and return it.

    Raises:
        OutputError: it cannot be created or not be written to.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path):
            pass
    except OSError as error:
        raise output_error(path, error) from error
    return path


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """A temporary path beside ``path`` to write to; it takes the final name only if the block ends well.

    The temporary name keeps the suffixes (".nii.gz"), starts with a dot, and is removed after any failure.

    Raises:
        OutputError: the file system refuses (disk full, not writable ...).

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with whole_file(pathlib.Path(folder) / "a.txt") as part:
        ...         _ = part.write_text("all of it")
        ...     (pathlib.Path(folder) / "a.txt").read_text()
        'all of it'
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{path.name}")
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            _flush_to_disk(temporary)
            temporary.replace(path)
        finally:
            # After a failure only: a finished file has moved to its final name.
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


def remove_leftovers(path: Path) -> None:
    """Remove what programs that were killed have left beside ``path`` while they wrote it.

    What a running program writes is left alone.
    """
    for temporary in path.parent.glob(f"{TEMPORARY_PREFIX}*-{glob.escape(path.name)}"):
        pid = temporary.name.removeprefix(TEMPORARY_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if pid.isdecimal() and not _is_writing(int(pid), temporary):
                temporary.unlink()


def _is_writing(pid: int, temporary: Path) -> bool:
    """Whether a program of that number runs that was there before the file; a number may have been given away again."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # it runs, and is somebody else's
    try:
        return Path(f"/proc/{pid}").stat().st_ctime <= temporary.stat().st_mtime
    except OSError:
        return True


def _flush_to_disk(path: Path) -> None:
    with path.open("rb") as handle:
        os.fsync(handle.fileno())


def write_text(path: Path, text: str) -> None:
    """Write a text file (UTF-8, LF) whole or not at all; bytes of file names that are no text become ``\\udcXX``."""
    with whole_file(path) as part:
        part.write_bytes(text.encode("utf-8", "backslashreplace"))


def write_json(path: Path, value: Any) -> None:  # noqa: ANN401 - whatever JSON can hold
    """Write indented strict JSON (no NaN) whole or not at all."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")


def sha256_of(path: Path) -> str:
    """Hexadecimal SHA-256 of a file's content.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with regular_file(path).open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Parse a JSON file without knowing what it should hold; who knows uses ``readers.read_record``.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    try:
        return parse_json(regular_file(path).read_text(encoding="utf-8"))
    except DataError as error:  # also one that names the place in the text only
        raise DataError(f"cannot read {path} as JSON: {error.message}", hint=error.hint) from error
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as JSON: {error}") from error
