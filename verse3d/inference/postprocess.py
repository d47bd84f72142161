"""Cleaning label maps: connected components that are too small to be a vertebra.

All labels are done in one pass, in chunks of planes (see ``components``); what is held are runs, or the planes between
chunks.
"""

from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from verse3d.core.axismaps import slowest_first
from verse3d.core.config import InferenceConfig
from verse3d.core.geometry import Geometry
from verse3d.core.threads import in_ranges
from verse3d.inference.components import Chunk, Sizes, connected, find_components

_CHUNK_VOXELS = 2**22


def clean_up(labels: NDArray[np.uint8], geometry: Geometry, settings: InferenceConfig) -> NDArray[np.uint8]:
    """Remove, label by label, the components below ``min_component_ml`` and, if wanted, all but the largest.

    Args:
        labels: (I, J, K); changed in place and returned.
        geometry: the grid of ``labels``.
        settings: the two thresholds. Components are joined over faces, edges and corners.

    Holds four bytes for each run of voxels where the mask is tidy, and some planes where it is noise.
    """
    # Rounded, so that a component of exactly the smallest volume stays whatever the float error of the determinant.
    minimum_voxels = round(settings.min_component_ml / geometry.voxel_ml, 6)
    if minimum_voxels <= 1 and not settings.largest_component_only:
        return labels
    # Whatever the order of the axes, components are the same; they are found fastest as the voxels lie in memory.
    order = slowest_first(labels)
    cleaning = _Cleaning(labels.transpose(order), minimum_voxels)
    gone = cleaning.voxels < minimum_voxels
    if settings.largest_component_only:
        gone |= ~cleaning.largest_of_label(order)
    if gone.any():
        cleaning.remove(gone)
    return labels


class _Cleaning:
    """A mask in chunks of planes, and its components across all of them.

    Attributes:
        voxels: of each component, int64.
        label: of each component, uint8.

    Args:
        view: (planes, lines, length) of the mask, as it lies in memory.
        too_small: components with fewer voxels may be removed at once.
    """

    def __init__(self, view: NDArray[np.uint8], too_small: float) -> None:
        self._view = view
        # Chunks of planes, found on all cores; neighbours share the first plane of the following one:
        #
        #     chunk 0   | p0 p1 p2 | p3 |
        #     chunk 1              | p3 p4 p5 | p6 |
        planes = max(1, _CHUNK_VOXELS // max(1, view[0].size))
        self._starts = range(0, len(view), planes)
        self._stops = [min(start + planes, len(view)) for start in self._starts]
        self._chunks = self._found(too_small)
        self._component_of = self._join()

    def _found(self, too_small: float) -> list[Chunk]:
        found: dict[int, Chunk] = {}

        def find(first: int, stop: int) -> None:
            for number in range(first, stop):
                count = self._stops[number] - self._starts[number]
                found[number] = find_components(self._whole(number), count, too_small)

        in_ranges(find, len(self._starts), 1)
        return [found[number] for number in range(len(self._starts))]

    def _whole(self, number: int) -> NDArray[np.uint8]:
        """The planes of a chunk and the one that follows."""
        return self._view[self._starts[number] : self._stops[number] + 1]

    def _join(self) -> list[NDArray[np.int32]]:
        """Number the components across all chunks; for each chunk the new numbers of its own."""
        sizes = [chunk.sizes for chunk in self._chunks]
        # Components are numbered from 0 in every chunk; ``before`` makes these numbers unique, seams make them one.
        before = np.cumsum([0, *(one.voxels.size for one in sizes)])
        seams = [
            _seam(one, following) + before[at : at + 2, None] for at, (one, following) in enumerate(pairwise(sizes))
        ]
        count, joined = connected(np.concatenate([np.zeros((2, 0), np.intp), *seams], axis=1), int(before[-1]))
        self.voxels, self.label = np.zeros(count, np.int64), np.zeros(count, np.uint8)
        # add.at, because several parts of one component add to the same number.
        np.add.at(self.voxels, joined, np.concatenate([one.voxels for one in sizes]))
        self.label[joined] = np.concatenate([one.label for one in sizes])
        return [joined[start:stop] for start, stop in pairwise(before)]

    def largest_of_label(self, order: list[int]) -> NDArray[np.bool_]:
        """For each component whether it is the largest of its label; of equal ones the one that comes first.

        Args:
            order: the axes of the map in the order of the view.
        """
        most = np.zeros(256, np.int64)
        np.maximum.at(most, self.label, self.voxels)
        largest = self.voxels == most[self.label]
        # Of two equally large ones the first in the map's own order, whatever order it was walked in.
        first = self._first_voxels(largest, order)
        earliest = np.full(256, np.iinfo(np.int64).max)
        np.minimum.at(earliest, self.label[largest], first[largest])
        kept: NDArray[np.bool_] = largest & (first == earliest[self.label])
        return kept

    def _first_voxels(self, wanted: NDArray[np.bool_], order: list[int]) -> NDArray[np.int64]:
        """Where the first voxel of each wanted component stands in the map (last axis fastest)."""
        shape = np.array(self._view.shape)[np.argsort(order)]
        # How far apart neighbours are in the map if it lay with its last axis fastest; in the order of the view.
        strides = np.array([shape[1] * shape[2], shape[2], 1])[order]
        first = np.full(wanted.size, np.iinfo(np.int64).max)
        for number, (chunk, component_of) in enumerate(zip(self._chunks, self._component_of, strict=True)):
            component, plane, line, place = chunk.places(self._whole(number), wanted[component_of])
            at = (plane + self._starts[number]) * strides[0] + line * strides[1] + place * strides[2]
            np.minimum.at(first, component_of[component], at)
        return first

    def remove(self, gone: NDArray[np.bool_]) -> None:
        """Make the components that are gone background."""

        goes = [gone[component_of] for component_of in self._component_of]
        left = [number for number, any_goes in enumerate(goes) if any_goes.any()]
        # Noise is looked at again with the plane that follows, so that plane must be cleared later.
        again = [number for number in left if not self._chunks[number].is_cleared_at_once(goes[number])]
        at_once = [number for number in left if number not in set(again)]

        def clear(numbers: list[int]) -> None:
            for number in numbers:
                self._chunks[number].clear(self._whole(number), goes[number])

        clear(again)
        in_ranges(lambda first, stop: clear(at_once[first:stop]), len(at_once), 1)


def _seam(one: Sizes, following: Sizes) -> NDArray[np.intp]:
    """The pairs (2, n) of components of a chunk and of the next that share voxels of the plane that both have seen."""
    ahead, beside = one.ahead.reshape(-1), following.first.reshape(-1)
    # -1 is background. A pair in one number of 64 bit: those are sorted many times as fast as rows, and equal ones then
    # follow each other. ``unique`` takes five times as long where nearly all are different.
    both = (ahead >= 0) & (beside >= 0)
    pairs = np.sort(ahead[both].astype(np.int64) << 32 | beside[both])
    pairs = pairs[np.diff(pairs, prepend=-1) > 0]
    return np.stack([pairs >> 32, pairs & (2**32 - 1)])
