"""Bone that may belong to a vertebra which the scan cuts: VerSe leaves it unlabelled, so nobody knows what it is.

It hangs together with the face of the scan, and lies beyond the first or the last label or beside it, because the
processes of one vertebra reach down beside the next::

    k ^ |            face of the scan           |
      |      oooo        up to 60 mm beyond the labels: a vertebra that is farther away from the face would be whole
      |      oooooo      ignored, with half a voxel around
      |      ####oo      T5; the last 28 mm beside it: the spinous process of T4
      |      ####o
      |      ####        T6

Nothing is ignored above C1 or below L5 and L6, where the head and the sacrum are, nor beside bone that is labelled.
Measured on expert scans of VerSe and an automatically labelled chest, cut anew in the middle of every second vertebra:
97 % of what is left of it at the upper end is ignored, and 91 % at the lower one, without voxels beside labels. What
is ignored is 5 and 3 times as large in all: the rest is the voxel around, ribs, vessels, bowel.
"""

import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.axismaps import box_of
from verse3d.core.geometry import Shape
from verse3d.core.labels import IGNORED, VERTEBRAE, vertebra
from verse3d.data.samples.grid import COARSE_MM

BONE_HU = 120.0
"""At 4 mm; less than the spongy inside of most vertebrae has."""
BEYOND_MM = 60.0
"""A cut vertebra begins no farther than this from the face of the scan."""
LAST_MM, BESIDE_MM = 48.0, 8.0
"""From side to side and from front to back it is about where the labels of the last so many mm are."""
INTO_MM = 28.0
"""Of these labels it may lie beside so much."""
_AROUND = np.ones((3, 3, 3), bool)

_LEVELS = tuple(label.id for label in VERTEBRAE)
_FIRST, _LAST = vertebra("C1").id, frozenset({vertebra("L5").id, vertebra("L6").id})


@dataclass(frozen=True)
class PackedMask:
    """A mask in which nearly nothing is True, in a few kB: what is known of a case while its files are closed.

    Attributes:
        packed: its voxels, eight to a byte, compressed.
        shape: of the mask.
    """

    packed: bytes
    shape: Shape

    @classmethod
    def of(cls, mask: NDArray[np.bool_]) -> "PackedMask":
        """Pack a mask (I, J, K)."""
        i, j, k = mask.shape
        return cls(zlib.compress(np.packbits(mask).tobytes(), 1), (i, j, k))

    def voxels(self) -> NDArray[np.bool_]:
        """The mask (I, J, K), unpacked."""
        bits = np.frombuffer(zlib.decompress(self.packed), np.uint8)
        return np.unpackbits(bits, count=math.prod(self.shape)).reshape(self.shape).astype(bool)


def open_ends(ids: NDArray[np.uint8]) -> tuple[bool, bool]:
    """Whether a vertebra may follow above the uppermost label, and below the lowest one.

    Args:
        ids: VerSe ids, 0, and anything else for "some vertebra"; any shape.
    """
    present = np.bincount(ids.ravel(), minlength=256)[list(_LEVELS)] > 0
    levels = {level for level, found in zip(_LEVELS, present, strict=True) if found}
    return _FIRST not in levels, not levels & _LAST


def unknown_bone(
    image: NDArray[np.floating], ids: NDArray[np.uint8], window_hu: tuple[float, float]
) -> NDArray[np.bool_]:
    """``maybe_cut`` of a 4 mm copy whose grey values 0 ... 1 are those of a window in HU."""
    low, high = window_hu
    # A window that begins above bone, or ends below it, clips: then what is above its lower end, or at its upper end.
    return maybe_cut(image, ids, min(max((BONE_HU - low) / (high - low), 0.01), 1.0))


def maybe_cut(image: NDArray[np.floating], ids: NDArray[np.uint8], bone: float) -> NDArray[np.bool_]:
    """Where on the grid of 4 mm unlabelled bone may be a vertebra that the scan cuts, (I, J, K).

    A voxel beside a label is never among them: borders of labelled vertebrae are known.

    Args:
        image: grey values 0 ... 1; RAS, so k grows to the head.
        ids: VerSe ids, 0, and 255 for "some vertebra".
        bone: the grey value from which a voxel is bone.
    """
    labelled = ids > 0
    unlabelled = (image >= bone) & ~labelled
    upper, lower = open_ends(ids)
    found = np.zeros(ids.shape, bool)
    if upper:
        found |= _cut_by_upper_face(unlabelled, labelled)
    if lower:
        # The same upside down.
        found |= _cut_by_upper_face(unlabelled[..., ::-1], labelled[..., ::-1])[..., ::-1]
    # Half of the rim of a bone is something else at 4 mm, and its inside may be dark. But a voxel beside a label is
    # the rim of a labelled vertebra.
    return np.asarray(ndimage.binary_dilation(found) & ~ndimage.binary_dilation(labelled, _AROUND))


def _cut_by_upper_face(unlabelled: NDArray[np.bool_], labelled: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The unlabelled bone near the uppermost labels that the upper face of the scan cuts."""
    found = np.zeros(labelled.shape, bool)
    planes = np.flatnonzero(labelled.any(axis=(0, 1)))
    # If the scan goes on for longer than a vertebra, none is cut: VerSe would have labelled it.
    if not planes.size or (labelled.shape[2] - 1 - planes[-1]) * COARSE_MM > BEYOND_MM:
        return found
    top = int(planes[-1]) + 1
    # The labels at this end only: a bent spine is somewhere else in its middle.
    around = box_of(labelled[..., max(0, top - int(LAST_MM / COARSE_MM)) :])
    if around is None:
        return found
    beside = int(BESIDE_MM / COARSE_MM)
    i, j = (slice(max(0, along.start - beside), along.stop + beside) for along in around[:2])
    zone = (i, j, slice(max(0, top - int(INTO_MM / COARSE_MM)), None))
    pieces, count = ndimage.label(unlabelled[zone])
    at_face = np.zeros(1 + count, bool)
    at_face[pieces[..., -1]] = True
    at_face[0] = False
    found[zone] = at_face[pieces]
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
