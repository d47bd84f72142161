"""Priors from spines whose levels are known: distances by counting, looks by maximum likelihood.

The looks are fitted to the question that decides a spine: which of all readings that the graph allows for its row of
detections is the true one? For each spine every reading is listed (a few dozen: where it starts, T13 or no T12, four to
six lumbar); its score is the sum of the looks and of what distances and anomalies add; the softmax over the readings is
driven to the true one. A spine contributes a bounded loss, because some truths are wrong, and is also shown in parts,
because a scan may begin and end anywhere.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.labelling.detections import Detections
from verse3d.labelling.features import describe
from verse3d.labelling.keypoints import SpineDetections
from verse3d.labelling.levels import ANOMALIES, LEVELS, MOST_MISSED, STEPS
from verse3d.labelling.optimise import Recipe, fit_looks, logistic
from verse3d.labelling.priors import Priors
from verse3d.labelling.readings import UNKNOWN, Readings, readings_of, true_levels
from verse3d.labelling.spine_curve import split_spines

# Steps that the training part shows never or hardly ever take the place of the step that they most resemble.
_LIKE = {
    ("T12", "T13"): ("T12", "L1"),
    ("T13", "L1"): ("T12", "L1"),
    ("T11", "L1"): ("T12", "L1"),
    ("L5", "L6"): ("L4", "L5"),
    ("L5", "S1"): ("L4", "L5"),
    ("L6", "S1"): ("L4", "L5"),
    ("L4", "S1"): ("L4", "L5"),
}
_LEAST_SEEN = 30
_MISSED = np.array([0.0, -4.0, -7.0, -9.5])[: MOST_MISSED + 1]
_ANOMALIES = np.array([-5.5, -5.0, -3.5, -5.0])
"""Where the fit starts; T13 stays there, because no training spine has one."""
_SKIPPED = -3.0
_STEP_WEIGHT = 0.3
"""Less than 1: a centre that slips makes one step longer and the next one shorter, and the looks see steps, too."""
_CERTAIN = 0.7


@dataclass(frozen=True)
class _Ordered:
    """A spine with its detections in order, and what each of them is."""

    spine: SpineDetections
    found: Detections
    levels: NDArray[np.intp]


def fit_priors(spines: Sequence[SpineDetections], recipe: Recipe | None = None, certain: float = _CERTAIN) -> Priors:
    """Fit all numbers to spines with known levels.

    Args:
        spines: the training part.
        recipe: how the looks are fitted.
        certain: the posterior from which on a reading is given without doubt; found by cross-validation.

    Raises:
        DataError: there are too few spines to learn from.
    """
    recipe = recipe or Recipe()
    ordered = [each for spine in spines if (each := _ordered(spine)) is not None]
    if len(ordered) < _LEAST_SEEN:
        raise DataError(f"{len(ordered)} spines with detections are too few to fit priors; at least {_LEAST_SEEN}")
    features = np.concatenate([describe(each.found) for each in ordered])
    is_vertebra = np.concatenate([each.levels for each in ordered]) != UNKNOWN
    # 0.1 more: a column that is nearly always the same must not become huge where it is not.
    mean, spread = features.mean(axis=0), features.std(axis=0) + 0.1
    log_step_mm, step_sd = _steps(spines)
    real, real_bias = logistic((features - mean) / spread, is_vertebra)
    blank = _blank(mean, spread, recipe)
    start = replace(
        blank,
        log_step_mm=log_step_mm,
        step_sd=np.array([step_sd]),
        real=real,
        real_bias=np.array([real_bias]),
        certain=np.array([certain]),
    )
    return fit_looks(_material(ordered, start, recipe), start, recipe)


def _ordered(spine: SpineDetections) -> _Ordered | None:
    rows = split_spines(spine.found)
    if not rows:
        return None
    found = spine.found.taken(rows[0])
    return _Ordered(spine, found, true_levels(spine, found))


def _steps(spines: Sequence[SpineDetections]) -> tuple[NDArray[np.float64], float]:
    """Mean log distance per step of ``STEPS``, and the spread around it once each patient's size is taken out."""
    seen: dict[tuple[str, str], list[float]] = {step: [] for step in STEPS}
    for step, log_mm, _ in _true_steps(spines):
        seen[step].append(log_mm)
    means = {step: float(np.mean(values)) for step, values in seen.items() if len(values) >= _LEAST_SEEN}
    # 35 mm, a lumbar step, where even the step that it resembles was not seen often enough.
    for step, like in _LIKE.items():
        means.setdefault(step, means.get(like, float(np.log(35.0))))
    overall = float(np.mean(list(means.values())))
    log_step_mm = np.array([means.get(step, overall) for step in STEPS])
    residuals: dict[int, list[float]] = {}
    for step, log_mm, number in _true_steps(spines):
        residuals.setdefault(number, []).append(log_mm - means.get(step, overall))
    # Less each patient's own median, which is the size; from three steps or fewer no size can be told.
    centred = np.concatenate([np.array(each) - np.median(each) for each in residuals.values() if len(each) > 3])
    # the median absolute deviation looks past the tails, which the score has of its own
    return log_step_mm, float(1.4826 * np.median(np.abs(centred))) + 0.01


