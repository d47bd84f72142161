"""The voxels of a NIfTI file, read and written chunk by chunk: beside the array itself one chunk is held.

Gzip goes through ISA-L, which packs and unpacks several times as fast as zlib; a file is always read to its very end,
because only there does gzip compare the checksum.
"""

import contextlib
import gzip
import itertools
import os
import zlib
from collections.abc import Callable, Iterator
from io import BufferedIOBase
from pathlib import Path
from typing import Any, cast

import numpy as np
from isal import igzip, isal_zlib
from nibabel.arrayproxy import ArrayProxy
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError
from nibabel.volumeutils import apply_read_scaling
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.core.nifti_errors import unreadable
from verse3d.core.wording import how_many

READ_ERRORS = (
    OSError,
    EOFError,
    zlib.error,
    cast(type[Exception], isal_zlib.error),
    gzip.BadGzipFile,
    ImageFileError,
    HeaderDataError,
    ValueError,
    OverflowError,
    MemoryError,
)
"""What nibabel and the libraries below it raise on files that are damaged or no NIfTI."""

Filled = Callable[[NDArray[Any], int], object]
"""Told about an array that is being filled, and how many of its voxels are there, in the order of memory."""

_CHUNK_BYTES = 2**20
_CHUNK_VOXELS = 2**17  # scaled to float64 they are as large
_BLOCK_BYTES = 2**22
_SIZE_FIELD = 4
_GZIP = 31  # zlib's way to ask for a gzip header and trailer (with time 0 and no file name) around the stream
_LEVEL = 1
"""On masks ISA-L's level 1 packs tighter than its 0 and 3, and in a tenth of the time of zlib's level 1."""


@contextlib.contextmanager
def refusing(path: Path) -> Iterator[None]:
    """Turn what reading raises into a ``DataError`` that names the file."""
    try:
        yield
    except DataError:
        raise
    except READ_ERRORS as error:
        raise unreadable(path, error) from error


def open_voxels(path: Path) -> BufferedIOBase:
    """Open a file to read its unpacked bytes."""
    packed: BufferedIOBase | None = igzip.IGzipFile(path, "rb") if _is_packed(path) else None
    return packed or path.open("rb")


def is_scaled(stored: ArrayProxy) -> bool:
    """Whether the file's values are other than those stored in it."""
    return (stored.slope, stored.inter) != (1, 0)


def read_voxels(path: Path, stored: ArrayProxy, filled: Filled = lambda array, count: None) -> NDArray[Any]:
    """All voxels: integers without scaling in their dtype (in this machine's byte order), all else as float32.

    Args:
        path: the file.
        stored: what nibabel knows of its voxels.
        filled: told after each chunk; but not about voxels that are turned into the other byte order at the end.

    Raises:
        One of READ_ERRORS: the file is cut off or damaged.
    """
    if is_scaled(stored) or (stored.dtype.kind == "f" and stored.dtype.itemsize != 4):
        converted = np.empty(stored.shape, np.float32, order="F")
        flat = converted.reshape(-1, order="F")
        for start, values in voxel_chunks(path, stored):
            flat[start : start + values.size] = values
            filled(converted, start + values.size)
        return converted
    if stored.dtype.isnative:
        return read_stored(path, stored.shape, stored.dtype, stored.offset, filled=filled)
    array = read_stored(path, stored.shape, stored.dtype, stored.offset)
    # PyTorch refuses the other byte order. Turned in place: a scan may be too large to be there twice.
    return array.byteswap(inplace=True).view(array.dtype.newbyteorder("="))


