"""Zips, and zips in zips, opened within limits: what a small file can cost in time, memory and disk is bounded.

A zip is a row of packed files, and behind them a directory that says where each begins. Nothing that the directory says
is trusted::

    [file 0][file 1] ... [directory: 0 at byte .., 1 at byte ..][end: where the directory begins]

Files that share bytes, so that a few of them unpack to petabytes, are refused. A zip that lies *stored* in a zip is
read where it is. One that is *packed* in it has to be unpacked to a scratch file, and is refused if it is large.
"""

import contextlib
import io
import itertools
import os
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from verse3d.core.errors import DataError
from verse3d.core.files import regular_file

MAX_MEMBERS = 200_000
"""Files and folders in a zip and in all zips in it."""
MAX_DEPTH = 3
"""Zips within zips: the release nests them once."""
MAX_INNER = 1_000
"""Zips in a zip, all levels together."""
MAX_DIRECTORY_BYTES = 2**26
INNER_FREE_BYTES, INNER_GROWTH = 2**28, 2
"""Packed zips in a zip may unpack to this many bytes, or to so many times the outermost zip: scans hardly shrink."""
ZIP_ERRORS = (OSError, EOFError, ValueError, RuntimeError, NotImplementedError, zipfile.BadZipFile, zlib.error)
"""What Python's zipfile raises on files that are damaged or no zip."""
CHUNK_BYTES = 2**20
_ENTRY_BEGINS = b"PK\x01\x02"
_LOCAL_HEADER = struct.Struct("<4s22xHH")  # signature, length of the name, length of the extra field


@dataclass(frozen=True)
class ZipEntry:
    """A file in a zip, or in a zip in it.

    Attributes:
        path: below the outermost zip; what lies in a zip in it lies below that one's name without its ending.
        info: what the directory says about it.
        holder: the zip that it lies in.
        problem: why the file was not looked into, or "".
    """

    path: PurePosixPath
    info: zipfile.ZipInfo
    holder: zipfile.ZipFile
    problem: str = ""


@contextlib.contextmanager
def opened_zip(path: Path, scratch: Path | None = None) -> Iterator["Zips"]:
    """Open a zip to list and read it.

    Args:
        path: the zip.
        scratch: an existing folder for zips that are packed in it, as long as it is open; None: that of the system.

    Raises:
        DataError: it is no regular file, no zip, damaged, or beyond the limits.
    """
    regular_file(path)
    folder = None if scratch is None else str(scratch)
    try:
        # The scratch file is made when the first megabyte is written to it, so most zips need none.
        with path.open("rb") as handle, tempfile.SpooledTemporaryFile(CHUNK_BYTES, dir=folder) as scratch_file:
            size = os.fstat(handle.fileno()).st_size
            opened = open_directory(Stretch(handle, 0, size), str(path))
            yield Zips(path, opened, Stretch(handle, 0, size), scratch_file)
    except DataError:
        raise
    except ZIP_ERRORS as error:
        raise DataError(f"{path} cannot be read as a zip: {error}", hint="download it again") from error


class Stretch:
    """Some bytes of an open file, as a file of their own that can only be read."""

    def __init__(self, file: IO[bytes], start: int, size: int) -> None:
        self.file, self.start, self.size = file, start, size
        self.counts_entries = False
        self._position = 0

    def seekable(self) -> bool:
        """True."""
        return True

    def tell(self) -> int:
        """Where the next byte is read."""
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET, /) -> int:
        """Move; ``OSError`` before the beginning, as for any file."""
        origins = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self.size}
        position = origins[whence] + offset
        if position < 0:
            raise OSError("a position before the beginning")
        self._position = position
        return position

    def read(self, size: int = -1, /) -> bytes:
        """Up to ``size`` bytes, or all that are left.

        Raises:
            DataError: a directory is read, and it is larger than any honest one.
        """
        left = max(0, self.size - self._position)
        wanted = left if size < 0 else min(size, left)
        if self.counts_entries and wanted > MAX_DIRECTORY_BYTES:
            raise DataError(f"its directory has {wanted} bytes, at most {MAX_DIRECTORY_BYTES} are read")
        self.file.seek(self.start + self._position)
        content = self.file.read(wanted)
        self._position += len(content)
        # zipfile makes an object of a kilobyte for each entry (46 bytes), so they are counted before it does.
        if self.counts_entries and (entries := content.count(_ENTRY_BEGINS)) > MAX_MEMBERS:
            raise DataError(f"it holds {entries} files, at most {MAX_MEMBERS} are unpacked")
        return content

    def part(self, start: int, size: int) -> "Stretch":
        """A stretch of this one; ``ValueError`` if it leads beyond its ends."""
        if start < 0 or start + size > self.size:
            raise ValueError("a file in it lies beyond its end")
        return Stretch(self.file, self.start + start, size)


