"""Volumes as files that are compressed and can be read in pieces: blosc2 arrays, each chunk with a checksum.

    file  [ header | chunk 0 | chunk 1 | ... | table of chunks, trailer ]
            edges    64 x 64 x 64 voxels      edges

A chunk is checked when a process first reads from it, header and table when the file is opened: blosc2 itself keeps no
checksums, and would follow a damaged table anywhere.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any, Self

import blosc2
import numpy as np
from isal import isal_zlib
from numpy.typing import DTypeLike, NDArray

from verse3d.core.geometry import Shape
from verse3d.core.threads import thread_count
from verse3d.data.samples.blocks import DamagedEntryError

CHUNK = 64
"""Voxels along each axis of a chunk, the piece that is written at once."""

_DECODED = (16, 16, 32)
"""Voxels of a block, the part of a chunk that is decoded at once: smaller ones waste less at the faces of a patch, and
rows of 32 still copy quickly. A file says what its blocks are, so those with others can be read as well."""

_FORMAT = {"codec": blosc2.Codec.LZ4HC, "clevel": 5, "filters": [blosc2.Filter.SHUFFLE]}
_HEADER_LENGTH, _DATA_LENGTH = slice(11, 15), slice(39, 47)  # where a blosc2 frame says so, big-endian
_READ_ERRORS = (OSError, RuntimeError, ValueError, TypeError, KeyError, MemoryError)


@dataclass(frozen=True)
class ArrayRecord:
    """What is known of a file.

    Attributes:
        shape: voxels along i, j, k.
        dtype: of a voxel, e.g. "float16".
        size: bytes of the file.
        data: bytes of all chunks together; they follow the header.
        edges: CRC-32 of header, table and trailer.
        chunks: CRC-32 of each chunk, compressed.
    """

    shape: Shape
    dtype: str
    size: int
    data: int
    edges: int
    chunks: tuple[int, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "shape": list(self.shape), "chunks": list(self.chunks)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``to_dict``. Raises ``KeyError``, ``TypeError`` or ``ValueError`` for anything else."""
        i, j, k = (int(length) for length in values["shape"])
        numbers = {name: int(values[name]) for name in ("size", "data", "edges")}
        chunks = tuple(int(crc) for crc in values["chunks"])
        # A checksum for each chunk: so a record cannot promise more than its own length, whatever shape it tells.
        if min(i, j, k) < 1 or len(chunks) != math.prod(_chunk_grid((i, j, k))):
            raise ValueError(f"{len(chunks)} checksums are not those of {i} x {j} x {k} voxels")
        return cls((i, j, k), str(values["dtype"]), **numbers, chunks=chunks)


class ArrayWriter:
    """Compresses a volume box by box, in memory.

    Args:
        shape: of the volume.
        dtype: of its voxels.
    """

    def __init__(self, shape: Shape, dtype: DTypeLike) -> None:
        # A volume smaller than a chunk is one chunk, and blocks may not be larger than chunks.
        chunks = [min(CHUNK, length) for length in shape]
        blocks = [min(block, length) for block, length in zip(_DECODED, shape, strict=True)]
        self._shape = shape
        self._array = blosc2.zeros(
            shape,
            np.dtype(dtype),
            chunks=chunks,
            blocks=blocks,
            contiguous=True,
            cparams={**_FORMAT, "nthreads": thread_count()},
        )

    def put(self, box: tuple[slice, ...], values: NDArray[Any]) -> None:
        """Store a box; boxes that begin and end where chunks do are compressed once."""
        self._array[box] = np.ascontiguousarray(values)

    def write(self, path: Path) -> ArrayRecord:
        """Write the file, flushed to the disk by the caller. Raises ``OSError``."""
        frame = self._array.to_cframe()
        path.write_bytes(frame)
        schunk = self._array.schunk
        data = int.from_bytes(frame[_DATA_LENGTH], "big")
        chunks = tuple(_crc(schunk.get_chunk(number)) for number in range(schunk.nchunks))
        # [ header | chunks | table, trailer ]
        #   ^^^^^^            ^^^^^^^^^^^^^^     compared whenever a file is opened, chunks when they are read
        edges = _crc(frame[: _header_length(frame)] + frame[_header_length(frame) + data :])
        return ArrayRecord(self._shape, str(self._array.dtype), len(frame), data, edges, chunks)


