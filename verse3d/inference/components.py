"""Connected components of one label in some planes of a mask, found in one of two ways.

A mask of vertebrae is tidy: its lines hold few runs of equal voxels, and runs are joined far faster than voxels. The
mask of a network that is unsure is noise, in which nearly every voxel begins a run; there a list of runs would be
larger than the mask and slower than cc3d, which looks at every voxel once.

Planes are looked at in chunks, each with the plane that follows it:

    chunk 0   | 0 | 1 | 2 | 3 |(4)
    chunk 1                   | 4 | 5 | 6 | 7 |(8)
                                ^ in both: a component of chunk 0 and one of chunk 1 that share a voxel are one
"""

import threading
from dataclasses import dataclass
from typing import Protocol

import cc3d
import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

NO_COMPONENT = -1
"""Stands for background in a plane of component numbers."""
_NEXT_LINES = ((0, 1), (1, -1), (1, 0), (1, 1))
"""(planes, lines) to the four lines that touch a line and follow it; the other four are those that it follows."""
_ONE_AT_A_TIME = threading.Lock()
"""For noise: cc3d keeps Python's lock while it computes, so more threads would only hold more memory."""
_VOXELS_PER_RUN = 32
"""With shorter runs cc3d is quicker: it takes about 20 ns for a voxel, a run takes 600 to 900."""


@dataclass(frozen=True, eq=False)
class Sizes:
    """The components of a chunk, counted from 0.

    Attributes:
        voxels: of each that lie in the chunk itself, int64 (n,).
        label: of each, uint8 (n,).
        first: component number per voxel of the chunk's first plane, int32 (lines, length), -1 for background.
        ahead: likewise of the plane that follows the chunk; no lines if it is the last.
    """

    voxels: NDArray[np.int64]
    label: NDArray[np.uint8]
    first: NDArray[np.int32]
    ahead: NDArray[np.int32]


