"""What is known about the level of each bone before the spine is read as a whole.

A network that sees the whole field of view gives every voxel a probability for each level; the mean over the voxels of
a bone is what it says about that bone. Without such a network nothing but distances and shapes speaks. What all of it
together means for the path search, ``weighing`` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.labelling.bones import Bone, BoneMap
from verse3d.labelling.detections import REGIONS
from verse3d.labelling.sampling import points_of_bones

_LEAST = 0.004
"""No level of a bone is less probable than this: a network may be sure and wrong."""
_REAL_BOUNDS = (0.03, 0.998)
_REAL_UNSEEN = 0.97
_INNER = 0.75
_NECK = 3.0
"""How much a bone whose levels are those of the neck gains in log odds of being a vertebra.

Bones of the neck are small on a grid of 4 mm, and at the end of what a network has seen: of five phantoms' C1 it thinks
with 0.07 to 0.16 that they are vertebrae. What is taken for one and is none is sacrum, hip or rib, far from there.
Chosen on phantoms' true bones; 2 and 3 changed nothing in eight of nine real scans.
"""
_BESIDE, _BESIDE_MM = 6, 150.0
_SMALL, _DOUBT = 0.4, 8.0
"""A bone smaller than this share of those beside it is doubted, one of nearly no size by this much in log odds. Between
neighbours volumes differ by a quarter, and a collapsed vertebra keeps more than half of its own."""

_REGION_OF = np.array(["CTL".index(label.name[0]) for label in VERTEBRAE])
_NECK_LEVELS = _REGION_OF == 0


@dataclass(frozen=True, eq=False)
class LevelEvidence:
    """What is known about N bones.

    Attributes:
        levels: log probability of each of ``VERTEBRAE`` if it is one of them, (N, 26).
        real: probability that it is, (N,).
        seen: whether a network has looked at all.
        beside_ml: other bone beside each (``ribs.beside_ml``), (N,), NaN where it is not known; None: nowhere known.
        widths_mm: of each from left to right, (N,), NaN where it is not known; None: nowhere known.
        grid: of the scan; None if it is not known where the scan ends.
    """

    levels: NDArray[np.float64]
    real: NDArray[np.float64]
    seen: bool = True
    beside_ml: NDArray[np.float64] | None = None
    widths_mm: NDArray[np.float64] | None = None
    grid: Geometry | None = None

    def __post_init__(self) -> None:
        if self.levels.shape != (self.real.size, len(VERTEBRAE)):
            raise DataError(f"levels of shape {self.levels.shape} do not fit {self.real.size} bones")
        if not (np.isfinite(self.levels).all() and np.isfinite(self.real).all()):
            raise DataError("evidence of levels holds NaN or infinity", hint="leave out what is not known")

    @property
    def regions(self) -> NDArray[np.float64]:
        """Probability of cervical, thoracic and lumbar, (N, 3); NaN where no network has looked."""
        if not self.seen:
            # NaN, not a third each: nobody has looked, which is not the same as doubt.
            return np.full((self.real.size, len(REGIONS)), np.nan)
        # (N, 26) -> (N, 3), by the letter of each name
        shares = np.exp(self.levels)
        columns = [shares[:, region == _REGION_OF].sum(axis=1) for region in range(3)]
        return np.column_stack(columns).clip(0.0, 1.0)

    def of(self, rows: NDArray[np.intp]) -> "LevelEvidence":
        """What is known about some of the bones."""
        beside, widths = (None if each is None else each[rows] for each in (self.beside_ml, self.widths_mm))
        return replace(self, levels=self.levels[rows], real=self.real[rows], beside_ml=beside, widths_mm=widths)


def without_a_look(count: int) -> LevelEvidence:
    """For bones that no network has looked at as a whole: every level is as likely as any other."""
    levels = np.full((count, len(VERTEBRAE)), -np.log(len(VERTEBRAE)))
    return LevelEvidence(levels, np.full(count, _REAL_UNSEEN), seen=False)


def level_evidence(
    bones: BoneMap, grid: Geometry, probabilities: NDArray[np.floating], coarse: Geometry
) -> LevelEvidence:
    """What the probabilities of a network say about each bone; bones where they are NaN, or that they miss, are open.

    Args:
        bones: on the grid of the scan.
        grid: that grid.
        probabilities: (27, I, J, K): background, then the 26 vertebrae in the order of ``VERTEBRAE``.
        coarse: the grid of I, J, K.

    Raises:
        DataError: the shapes do not fit.
    """
    if probabilities.shape != (1 + len(VERTEBRAE), *coarse.shape):
        raise DataError(f"probabilities of shape {probabilities.shape} do not lie on a grid of shape {coarse.shape}")
    # seen: for each bone (27, n), what the network says at its voxels
    seen = [_seen_at(points, probabilities, coarse) for points in points_of_bones(bones, grid)]
    known = np.array([here.size > 0 and bool(np.isfinite(here).all()) for here in seen], bool)
    # A bone outside of the coarse grid, or one where the network gave NaN, stays as if nobody had looked.
    unseen = without_a_look(len(seen))
    if not known.any():
        return unseen
    levels, real = unseen.levels.copy(), unseen.real.copy()
    for row in np.flatnonzero(known):
        # (27, n) -> (26,): among vertebrae only; whether it is one at all is told apart below.
        mean = seen[row][1:].mean(axis=1)
        levels[row] = np.log(np.maximum(mean / max(mean.sum(), 1e-9), _LEAST))
        # The surface of a bone is half background on a grid of 4 mm; its inside says whether it is one.
        real[row] = np.clip(np.quantile(1.0 - seen[row][0], _INNER), *_REAL_BOUNDS)
        if mean[_NECK_LEVELS].sum() > mean.sum() / 2:
            real[row] = np.clip(_with_odds(real[row], _NECK), *_REAL_BOUNDS)
    return LevelEvidence(levels, real)


def doubting_small_bones(levels: LevelEvidence, bones: Sequence[Bone]) -> LevelEvidence:
    """The evidence, where bones that are much smaller than the vertebrae beside them are hardly real.

    Compared is with the third largest of the six nearest bones (the second of three or four), so that neither other
    crumbs nor two vertebrae that hang together decide. What the scan cuts may be of any size.

    Args:
        levels: what a network says.
        bones: which the rows of ``levels`` are about.
    """
    if len(bones) < 2:
        return levels
    volumes, centres = np.array([bone.volume_ml for bone in bones]), np.array([bone.centre_mm for bone in bones])
    apart, real = scipy.spatial.distance.cdist(centres, centres), levels.real.copy()
    np.fill_diagonal(apart, np.inf)
    for row in range(len(bones)):
        beside = np.argsort(apart[row], kind="stable")[:_BESIDE]
        usual = np.sort(volumes[beside[apart[row, beside] <= _BESIDE_MM]])[::-1]
        if bones[row].is_cut or not usual.size:
            continue
        lacking = 1.0 - volumes[row] / (_SMALL * usual[(usual.size - 1) // 2])
        real[row] = _with_odds(real[row], -_DOUBT * max(0.0, lacking))
    return replace(levels, real=real)


def _with_odds(chance: float, gain: float) -> float:
    """A probability whose log odds have grown by ``gain``."""
    odds = chance / (1.0 - chance) * np.exp(gain)
    return float(odds / (1.0 + odds))


def _seen_at(points_mm: ArrayLike, probabilities: NDArray[np.floating], coarse: Geometry) -> NDArray[np.float64]:
    """Probabilities (27, n) at the voxels nearest to those of the points (m, 3) that lie on the grid."""
    # points (m, 3) mm -> index (m, 3) on the coarse grid -> probabilities (27, n), n <= m: some lie outside
    nearest = np.rint(coarse.index_from_world(points_mm)).astype(int)
    inside = ((nearest >= 0) & (nearest < coarse.shape)).all(axis=1)
    seen: NDArray[np.float64] = probabilities[(slice(None), *nearest[inside].T)].astype(np.float64)
    return seen
