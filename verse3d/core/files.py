"""Writing files whole or not at all, and reading the small ones."""

import contextlib
import errno
import hashlib
import json
import os
import platform
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError, OutputError

PathOrText = str | os.PathLike[str]
TEMPORARY_PREFIX = ".verse3d-"
_MACHINE = hashlib.blake2b(platform.node().encode(), digest_size=4).hexdigest()
_OWNER = re.compile(r"(?P<pid>[0-9]+)(\.(?P<machine>[0-9a-f]{8}))?")
_CLOCKS_APART_SECONDS = 60
"""A file's time may come from another machine's clock."""
_FORGOTTEN_SECONDS = 86400
"""What a process on another machine has not touched for a day is taken to be left behind."""
_HINTS = {
    errno.ENOSPC: "the disk is full: free some space or choose another folder",
    errno.EDQUOT: "your disk quota is used up: free some space or choose another folder",
    errno.EACCES: "you may not write there: choose another folder or change its permissions",
    errno.EPERM: "you may not write there: choose another folder or change its permissions",
    errno.EROFS: "that file system is read-only: choose another folder",
    errno.ENOTDIR: "a part of that path is a file, not a folder",
    errno.EEXIST: "a file of that name stands where a folder is needed",
}


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
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{owner()}-{path.name}")
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


def owner() -> str:
    """This process among all that write into a folder, which several machines may share: "number.machine"."""
    return f"{os.getpid()}.{_MACHINE}"


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder; those of living ones are left alone."""
    for temporary in folder.glob(f"{TEMPORARY_PREFIX}*"):
        name = temporary.name.removeprefix(TEMPORARY_PREFIX).partition("-")[0]
        with contextlib.suppress(OSError):
            if _OWNER.fullmatch(name) and temporary.is_file() and not is_alive(name, temporary):
                temporary.unlink()


def is_alive(name: str, file: Path) -> bool:
    """Whether the process that calls itself ``name`` (see ``owner``) and wrote ``file`` may still be at it.

    Numbers of processes are given away again: one that began after the file was written is another. What happens on
    another machine cannot be seen, so there a file counts as left behind when it is a day old.
    """
    match = _OWNER.fullmatch(name)
    if match is None:
        return True
    written = file.stat().st_mtime
    if match["machine"] not in (None, _MACHINE):
        return time.time() - written < _FORGOTTEN_SECONDS
    started = _start_of(int(match["pid"]))
    return started is not None and started <= written + _CLOCKS_APART_SECONDS


def _start_of(pid: int) -> float | None:
    """When a process began, in seconds since 1970 (0 if the system does not say); None if there is none."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return None
    except OSError:
        pass  # it runs, and is somebody else's
    try:
        # The name, in brackets, may hold anything; behind it stand the state and, 19 fields on, the start in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
        rows = dict(line.split(" ", 1) for line in Path("/proc/stat").read_text().splitlines())
        booted = float(rows["btime"])
        return None if fields[0] == "Z" else booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, KeyError, IndexError):
        return 0.0


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
        with path.open("rb") as handle:
            return hashlib.file_digest(handle, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {path}: {error}") from error


def read_json(path: Path) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Parse a JSON file.

    Raises:
        DataError: the file cannot be read or is not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"cannot read {path} as JSON: {error}") from error