class Chunk(Protocol):
    """Some planes of a mask with their components.

    The methods get ``whole`` (planes + 1, lines, length): the planes of the chunk, and the one that follows if there is
    one, as they were left when the components were found.
    """

    sizes: Sizes

    def clear(self, whole: NDArray[np.uint8], gone: NDArray[np.bool_]) -> None:
        """Make the voxels of components that are gone, bool (n,), background in the planes of the chunk."""
        ...

    def places(self, whole: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> "Places":
        """Where the wanted components, bool (n,), are: voxels of theirs, the one that comes first among them."""
        ...


Places = tuple[NDArray[np.integer], NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]
"""Number of the component, and plane, line and place along the line, of some voxels."""


def find_components(whole: NDArray[np.uint8], count: int, too_small: float) -> Chunk:
    """The components in some planes of a mask, in the way that is quicker there.

    Args:
        whole: (count + 1, lines, length) the planes and the one that follows, if there is one. Where they are noise,
            components inside of the chunk that are too small are removed at once.
        count: how many planes make up the chunk.
        too_small: components with fewer voxels may be removed.
    """
    changes = np.count_nonzero(whole[..., 1:] != whole[..., :-1])
    if changes * _VOXELS_PER_RUN <= whole.size:
        return TidyChunk(whole, count)
    with _ONE_AT_A_TIME:
        return NoisyChunk(whole, count, too_small)


class TidyChunk:
    """Components as runs of voxels; holds four bytes for each run. Arguments as of ``find_components``."""

    def __init__(self, whole: NDArray[np.uint8], count: int) -> None:
        _, lines, length = whole.shape
        runs = Runs.of(whole)
        number, component = connected(runs.touching(lines, length), runs.line.size)
        # Runs are in the order of lines, so those of the chunk itself stand before those of the plane that follows.
        own = int(np.searchsorted(runs.line, count * lines))
        voxels, label = np.zeros(number, np.int64), np.zeros(number, np.uint8)
        # Only voxels of the chunk: those of the plane that follows are counted by the next chunk.
        np.add.at(voxels, component[:own], (runs.stop - runs.first)[:own])
        label[component] = runs.label
        first, ahead = (runs.drawn(component, whole.shape, plane) for plane in (0, count))
        self.sizes = Sizes(voxels, label, first, ahead)
        self._count, self._component_of = count, component[:own]

    def clear(self, whole: NDArray[np.uint8], gone: NDArray[np.bool_]) -> None:
        """Make the runs of the components that are gone background."""
        planes = whole[: self._count]
        runs, (_, lines, length) = Runs.of(planes), planes.shape
        goes = gone[self._component_of]
        place, _ = runs.voxels(goes, length)
        plane, rest = np.divmod(place, lines * length)
        planes[plane, rest // length, rest % length] = 0

    def places(self, whole: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> Places:
        """The first voxel of each run: a run lies along one axis, so none of its other voxels comes before it."""
        runs = Runs.of(whole[: self._count])
        here = wanted[self._component_of]
        plane, line = np.divmod(runs.line[here], whole.shape[1])
        return self._component_of[here], plane, line, runs.first[here]


class NoisyChunk:
    """Components voxel by voxel. Only the planes at both ends are kept: what is inside is found again when needed.

    Components that reach neither the chunk before nor the plane that follows are whole. Of noise they are nearly all,
    and those that are too small are removed at once: the second look is at a mask that is nearly empty. cc3d counts
    components in the order of their first voxels, so what is left is counted in the same order again.

    Arguments as of ``find_components``.
    """

    def __init__(self, whole: NDArray[np.uint8], count: int, too_small: float) -> None:
        components, number = _numbered(whole)  # 1 ... number, 0 is background
        own, planes = components[:count], whole[:count]
        voxels = np.bincount(own.reshape(-1), minlength=number + 1)
        kept = voxels >= too_small
        for plane in (components[0], components[count:]):
            kept[plane] = True  # goes on in another chunk; so planes that two chunks look at never change here
        kept[0] = False
        # A product is many times as fast as writing zeros where a mask says so.
        np.multiply(planes, kept.take(own).view(np.uint8), out=planes)
        label = np.zeros(number + 1, np.uint8)
        # Every voxel that is left writes the label of its own component; they all agree.
        left = np.flatnonzero(whole)
        label[components.reshape(-1)[left]] = whole.reshape(-1)[left]
        new = np.where(kept, np.cumsum(kept) - 1, NO_COMPONENT).astype(np.int32)
        ahead = components[count:].reshape(-1, whole.shape[2])
        self.sizes = Sizes(voxels[kept].astype(np.int64), label[kept], new[components[0]], new[ahead])
        self._count = count

    def clear(self, whole: NDArray[np.uint8], gone: NDArray[np.bool_]) -> None:
        """Make the components that are gone background. The plane that follows must not have been cleared yet."""
        components = self._found_again(whole)[: self._count]
        planes = whole[: self._count]
        np.multiply(planes, np.append(True, ~gone).take(components).view(np.uint8), out=planes)

    def places(self, whole: NDArray[np.uint8], wanted: NDArray[np.bool_]) -> Places:
        """All voxels of the wanted components."""
        components = self._found_again(whole)[: self._count]
        plane, line, place = np.append(False, wanted)[components].nonzero()
        return components[plane, line, place].astype(np.intp) - 1, plane, line, place

    def _found_again(self, whole: NDArray[np.uint8]) -> NDArray[np.integer]:
        components, number = _numbered(whole)
        if number != self.sizes.voxels.size:
            raise RuntimeError(
                f"{number} components are left of {self.sizes.voxels.size}: the mask was changed meanwhile"
            )
        return components


def _numbered(planes: NDArray[np.uint8]) -> tuple[NDArray[np.integer], int]:
    """A number 1 ... n for each component of one label, 0 for background, and n."""
    components, number = cc3d.connected_components(np.ascontiguousarray(planes), connectivity=26, return_N=True)
    return components, int(number)


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


def connected(pairs: NDArray[np.intp], size: int) -> tuple[int, NDArray[np.int32]]:
    """How many components a graph has, and the one of each of its ``size`` nodes."""
    # Runs are nodes, touching is an edge; a pair that is named twice is one edge.
    graph = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    return int(count), component


def _counted(sizes: NDArray[np.integer]) -> NDArray[np.intp]:
    """0, 1 ... up to each size, one after the other: [2, 0, 3] becomes [0, 1, 0, 1, 2]."""
    before = np.cumsum(sizes) - sizes
    counted: NDArray[np.intp] = np.arange(sizes.sum()) - np.repeat(before, sizes)
    return counted
