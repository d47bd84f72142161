"""Writing files whole or not at all, and reading the small ones."""

import contextlib
import errno
import hashlib
import json
import os
import stat
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Self

from verse3d.core.errors import DataError, OutputError
from verse3d.core.jsontext import parse_json
from verse3d.core.owners import OWNER, is_alive, owner
from verse3d.core.paths import LONGEST_NAME_BYTES, TEMPORARY_PREFIX
from verse3d.core.system import flush_file

PathOrText = str | os.PathLike[str]
_ROOM_FOR_PREFIX = 32
"""Bytes of a temporary name for the prefix, the number of the process and the machine."""
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
        # Tried, not asked: permissions do not tell about quotas, read-only disks or network folders.
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
    temporary = _temporary_path(path)
    try:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            flush_file(temporary)
            # Flushed before: a name must never come to the disk earlier than what it stands for.
            temporary.replace(path)
        finally:
            # After a failure only: a finished file has moved to its final name.
            with contextlib.suppress(OSError):
                temporary.unlink()
    except OutputError:
        raise
    except OSError as error:
        raise output_error(path, error) from error


class FileBatch:
    """Many files, each written whole or not at all, that are flushed to the disk together.

    A flush for each of 10^5 small files takes minutes: the disk's journal is written every time. Here the files of a
    batch are flushed by many threads at once, which share these writes, and get their names afterwards.

    Example:
        >>> import pathlib, tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with FileBatch() as batch:
        ...         for name in ("a", "b"):
        ...             with batch.file(pathlib.Path(folder) / name) as part:
        ...                 _ = part.write_text(name)
        ...     sorted(path.name for path in pathlib.Path(folder).iterdir())
        ['a', 'b']
    """

    MOST_FILES = 1_000
    MOST_BYTES = 2**28
    _THREADS = 32

    def __init__(self) -> None:
        self._ready: dict[Path, Path] = {}
        self._bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        """Name what is complete, also after a failure; a second failure does not hide the first."""
        with contextlib.suppress(OSError) if kind else contextlib.nullcontext():
            self.settle()

    @contextlib.contextmanager
    def file(self, path: Path) -> Iterator[Path]:
        """A temporary path to write to, as ``whole_file`` gives it; it takes its name with the rest of its batch.

        Raises:
            OutputError: the file system refuses this file, or an earlier one of the batch.
        """
        temporary = _temporary_path(path)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            yield temporary
            size = temporary.stat().st_size
        except BaseException as error:
            with contextlib.suppress(OSError):
                temporary.unlink()
            if isinstance(error, OSError) and not isinstance(error, OutputError):
                raise output_error(path, error) from error
            raise
        # Written, not named yet: names are given when the whole batch has come to the disk.
        self._ready[path] = temporary
        self._bytes += size
        if len(self._ready) >= self.MOST_FILES or self._bytes >= self.MOST_BYTES:
            self.settle()

    def settle(self) -> None:
        """Flush what was written and give it its names.

        Raises:
            OutputError: the file system refuses a file. Nothing is left of that one; the others have their names.
        """
        batch, self._ready, self._bytes = self._ready, {}, 0
        failures: list[OutputError] = []
        try:
            with ThreadPoolExecutor(self._THREADS) as pool:
                flushed = {path: pool.submit(flush_file, temporary) for path, temporary in batch.items()}
            for path, done in flushed.items():
                try:
                    done.result()
                    batch[path].replace(path)
                except OSError as error:  # the others are whole, and keep their names
                    failures.append(output_error(path, error))
                    failures[-1].__cause__ = error
        finally:
            for temporary in batch.values():
                with contextlib.suppress(OSError):  # a finished file has moved to its name
                    temporary.unlink()
        if failures:
            raise failures[0]


def _temporary_path(path: Path) -> Path:
    """Where a file is written before it is whole: beside it, with its suffixes."""
    # In bytes, as file systems count: a name in Chinese takes three times its letters.
    encoded = path.name.encode("utf-8", "surrogatepass")
    if len(encoded) <= LONGEST_NAME_BYTES - _ROOM_FOR_PREFIX:
        name = path.name
    else:
        # Nothing could be put before so long a name: a hash with its suffixes stands for it.
        name = hashlib.sha256(encoded).hexdigest()[:16] + "".join(path.suffixes[-2:])[-16:]
    return path.with_name(f"{TEMPORARY_PREFIX}{owner()}-{name}")


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed processes have left in a folder; those of living ones are left alone."""
    for temporary in folder.glob(f"{TEMPORARY_PREFIX}*"):
        name = temporary.name.removeprefix(TEMPORARY_PREFIX).partition("-")[0]
        if not OWNER.fullmatch(name):  # it only looks like ours, and belongs to somebody else
            continue
        with contextlib.suppress(OSError):
            if temporary.is_file() and not is_alive(name, temporary):
                temporary.unlink()


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
