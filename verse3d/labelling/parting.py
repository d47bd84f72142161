"""Parting seeds that are several vertebrae: cores that touch would else make one bone of them.

A seed that is much larger than those beside it, or longer along the spine than any vertebra, is made thinner until it
comes apart. Parts count as vertebrae only if they lie one below the other; an arch that comes off its body, or one side
that comes off the other, does not::

      ( )                 ( )
     (   )=o      ->     (   )=o      two vertebrae: the middles are apart along the spine, not across it
      )  /                ---
     (   )=o             (   )=o
      ( )                 ( )

What was made away goes back along the thickest way, so that an arch stays with its own body.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.labelling.growing import FREE, grow

TOO_LARGE, TOO_LONG_MM = 1.3, 60.0
"""Of a seed beside the median of its neighbours; and along the spine, where L3 with its processes has some 50 mm."""

_MOST_PARTED_ML = 1500.0
_PARTING_MM = (1.5, 2.5, 3.5, 5.0, 6.5)
_LEAST_SHARE, _LEAST_PART_ML = 0.2, 1.0
_LEAST_APART_MM = 9.0
"""Between the middles of two vertebrae; the smallest, in a child's neck, are 10 mm apart."""
_NEIGHBOURS, _NEAR_MM = 4, 90.0
_STRAIGHT = 0.85
"""Share of the spread of some middles along one line from which on they tell where the spine goes."""
_SHARES_OF_DEPTH = (0.8, 0.6, 0.4, 0.2, 0.0)


def part_seeds(
    seeds: NDArray[np.uint8], spacing_mm: Sequence[float], up: NDArray[np.float64], most: int
) -> NDArray[np.uint8]:
    """Seeds, where those that are several vertebrae were parted.

    Args:
        seeds: uint8 (I, J, K), 0 for none; changed in place.
        spacing_mm: of their grid.
        up: unit vector (3,) along the grid's axes that points to the head.
        most: highest number that a seed may get.

    Returns:
        The array; the largest part keeps the number of the seed, others get new ones.
    """
    boxes = dict(enumerate(ndimage.find_objects(seeds), start=1))
    voxel_ml = float(np.prod(spacing_mm)) / 1000.0
    measured = {number: _measured(seeds, number, box, spacing_mm) for number, box in boxes.items() if box}
    # A part may still be several vertebrae: it is looked at again.
    waiting, highest = list(measured), len(boxes)
    while waiting:
        number = waiting.pop()
        axis = _along(number, measured, up)
        volume_ml = measured[number][0] * voxel_ml
        inside = seeds[boxes[number]]
        bone = inside == number
        if volume_ml > _MOST_PARTED_ML or not _looks_like_several(number, measured, bone, axis * spacing_mm):
            continue
        parts = waist_parts(bone, spacing_mm, axis)
        more = int(parts.max()) - 1
        if more < 1 or highest + more > most:
            continue
        inside[parts > 1] = (parts + (highest - 1))[parts > 1].astype(np.uint8)
        changed = [number, *range(highest + 1, highest + more + 1)]
        highest += more
        for one in changed:
            boxes[one] = boxes[number]
            measured[one] = _measured(seeds, one, boxes[one], spacing_mm)
        waiting += changed
    return seeds


def waist_parts(bone: NDArray[np.bool_], spacing_mm: Sequence[float], axis: NDArray[np.float64]) -> NDArray[np.int32]:
    """The parts of a bone, 1 (the largest), 2 ..., that come apart along an axis if it is made thinner; 0 elsewhere.

    Args:
        bone: bool (I, J, K).
        spacing_mm: of its grid.
        axis: unit vector (3,) along the grid's axes.

    Returns:
        int32 (I, J, K); all of the bone is 1 if it stays in one piece.
    """
    depth = ndimage.distance_transform_edt(np.pad(bone, 1), sampling=spacing_mm)[1:-1, 1:-1, 1:-1]
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


def _measured(
    seeds: NDArray[np.uint8], number: int, box: tuple[slice, ...], spacing_mm: Sequence[float]
) -> tuple[int, NDArray[np.float64]]:
    """Voxels of a seed, and the middle of them in mm along the grid's axes."""
    at = np.argwhere(seeds[box] == number)
    middle = at.mean(0) if len(at) else np.zeros(3)
    return len(at), (middle + [side.start for side in box]) * spacing_mm


def _near(number: int, measured: dict[int, tuple[int, NDArray[np.float64]]]) -> list[int]:
    """The seeds nearest to one: vertebrae grow towards the feet, so it is not compared with all."""
    others = [one for one in measured if one != number]
    apart = [float(np.linalg.norm(measured[one][1] - measured[number][1])) for one in others]
    return [others[place] for place in np.argsort(apart)[:_NEIGHBOURS] if apart[place] < _NEAR_MM]


def _along(
    number: int, measured: dict[int, tuple[int, NDArray[np.float64]]], up: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Where the spine goes at a seed: along the line of the seeds beside it, or up if they make no line."""
    middles = np.array([measured[one][1] for one in [number, *_near(number, measured)]])
    if len(middles) < 3:
        return up
    _, spread, axes = np.linalg.svd(middles - middles.mean(0), full_matrices=False)
    straight = spread[0] ** 2 >= _STRAIGHT * float((spread**2).sum())
    return np.asarray(axes[0]) if straight else up


def _looks_like_several(
    number: int,
    measured: dict[int, tuple[int, NDArray[np.float64]]],
    bone: NDArray[np.bool_],
    axis_mm: NDArray[np.float64],
) -> bool:
    near = [measured[one][0] for one in _near(number, measured)]
    if len(near) > 1 and measured[number][0] >= TOO_LARGE * np.median(near):
        return True
    return bool(np.ptp(np.argwhere(bone) @ axis_mm) > TOO_LONG_MM)


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