def read_stored(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    offset: int,
    *,
    whole: bool = True,
    filled: Filled = lambda array, count: None,
) -> NDArray[Any]:
    """Voxels as they are stored: unscaled, in the byte order of the file, i running fastest.

    Args:
        path: the file.
        shape: of the array; less than what the file holds, if it holds several volumes.
        dtype: of the file.
        offset: the byte (of the unpacked file) at which the voxels begin.
        whole: read on to the end of the file, where gzip compares the checksum.
        filled: told after each chunk.

    Raises:
        One of READ_ERRORS: the file is cut off or damaged.
    """
    array: NDArray[Any] = np.empty(shape, dtype, order="F")
    with open_voxels(path) as handle:
        skip(handle, offset)
        fill(handle, array, lambda done: filled(array, done // dtype.itemsize))
        if whole:
            to_the_end(handle)
    return array


def unpacked_size(path: Path, expected: int) -> int:
    """How many bytes the file unpacks to, up to its end or to the damage.

    The last four bytes of a .gz are the unpacked size modulo 2**32. Only where they say otherwise than ``expected`` is
    the file read: several gzip streams in one file are legal and rare, and the last one tells its own size alone.
    """
    if not _is_packed(path):
        return path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(-_SIZE_FIELD, os.SEEK_END)
        if int.from_bytes(handle.read(_SIZE_FIELD), "little") == expected % 2**32:
            return expected
    count = 0
    with contextlib.suppress(*READ_ERRORS), open_voxels(path) as unpacked:
        while chunk := unpacked.read(_CHUNK_BYTES):
            count += len(chunk)
    return count


def voxel_chunks(path: Path, stored: ArrayProxy) -> Iterator[tuple[int, NDArray[Any]]]:
    """The values in the order of the file (i runs fastest) and the position of each chunk; scaled as nibabel does.

    A chunk may be overwritten by the next one.

    Raises:
        One of READ_ERRORS: the file is cut off or damaged.
    """
    slope, inter = np.asarray(stored.slope), np.asarray(stored.inter)
    voxels = int(np.prod(stored.shape, dtype=object))
    buffer = np.empty(min(voxels, _CHUNK_VOXELS), stored.dtype)
    with open_voxels(path) as handle:
        skip(handle, stored.offset)
        for start in range(0, voxels, buffer.size):
            chunk = buffer[: voxels - start]
            fill(handle, chunk)
            values: NDArray[Any] = apply_read_scaling(chunk, slope, inter)
            yield start, values
        to_the_end(handle)


def all_values(path: Path, stored: ArrayProxy) -> NDArray[Any]:
    """All values at once, scaled and in the dtype that nibabel gives them.

    Raises:
        One of READ_ERRORS: the file is cut off or damaged.
    """
    chunks = [values.copy() for _, values in voxel_chunks(path, stored)]
    return np.concatenate(chunks).reshape(stored.shape, order="F")


def skip(handle: BufferedIOBase, size: int) -> None:
    """Pass over what stands before the voxels. Raises ``ValueError`` if that is less than nothing."""
    if size < 0:
        raise ValueError(f"the voxels begin at byte {size}")
    handle.seek(size)


def fill(handle: BufferedIOBase, array: NDArray[Any], told: Callable[[int], object] = lambda done: None) -> None:
    """Read into a contiguous array, and tell how many bytes are there. Raises ``EOFError`` if the file ends before."""
    content = array.reshape(-1, order="F").view(np.uint8).data
    done = 0
    while done < len(content):
        count = handle.readinto(content[done : done + _CHUNK_BYTES])
        if not count:
            raise EOFError(f"the voxels end {how_many(len(content) - done, 'byte')} too early")
        done += count
        told(done)


def to_the_end(handle: BufferedIOBase) -> None:
    """Read what follows the voxels, and with it the checksum of a packed file."""
    while handle.read(_CHUNK_BYTES):
        pass


def write_bytes(path: Path, head: bytes, array: NDArray[np.uint8]) -> None:
    """Write a header and voxels; the same bytes for the same voxels, whatever their order in memory or the name."""
    with _writer(path) as write:
        write(head)
        for block in blocks(array):
            write(block.data)


def copy_with_head(source: Path, path: Path, head: bytes) -> None:
    """Write a file again with its first bytes replaced by ``head``; all that follows stays bit for bit.

    Raises:
        One of READ_ERRORS: the source is cut off or damaged, or the file system refuses.
    """
    with open_voxels(source) as stored, _writer(path) as write:
        stored.read(len(head))
        write(head)
        while chunk := stored.read(_CHUNK_BYTES):
            write(chunk)


@contextlib.contextmanager
def _writer(path: Path) -> Iterator[Callable[[bytes | memoryview], object]]:
    """What takes the bytes of a file one after the other, and packs them if its name asks for it."""
    with path.open("wb") as out:
        if not _is_packed(path):
            yield out.write
            return
        packer = isal_zlib.compressobj(_LEVEL, wbits=_GZIP)
        yield lambda content: out.write(packer.compress(content))
        out.write(packer.flush())


def holds(path: Path, head: bytes, array: NDArray[np.uint8]) -> bool:
    """Whether the file consists of this header and these voxels, to the last byte; a damaged file does not."""
    try:
        with open_voxels(path) as handle:
            for block in itertools.chain([np.frombuffer(head, np.uint8)], blocks(array)):
                found = np.empty_like(block)
                fill(handle, found)
                if not np.array_equal(found, block):
                    return False
            return not handle.read(1)
    except READ_ERRORS:
        return False


def blocks(array: NDArray[np.uint8]) -> Iterator[NDArray[np.uint8]]:
    """The voxels (i, j, k) in the order of the file, some planes at a time; copied if memory is in another order."""
    planes = max(1, _BLOCK_BYTES // array[..., 0].size)
    for start in range(0, array.shape[-1], planes):
        yield array[..., start : start + planes].ravel(order="F")


def _is_packed(path: Path) -> bool:
    return path.suffix.lower() == ".gz"
