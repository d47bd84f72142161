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

from verse3d.inference.runs import NO_COMPONENT, Runs

_TWO_AT_A_TIME = threading.Semaphore(2)
"""For noise, of which a chunk holds 65 MB: while cc3d computes one, the other is looked through. More would wait."""
_ONE_AT_A_TIME = threading.Lock()
"""For cc3d, which keeps Python's lock while it computes: who waits for that holds less memory than who waits inside."""
_CRUMB = 2
"""Marks, beside 0 for what is gone and 1 for what stays, components of which a chunk alone does not know."""
_MOST_CRUMBS = 7 / 32
"""Share of voxels in crumbs up to which these are kept: four bytes for each, and a bit for every voxel, make a byte."""
_COUNTED_AT_ONCE = 2**20
"""Voxels whose numbers are held in 64 bits while components are counted."""
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

    def is_cleared_at_once(self, gone: NDArray[np.bool_]) -> bool:
        """Whether ``clear`` needs nothing but the planes of the chunk, whatever became of the plane that follows."""
        ...

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
    with _TWO_AT_A_TIME:
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

    def is_cleared_at_once(self, gone: NDArray[np.bool_]) -> bool:
        """Runs never lie in the plane that follows."""
        return True

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
    """Components voxel by voxel. Only the planes at both ends are kept, and crumbs: what else is inside is found again.

    Components that reach neither the chunk before nor the plane that follows are whole. Of noise they are nearly all,
    and those that are too small are removed at once. Crumbs are small, too, but go on in another chunk::

        |###    #|      whole and too small: removed at once
        |  ##    |##    crumbs: their voxels and components are kept until it is known how large they are
        |########|##    large: stays

    Where crumbs are too many to be kept, components are found again when needed. cc3d counts them in the order of their
    first voxels, so what is left is counted in the same order again.

    Arguments as of ``find_components``.
    """

    def __init__(self, whole: NDArray[np.uint8], count: int, too_small: float) -> None:
        components, number = _numbered(whole)  # 1 ... number, 0 is background
        own, planes = components[:count], whole[:count]
        voxels = _counts(own.reshape(-1), number + 1)
        kept = voxels >= too_small
        for plane in (components[0], components[count:]):
            kept[plane] = True  # goes on in another chunk; so planes that two chunks look at never change here
        kept[0] = False
        what = kept.view(np.uint8) * np.where(voxels < too_small, _CRUMB, 1).astype(np.uint8)
        what_here = what.take(own)
        # A product is many times as fast as writing zeros where a mask says so.
        np.multiply(planes, what_here > 0, out=planes)
        label = np.zeros(number + 1, np.uint8)
        # Every voxel that is left writes the label of its own component; they all agree.
        left = np.flatnonzero(whole)
        label[components.reshape(-1)[left]] = whole.reshape(-1)[left]
        new = np.where(kept, np.cumsum(kept) - 1, NO_COMPONENT).astype(np.int32)
        ahead = components[count:].reshape(-1, whole.shape[2])
        self.sizes = Sizes(voxels[kept], label[kept], new[components[0]], new[ahead])
        self._count, self._is_crumb = count, what[kept] == _CRUMB
        crumbs = what_here.reshape(-1) == _CRUMB
        self._crumbs: tuple[NDArray[np.uint8], NDArray[np.int32]] | None = None
        if np.count_nonzero(crumbs) <= _MOST_CRUMBS * own.size:
            self._crumbs = np.packbits(crumbs), new[own.reshape(-1)[crumbs]]

    def is_cleared_at_once(self, gone: NDArray[np.bool_]) -> bool:
        """Whether ``clear`` need not look at the plane that follows: all that is gone are crumbs that were kept."""
        return self._crumbs is not None and not (gone & ~self._is_crumb).any()

    def clear(self, whole: NDArray[np.uint8], gone: NDArray[np.bool_]) -> None:
        """Make the components that are gone background.

        Unless that is done at once, the plane that follows must not have been cleared yet.
        """
        planes = whole[: self._count]
        if self._crumbs is None or not self.is_cleared_at_once(gone):
            components = self._found_again(whole)[: self._count]
            np.multiply(planes, np.append(True, ~gone).take(components).view(np.uint8), out=planes)
            return
        places, components = self._crumbs
        goes = np.flatnonzero(np.unpackbits(places, count=planes.size))[gone[components]]
        plane, rest = np.divmod(goes, planes[0].size)
        planes[plane, rest // planes.shape[2], rest % planes.shape[2]] = 0

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
    planes = np.ascontiguousarray(planes)
    with _ONE_AT_A_TIME:
        components, number = cc3d.connected_components(planes, connectivity=26, return_N=True)
    return components, int(number)


def _counts(numbers: NDArray[np.integer], size: int) -> NDArray[np.int64]:
    """How often each number below ``size`` occurs in (n,)."""
    counts = np.zeros(size, np.int64)
    for start in range(0, numbers.size, _COUNTED_AT_ONCE):
        counts += np.bincount(numbers[start : start + _COUNTED_AT_ONCE], minlength=size)
    return counts


def connected(pairs: NDArray[np.intp], size: int) -> tuple[int, NDArray[np.int32]]:
    """How many components a graph has, and the one of each of its ``size`` nodes."""
    # Runs are nodes, touching is an edge; a pair that is named twice is one edge.
    graph = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    return int(count), component