def open_directory(stretch: Stretch, name: str) -> zipfile.ZipFile:
    """Read the directory of a zip.

    Raises:
        DataError: it is beyond the limits, or files share bytes.
        One of ZIP_ERRORS: it is no zip.
    """
    stretch.counts_entries = True
    try:
        opened = zipfile.ZipFile(stretch)
    except DataError as error:
        raise DataError(f"{name} is refused: {error.message}") from error
    finally:
        stretch.counts_entries = False
    if share_bytes(opened, stretch.size):
        raise DataError(f"{name} is refused as a zip bomb: files in it share bytes")
    return opened


def share_bytes(opened: zipfile.ZipFile, size: int) -> bool:
    """Whether the files of a zip overlap each other, or its end (``size`` bytes)."""
    infos = sorted(opened.infolist(), key=lambda info: info.header_offset)
    begins = [info.header_offset for info in infos] + [size]
    return any(
        info.header_offset + _LOCAL_HEADER.size + info.compress_size > following
        for info, following in zip(infos, itertools.islice(begins, 1, None), strict=True)
    )


@dataclass
class Zips:
    """An open zip with the zips in it; what all of them may cost is counted here.

    Attributes:
        path: the outermost one.
        opened: its directory.
        stretch: its bytes.
        scratch: holds, one after the other, the zips that are packed in it.
    """

    path: Path
    opened: zipfile.ZipFile
    stretch: Stretch
    scratch: IO[bytes]
    _members: int = 0
    _inner: int = 0
    _scratch_bytes: int = 0

    def entries(self) -> Iterator[ZipEntry]:
        """Every file, depth first; folders are left out.

        Raises:
            DataError: there are too many files or zips in zips.
        """
        yield from self._walk(self.opened, self.stretch, PurePosixPath(), 1)

    def _walk(self, opened: zipfile.ZipFile, stretch: Stretch, above: PurePosixPath, depth: int) -> Iterator[ZipEntry]:
        self._members += len(opened.infolist())
        if self._members > MAX_MEMBERS:
            raise DataError(f"{self.path} holds {self._members} files, at most {MAX_MEMBERS} are unpacked")
        for info in opened.infolist():
            if info.is_dir():
                continue
            entry = ZipEntry(above / info.filename, info, opened)
            if entry.path.suffix.lower() == ".zip":
                yield from self._walk_inner(entry, stretch, depth)
            else:
                yield entry

    def _walk_inner(self, entry: ZipEntry, stretch: Stretch, depth: int) -> Iterator[ZipEntry]:
        self._inner += 1
        if self._inner > MAX_INNER:
            raise DataError(f"{self.path} holds more than {MAX_INNER} zips")
        try:
            if depth >= MAX_DEPTH:
                raise DataError(f"is a zip in more than {MAX_DEPTH} zips")
            content = self._content(entry, stretch)
            inner = open_directory(content, "its content")
        except DataError as error:
            yield ZipEntry(entry.path, entry.info, entry.holder, error.message)
        except ZIP_ERRORS as error:
            yield ZipEntry(entry.path, entry.info, entry.holder, f"cannot be read as a zip: {error}")
        else:
            yield from self._walk(inner, content, entry.path.with_suffix(""), depth + 1)

    def _content(self, entry: ZipEntry, stretch: Stretch) -> Stretch:
        """The bytes of a zip in the zip: where they are if they are stored, else unpacked to the scratch file."""
        info = entry.info
        if info.compress_type != zipfile.ZIP_STORED:
            return self._unpacked(entry)
        stretch.seek(info.header_offset)
        _, name, extra = _LOCAL_HEADER.unpack(stretch.read(_LOCAL_HEADER.size).ljust(_LOCAL_HEADER.size, b"\0"))
        return stretch.part(info.header_offset + _LOCAL_HEADER.size + name + extra, info.compress_size)

    def _unpacked(self, entry: ZipEntry) -> Stretch:
        start, size = self._scratch_bytes, entry.info.file_size
        allowed = max(INNER_FREE_BYTES, INNER_GROWTH * self.stretch.size)
        if start + size > allowed:
            raise DataError(
                f"is a packed zip of {size / 1e6:.0f} MB, too much for a zip of {self.stretch.size / 1e6:.1f} MB"
            )
        self._scratch_bytes += size
        # Only forwards, and once: going back in a packed file means to unpack it again from its beginning.
        # The source may lie in the scratch file itself, so that reading moves its position.
        end = start
        with entry.holder.open(entry.info) as source:
            while chunk := source.read(CHUNK_BYTES):
                self.scratch.seek(end)
                end += self.scratch.write(chunk)
        return Stretch(self.scratch, start, end - start)
