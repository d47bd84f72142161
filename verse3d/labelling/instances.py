"""From a map of parts (background, vertebra, core) to single bones: every voxel belongs to one bone or to none.

    parts    2 2 2 1 1 2 2      bones    1 1 1 1 2 2 2
             2 2 2 1 . 1 2               1 1 1 1 . 2 2
             . 1 . . . . .               . 1 . . . . .

1. Connected cores are the seeds. They are found on a grid of about 1.2 mm, where a core is still several voxels thick.
   Seeds that are several vertebrae are parted (``parting``).
2. Every voxel goes to the seed that is nearest within the foreground (``growing``).
3. What no seed reaches: a fragment as large as a small vertebra is a bone of its own; a smaller one joins a bone within
   4 mm; others are dropped. The map tells how much.

All work is done in the box around the foreground, in one byte per voxel of it beside the map.
"""

import numpy as np
import scipy
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import label_counts
from verse3d.labelling.bones import CORE, BoneMap, CoarseGrid, measured_bones
from verse3d.labelling.growing import FREE, grow
from verse3d.labelling.parting import part_seeds

LEAST_CORE_ML, LEAST_BONE_ML, LEAST_WITHOUT_CORE_ML = 0.3, 1.0, 2.5
JOIN_MM = 4.0
MOST_BONES = 200
"""So many seeds at most, the largest; a spine has 26. Noise may have thousands."""

MOST_FOREGROUND_ML = 8000.0

_ALL_AROUND = np.ones((3, 3, 3))


def group_bones(parts: NDArray[np.uint8], geometry: Geometry) -> BoneMap:
    """Find the bones.

    Args:
        parts: uint8 (I, J, K), 0 background, 1 vertebra, 2 core, in any memory order.
        geometry: its grid.

    More foreground than any skeleton has is the noise of a network that has not learnt yet: no bone is found in it.

    Raises:
        DataError: there is something else in the map, or its shape is not that of the grid.
    """
    if parts.shape != geometry.shape or not parts.size:
        raise DataError(f"a map of shape {parts.shape} does not lie on a grid of shape {geometry.shape}")
    box = _foreground_box(parts)
    if box is None:
        return BoneMap(np.zeros((0, 0, 0), np.uint8), (0, 0, 0), ())
    # Views of the scan; the only copy of the box is ``owners``, one byte for each voxel, with a plane of 0 around.
    inside = parts[box]
    if int(inside.max()) > CORE:
        raise DataError(f"a map of parts holds 0, 1 and 2, this one also {int(inside.max())}")
    # Asked before anything is allocated: noise is not worth a copy of the box.
    foreground_ml = geometry.voxel_ml * float(np.count_nonzero(inside))
    if foreground_ml > MOST_FOREGROUND_ML:
        return BoneMap(np.zeros((0, 0, 0), np.uint8), (0, 0, 0), (), dropped_ml=foreground_ml)
    i, j, k = inside.shape
    owners = np.zeros((i + 2, j + 2, k + 2), np.uint8)
    # Plane by plane: a comparison of the whole box at once would be one more copy of it.
    for target, plane in zip(owners[1:-1, 1:-1, 1:-1], inside, strict=True):
        target[plane > 0] = FREE
    # parts -> seeds (coarse) -> owners of cores -> owners of all that can be reached -> numbers
    coarse = CoarseGrid.of(geometry)
    labelled, count = ndimage.label(coarse.taken(inside) == CORE)
    labelled, _ = _largest_first(labelled, count, LEAST_CORE_ML / coarse.voxel_ml)
    # Cores that look like two are parted: vertebrae whose cores touch would else be one bone.
    seeds = part_seeds(labelled.astype(np.uint8), coarse.spacing_mm, _up(geometry), MOST_BONES)
    coarse.hand_out(seeds, owners, cores=inside)
    grow(owners, geometry.spacing_mm)
    left_out = _settle_fragments(owners, coarse, int(seeds.max(initial=0)), geometry)
    dropped = left_out + _drop_small(owners, geometry.voxel_ml)
    numbers = owners[1:-1, 1:-1, 1:-1]
    start = tuple(int(side.start) for side in box)
    found = measured_bones(numbers, (start[0], start[1], start[2]), coarse, geometry)
    return BoneMap(numbers, (start[0], start[1], start[2]), found, dropped)


def _up(geometry: Geometry) -> NDArray[np.float64]:
    """Where the head is: a unit vector along the grid's axes. Of a world that is RAS+ the third axis points there."""
    directions = geometry.affine[:3, :3] / geometry.spacing_mm
    return np.asarray(directions.T @ np.array([0.0, 0.0, 1.0]))


