"""Which small blocks of a volume hold which label, so that a voxel of a label is found by reading one block.

A volume is divided into blocks of 32 x 32 x 32 voxels (smaller at the far ends), numbered with the last axis running
fastest. Only blocks that hold a label are listed; what is not labelled in a block is its background.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Self

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.core.geometry import Shape

BLOCK = 32
_CODES = 256
ReadBlock = Callable[[Shape, Shape], NDArray[np.uint8]]
"""(start, size) of a block -> its labels."""


class DamagedEntryError(DataError):
    """A file of the store is not what was written: it has to be made again."""


@dataclass(frozen=True, eq=False)
class LabelBlocks:
    """How often each label occurs in each block.

    Attributes:
        shape: of the volume.
        block: (n,) int64 block numbers, ascending.
        code: (n,) uint8 labels, never 0.
        count: (n,) int64 voxels of that label in that block, at least 1.
    """

    shape: Shape
    block: NDArray[np.int64]
    code: NDArray[np.uint8]
    count: NDArray[np.int64]

    @classmethod
    def of(cls, labels: NDArray[np.uint8]) -> Self:
        """Count a whole volume (I, J, K)."""
        i, j, k = labels.shape
        return cls.joined((i, j, k), [counted(labels, (0, 0, 0), (i, j, k))])

    @classmethod
    def joined(cls, shape: Shape, parts: Sequence[NDArray[np.int64]]) -> Self:
        """Put together what ``counted`` gave for the parts of a volume."""
        block, code, count = np.concatenate(parts, axis=1) if parts else np.zeros((3, 0), np.int64)
        # By block, then by label: the same table however the volume was divided.
        order = np.lexsort((code, block))
        return cls(shape, block[order], code[order].astype(np.uint8), count[order])

    @classmethod
    def read(cls, shape: Shape, block: Sequence[int], code: Sequence[int], count: Sequence[int]) -> Self:
        """The blocks that a file tells of.

        Raises:
            ValueError: a volume of that shape cannot have them.
            TypeError, OverflowError: they are no whole numbers.
        """
        rows = [np.array(values) for values in (block, code, count)]
        if any(row.shape != (len(block),) or (len(block) and row.dtype != np.int64) for row in rows):
            raise ValueError("the lists of blocks, labels and counts do not belong together")
        made = cls(shape, rows[0].astype(np.int64), rows[1].astype(np.uint8), rows[2].astype(np.int64))
        if len(block):
            made._require_possible(rows[1])
        return made

    def _require_possible(self, code: NDArray[np.int64]) -> None:
        """Raise ``ValueError`` for blocks outside, labels that are none, and more voxels than a block has."""
        inside = self.block.min() >= 0 and self.block.max() < self.block_sizes.size
        if not inside or code.min() < 1 or code.max() >= _CODES or self.count.min() < 1:
            raise ValueError("a block lies outside of the volume, or holds what is no label")
        if (np.diff(self.block * _CODES + code) <= 0).any():
            raise ValueError("the blocks are not in their order, or a label is counted twice")
        if (
            self.count.max() > BLOCK**3
            or (np.bincount(self.block, self.count) > self.block_sizes[: self.block[-1] + 1]).any()
        ):
            raise ValueError("a block holds more labelled voxels than it has voxels")

    def counts(self, wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Voxels in each block whose label is wanted; ``wanted`` is a table of 256 truth values, label 0 included."""
        labelled = wanted[self.code]
        blocks = self.block_sizes.size
        found = np.bincount(self.block[labelled], self.count[labelled], blocks).astype(np.int64)
        if wanted[0]:
            # Only labels are listed: what a block holds beyond them is its background.
            listed = np.bincount(self.block, self.count, blocks).astype(np.int64)
            found += self.block_sizes - listed
        return found

    def labelled_part(self, start: Shape, size: Shape) -> tuple[Shape, Shape] | None:
        """The smallest part of a box that holds all its labelled blocks: its first voxel and its size.

        Args:
            start: first voxel of the box, which may lie outside.
            size: of the box.

        Returns:
            None if no block in the box holds a label.
        """
        # blocks    |0      |1      |2      |          2 is the last one that the box touches
        # box           [-----------)
        low = np.array(start) // BLOCK
        high = (np.add(start, size) - 1) // BLOCK
        inside = self._labelled[((self._labelled >= low) & (self._labelled <= high)).all(axis=1)]
        if not len(inside):
            return None
        first = np.maximum(inside.min(axis=0) * BLOCK, start)
        stop = np.minimum((inside.max(axis=0) + 1) * BLOCK, np.add(start, size))
        i, j, k = (int(place) for place in first)
        depth = [int(length) for length in stop - first]
        return (i, j, k), (depth[0], depth[1], depth[2])

    @cached_property
    def _labelled(self) -> NDArray[np.int64]:
        """(n, 3): which block along i, j, k each labelled block is."""
        return np.stack(np.unravel_index(np.unique(self.block), _grid(self.shape)), axis=1).astype(np.int64)

    @cached_property
    def block_sizes(self) -> NDArray[np.int64]:
        """Voxels of each block."""
        along = []
        for length in self.shape:
            edges = np.append(np.arange(0, length, BLOCK), length)  # 70 voxels: 0 32 64 70
            along.append(np.diff(edges))
        i, j, k = along
        sizes: NDArray[np.int64] = np.multiply.outer(np.multiply.outer(i, j), k).ravel()
        return sizes

    def place(self, number: int) -> tuple[Shape, Shape]:
        """First voxel and size of a block."""
        index = np.unravel_index(number, _grid(self.shape))
        i, j, k = start = [int(position) * BLOCK for position in index]
        # The last block along an axis may be smaller.
        size = [min(BLOCK, length - first) for first, length in zip(start, self.shape, strict=True)]
        rows, columns, planes = size
        return (i, j, k), (rows, columns, planes)


