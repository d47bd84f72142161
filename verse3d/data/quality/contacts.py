"""Where two labels touch, and how much of their surface that is."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.labels import VERSE_IDS
from verse3d.core.volume import Volume
from verse3d.data.quality.vertebrae import Boxes

_SLAB_PLANES = 16
_IDS = max(VERSE_IDS) + 2
"""Ids beyond VerSe's count as one, the last."""
_Labels = NDArray[np.unsignedinteger[Any]]


@dataclass(frozen=True)
class Contact:
    """Two vertebrae that touch.

    Attributes:
        ids: their VerSe ids, the smaller one first.
        area_mm2: of the voxel faces between them.
        share: that area, as a share of the smaller one of their two surfaces.
        index: a voxel at which they touch.
    """

    ids: tuple[int, int]
    area_mm2: float
    share: float
    index: tuple[int, int, int]


def measure_contacts(mask: Volume, boxes: Boxes) -> tuple[Contact, ...]:
    """All pairs of vertebrae that share a voxel face.

    Voxel faces overstate smooth surfaces; in shares this cancels. The box that holds all labels is copied (in the
    mask's type) and walked over in slabs.

    Args:
        mask: the label map.
        boxes: of all its ids, by ``label_boxes``.
    """
    labelled, start = _labelled_box(mask.array, boxes)
    spacing = np.array(mask.geometry.spacing_mm)
    areas = np.zeros((_IDS, _IDS))
    first: dict[int, tuple[int, ...]] = {}
    for axis in range(3):
        face_mm2 = float(np.prod(np.delete(spacing, axis)))
        for lower, upper, plane in _neighbours(labelled, axis):
            places = np.nonzero(lower != upper)
            here, there = lower[places], upper[places]
            # One number per pair of labels, the smaller one first, so that (20, 21) and (21, 20) are one contact.
            smaller = np.minimum(np.minimum(here, there), _IDS - 1).astype(np.intp)
            larger = np.minimum(np.maximum(here, there), _IDS - 1).astype(np.intp)
            pairs = smaller * _IDS + larger
            areas += np.bincount(pairs, minlength=_IDS**2).reshape(_IDS, _IDS) * face_mm2
            for pair, position in zip(*np.unique(pairs, return_index=True), strict=True):
                index = [int(along[position]) + int(begin) for along, begin in zip(places, start, strict=True)]
                first.setdefault(int(pair), (index[0], index[1], index[2] + plane))
    return tuple(_contacts(areas + areas.T, first))


def _contacts(areas: NDArray[np.float64], first: dict[int, tuple[int, ...]]) -> Iterator[Contact]:
    surfaces = areas.sum(axis=1)
    for code in sorted(first):
        one, two = divmod(code, _IDS)
        if one in VERSE_IDS and two in VERSE_IDS:
            i, j, k = first[code]
            # Of the smaller one's surface: a sliver that lies all along a large bone is what is looked for.
            share = float(areas[one, two] / min(surfaces[one], surfaces[two]))
            yield Contact((one, two), float(areas[one, two]), share, (i, j, k))


def _neighbours(labels: _Labels, axis: int) -> Iterator[tuple[_Labels, _Labels, int]]:
    """Neighbouring voxels along an axis, slab by slab along the last one, and where along it the slab begins."""
    for plane in range(0, labels.shape[2], _SLAB_PLANES):
        # Along the last axis a slab needs the first plane of the next one, too: the two share a border.
        slab = labels[:, :, plane : plane + _SLAB_PLANES + (axis == 2)]
        turned = np.moveaxis(slab, axis, 0)
        yield np.moveaxis(turned[:-1], 0, axis), np.moveaxis(turned[1:], 0, axis), plane


def _labelled_box(labels: _Labels, boxes: Boxes) -> tuple[_Labels, tuple[int, ...]]:
    """The part that holds labels, with one voxel of background around it, and the index at which it begins."""
    used = [box for box in boxes if box is not None]
    if not used:
        return np.zeros((1, 1, 1), dtype=labels.dtype), (0, 0, 0)
    starts = [min(box[axis].start for box in used) for axis in range(3)]
    stops = [max(box[axis].stop for box in used) for axis in range(3)]
    part = labels[tuple(slice(start, stop) for start, stop in zip(starts, stops, strict=True))]
    return np.pad(part, 1), tuple(start - 1 for start in starts)
