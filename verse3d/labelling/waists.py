"""How one bone comes apart into several along an axis: made thinner until it does, or cut where it has a waist.

What was made away goes back along the thickest way, so that an arch stays with its own body.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.labelling.growing import FREE, grow

_PARTING_MM = (1.5, 2.5, 3.5, 5.0, 6.5)
_LEAST_SHARE, _LEAST_PART_ML = 0.2, 1.0
_LEAST_APART_MM = 9.0
"""Between the middles of two vertebrae; the smallest, in a child's neck, are 10 mm apart."""
_TILTS = tuple(np.radians([15.0, 30.0]))
_THIN, _LEAST_SIDE, _LEAST_SIDE_ML = 0.5, 0.25, 2.5
"""Area of a waist beside that of the thinner part; volume of either part. Where C1 and C2, or C7 and T1, hang together,
the waist has 0.15 to 0.47; a ring by itself, as C1 is, may have 0.38, and is not as large as two."""
_MOST_MIXED = 0.05
"""Of a thinned bone: so much may lie on the wrong side of the waist in pieces that reach across it."""
_SHARES_OF_DEPTH = (0.8, 0.6, 0.4, 0.2, 0.0)


def waist_parts(bone: NDArray[np.bool_], spacing_mm: Sequence[float], axis: NDArray[np.float64]) -> NDArray[np.int32]:
    """The parts of a bone, 1 (the largest), 2 ..., that come apart along an axis if it is made thinner; 0 elsewhere.

    Args:
        bone: bool (I, J, K).
        spacing_mm: of its grid.
        axis: unit vector (3,) along the grid's axes.

    Returns:
        int32 (I, J, K); all of the bone is 1 if it stays in one piece.
    """
    depth = _depth_mm(bone, spacing_mm)
    least = _LEAST_PART_ML * 1000.0 / float(np.prod(spacing_mm))
    # As little as possible, so that the parts stay near the waist that parted them.
    for less_mm in _PARTING_MM:
        left, count = ndimage.label(depth > less_mm)
        sizes = np.bincount(left.ravel(), minlength=count + 1)[1:]
        if not sizes.size or sizes.max() < least:
            break
        kept = _one_below_the_other(left, sizes, spacing_mm, axis, least)
        if len(kept) > 1:
            number_of = np.zeros(count + 1, np.int32)
            number_of[kept] = np.arange(1, len(kept) + 1)
            return _flooded(bone, depth, number_of[left], spacing_mm)
    return bone.astype(np.int32)


def parts_beside_waist(
    bone: NDArray[np.bool_], spacing_mm: Sequence[float], axis: NDArray[np.float64]
) -> NDArray[np.int32]:
    """The two parts of a bone, 1 and 2, on either side of the place along an axis where it is thin; 0 elsewhere.

    ::

        area along the axis    9 31 50 91 144 120 73 55 33 145 199 196 103 32
                               ------------ C2 --------- ^ ------ C1 --------

    All pieces that the thinned bone has on one side count as one part, and those of the other as the other: so the two
    sides of C1 belong together, and the dens, which stands in its ring, goes with the body of C2.

    Args:
        bone: bool (I, J, K).
        spacing_mm: of its grid.
        axis: unit vector (3,) along the grid's axes; the waist may be tilted against it by up to 30 degrees.

    Returns:
        int32 (I, J, K); all of the bone is 1 if it has no waist.
    """
    at = np.argwhere(bone)
    points_mm = np.asarray(at * spacing_mm, np.float64)
    thin, beyond = _thinnest_waist(points_mm, axis, spacing_mm)
    side_ml = min(beyond.sum(), (~beyond).sum()) * float(np.prod(spacing_mm)) / 1000.0
    if thin > _THIN or side_ml < _LEAST_SIDE_ML:
        return bone.astype(np.int32)
    far = np.zeros(bone.shape, bool)
    far[tuple(at[beyond].T)] = True
    depth = _depth_mm(bone, spacing_mm)
    for less_mm in _PARTING_MM:
        left, count = ndimage.label(depth > less_mm)
        sizes, of_far = (np.bincount(which, minlength=count + 1) for which in (left.ravel(), left[far]))
        sizes[0] = of_far[0] = 0
        # What still hangs together across the waist is thinned further.
        if np.minimum(of_far, sizes - of_far).sum() <= _MOST_MIXED * sizes.sum():
            side_of = np.where(2 * of_far > sizes, 2, 1).astype(np.int32)
            side_of[0] = 0
            return _flooded(bone, depth, side_of[left], spacing_mm) if {1, 2} <= set(side_of) else bone.astype(np.int32)
    return bone.astype(np.int32)


