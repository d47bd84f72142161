"""What is known about the bones of a scan, as scores for the path search.

::

    levels by a network   x WEIGHT (from half a metre of context: neighbours repeat each other)
    ribs beside a bone    T1 ... T13 have them, nothing else but C1 and the last lumbar vertebra has bone beside it
    widths                from one bone to the next (``widths``)
    ends of the scan      a spine that ends where the scan goes on ends with L5 or L6, and begins with C1

The numbers were chosen on twelve phantoms (true bones, seed 9100) and confirmed on others.
"""

from dataclasses import replace

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.labelling.evidence import LevelEvidence
from verse3d.labelling.levels import ANOMALIES, LEVEL_INDEX, LEVELS, SACRUM
from verse3d.labelling.priors import Priors
from verse3d.labelling.ribs import HAS_RIBS, MAY_HAVE_BONE_BESIDE, MOST_OF_A_CUT_ML, log_chances_of_ribs
from verse3d.labelling.sequence import Evidence

WEIGHT = 0.5
_T13 = -4.0
"""One spine in fifty. Points alone cannot tell T13 from L1, so priors for them ask for more; ribs can."""
_MISSED = 1.5
"""A bone is harder to miss than a point; otherwise any of twelve vertebrae "missed" explains a missing T12."""
_ROOM = 1.5
"""Of the last step: where so much of the scan follows, another vertebra would have been seen."""
_LAST = tuple(LEVEL_INDEX[name] for name in ("L4", "L5", "L6"))


def priors_of_bones(priors: Priors) -> Priors:
    """The priors of points, changed for bones."""
    anomalies = priors.anomalies.copy()
    anomalies[ANOMALIES.index("T13")] = max(_T13, float(anomalies[ANOMALIES.index("T13")]))
    return replace(priors, anomalies=anomalies, missed=priors.missed * _MISSED)


def weigh_bones(
    levels: LevelEvidence, rows: NDArray[np.intp], centres_mm: NDArray[np.float64], priors: Priors
) -> Evidence:
    """The evidence of some bones for the path search.

    Args:
        levels: what is known of all bones.
        rows: of some of them, in order from head to feet.
        centres_mm: of these, (n, 3).
        priors: of bones.
    """
    known = _without_neighbours(levels.of(rows), centres_mm)
    is_real, is_none = np.log(known.real), np.log1p(-known.real)
    looks = _looks(known)
    # The sacrum is background to whoever has learnt from VerSe: bone that is none of its vertebrae.
    looks[:, LEVEL_INDEX[SACRUM]] = is_none - is_real
    first, last = _ends(centres_mm, known.grid, float(priors.missed[1]))
    if known.beside_ml is not None:
        _ask_for_the_sacrum(known.beside_ml, looks, last)
    unknown = np.full(len(rows), np.nan)
    return Evidence(
        looks,
        is_real,
        # To pass over a vertebra costs; to pass over a crumb of bone should not make anybody name it.
        false=is_none + known.real * priors.skipped[0],
        distances_mm=scipy.spatial.distance.cdist(centres_mm, centres_mm),
        log_widths=unknown if known.widths_mm is None else _log_widths(known.widths_mm),
        first=first,
        last=last,
    )


def _log_widths(widths_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """NaN where a width is not known, or 0: what lies in a single thick sagittal slice has none."""
    return np.log(np.where(widths_mm > 0, widths_mm, np.nan))


def _without_neighbours(known: LevelEvidence, centres_mm: NDArray[np.float64]) -> LevelEvidence:
    """Little is known of what lies beside the first and the last bone of a scan that ends there.

    It may be the next vertebra, cut by the scan and part of no bone; but so much as the sacrum it is not.
    """
    if known.beside_ml is None or known.grid is None or len(centres_mm) < 2:
        return known
    above, below = _goes_on(centres_mm, known.grid)
    beside = known.beside_ml.copy()
    for end, goes_on in ((0, above[0]), (-1, below[-1])):
        if not goes_on and beside[end] < MOST_OF_A_CUT_ML:
            beside[end] = np.nan
    return replace(known, beside_ml=beside)


def _looks(known: LevelEvidence) -> NDArray[np.float64]:
    """Score of each level by what a network says and by ribs, (n, 27); S1 stays 0."""
    chances = np.exp(known.levels)
    t12, t13, l1, l5, l6 = (LEVEL_INDEX[name] for name in ("T12", "T13", "L1", "L5", "L6"))
    # Seldom seen in training, a network hardly ever says T13 or L6: it sees what they look like.
    chances[:, t13] = (chances[:, t12] + chances[:, l1]) / 2
    chances[:, l6] = np.maximum(chances[:, l5], chances[:, l6])
    scores = WEIGHT * np.log(chances)
    if known.beside_ml is not None:
        scores += _rib_scores(known.beside_ml)
    looks = np.zeros((len(scores), len(LEVELS)))
    # The likeliest level has 0, as in ``Priors.looks``: a bone between two names is no worse a vertebra for it.
    looks[:, : len(VERTEBRAE)] = scores - scores.max(axis=1, keepdims=True)
    return looks


def _rib_scores(beside_ml: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log chance of what lies beside each bone, if it is of each level, (n, 26)."""
    bears, bare = log_chances_of_ribs(beside_ml)
    scores = np.repeat(bare[:, None], len(VERTEBRAE), axis=1)
    scores[:, HAS_RIBS] = bears[:, None]
    # The skull or nothing, the sacrum or nothing: either is as good as the other.
    scores[:, MAY_HAVE_BONE_BESIDE] = np.log(0.5)
    return scores


def _ends(
    centres_mm: NDArray[np.float64], grid: Geometry | None, missed: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Score of each level as that of the first and of the last vertebra of a spine, (n, 27) each.

    Where the scan goes on beyond a bone, a spine that ends there with, say, L3 lacks a vertebra that should be in view.
    """
    first, last = np.zeros((len(centres_mm), len(LEVELS))), np.zeros((len(centres_mm), len(LEVELS)))
    if grid is None or len(centres_mm) < 2:
        return first, last
    above, below = _goes_on(centres_mm, grid)
    first[above], last[below] = missed, missed
    last[:, [LEVEL_INDEX[name] for name in ("L5", "L6", SACRUM)]] = 0.0
    first[:, LEVEL_INDEX["C1"]] = 0.0
    return first, last


def _goes_on(centres_mm: NDArray[np.float64], grid: Geometry) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Whether the scan goes on above and below each bone, far enough to show another vertebra; (n,) each."""
    steps = np.diff(centres_mm, axis=0)
    #   + o  o  o  o +      + : a step and a half beyond a bone; inside of the scan or outside?
    above = centres_mm - _ROOM * np.vstack([steps, steps[-1:]])
    below = centres_mm + _ROOM * np.vstack([steps[:1], steps])
    return grid.contains(above), grid.contains(below)


def _ask_for_the_sacrum(beside_ml: NDArray[np.float64], looks: NDArray[np.float64], last: NDArray[np.float64]) -> None:
    """The last lumbar vertebra lies between the hips: without bone beside it something else is the last one.

    Changes in place the score of S1 of the bone below, and of an end where the scan goes on.
    """
    bears, _ = log_chances_of_ribs(beside_ml)
    gain = bears - np.log(0.5)
    looks[1:, LEVEL_INDEX[SACRUM]] += gain[:-1]
    ends = last.min(axis=1) < 0
    for level in _LAST:
        last[ends, level] += gain[ends]
