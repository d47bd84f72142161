"""Bone that may belong to a vertebra which the scan cuts: VerSe leaves it unlabelled, so nobody knows what it is.

Such bone lies beyond the first and the last label, and beside them, because processes hang down::

    k ^ |            face of the scan           |
      |      oooo        up to 60 mm beyond the labels: a vertebra that is farther away from the face would be whole
      |      oooo--oo    ignored
      |      ####   oo   T5; the last 28 mm beside it: the spinous process of T4
      |      ####
      |      ####        T6

Nothing is ignored above C1 or below L5 and L6, where the head and the sacrum are, nor what is no bone.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.axismaps import box_of
from verse3d.core.geometry import Shape
from verse3d.core.labels import IGNORED, VERTEBRAE, vertebra
from verse3d.data.samples.grid import COARSE_MM

BONE_HU = 100.0
"""At 4 mm; the spongy inside of a vertebra has about that much."""
BEYOND_MM = 60.0
"""A cut vertebra begins no farther than this from the face of the scan."""
BESIDE_MM = 12.0
"""Around the labels at the end, to all sides; ribs and hips lie farther away, but for where they begin."""
_INTO_UPPER_MM, _INTO_LOWER_MM = 28.0, 12.0
"""Spinous processes hang down beside the next vertebra, and hardly anything reaches up."""
_AROUND = np.ones((3, 3, 3), bool)

_LEVELS = tuple(label.id for label in VERTEBRAE)
_FIRST, _LAST = vertebra("C1").id, frozenset({vertebra("L5").id, vertebra("L6").id})


def open_ends(ids: NDArray[np.uint8]) -> tuple[bool, bool]:
    """Whether a vertebra may follow above the uppermost label, and below the lowest one.

    Args:
        ids: VerSe ids, 0, and anything else for "some vertebra"; any shape.
    """
    present = np.bincount(ids.ravel(), minlength=256)[list(_LEVELS)] > 0
    levels = {level for level, found in zip(_LEVELS, present, strict=True) if found}
    return _FIRST not in levels, not levels & _LAST


def maybe_cut(image: NDArray[np.floating], ids: NDArray[np.uint8], bone: float) -> NDArray[np.bool_]:
    """Where on the grid of 4 mm unlabelled bone may be a vertebra that the scan cuts, (I, J, K).

    A voxel beside a label is never among them: borders of labelled vertebrae are known.

    Args:
        image: grey values 0 ... 1; RAS, so k grows to the head.
        ids: VerSe ids, 0, and 255 for "some vertebra".
        bone: the grey value from which a voxel is bone.
    """
    labelled = ids > 0
    # Whose half is a label is bone of a labelled vertebra, not of a cut one.
    beside_label = ndimage.binary_dilation(labelled, _AROUND)
    unknown = (image >= bone) & ~beside_label
    upper, lower = open_ends(ids)
    found = np.zeros(ids.shape, bool)
    if upper:
        found |= _at_upper_end(unknown, labelled, _INTO_UPPER_MM)
    if lower:
        # The same upside down.
        found |= _at_upper_end(unknown[..., ::-1], labelled[..., ::-1], _INTO_LOWER_MM)[..., ::-1]
    # A voxel more on all sides: the rim of a bone is half of something else at 4 mm, and its inside may be dark.
    return np.asarray(ndimage.binary_dilation(found, _AROUND) & ~beside_label)


def _at_upper_end(unknown: NDArray[np.bool_], labelled: NDArray[np.bool_], into_mm: float) -> NDArray[np.bool_]:
    """The unknown bone at the upper end; nothing if the scan goes on for longer than a cut vertebra could."""
    found = np.zeros(labelled.shape, bool)
    planes = np.flatnonzero(labelled.any(axis=(0, 1)))
    size = labelled.shape[2]
    if not planes.size or (size - 1 - planes[-1]) * COARSE_MM > BEYOND_MM:
        return found
    first = max(0, int(planes[-1]) + 1 - int(into_mm / COARSE_MM))
    # The labels at this end only: a bent spine is somewhere else in its middle.
    around = box_of(labelled[..., first:])
    if around is not None:
        beside = int(BESIDE_MM / COARSE_MM)
        i, j = (slice(max(0, along.start - beside), along.stop + beside) for along in around[:2])
        found[i, j, first:] = unknown[i, j, first:]
    return found


def ignore(
    ids: NDArray[np.uint8], start: Shape, unknown: NDArray[np.bool_], shape: Shape, spacing_mm: Sequence[float]
) -> None:
    """Put ``IGNORED`` in place of background where it is unknown, in place.

    Args:
        ids: network ids of a box that begins at ``start`` of the network grid and may reach beyond it.
        start: its first voxel.
        unknown: on the grid of 4 mm, which begins with the same voxel as the network grid.
        shape, spacing_mm: of the network grid.
    """
    inside, nearest = [], []
    for first, length, size, mm, coarse in zip(start, ids.shape, shape, spacing_mm, unknown.shape, strict=True):
        low, high = max(0, -first), min(length, size - first)
        if high <= low:
            return
        at = np.rint(np.arange(first + low, first + high) * (mm / COARSE_MM)).astype(int)
        inside.append(slice(low, high))
        nearest.append(np.minimum(at, coarse - 1))
    # Most boxes are far from both ends.
    if not unknown[tuple(slice(at[0], at[-1] + 1) for at in nearest)].any():
        return
    part = ids[tuple(inside)]
    part[(part == 0) & unknown[np.ix_(*nearest)]] = IGNORED
