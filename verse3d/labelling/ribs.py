"""Bone right beside each vertebra that is no vertebra: ribs in the chest, the sacrum at the end, nothing in between.

::

    from behind      C7        T12 =====        L3        L5 ##
                                                             ##  sacrum, hips
    bone beside it   none      ribs             none      much

Which vertebrae bear ribs is what the names mean; counting from the last rib is what radiologists do. Ribs are not in a
mask of vertebrae, so they are looked for in the image: dense voxels outside of all bones, a few mm beside and behind
the body. Farther away they lie beside the next vertebra: ribs slope.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.labelling.bones import Bone, BoneMap
from verse3d.labelling.sampling import points_of_bones
from verse3d.labelling.upright import has_arches_in_front

BONE_HU = 200.0
"""Of spongy bone at the edge of what is dense; vessels with contrast agent lie in front of a body."""
STEP_MM = 2.0
_NEAR_MM = (3.5, 9.5)
"""From the bone: nearer is its own blurred surface."""
_ACROSS_MM, _FORWARD_MM, _ALONG_MM = 15.0, (-45.0, 2.0), 25.0
"""From the middle of the body: left or right at least, forward between, up or down at most."""
_REACH_MM = 35.0
"""So far to a side the scan must go, or nothing is known of that side."""
MOST_OF_A_CUT_ML = 2.0
"""Beside a bone lies no more of a vertebra that the scan cuts: 1.3 ml were seen, and 1.7 to 5.5 ml of the sacrum."""
_CRUMB, _CRUMB_MM = 0.2, 50.0
"""So small beside its neighbour, what the scan cuts is a piece of a vertebra of which the mask lacks the rest."""
_FAINT_ML, _HALF_ML, _STEEPNESS, _MOST = 0.03, 0.2, 3.0, 5.0
"""Log odds of ribs are 0 at ``_HALF_ML``. The sides of T1 to T12 with less bone beside them have 0.2 to 1.2 ml in three
real scans and 0.8 to 2 ml in phantoms; those of C2 to C7 and L1 to L4 0 to 0.1 ml, and 0.2 ml at C7 of phantoms."""

HAS_RIBS = np.array([label.name[0] == "T" for label in VERTEBRAE])
MAY_HAVE_BONE_BESIDE = np.array([label.name in ("C1", "L4", "L5", "L6") for label in VERTEBRAE])
"""The skull lies beside C1; sacrum and hips beside the last lumbar vertebra, whichever that is."""


@dataclass(frozen=True, eq=False)
class DenseMap:
    """Where a scan is as dense as bone.

    Attributes:
        dense: bool (i, j, k), about ``STEP_MM`` apart.
        geometry: of i, j, k.
    """

    dense: NDArray[np.bool_]
    geometry: Geometry


def beside_ml(bones: BoneMap, grid: Geometry, scan: DenseMap) -> NDArray[np.float64]:
    """Dense volume beside each bone that belongs to no bone of the map, (N,) ml: of the side where there is less.

    NaN where the scan (or the map of it) ends before either side, or in the middle of the bone.

    Args:
        bones: on the grid of the scan.
        grid: that grid.
        scan: where it is dense; may show a part of it.
    """
    sides = np.full((len(bones.bones), 2), np.nan)
    found, whose = _found_near(points_of_bones(bones, grid), scan)
    # Of a header that is wrong the bones know better where the front is.
    front = -1.0 if has_arches_in_front(bones.bones) else 1.0
    for row, bone in enumerate(bones.bones):
        # World RAS+, whatever the grid is like: x to a side, y to the front, z to the head
        across, forward, along = (found[whose == row] - bone.centre_mm).T * [[1.0], [front], [1.0]]
        inside = (forward > _FORWARD_MM[0]) & (forward < _FORWARD_MM[1]) & (np.abs(along) < _ALONG_MM)
        for side, sign in enumerate((-1.0, 1.0)):
            reached = np.add(bone.centre_mm, [(sign * _REACH_MM, 0.0, 0.0)])
            # Both must show it: the map may lie around a part of the spine only.
            if not bone.is_cut and grid.contains(reached)[0] and scan.geometry.contains(reached)[0]:
                sides[row, side] = (inside & (sign * across > _ACROSS_MM)).sum() * scan.geometry.voxel_ml
    # The lesser of those that are known
    return without_crumbs(np.fmin(sides[:, 0], sides[:, 1]), bones.bones)


def without_crumbs(found_ml: NDArray[np.float64], bones: Sequence[Bone]) -> NDArray[np.float64]:
    """The same with NaN beside a crumb of a vertebra that the scan cuts, whose other pieces would count as ribs."""
    doubtful = np.array([any(_is_crumb_of(other, bone) for other in bones) for bone in bones], bool)
    return np.where(doubtful & (found_ml < MOST_OF_A_CUT_ML), np.nan, found_ml)


def _is_crumb_of(other: Bone, bone: Bone) -> bool:
    if not other.is_cut or other.volume_ml >= _CRUMB * bone.volume_ml:
        return False
    return float(np.linalg.norm(np.subtract(other.centre_mm, bone.centre_mm))) < _CRUMB_MM


def _found_near(points: list[NDArray[np.float64]], scan: DenseMap) -> tuple[NDArray[np.float64], NDArray[np.intp]]:
    """World mm (m, 3) of dense voxels right outside of all bones, and the row of the nearest bone, (m,)."""
    owner = np.repeat(np.arange(len(points)), [len(each) for each in points])
    found = scan.geometry.world_from_index(np.argwhere(scan.dense))
    if not len(owner) or not len(found):
        return np.zeros((0, 3)), np.zeros(0, np.intp)
    # Beyond the bound a distance is infinite, and there is no nearest point.
    near, nearest = scipy.spatial.cKDTree(np.concatenate(points)).query(found, distance_upper_bound=_NEAR_MM[1])
    beside = (near > _NEAR_MM[0]) & np.isfinite(near)
    return found[beside], owner[nearest[beside]]


def log_chances_of_ribs(beside_ml: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Log chance of so much bone beside a vertebra if it bears ribs, and if it does not, (N,) each.

    Args:
        beside_ml: from ``beside_ml``; NaN is as likely either way.
    """
    known = np.where(np.isnan(beside_ml), _HALF_ML, beside_ml)
    odds = _STEEPNESS * np.log((known + _FAINT_ML) / (_HALF_ML + _FAINT_ML))
    # Bounded: what a network leaves out of a bone lies beside it like a rib, and a rib may be missing.
    bounded = np.clip(odds, -_MOST, _MOST)
    return -np.logaddexp(0.0, -bounded), -np.logaddexp(0.0, bounded)