def _foreground_box(parts: NDArray[np.uint8]) -> tuple[slice, slice, slice] | None:
    """The smallest box that holds everything but 0."""
    sides = []
    for axis in range(3):
        # Projected onto one axis after the other: (I, J, K) -> (I,), (J,), (K,).
        others = tuple(number for number in range(3) if number != axis)
        filled = np.flatnonzero(parts.any(axis=others))
        if not filled.size:
            return None
        sides.append(slice(int(filled[0]), int(filled[-1]) + 1))
    return sides[0], sides[1], sides[2]


def _largest_first(labelled: NDArray[np.int32], count: int, least_voxels: float) -> tuple[NDArray[np.int32], int]:
    """The components of at least so many voxels, numbered by size, at most ``MOST_BONES``; others become 0."""
    sizes = np.bincount(labelled.ravel(), minlength=count + 1)[1:]
    # Stable, so that equal sizes keep their order and a map always gives the same numbers.
    order = np.argsort(-sizes, kind="stable")[:MOST_BONES]
    order = order[sizes[order] >= least_voxels]
    number_of = np.zeros(count + 1, np.int32)
    # A table old number -> new number, 0 for what is too small; then one look-up per voxel.
    number_of[1 + order] = np.arange(1, order.size + 1)
    return number_of[labelled], int(order.size)


def _settle_fragments(owners: NDArray[np.uint8], coarse: CoarseGrid, highest: int, geometry: Geometry) -> float:
    """In place: what no seed has reached is a bone, joins one across a gap, or is left out. Returns ml left out."""
    inside = owners[1:-1, 1:-1, 1:-1]
    sampled = coarse.taken(inside)
    labelled, count = ndimage.label(sampled == FREE, _ALL_AROUND)
    if count:
        # own: (i, j, k) on the coarse grid, who gets the fragments there; 0 leaves them out.
        own = np.zeros(sampled.shape, np.uint8)
        whole, more = _largest_first(labelled, count, LEAST_WITHOUT_CORE_ML / coarse.voxel_ml)
        more = min(more, MOST_BONES - highest)
        new = (whole > 0) & (whole <= more)
        own[new] = (whole[new] + highest).astype(np.uint8)
        _join_near(own, sampled, labelled, coarse)
        coarse.hand_out(own, owners)
        grow(owners, geometry.spacing_mm)
    left_out = 0
    for plane in inside:
        alone = plane == FREE
        left_out += int(np.count_nonzero(alone))
        plane[alone] = 0
    return left_out * geometry.voxel_ml


def _join_near(
    own: NDArray[np.uint8], sampled: NDArray[np.uint8], fragments: NDArray[np.int32], coarse: CoarseGrid
) -> None:
    """Give fragments that are no bones of their own to the nearest bone, if that is near."""
    # Of a fragment that voxel decides which lies nearest to any bone:
    #
    #     1 1 . f f f . . . 2      one voxel from 1, three from 2: it joins 1, if one voxel is near enough
    bones = (sampled > 0) & (sampled < FREE)
    if not bones.any():
        return
    # The surface is what anything outside is nearest to. A tree of it takes less than distances all over the scan.
    surface = np.argwhere(bones & ~ndimage.binary_erosion(bones))
    at = np.argwhere(fragments)
    distance, nearest = scipy.spatial.cKDTree(surface * coarse.spacing_mm).query(
        at * coarse.spacing_mm, distance_upper_bound=JOIN_MM * (1 + 1e-9)
    )
    # Too far is infinity, and no row of the surface.
    near = np.isfinite(distance)
    beside = np.zeros(len(at), np.uint8)
    beside[near] = sampled[tuple(surface[nearest[near]].T)]
    fragment = fragments[tuple(at.T)]
    # By fragment, and within it by distance: the first of each fragment is its voxel nearest to a bone.
    order = np.lexsort((distance, fragment))
    fragment, beside = fragment[order], beside[order]
    first = np.append(True, fragment[1:] != fragment[:-1])
    bone_of = np.zeros(int(fragment[-1]) + 1, np.uint8)
    bone_of[fragment[first]] = beside[first]
    bone_of[np.unique(fragments[own > 0])] = 0  # those are bones of their own
    joined = bone_of[fragments]
    np.copyto(own, joined, where=joined > 0)


def _drop_small(owners: NDArray[np.uint8], voxel_ml: float) -> float:
    """Clear bones that are too small for any vertebra, in place; their volume in ml."""
    volumes = label_counts(owners) * voxel_ml
    small = np.flatnonzero((volumes > 0) & (volumes < LEAST_BONE_ML))
    small = small[small > 0]
    if small.size:
        kept = np.arange(256, dtype=np.uint8)
        kept[small] = 0
        for plane in owners:
            # Plane by plane: NumPy widens indices to 64 bit.
            plane[...] = kept[plane]
    return float(volumes[small].sum())
