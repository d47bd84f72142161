"""Cleaning label maps: connected components that are too small to be a vertebra."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise, product

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from verse3d.core.axismaps import Box, box_of, slowest_first
from verse3d.core.config import InferenceConfig
from verse3d.core.geometry import Geometry
from verse3d.core.threads import in_ranges

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


def clean_up(labels: NDArray[np.uint8], geometry: Geometry, settings: InferenceConfig) -> NDArray[np.uint8]:
    """Remove, label by label, the components below ``min_component_ml`` and, if wanted, all but the largest.

    Args:
        labels: (I, J, K); changed in place and returned.
        geometry: the grid of ``labels``.
        settings: the two thresholds. Components are joined over faces, edges and corners.

    Holds 3 bytes for each voxel of the largest box around a label (5 if it has more than 65535 components).
    """
    # Rounded, so that a component of exactly the smallest volume stays whatever the float error of the determinant.
    minimum_voxels = round(settings.min_component_ml / geometry.voxel_ml, 6)
    if minimum_voxels <= 1 and not settings.largest_component_only:
        return labels
    # Whatever the order of the axes, components are the same; they are found fastest as the voxels lie in memory.
    order = slowest_first(labels)
    view = labels.transpose(order)
    labelled = box_of(view)
    if labelled is None:
        return labels
    view = view[labelled]
    only_one = int(view.max()) == 1  # found sooner than its box, which is known
    boxes: Sequence[Box | None] = [(slice(None),) * 3] if only_one else ndimage.find_objects(view)
    for label, box in enumerate(boxes, start=1):
        if box is not None:
            _clean_label(view[box], label, minimum_voxels, order if settings.largest_component_only else None)
    return labels


def _clean_label(part: NDArray[np.uint8], label: int, minimum_voxels: float, order: Sequence[int] | None) -> None:
    """Remove components of ``label``; all but the largest if ``order`` says which axis of the map each axis is."""
    found = _Components.of(part, label)
    gone = found.voxels < minimum_voxels
    if order is not None and found.voxels.size > 1:
        gone |= np.arange(found.voxels.size) != _largest(found, order)
    if gone.any():
        found.remove(part, gone)


@dataclass(frozen=True, eq=False)
class _Slab:
    """Some planes of a label's box.

    Attributes:
        first: plane.
        pieces: (planes, ...) numbers 1 ... of what is connected within the slab; 0 elsewhere.
        voxels: of each piece.
    """

    first: int
    pieces: NDArray[np.integer]
    voxels: NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class _Components:
    """The connected components of a label, found slab by slab on all cores and joined where slabs meet.

    Attributes:
        slabs: in their order.
        component_of: for each slab the component 0 ... of each piece, by its number; -1 for the number 0.
        voxels: of each component.
    """

    slabs: Sequence[_Slab]
    component_of: Sequence[NDArray[np.intp]]
    voxels: NDArray[np.int64]

    @classmethod
    def of(cls, part: NDArray[np.uint8], label: int) -> "_Components":
        """Those of one label."""
        found: list[_Slab] = []

        def find(start: int, stop: int) -> None:
            pieces, count = _numbered(part[start:stop] == label)
            found.append(_Slab(start, pieces, _voxels_of(pieces, count)))

        in_ranges(find, len(part))
        slabs = sorted(found, key=lambda slab: slab.first)
        before = np.cumsum([0, *(slab.voxels.size for slab in slabs)])
        edges = [np.zeros((0, 2), np.intp)]
        for number, (above, below) in enumerate(pairwise(slabs)):
            edges.append(_touching(above.pieces[-1], below.pieces[0]) - 1 + before[number : number + 2])
        joined = np.concatenate(edges)
        graph = coo_array((np.ones(len(joined), bool), joined.T), shape=(before[-1], before[-1]))
        count, component = connected_components(graph, directed=False)
        voxels = np.zeros(count, np.int64)
        np.add.at(voxels, component, np.concatenate([slab.voxels for slab in slabs]))
        return cls(slabs, [np.append(-1, own) for own in np.split(component, before[1:-1])], voxels)

    def remove(self, part: NDArray[np.uint8], gone: NDArray[np.bool_]) -> None:
        """Make the voxels of components 0 in ``part``; ``gone`` says which."""
        gone = np.append(gone, False)  # -1 stays

        def clear(first: int, stop: int) -> None:
            for slab, component_of in zip(self.slabs[first:stop], self.component_of[first:stop], strict=True):
                piece_goes = gone[component_of]
                for plane, pieces in zip(part[slab.first :], slab.pieces, strict=False):
                    plane[piece_goes[pieces]] = 0

        in_ranges(clear, len(self.slabs), 1)

    def where(self, number: int) -> NDArray[np.bool_]:
        """The voxels of a component."""
        own = zip(self.slabs, self.component_of, strict=True)
        return np.concatenate([component_of[slab.pieces] == number for slab, component_of in own])


def _numbered(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], int]:
    """Numbered components, with the background 0, and how many there are."""
    try:
        return ndimage.label(mask, _TOUCHING, output=np.uint16)  # type: ignore[no-any-return]
    except RuntimeError:  # there are more
        return ndimage.label(mask, _TOUCHING)  # type: ignore[no-any-return]


def _voxels_of(numbers: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """How often each of the numbers 1 ... count occurs. Counted by planes: counting widens numbers to 64 bit."""
    voxels = np.zeros(count + 1, np.int64)
    for plane in numbers:
        numbered = plane[plane > 0]
        if numbered.size:
            found = np.bincount(numbered)
            voxels[: found.size] += found
    return voxels[1:]


def _touching(above: NDArray[np.integer], below: NDArray[np.integer]) -> NDArray[np.intp]:
    """Pairs (n, 2) of numbers in two neighbouring planes that touch over a face, an edge or a corner."""
    rows, columns = above.shape
    framed = np.pad(below, 1)
    pairs = []
    for row, column in product(range(3), repeat=2):
        beside = framed[row : row + rows, column : column + columns]
        both = (above > 0) & (beside > 0)
        pairs.append(np.stack([above[both], beside[both]], axis=1))
    return np.unique(np.concatenate(pairs), axis=0).astype(np.intp)


def _largest(found: _Components, order: Sequence[int]) -> int:
    """The largest component; of equal ones the one that comes first in the map (whose last axis runs fastest)."""
    largest = np.flatnonzero(found.voxels == found.voxels.max()).tolist()
    if len(largest) == 1:
        return int(largest[0])
    turn = np.argsort(order)
    return int(min(largest, key=lambda number: np.argwhere(found.where(number).transpose(turn))[0].tolist()))
