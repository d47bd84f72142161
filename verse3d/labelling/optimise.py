"""The fit itself, in NumPy: stochastic gradient descent on the likelihood of the true reading, and a logistic fit."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from verse3d.labelling.levels import ANOMALIES, LEVEL_INDEX, LEVELS
from verse3d.labelling.priors import Priors, as_t12, standardised
from verse3d.labelling.readings import Readings

_RIDGE, _ROUNDS = 3.0, 12
"""Of the logistic fit: how strongly weights are drawn to 0, and how many steps of Newton's method it takes."""

Weights = dict[str, NDArray[np.float64]]


@dataclass(frozen=True)
class Recipe:
    """How looks are fitted.

    Attributes:
        members: networks that are fitted from different starts and averaged.
        units: hidden units of each.
        epochs: passes over all spines.
        rate: highest learning rate.
        decay: weight decay.
        dropout: share of inputs and of hidden units that are silenced.
        bound: the most that one spine can add to the loss.
        parts: random parts of each spine, shown in turn with the whole.
        whole: share of the epochs in which a spine is shown whole.
        lost: share of detections that a part loses.
        shaken_mm: by how much the positions of a part are shaken.
        size_sd: by how much its log size is changed.
        batch: spines per step.
        seed: of every random draw.
    """

    members: int = 3
    units: int = 64
    epochs: int = 30
    rate: float = 1e-2
    decay: float = 0.1
    dropout: float = 0.4
    bound: float = 6.0
    parts: int = 1
    whole: float = 0.8
    lost: float = 0.02
    shaken_mm: float = 0.7
    size_sd: float = 0.04
    batch: int = 64
    seed: int = 0


def fit_looks(material: Sequence[Sequence[Readings]], start: Priors, recipe: Recipe) -> Priors:
    """Fit ``linear``, ``hidden``, ``output`` and ``anomalies`` to spines.

    Args:
        material: per spine its readings, first of the whole, then of parts.
        start: where to start; ``mean`` and ``spread`` are used as they are.
        recipe: how.
    """
    members = [_fit_member(material, start, recipe, recipe.seed + number) for number in range(recipe.members)]
    stacked = {name: np.stack([member[name] for member in members]) for name in members[0]}
    return replace(start, **{**stacked, "anomalies": stacked["anomalies"].mean(axis=0)})