def counted(labels: NDArray[np.uint8], start: Shape, shape: Shape) -> NDArray[np.int64]:
    """(3, n) rows of block, label and count for a part of a volume.

    Args:
        labels: the part.
        start: its first voxel; multiples of the block size.
        shape: of the whole volume.
    """
    where = np.nonzero(labels)
    blocks = [(axis + first) // BLOCK for axis, first in zip(where, start, strict=True)]
    number = np.ravel_multi_index(blocks, _grid(shape))
    # One number for block and label, so that they are counted together.
    codes = number * _CODES + labels[where]
    both, count = np.unique(codes, return_counts=True)
    return np.stack([both // _CODES, both % _CODES, count])


def _grid(shape: Shape) -> Shape:
    i, j, k = (-(-length // BLOCK) for length in shape)
    return i, j, k


class CentreDraw:
    """Draws voxels of a volume: labelled ones or others, each of a kind with the same probability.

    Args:
        blocks: of the volume.
        labelled: table of 256 truth values, which labels count as labelled; ``labelled[0]`` is False.
    """

    def __init__(self, blocks: LabelBlocks, labelled: NDArray[np.bool_]) -> None:
        self._blocks = blocks
        kinds = (np.logical_not(labelled), labelled)
        self._wanted = tuple(wanted.tobytes() for wanted in kinds)
        # ends[n]: how many voxels of a kind the blocks 0 ... n hold together
        self._ends = tuple(np.cumsum(blocks.counts(wanted)) for wanted in kinds)

    def centre(self, foreground_fraction: float, draws: Sequence[float], read: ReadBlock) -> NDArray[np.int_]:
        """A voxel (i, j, k): labelled if the first of three numbers 0 <= x < 1 is below ``foreground_fraction``.

        If there is none of that kind, one of the other. ``read`` gives the labels of a block.
        """
        kind = int(draws[0] < foreground_fraction)
        if not self._ends[kind][-1]:
            kind = 1 - kind
        return self._voxel(self._wanted[kind], self._ends[kind], draws[1:], read)

    def _voxel(
        self, wanted: bytes, ends: NDArray[np.int64], draws: Sequence[float], read: ReadBlock
    ) -> NDArray[np.int_]:
        # The first number chooses the block by how much it holds ...
        place = int(draws[0] * ends[-1])
        number = int(np.searchsorted(ends, place, side="right"))
        start, size = self._blocks.place(number)
        # ... and the second the voxel inside.
        # (bytes.translate looks single bytes up without widening them to 64 bit first)
        found = np.flatnonzero(np.frombuffer(read(start, size).tobytes().translate(wanted), bool))
        if not found.size:
            raise DamagedEntryError(f"the block at {start} holds none of the labels that were counted in it")
        inside = np.unravel_index(found[int(draws[1] * found.size)], size)
        return np.add(start, inside).astype(int)
