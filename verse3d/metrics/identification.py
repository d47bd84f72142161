"""Is every vertebra called by its name? VerSe's identification rate, what was missed or invented, and shifts by one.

The rule of the VerSe challenges (Sekuboyina et al. 2021, doi:10.1016/j.media.2021.102166; anjany/verse,
``eval_utilities.py``): of the labels that both masks hold, label i is identified if, of all true centroids of these
labels, the one of i lies nearest to the predicted centroid of i, and no farther than 20 mm. The identification rate is
the share of the true vertebrae that are. d_mean is the mean distance of the identified ones, so it says nothing about
missed ones, and those are counted beside it. Distances are measured in world mm, so no grid of 1 mm is needed.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, Label, vertebra
from verse3d.metrics.occupied import occupied

LIMIT_MM = 20.0
LARGEST_SHIFT = 3

CentroidsById = Mapping[int, NDArray[np.float64]]
"""VerSe id -> world RAS+ mm (3,)."""


@dataclass(frozen=True)
class Identification:
    """What a case's labels are worth as names.

    Attributes:
        identified: VerSe ids that are identified by the rule above, in the order of the spine.
        missed: true ids that no voxel carries.
        extra: predicted ids that the truth does not hold.
        true: how many vertebrae the truth holds.
        id_rate: identified / true; NaN if there are none.
        d_mean_mm: mean distance between the centroids of the identified ones; NaN if there are none.
        all_right: every true vertebra is identified, and none is extra.
        shift: by how many places down the spine all names must move to identify the most, 0 if none identifies more
            than the names as they are. 1: what is called T12 is L1.
        id_rate_shifted: the rate after that shift.
    """

    identified: tuple[int, ...]
    missed: tuple[int, ...]
    extra: tuple[int, ...]
    true: int
    id_rate: float
    d_mean_mm: float
    all_right: bool
    shift: int
    id_rate_shifted: float


def mask_centroids(labels: NDArray[np.uint8], geometry: Geometry) -> dict[int, NDArray[np.float64]]:
    """The centre of mass of each vertebra in a label map.

    Args:
        labels: VerSe ids, uint8 (I, J, K); other ids are passed over.
        geometry: its grid.

    Returns:
        VerSe id -> world mm (3,), in the order of the spine. Beside the map this holds slabs of two million voxels.

    Raises:
        GeometryError: the shapes differ.
    """
    if labels.shape != geometry.shape:
        raise GeometryError(f"a mask of shape {labels.shape} does not lie on a grid of shape {geometry.shape}")
    # The mean of the indices of each id, in one pass: how many there are, and their sums along i, j, k.
    counts, sums = np.zeros(256), np.zeros((256, 3))
    for indices, (ids,) in occupied(labels):
        counts += np.bincount(ids, minlength=256)
        sums += np.column_stack([np.bincount(ids, weights=index, minlength=256) for index in indices.T])
    present = [label.id for label in VERTEBRAE if counts[label.id]]
    # An affine map takes the mean of indices to the mean of the points.
    world = geometry.world_from_index(sums[present] / counts[present, None])
    return dict(zip(present, world, strict=True))


def identify(predicted: CentroidsById, true: CentroidsById) -> Identification:
    """Compare names by the rule of VerSe.

    Args:
        predicted: centroids of the predicted vertebrae.
        true: centroids of the true ones.
    """
    hits = _hits(predicted, true)
    # Names that are all wrong by one place are one error and not twenty, so that is looked for.
    shifts = [0, *(sign * size for size in range(1, LARGEST_SHIFT + 1) for sign in (1, -1))]
    rates = {shift: len(_hits(shifted(predicted, shift, true), true)) for shift in shifts}
    # ties go to the smallest shift, so a mask that is as wrong either way is not called shifted
    best = max(rates, key=lambda shift: (rates[shift], -abs(shift)))
    rate = len(hits) / len(true) if true else math.nan
    extra = _in_order(set(predicted) - set(true))
    return Identification(
        identified=_in_order(hits),
        missed=_in_order(set(true) - set(predicted)),
        extra=extra,
        true=len(true),
        id_rate=rate,
        d_mean_mm=float(np.mean(list(hits.values()))) if hits else math.nan,
        all_right=len(hits) == len(true) and not extra,
        shift=best,
        id_rate_shifted=rates[best] / len(true) if true else math.nan,
    )


def shifted(predicted: CentroidsById, shift: int, true: CentroidsById) -> dict[int, NDArray[np.float64]]:
    """The same centroids with all names moved down the spine by ``shift`` places (up if negative).

    The places are those of the patient: T13 and L6 count only if the truth or the prediction has them, T12 only if the
    truth has it or lacks L1 or T11. Names that would leave the spine are dropped.
    """
    places = _places(set(true), set(predicted))
    moved = {}
    for label, centroid in predicted.items():
        target = places.index(label) + shift if label in places else -1
        if 0 <= target < len(places):
            moved[places[target]] = centroid
    return moved


def _places(true: set[int], predicted: set[int]) -> list[int]:
    t11, t12, t13, l1, l6 = (vertebra(name).id for name in ("T11", "T12", "T13", "L1", "L6"))
    lacking = set()
    if t13 not in true | predicted:
        lacking.add(t13)
    # A patient with eleven ribs has L1 below T11.
    if {t11, l1} <= true and t12 not in true:
        lacking.add(t12)
    # the last place stays open, so that L5 can move to L6
    return [label.id for label in VERTEBRAE if label.id not in lacking or label.id == l6]


def _hits(predicted: CentroidsById, true: CentroidsById) -> dict[int, float]:
    """Identified id -> distance in mm."""
    shared = [label for label in true if label in predicted]
    if not shared:
        return {}
    # distances[p, t] between predicted and true centroids of the labels that both have. A label is identified where
    # its own distance (on the diagonal) is the smallest of its row:
    #
    #        T11  T12  L1
    #   T11   3   27   52       identified
    #   T12  24    2   29       identified
    #   L1   21   12   38       not: what is called L1 lies at T12
    ours, theirs = (np.array([of[label] for label in shared]) for of in (predicted, true))
    distances = scipy.spatial.distance.cdist(ours, theirs)
    nearest = distances.argmin(axis=1)
    own = distances.diagonal()
    return {label: float(own[row]) for row, label in enumerate(shared) if nearest[row] == row and own[row] <= LIMIT_MM}


def _in_order(ids: set[int] | Mapping[int, float]) -> tuple[int, ...]:
    return tuple(label.id for label in VERTEBRAE if label.id in ids)


def names(ids: Sequence[int]) -> list[str]:
    """Names of VerSe ids."""
    return [vertebra(label).name for label in ids]


REGIONS: tuple[str, ...] = ("C", "T", "L")


def region(label: Label) -> str:
    """ "C", "T" or "L"."""
    return label.name[0]