def _fit_member(material: Sequence[Sequence[Readings]], start: Priors, recipe: Recipe, seed: int) -> Weights:
    random = np.random.default_rng(seed)
    weights = _fresh(start, recipe, random)
    descent = _Descent(weights, recipe, steps=recipe.epochs * -(-len(material) // recipe.batch))
    for _ in range(recipe.epochs):
        # Each epoch shows each spine once: whole, or one of its parts.
        shown = [_pick(each, random, recipe.whole) for each in material]
        for batch in _batches(shown, start, random, recipe.batch):
            descent.step(_gradient(batch, weights, random, recipe))
    return weights


def _pick(readings: Sequence[Readings], random: np.random.Generator, whole: float) -> Readings:
    if len(readings) == 1 or random.random() < whole:
        return readings[0]
    return readings[int(random.integers(1, len(readings)))]


def _fresh(start: Priors, recipe: Recipe, random: np.random.Generator) -> Weights:
    features, levels, units = len(start.mean), len(LEVELS), recipe.units
    return {
        # Looks say nothing at first, so distances decide; the hidden part is random, or its units would stay alike.
        "linear": np.zeros((features, levels)),
        "bias": np.zeros(levels),
        "hidden": random.normal(0.0, 1.0 / np.sqrt(features), (features, units)),
        "hidden_bias": np.zeros(units),
        "output": random.normal(0.0, 0.05, (units, levels)),
        "anomalies": start.anomalies.copy(),
    }


@dataclass(frozen=True)
class _Batch:
    """The readings of several spines, laid end to end.

    Attributes:
        features: standardised, (R, F), a row per detection.
        rows, levels, reading: which look each term of each reading's score is, and whose; all (T,).
        fixed: what the distances add to each reading, (Q,).
        anomalies: (Q, 4).
        starts: the first reading of each spine, (B,).
        truth: the true reading of each spine, (B,).
    """

    features: NDArray[np.float64]
    rows: NDArray[np.intp]
    levels: NDArray[np.intp]
    reading: NDArray[np.intp]
    fixed: NDArray[np.float64]
    anomalies: NDArray[np.float64]
    starts: NDArray[np.intp]
    truth: NDArray[np.intp]


def _batches(shown: Sequence[Readings], priors: Priors, random: np.random.Generator, size: int) -> Iterator[_Batch]:
    order = random.permutation(len(shown))
    for start in range(0, len(order), size):
        yield _batch([shown[number] for number in order[start : start + size]], priors)


def _batch(spines: Sequence[Readings], priors: Priors) -> _Batch:
    # spine 0: 2 readings of 3 detections      rows     0 1 2 | 0 1 2 | 3 4 | 3 4 | 3 4
    # spine 1: 3 readings of 2 detections      reading  0 0 0 | 1 1 1 | 2 2 | 3 3 | 4 4
    #                                          starts   0               2
    first_row = np.cumsum([0, *(len(spine.features) for spine in spines)])
    starts = np.cumsum([0, *(len(spine.levels) for spine in spines)])
    rows, reading = [], []
    for spine, row, number in zip(spines, first_row, starts, strict=False):
        count, length = spine.levels.shape
        rows.append(np.tile(np.arange(row, row + length), count))
        reading.append(np.repeat(np.arange(number, number + count), length))
    return _Batch(
        features=standardised(np.concatenate([each.features for each in spines]), priors.mean, priors.spread),
        rows=np.concatenate(rows),
        levels=np.concatenate([each.levels.ravel() for each in spines]),
        reading=np.concatenate(reading),
        fixed=np.concatenate([each.distances for each in spines]),
        anomalies=np.concatenate([each.anomalies for each in spines]),
        starts=starts[:-1],
        truth=starts[:-1] + np.array([each.truth for each in spines]),
    )


def _gradient(batch: _Batch, weights: Weights, random: np.random.Generator, recipe: Recipe) -> Weights:
    """The gradient of the mean bounded loss ``bound (1 - exp(-nll / bound))`` by hand: the network is tiny."""
    # Forward, as ``Priors.looks`` but with dropout; then the same ways back:
    #
    #     features (R, F) -- linear ---------------------+--> looks (R, 27) -> scores of readings (Q,)
    #              |                                     |
    #              +-- hidden --> (R, units) -- output --+
    kept = 1.0 - recipe.dropout
    inputs = batch.features * (random.random(batch.features.shape) < kept) / kept
    raw = batch.features @ weights["hidden"] + weights["hidden_bias"]
    mask = (raw > 0) * (random.random(raw.shape) < kept) / kept
    hidden = raw * mask
    looks = as_t12(inputs @ weights["linear"] + weights["bias"] + hidden @ weights["output"])
    towards = _reading_gradient(batch, looks, weights["anomalies"], recipe.bound)
    count = len(LEVELS)
    # A look takes part in many readings: what they ask of it is added up, (T,) -> (R x 27,).
    flat = np.bincount(batch.rows * count + batch.levels, towards[batch.reading], minlength=len(looks) * count)
    by_look = flat.reshape(len(looks), count)
    # the score of T13 was that of T12, so its gradient belongs there, too
    by_look[:, LEVEL_INDEX["T12"]] += by_look[:, LEVEL_INDEX["T13"]]
    by_look[:, LEVEL_INDEX["T13"]] = 0.0
    by_hidden = (by_look @ weights["output"].T) * mask
    by_anomaly = towards @ batch.anomalies
    by_anomaly[ANOMALIES.index("T13")] = 0.0
    return {
        "linear": inputs.T @ by_look,
        "bias": by_look.sum(axis=0),
        "hidden": batch.features.T @ by_hidden,
        "hidden_bias": by_hidden.sum(axis=0),
        "output": hidden.T @ by_look,
        "anomalies": by_anomaly,
    }


def _reading_gradient(
    batch: _Batch, looks: NDArray[np.float64], anomalies: NDArray[np.float64], bound: float
) -> NDArray[np.float64]:
    """How the loss changes with the score of each reading, (Q,)."""
    sums = np.bincount(batch.reading, looks[batch.rows, batch.levels], minlength=len(batch.fixed))
    scores: NDArray[np.float64] = sums + batch.fixed + batch.anomalies @ anomalies
    spine = np.zeros(len(scores), dtype=np.intp)
    # Which spine each reading is of: 1 at each first reading, added up: 0 0 0 1 1 2 2 2 2
    spine[batch.starts[1:]] = 1
    spine = np.cumsum(spine)
    scores -= np.maximum.reduceat(scores, batch.starts)[spine]
    totals = np.add.reduceat(np.exp(scores), batch.starts)
    chances = np.exp(scores) / totals[spine]
    loss = np.log(totals) - scores[batch.truth]
    # The gradient of a softmax with cross-entropy: chances, less 1 at the truth.
    chances[batch.truth] -= 1.0
    gradient: NDArray[np.float64] = chances * (np.exp(-loss / bound) / len(batch.starts))[spine]
    return gradient


class _Descent:
    """AdamW (Loshchilov & Hutter 2019) under a rate that rises for a sixth of the steps and then falls as a cosine."""

    def __init__(self, weights: Weights, recipe: Recipe, steps: int) -> None:
        self.weights, self.recipe, self.steps, self.done = weights, recipe, steps, 0
        self.first = {name: np.zeros_like(value) for name, value in weights.items()}
        self.second = {name: np.zeros_like(value) for name, value in weights.items()}

    def step(self, gradient: Weights) -> None:
        """Change the weights in place."""
        rate = self.recipe.rate * self._share()
        self.done += 1
        for name in self.weights:
            self.first[name] = 0.9 * self.first[name] + 0.1 * gradient[name]
            self.second[name] = 0.999 * self.second[name] + 0.001 * gradient[name] ** 2
            # Both running means begin at 0 and are too small at first.
            mean = self.first[name] / (1.0 - 0.9**self.done)
            size = np.sqrt(self.second[name] / (1.0 - 0.999**self.done)) + 1e-8
            # Weights decay towards 0, which for a log prior would mean "as common as not".
            if name != "anomalies":
                self.weights[name] *= 1.0 - rate * self.recipe.decay
            self.weights[name] -= rate * mean / size

    def _share(self) -> float:
        rising = max(1, self.steps // 6)
        if self.done < rising:
            return (self.done + 1) / rising
        # Half a wave of a cosine, from 1 down to 0
        falling = max(1, self.steps - rising)
        angle = np.pi * (self.done - rising) / falling
        return 0.5 * (1.0 + float(np.cos(angle)))


def logistic(features: NDArray[np.float64], truth: NDArray[np.bool_]) -> tuple[NDArray[np.float64], float]:
    """Logistic regression with a ridge by Newton's method: weights (F,) and bias."""
    clipped = np.column_stack([np.clip(features, -4.0, 4.0), np.ones(len(features))])
    penalty = np.full(clipped.shape[1], _RIDGE)
    # The bias is free: the ridge must not pull the share of real detections towards a half.
    penalty[-1] = 0.0
    weights = np.zeros(clipped.shape[1])
    for _ in range(_ROUNDS):
        chance = 1.0 / (1.0 + np.exp(-np.clip(clipped @ weights, -30.0, 30.0)))
        slope = clipped.T @ (chance - truth) + penalty * weights
        # (F + 1, F + 1): small enough to be solved exactly, so a dozen rounds suffice
        curvature = (clipped * (chance * (1.0 - chance))[:, None]).T @ clipped + np.diag(penalty + 1e-6)
        weights = weights - np.linalg.solve(curvature, slope)
    return weights[:-1], float(weights[-1])