def _true_steps(spines: Sequence[SpineDetections]) -> list[tuple[tuple[str, str], float, int]]:
    """Step, log distance in mm and number of the spine, for all true neighbours."""
    found = []
    for number, spine in enumerate(spines):
        distances = np.linalg.norm(np.diff(spine.centres_mm, axis=0), axis=1)
        for step, mm in zip(zip(spine.levels, spine.levels[1:], strict=False), distances, strict=True):
            if step in STEPS and mm > 1.0:
                found.append((step, float(np.log(mm)), number))
    return found


def _material(ordered: Sequence[_Ordered], priors: Priors, recipe: Recipe) -> list[list[Readings]]:
    """For each spine its readings: first of the whole, then of parts of it."""
    random = np.random.default_rng(recipe.seed)
    material = []
    for each in ordered:
        shown = [each, *(_part(each, random, recipe) for _ in range(recipe.parts))]
        readings = [readings_of(part.spine, part.found, part.levels, priors) for part in shown]
        if usable := [reading for reading in readings if reading is not None]:
            material.append(usable)
    return material


def _part(each: _Ordered, random: np.random.Generator, recipe: Recipe) -> _Ordered:
    """A stretch of the spine with some detections lost, positions shaken, and another size of the patient."""
    count = len(each.found)
    length = int(random.integers(min(3, count), count + 1))
    start = int(random.integers(0, count - length + 1))
    kept = np.arange(start, start + length)
    # o o o o o o o  ->  . . o o x o .     a stretch, in which some detections are missed (x)
    kept = kept[random.random(length) >= recipe.lost]
    found = each.found.taken(kept)
    # The log of the size is normal, so twice as large is as rare as half as large.
    size = np.exp(random.normal(0.0, recipe.size_sd))
    shaken = (found.centres_mm + random.normal(0.0, recipe.shaken_mm, found.centres_mm.shape)) * size
    moved = Detections(shaken, found.regions, found.left_pedicles_mm * size, found.right_pedicles_mm * size)
    return _Ordered(each.spine, moved, each.levels[kept])


def _blank(mean: NDArray[np.float64], spread: NDArray[np.float64], recipe: Recipe) -> Priors:
    """Priors in which looks say nothing yet."""
    count, levels, members, units = len(mean), len(LEVELS), recipe.members, recipe.units
    return Priors(
        log_step_mm=np.zeros(len(STEPS)),
        step_sd=np.ones(1),
        step_weight=np.array([_STEP_WEIGHT]),
        missed=_MISSED,
        anomalies=_ANOMALIES[: len(ANOMALIES)],
        skipped=np.array([_SKIPPED]),
        mean=mean,
        spread=spread,
        linear=np.zeros((members, count, levels)),
        bias=np.zeros((members, levels)),
        hidden=np.zeros((members, count, units)),
        hidden_bias=np.zeros((members, units)),
        output=np.zeros((members, units, levels)),
        real=np.zeros(count),
        real_bias=np.zeros(1),
        certain=np.ones(1),
    )
