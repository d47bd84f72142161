"""Runs of equal voxels in some planes of a mask, and which of them touch."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

NO_COMPONENT = -1
"""Stands for background in a plane of component numbers."""
_NEXT_LINES = ((0, 1), (1, -1), (1, 0), (1, 1))
"""(planes, lines) to the four lines that touch a line and follow it; the other four are those that it follows."""


@dataclass(frozen=True, eq=False)
class Runs:
    """Runs of a label in some planes, in the order of memory: [0 2 2 2 0 0 5] holds 2 at 1 ... 4 and 5 at 6 ... 7.

    Attributes:
        line: number of the line of voxels that each run lies in.
        first, stop: along the line.
        label: of the run, never 0.
    """

    line: NDArray[np.intp]
    first: NDArray[np.intp]
    stop: NDArray[np.intp]
    label: NDArray[np.uint8]

    @classmethod
    def of(cls, planes: NDArray[np.uint8]) -> "Runs":
        """Those of (planes, lines, voxels)."""
        length = planes.shape[2]
        flat = np.ascontiguousarray(planes).reshape(-1)
        # [0 2 2 2 0 0 5]   changes at 1, 4, 6   runs [0,1) [1,4) [4,6) [6,7)   without those of 0: [1,4) [6,7)
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        first, stop = np.concatenate([[0], changes]), np.append(changes, flat.size)
        labelled = flat[first] > 0
        first, stop = first[labelled], stop[labelled]
        # What goes on in the next line is cut there.
        lines = (stop - 1) // length - first // length + 1
        number = np.repeat(np.arange(lines.size), lines)
        line = first[number] // length + _counted(lines)
        start = line * length
        first, stop = np.maximum(first[number], start), np.minimum(stop[number], start + length)
        return cls(line, first - start, stop - start, flat[first])

    def touching(self, lines: int, length: int) -> NDArray[np.intp]:
        """Pairs (2, n) of runs of the same label that touch; ``lines`` in a plane, ``length`` voxels in a line."""
        step = length + 2  # so that the ends of one line do not touch the next
        first, stop = self.line * step + self.first, self.line * step + self.stop
        pairs = [np.zeros((2, 0), np.intp)]
        for plane, beside in _NEXT_LINES:
            away = (plane * lines + beside) * step
            # In the line beside it, the runs that touch (over corners, too) are those between two places:
            #
            #     this      . . # # # .          they stop at or behind its first voxel,
            #     beside    # # . . . # #        and begin at or before the one behind its last
            low, high = np.searchsorted(stop, first + away, "left"), np.searchsorted(first, stop + away, "right")
            inside = self.line % lines + beside
            count = np.where((inside >= 0) & (inside < lines), np.maximum(high - low, 0), 0)
            one = np.repeat(np.arange(count.size), count)
            other = low[one] + _counted(count)
            # Runs of different labels may touch and stay apart.
            alike = self.label[one] == self.label[other]
            pairs.append(np.stack([one[alike], other[alike]]))
        return np.concatenate(pairs, axis=1)

    def voxels(self, chosen: NDArray[np.bool_], length: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """The flat places of all voxels in chosen runs, bool (runs,), and how many each run has."""
        sizes = (self.stop - self.first)[chosen]
        return np.repeat((self.line * length + self.first)[chosen], sizes) + _counted(sizes), sizes

    def drawn(self, component: NDArray[np.int32], shape: tuple[int, ...], plane: int) -> NDArray[np.int32]:
        """The component of each voxel of a plane, int32 (lines, length), -1 for background; no lines beyond the end."""
        planes, lines, length = shape
        if plane >= planes:
            return np.zeros((0, length), np.int32)
        # The component of each run, repeated for each of its voxels.
        here = (self.line >= plane * lines) & (self.line < (plane + 1) * lines)
        voxels, sizes = self.voxels(here, length)
        drawn = np.full(lines * length, NO_COMPONENT, np.int32)
        drawn[voxels - plane * lines * length] = np.repeat(component[here], sizes)
        return drawn.reshape(lines, length)


def _counted(sizes: NDArray[np.integer]) -> NDArray[np.intp]:
    """0, 1 ... up to each size, one after the other: [2, 0, 3] becomes [0, 1, 0, 1, 2]."""
    before = np.cumsum(sizes) - sizes
    counted: NDArray[np.intp] = np.arange(sizes.sum()) - np.repeat(before, sizes)
    return counted
