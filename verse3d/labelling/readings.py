"""Spines with known levels as training material: what each detection is, and all readings that could be confused."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.labelling.detections import Detections
from verse3d.labelling.features import describe
from verse3d.labelling.keypoints import SpineDetections
from verse3d.labelling.levels import LEVEL_INDEX, LEVELS, STEPS, anomalies_on, whole_spines
from verse3d.labelling.priors import SCALES, Priors, scale_scores

MATCH_MM = 20.0
"""A detection and a true centre may be the same vertebra if they are no farther apart; VerSe's own limit."""
UNKNOWN = -1
_NEXT_MM = (12.0, 50.0)
_BELOW = {LEVEL_INDEX[above]: LEVEL_INDEX[below] for (above, below), kind in STEPS.items() if not kind}
_ABOVE = {LEVEL_INDEX[below]: LEVEL_INDEX[above] for (above, below), kind in STEPS.items() if not kind}


@dataclass(frozen=True)
class Readings:
    """One spine, or a part of one, and every reading of its detections.

    Attributes:
        features: of the detections that are vertebrae, (n, F).
        levels: level index of each detection in each reading, (Q, n).
        distances: log likelihood of the distances under each reading, (Q,).
        anomalies: what each reading passes, (Q, 4).
        truth: which reading is right.
    """

    features: NDArray[np.float64]
    levels: NDArray[np.intp]
    distances: NDArray[np.float64]
    anomalies: NDArray[np.float64]
    truth: int


def true_levels(spine: SpineDetections, found: Detections) -> NDArray[np.intp]:
    """The level index of each detection (ordered from head to feet), (N,); ``UNKNOWN`` where it is no labelled one.

    Each true centre takes the nearest detection within ``MATCH_MM``, the surest first. VerSe leaves the sacrum and cut
    vertebrae unlabelled, so the detections next to the first and the last labelled vertebra become their neighbours
    (S1 below L5 and L6), if they lie where those would.
    """
    levels = np.full(len(found), UNKNOWN)
    if not len(found) or not spine.levels:
        return levels
    distances = scipy.spatial.distance.cdist(spine.centres_mm, found.centres_mm)
    # The surest first: where two truths claim one detection, the one farther away goes without.
    for row in np.argsort(distances.min(axis=1)):
        nearest = int(distances[row].argmin())
        if distances[row, nearest] <= MATCH_MM and levels[nearest] == UNKNOWN:
            levels[nearest] = LEVEL_INDEX[spine.levels[row]]
    _name_the_ends(levels, found.centres_mm, spine)
    return levels


def _name_the_ends(levels: NDArray[np.intp], centres_mm: NDArray[np.float64], spine: SpineDetections) -> None:
    known = np.flatnonzero(levels != UNKNOWN)
    if not len(known):
        return
    # found     o   o   o   o   o
    # truth         L3  L4  L5              VerSe labels no S1 and nothing that is cut:
    # levels    L2  L3  L4  L5  S1          the neighbours of the ends are named by the graph
    first, last = int(known[0]), int(known[-1])
    if last + 1 < len(levels) and LEVELS[levels[last]] == spine.levels[-1] and _is_next(centres_mm, last, last + 1):
        levels[last + 1] = _BELOW[int(levels[last])]
    if first and LEVELS[levels[first]] == spine.levels[0] and _is_next(centres_mm, first - 1, first):
        levels[first - 1] = _ABOVE.get(int(levels[first]), UNKNOWN)


def _is_next(centres_mm: NDArray[np.float64], upper: int, lower: int) -> bool:
    step = centres_mm[lower] - centres_mm[upper]
    return bool(_NEXT_MM[0] < np.linalg.norm(step) < _NEXT_MM[1] and step[2] < 0)


def readings_of(spine: SpineDetections, found: Detections, levels: NDArray[np.intp], priors: Priors) -> Readings | None:
    """All readings of the detections whose level is known; None if that is no row of levels that the graph allows."""
    rows = np.flatnonzero(levels != UNKNOWN)
    known = levels[rows]
    if not len(rows) or (np.diff(known) <= 0).any():
        return None
    listed = _all_readings(_places(spine, known))
    truth = tuple(int(level) for level in known)
    if truth not in listed:
        return None
    ways = list(listed.values())
    places = _places(spine, known)
    return Readings(
        features=describe(found)[rows],
        levels=np.array(list(listed)),
        distances=_distance_scores(found.centres_mm[rows], places, ways, priors),
        anomalies=np.array([anomalies_on(way) for way in ways]),
        truth=list(listed).index(truth),
    )


def _places(spine: SpineDetections, known: NDArray[np.intp]) -> NDArray[np.intp]:
    """The place of each known level in this patient's spine, counted from the first: T11, L1 are neighbours if T12 is
    missing there."""
    names = {*spine.levels, *(LEVELS[level] for level in known)}
    # Rare levels count as places only where this patient has them.
    lacks = {"T13", "L6"} - names
    if {"T11", "L1"} <= names and "T12" not in names:
        lacks.add("T12")
    whole = [level for level in range(len(LEVELS)) if LEVELS[level] not in lacks]
    places = np.array([whole.index(level) for level in known])
    counted: NDArray[np.intp] = places - places[0]
    return counted


def _all_readings(places: NDArray[np.intp]) -> dict[tuple[int, ...], tuple[int, ...]]:
    """Levels of the detections -> all levels passed on the way; of several ways the one with fewest anomalies."""
    listed: dict[tuple[int, ...], tuple[int, ...]] = {}
    for whole in whole_spines():
        for start in range(len(whole) - int(places[-1])):
            # whole spine   C1 C2 ... T11 T12 L1 L2 ... S1
            # way                     [start ..........]          as long as from the first to the last detection
            way = whole[start : start + int(places[-1]) + 1]
            key = tuple(way[place] for place in places)
            if key not in listed or anomalies_on(way).sum() < anomalies_on(listed[key]).sum():
                listed[key] = way
    return listed


def _distance_scores(
    centres_mm: NDArray[np.float64], places: NDArray[np.intp], ways: list[tuple[int, ...]], priors: Priors
) -> NDArray[np.float64]:
    """Log likelihood of the steps under each reading, (Q,), the size of the patient summed out."""
    if len(centres_mm) < 2:
        return np.zeros(len(ways))
    # observed (n - 1,), expected (Q, n - 1); against every size of the patient: ratios (Q, S, n - 1) -> scores (Q,)
    observed = np.log(np.maximum(np.linalg.norm(np.diff(centres_mm, axis=0), axis=1), 1e-3))
    steps = {(LEVEL_INDEX[a], LEVEL_INDEX[b]): mm for (a, b), mm in zip(STEPS, np.exp(priors.log_step_mm), strict=True)}
    along = np.array([np.cumsum([0.0, *(steps[a, b] for a, b in pairwise(way))]) for way in ways])
    expected = np.log(np.diff(along[:, places], axis=1))
    ratios = (observed - expected)[:, None] - SCALES[:, None]
    scores: NDArray[np.float64] = scipy.special.logsumexp(
        priors.distance_scores(ratios).sum(axis=2) + scale_scores(), axis=1
    )
    return scores
