"""Parting seeds that are several vertebrae: cores that touch would else make one bone of them.

A seed that is much larger than those beside it, or longer along the spine than any vertebra, is made thinner until it
comes apart. Parts count as vertebrae only if they lie one below the other; an arch that comes off its body, or one side
that comes off the other, does not::

      ( )                 ( )
     (   )=o      ->     (   )=o      two vertebrae: the middles are apart along the spine, not across it
      )  /                ---
     (   )=o             (   )=o
      ( )                 ( )

Of a ring, as C1 is, none of the pieces looks like a vertebra. A seed that is as large as two and has a waist is parted
there (``waists``).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.labelling.waists import parts_beside_waist, waist_parts

TOO_LARGE, TOO_LONG_MM = 1.3, 60.0
"""Of a seed beside the median of its neighbours; and along the spine, where L3 with its processes has some 50 mm."""
_AS_TWO = 1.6
"""Of a seed beside its neighbours' median, crumbs aside. C2 has up to 1.55; C7 and T1 in one 1.8, C1 and C2 2.7."""
_CRUMB = 0.2
"""Of a seed; what is smaller is no vertebra to compare it with."""

_MOST_PARTED_ML, _MOST_BOX_ML = 1500.0, 12_000.0
"""A spine from C1 to L5 has 1000 ml, and fits into 150 x 130 x 600 mm."""
_NEIGHBOURS, _NEAR_MM = 4, 90.0
_STRAIGHT = 0.85
"""Share of the spread of some middles along one line from which on they tell where the spine goes."""


@dataclass(frozen=True, eq=False)
class _Seed:
    """Where a seed lies (the smallest box), its voxels, and their middle in mm along the grid's axes."""

    box: tuple[slice, ...]
    voxels: int
    middle_mm: NDArray[np.float64]

    @classmethod
    def of(
        cls, seeds: NDArray[np.uint8], number: int, within: tuple[slice, ...], spacing_mm: Sequence[float]
    ) -> "_Seed":
        at = np.argwhere(seeds[within] == number) + [side.start for side in within]
        box = tuple(slice(int(low), int(high) + 1) for low, high in zip(at.min(0), at.max(0), strict=True))
        return cls(box, len(at), at.mean(0) * spacing_mm)

    def is_noise(self, spacing_mm: Sequence[float]) -> bool:
        """Whether it is larger, or fills a larger box, than any spine that hangs together."""
        voxel_ml = float(np.prod(spacing_mm)) / 1000.0
        box_ml = voxel_ml * float(np.prod([side.stop - side.start for side in self.box]))
        return self.voxels * voxel_ml > _MOST_PARTED_ML or box_ml > _MOST_BOX_ML


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
    boxes = ndimage.find_objects(seeds)
    found = {number: _Seed.of(seeds, number, box, spacing_mm) for number, box in enumerate(boxes, start=1) if box}
    # A part may still be several vertebrae: it is looked at again.
    waiting, highest = list(found), len(boxes)
    while waiting:
        number = waiting.pop()
        seed, axis = found[number], _along(number, found, up)
        if seed.is_noise(spacing_mm):
            continue
        inside = seeds[seed.box]
        bone = inside == number
        if not _looks_like_several(number, found, bone, axis * spacing_mm):
            continue
        parts = waist_parts(bone, spacing_mm, axis)
        if parts.max() < 2 and _is_as_large_as_two(number, found):
            parts = parts_beside_waist(bone, spacing_mm, axis)
        more = int(parts.max()) - 1
        if more < 1 or highest + more > most:
            continue
        inside[parts > 1] = (parts + (highest - 1))[parts > 1].astype(np.uint8)
        changed = [number, *range(highest + 1, highest + more + 1)]
        highest += more
        found |= {one: _Seed.of(seeds, one, seed.box, spacing_mm) for one in changed}
        waiting += changed
    return seeds


def _near(number: int, found: dict[int, _Seed]) -> list[int]:
    """The seeds nearest to one: vertebrae grow towards the feet, so it is not compared with all."""
    others = [one for one in found if one != number]
    apart = [float(np.linalg.norm(found[one].middle_mm - found[number].middle_mm)) for one in others]
    return [others[place] for place in np.argsort(apart)[:_NEIGHBOURS] if apart[place] < _NEAR_MM]


def _along(number: int, found: dict[int, _Seed], up: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where the spine goes at a seed: along the line of the seeds beside it, or up if they make no line."""
    middles = np.array([found[one].middle_mm for one in [number, *_near(number, found)]])
    if len(middles) < 3:
        return up
    _, spread, axes = np.linalg.svd(middles - middles.mean(0), full_matrices=False)
    straight = spread[0] ** 2 >= _STRAIGHT * float((spread**2).sum())
    return np.asarray(axes[0]) if straight else up


def _looks_like_several(
    number: int,
    found: dict[int, _Seed],
    bone: NDArray[np.bool_],
    axis_mm: NDArray[np.float64],
) -> bool:
    near = [found[one].voxels for one in _near(number, found)]
    if len(near) > 1 and found[number].voxels >= TOO_LARGE * np.median(near):
        return True
    return bool(np.ptp(np.argwhere(bone) @ axis_mm) > TOO_LONG_MM)


def _is_as_large_as_two(number: int, found: dict[int, _Seed]) -> bool:
    own = found[number].voxels
    near = [found[one].voxels for one in _near(number, found) if found[one].voxels >= _CRUMB * own]
    return len(near) > 1 and own >= _AS_TWO * float(np.median(near))
