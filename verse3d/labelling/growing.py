"""Give every voxel of a foreground to the nearest seed, where ways lead through the foreground only.

    seeds    1 1 . . . # # 2 2        # foreground without an owner, . background
             # # # . # # # # 2
    grown    1 1 . . . 2 2 2 2        the step from 1 to 2 across the gap is no way
             1 1 1 . 2 2 2 2 2

Distances are sums of steps along the axes, in mm, so thick slices count for what they are. What is held beside the map
is the front alone: it is an array of voxel numbers, sorted into buckets by distance (Dial's algorithm).
"""

from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FREE = 255
"""Foreground that belongs to nobody yet."""

_UNITS_PER_STEP = 4
_AT_ONCE = 2**21
_Front = tuple[NDArray[np.integer], NDArray[np.uint8]]


def grow(owners: NDArray[np.uint8], spacing_mm: Sequence[float]) -> None:
    """Let the owners take all ``FREE`` voxels that they can reach, in place.

    Args:
        owners: uint8 (I, J, K), C order: 0 background, ``FREE``, or who owns the voxel. Its outermost planes are 0, so
            no step leads out of it. Of two owners at the same distance the one met first takes a voxel.
        spacing_mm: of the axes.
    """
    flat = owners.reshape(-1)
    # Half the memory of NumPy's own 64 bit, where that suffices.
    numbers = np.int32 if flat.size < 2**31 else np.int64
    # Whole units let distances be keys: a quarter of the shortest step is fine enough for any spacing.
    units = np.maximum(1, np.rint(_UNITS_PER_STEP * np.array(spacing_mm) / min(spacing_mm))).astype(int).tolist()
    # A step along an axis is a step of one number in the flat map: +- stride; the planes of 0 around stop it.
    strides = (owners.shape[1] * owners.shape[2], owners.shape[2], 1)
    steps = [(sign * stride, unit) for stride, unit in zip(strides, units, strict=True) for sign in (1, -1)]
    waiting: dict[int, list[_Front]] = defaultdict(list)
    # The first front is all that has an owner. Some at a time: numbers of voxels take 4 to 8 times as much as owners.
    for start in range(0, flat.size, _AT_ONCE):
        chunk = flat[start : start + _AT_ONCE]
        owned = np.flatnonzero((chunk > 0) & (chunk < FREE)) + start
        voxels: NDArray[np.integer] = owned.astype(numbers)
        _advance(flat, (voxels, flat[voxels]), 0, steps, waiting)
    while waiting:
        # Nearest first, so whoever takes a voxel could not have reached it on a shorter way.
        distance = min(waiting)
        for voxels, own in waiting.pop(distance):
            # Each front names a voxel once, so after this none of them is taken twice.
            still = flat[voxels] == FREE
            taken = voxels[still], own[still]
            flat[taken[0]] = taken[1]
            _advance(flat, taken, distance, steps, waiting)


def _advance(
    flat: NDArray[np.uint8],
    front: _Front,
    distance: int,
    steps: Sequence[tuple[int, int]],
    waiting: dict[int, list[_Front]],
) -> None:
    """Let the neighbours of a front wait for their turn; those behind it are owned already."""
    voxels, own = front
    for offset, unit in steps:
        beside = voxels + voxels.dtype.type(offset)
        free = flat[beside] == FREE
        if free.any():
            waiting[distance + unit].append((beside[free], own[free]))
