"""What validation says about names: VerSe's identification rate, and which level was taken for which."""

from collections.abc import Iterable
from dataclasses import dataclass
from statistics import fmean
from typing import Self

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.metrics.identification import identify, mask_centroids
from verse3d.metrics.overlap import joint_counts

_COLUMN = np.array([0, *(label.id for label in VERTEBRAE)])
"""VerSe id of each row and column of the confusion; 0 is no vertebra."""


@dataclass(frozen=True, eq=False)
class LevelScores:
    """The names of one case.

    Attributes:
        id_rate: the share of the true vertebrae that VerSe's rule calls identified; NaN if there are none.
        all_right: every true vertebra is identified, and none is extra.
        confusion: (27, 27) vertebrae by true level and by the level that most of their labelled voxels carry, in the
            order of ``VERTEBRAE`` after 0, which is none: [0, c] counts names that no true vertebra got.
    """

    id_rate: float
    all_right: bool
    confusion: NDArray[np.int64]

    @classmethod
    def of(cls, predicted: NDArray[np.uint8], truth: NDArray[np.uint8], geometry: Geometry) -> Self:
        """Compare two maps of VerSe ids, both uint8 (I, J, K) on one grid."""
        named = identify(mask_centroids(predicted, geometry), mask_centroids(truth, geometry))
        # (27, 27) voxels, by what was predicted and what is true
        voxels = joint_counts(predicted, truth)[np.ix_(_COLUMN, _COLUMN)]
        confusion = np.zeros(voxels.shape, np.int64)
        given = set()
        for true in 1 + np.flatnonzero(voxels[:, 1:].sum(axis=0)):
            # Of its labelled voxels: a thin mask of a vertebra has its name all the same.
            name = int(voxels[1:, true].argmax()) + 1 if voxels[1:, true].any() else 0
            confusion[true, name] += 1
            given.add(name)
        for extra in 1 + np.flatnonzero(voxels[1:].sum(axis=1)):
            confusion[0, extra] += int(extra) not in given
        return cls(named.id_rate, named.all_right, confusion)


def mean_id_rate(scores: Iterable[LevelScores]) -> float:
    """Mean over the cases that show a vertebra; NaN if there is none."""
    rates = [one.id_rate for one in scores if not np.isnan(one.id_rate)]
    return fmean(rates) if rates else float("nan")


def all_right_share(scores: Iterable[LevelScores]) -> float:
    """The share of the cases in which every name is right; NaN without cases."""
    right = [one.all_right for one in scores]
    return fmean(right) if right else float("nan")


def joint_confusion(scores: Iterable[LevelScores]) -> NDArray[np.int64]:
    """(27, 27) of all cases together, as ``LevelScores.confusion``."""
    total = np.zeros((_COLUMN.size, _COLUMN.size), np.int64)
    for one in scores:
        total += one.confusion
    return total