def _thinnest_waist(
    points_mm: NDArray[np.float64], axis: NDArray[np.float64], spacing_mm: Sequence[float]
) -> tuple[float, NDArray[np.bool_]]:
    """The waist of points (N, 3) across an axis or one tilted against it: how thin, and which lie beyond it, (N,)."""
    across = np.linalg.svd(axis[None])[2][1:]
    turns = np.arange(8) * np.pi / 4
    sideways = np.cos(turns)[:, None] * across[0] + np.sin(turns)[:, None] * across[1]
    tilted = [np.cos(tilt) * axis + np.sin(tilt) * side for tilt in _TILTS for side in sideways]
    return min((_waist(points_mm, one, spacing_mm) for one in (axis, *tilted)), key=lambda found: found[0])


def _waist(
    points_mm: NDArray[np.float64], axis: NDArray[np.float64], spacing_mm: Sequence[float]
) -> tuple[float, NDArray[np.bool_]]:
    """The smallest area between two thick parts as a share of the thinner one's; infinite if there are not two."""
    step_mm = float(np.abs(axis) @ spacing_mm)
    along = points_mm @ axis
    layer = ((along - along.min()) / step_mm).astype(int)
    areas = np.bincount(layer)
    before = np.cumsum(areas) / areas.sum()
    best, waist = np.inf, 0
    for place in range(1, len(areas) - 1):
        near, far = areas[:place], areas[place + 1 :]
        apart_mm = (place + 1 + int(far.argmax()) - int(near.argmax())) * step_mm
        thin = areas[place] / min(near.max(), far.max())
        if thin < best and apart_mm >= _LEAST_APART_MM and _LEAST_SIDE <= before[place] <= 1.0 - _LEAST_SIDE:
            best, waist = float(thin), place
    return best, layer > waist


def _depth_mm(bone: NDArray[np.bool_], spacing_mm: Sequence[float]) -> NDArray[np.float64]:
    """How deep each voxel lies in the bone. Padded: the edge of the box is its surface."""
    depth: NDArray[np.float64] = ndimage.distance_transform_edt(np.pad(bone, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
    return depth


def _one_below_the_other(
    left: NDArray[np.int32],
    sizes: NDArray[np.intp],
    spacing_mm: Sequence[float],
    axis: NDArray[np.float64],
    least: float,
) -> list[int]:
    """Numbers of the components that are vertebrae of their own, the largest first."""
    large = 1 + np.flatnonzero(sizes >= max(least, _LEAST_SHARE * sizes.max()))
    middles = np.array(ndimage.center_of_mass(left > 0, left, large)).reshape(-1, 3) * spacing_mm
    kept: list[int] = []
    for place in np.argsort(-sizes[large - 1], kind="stable"):
        away = middles[place] - middles[kept]
        along = np.abs(away @ axis)
        across = np.linalg.norm(away - np.outer(away @ axis, axis), axis=1)
        if np.all((along >= _LEAST_APART_MM) & (along > across)):
            kept.append(int(place))
    return [int(large[place]) for place in kept]


def _flooded(
    bone: NDArray[np.bool_], depth: NDArray[np.float64], marks: NDArray[np.int32], spacing_mm: Sequence[float]
) -> NDArray[np.int32]:
    """Every voxel of the bone goes to the mark that reaches it by the thickest way."""
    owners = np.pad(marks.astype(np.uint8), 1)
    inside, deepest = owners[1:-1, 1:-1, 1:-1], float(depth[marks > 0].min())
    # What is thick is handed out first: a thin bridge is reached from both ends when all behind it has its owner.
    for share in _SHARES_OF_DEPTH:
        inside[bone & (inside == 0) & (depth > share * deepest)] = FREE
        grow(owners, spacing_mm)
        inside[inside == FREE] = 0  # not reached yet
    return np.where(bone, np.maximum(inside, 1), 0).astype(np.int32)