class StoredArray:
    """A volume in a file. Holds the file's table only; the file is opened for each reading.

    Args:
        path: the file.
        record: what it should be.
        checked: which chunks this process has compared with their checksum; changed when more are.

    Raises:
        DamagedEntryError: the file is missing, or its size, header or table is not what was written.
    """

    def __init__(self, path: Path, record: ArrayRecord, checked: NDArray[np.bool_]) -> None:
        self._path = path
        self._record = record
        self._checked = checked
        try:
            _require_edges(path, record)
            # One thread each: training reads in many workers.
            self._array = blosc2.open(str(path), mode="r", dparams={"nthreads": 1})
            same = self._array.shape == record.shape and self._array.dtype == np.dtype(record.dtype)
            if not same or self._array.schunk.nchunks != len(record.chunks):
                raise ValueError("it holds another array")
        except _READ_ERRORS as error:
            raise damaged_entry(path, error) from error

    def read(self, start: Shape, stop: Shape) -> NDArray[Any]:
        """The voxels ``start`` ... ``stop``, which lie inside.

        Raises:
            DamagedEntryError: they cannot be read, or are not what was written.
        """
        size = tuple(b - a for a, b in zip(start, stop, strict=True))
        voxels: NDArray[Any] = np.empty(size, self._record.dtype)
        self._read_inside(start, voxels)
        return voxels

    def _read_inside(self, start: Shape, target: NDArray[Any]) -> None:
        stop = [first + length for first, length in zip(start, target.shape, strict=True)]
        # Chunks are numbered with the last axis running fastest; a box touches a range of them along each axis.
        grid = _chunk_grid(self._record.shape)
        spans = [range(a // CHUNK, (b - 1) // CHUNK + 1) for a, b in zip(start, stop, strict=True)]
        try:
            self._check([(i * grid[1] + j) * grid[2] + k for i, j, k in product(*spans)])
            # What indexing ends in: decompressed to where the voxels are wanted, without a copy.
            self._array.get_slice_numpy(target, (tuple(start), tuple(stop)))
        except _READ_ERRORS as error:
            raise damaged_entry(self._path, error) from error

    def read_padded(self, start: Shape, size: Shape) -> NDArray[Any]:
        """The voxels ``start`` ... ``start + size``, which may lie outside: there they are 0.

        Raises:
            DamagedEntryError: as for ``read``.
        """
        result: NDArray[Any] = np.empty(size, self._record.dtype)
        self.read_into(start, result)
        return result

    def read_into(self, start: Shape, target: NDArray[Any]) -> None:
        """``read_padded`` into a contiguous array (I, J, K) of the array's own type.

        Raises:
            DamagedEntryError: as for ``read``.
        """
        stop = [first + length for first, length in zip(start, target.shape, strict=True)]
        first = [max(0, a) for a in start]
        last = [min(b, length) for b, length in zip(stop, self._record.shape, strict=True)]
        # Most patches lie inside: no second array for them.
        if tuple(first) == tuple(start) and last == stop:
            self._read_inside(start, target)
            return
        target[...] = 0
        if all(a < b for a, b in zip(first, last, strict=True)):
            inside = tuple(slice(a - s, b - s) for a, b, s in zip(first, last, start, strict=True))
            target[inside] = self.read((first[0], first[1], first[2]), (last[0], last[1], last[2]))

    def check_all(self) -> None:
        """Compare every chunk with its checksum.

        Raises:
            DamagedEntryError: one differs.
        """
        try:
            self._check(range(len(self._record.chunks)))
        except _READ_ERRORS as error:
            raise damaged_entry(self._path, error) from error

    def _check(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            if self._checked[number]:
                continue
            chunk = self._array.schunk.get_chunk(number)
            if _crc(chunk) != self._record.chunks[number]:
                raise ValueError(f"chunk {number} does not have its checksum")
            self._checked[number] = True


def _chunk_grid(shape: Shape) -> list[int]:
    """Chunks along each axis."""
    return [-(-length // CHUNK) for length in shape]


def _require_edges(path: Path, record: ArrayRecord) -> None:
    with path.open("rb") as handle:
        size = handle.seek(0, 2)
        if size != record.size:
            raise ValueError(f"{size} bytes instead of {record.size}")
        handle.seek(0)
        start = handle.read(_HEADER_LENGTH.stop)
        header = _header_length(start)
        if not 0 < header <= size - record.data:
            raise ValueError("the header is damaged")
        handle.seek(0)
        edges = handle.read(header)
        handle.seek(header + record.data)
        edges += handle.read()
    if _crc(edges) != record.edges:
        raise ValueError("header or table do not have their checksum")


def _header_length(frame: bytes) -> int:
    return int.from_bytes(frame[_HEADER_LENGTH], "big")


def _crc(data: bytes) -> int:
    return int(isal_zlib.crc32(data))


def damaged_entry(path: Path, error: Exception) -> DamagedEntryError:
    """The error to raise when an entry, or a file of it, is not what was written."""
    return DamagedEntryError(f"{path} is damaged: {error}", hint="verse3d prepare makes it again")
