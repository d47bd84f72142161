"""The path search: which detections are vertebrae, and which names in which order, with the best few readings.

A path picks some of the detections, from head to feet, and gives each a level of ``levels.LEVELS``:

    detections   o     o     x     o     o           x: passed over, not a vertebra
    path        T11 - T12 -------- L1 -- L2          start and end anywhere

    score = sum over o of   looks(level) + log p(real)
          + sum over x of   log p(not real) + skipped
          + sum over steps of   distance(log d - log expected - size) + missed(number) + anomalies
          + prior(size of the patient)

The size runs over a grid; the search is a k-best Viterbi search over (detection, level, size), and the paths that it
finds are scored once more with the size summed out.
"""

from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.labelling.levels import LEVELS, edges
from verse3d.labelling.priors import SCALES, Priors, scale_scores
from verse3d.labelling.widths import width_scores

MOST_SKIPPED = 4
"""So many detections in a row may be no vertebra, between two that are."""
_SEARCH_SCALES = SCALES[::2]
_NOTHING = -1e30


@dataclass(frozen=True)
class Evidence:
    """What the search looks at, for N detections in order from head to feet.

    Attributes:
        looks: score of each level if it is a vertebra, (N, 27); 0 for the likeliest.
        real: log probability that it is a vertebra, (N,).
        false: score of passing it over, (N,).
        distances_mm: between all of them, (N, N).
        log_widths: of each, (N,); NaN where it is not known.
        first, last: score of each level as that of the first or the last vertebra of a path, (N, 27).
    """

    looks: NDArray[np.float64]
    real: NDArray[np.float64]
    false: NDArray[np.float64]
    distances_mm: NDArray[np.float64]
    log_widths: NDArray[np.float64]
    first: NDArray[np.float64]
    last: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.looks)

    def at_the_ends(self, rows: tuple[int, ...], levels: tuple[int, ...]) -> float:
        """The score of where a path begins and ends; 0 for none."""
        return float(self.first[rows[0], levels[0]] + self.last[rows[-1], levels[-1]]) if rows else 0.0


@dataclass(frozen=True)
class Path:
    """One reading: which detections are vertebrae and how they are called.

    Attributes:
        rows: the detections that it picks, ascending.
        levels: the level index of each.
        score: log score, the patient's size summed out.
        ends: what of it is for where the path begins and ends.
    """

    rows: tuple[int, ...]
    levels: tuple[int, ...]
    score: float
    ends: float = 0.0

    def names(self) -> dict[int, str]:
        """Row -> name."""
        return {row: LEVELS[level] for row, level in zip(self.rows, self.levels, strict=True)}


def weigh(features: NDArray[np.float64], centres_mm: NDArray[np.float64], priors: Priors) -> Evidence:
    """What features (N, F) and centres (N, 3) of ordered detections say under these priors."""
    # log p and log (1 - p) from log odds, exact for odds of any size
    odds = priors.realness(features)
    real, false = -np.logaddexp(0.0, -odds), -np.logaddexp(0.0, odds)
    unknown, free = np.full(len(features), np.nan), np.zeros((len(features), len(LEVELS)))
    return Evidence(
        priors.looks(features),
        real,
        false + priors.skipped[0],
        scipy.spatial.distance.cdist(centres_mm, centres_mm),
        unknown,
        free,
        free,
    )


def best_paths(evidence: Evidence, priors: Priors, count: int = 8) -> list[Path]:
    """The best readings, best first; at least the one that finds no vertebra at all.

    Args:
        evidence: from ``weigh``.
        priors: what steps cost.
        count: how many are wanted.
    """
    costs = step_costs(priors)
    found: dict[tuple[tuple[int, ...], tuple[int, ...]], float] = {((), ()): path_score((), (), evidence, costs)}
    if len(evidence):
        lattice = _searched(evidence, costs, count)
        # More than are wanted: summing over sizes may change their order, and several entries are one path.
        for rows, levels in lattice.traced(4 * count):
            if (rows, levels) not in found:
                found[rows, levels] = path_score(rows, levels, evidence, costs)
    ranked = sorted(found.items(), key=lambda item: -item[1])[:count]
    return [Path(rows, levels, score, evidence.at_the_ends(rows, levels)) for (rows, levels), score in ranked]


@dataclass(frozen=True)
class StepCosts:
    """What each edge of the graph asks for: its expected log distance in mm and its fixed score, both (E,)."""

    expected: NDArray[np.float64]
    fixed: NDArray[np.float64]
    priors: Priors

    def scores(self, evidence: Evidence, upper: int, lower: int, scales: NDArray[np.float64]) -> NDArray[np.float64]:
        """The score of each edge from one row to another at each log size of the patient, (S, E)."""
        ratio = np.log(max(evidence.distances_mm[upper, lower], 1e-3)) - self.expected - scales[:, None]
        widths = width_scores(evidence.log_widths[lower] - evidence.log_widths[upper])
        scores: NDArray[np.float64] = self.priors.distance_scores(ratio) + self.fixed + widths
        return scores


def step_costs(priors: Priors) -> StepCosts:
    """The costs of all edges under these priors."""
    graph = edges()
    fixed = priors.missed[graph.missed] + graph.anomalies @ priors.anomalies
    return StepCosts(priors.ways_mm(), fixed, priors)


def path_score(rows: tuple[int, ...], levels: tuple[int, ...], evidence: Evidence, costs: StepCosts) -> float:
    """The score of one path with the patient's size summed out; the best way is taken where several lead on."""
    # Detections that the path picks count as vertebrae, all others as passed over.
    picked = np.isin(np.arange(len(evidence)), rows)
    total = evidence.false[~picked].sum() + evidence.real[picked].sum()
    total += sum(evidence.looks[row, level] for row, level in zip(rows, levels, strict=True))
    total += evidence.at_the_ends(rows, levels)
    by_scale = scale_scores()
    for upper, lower, a, b in zip(rows, rows[1:], levels, levels[1:], strict=False):
        ways = np.flatnonzero((edges().start == a) & (edges().end == b))
        # (S, ways): each way at each size of the patient
        scores = costs.scores(evidence, upper, lower, SCALES)[:, ways]
        by_scale = by_scale + (scores.max(axis=1) if len(ways) else _NOTHING)
    return float(total + scipy.special.logsumexp(by_scale))


@dataclass
class _Lattice:
    """Best scores (N, S, 27, k), and per entry where it came from: (row, level, rank), row -1 at the start."""

    scores: NDArray[np.float64]
    origin: NDArray[np.int32]
    rest: NDArray[np.float64]
    last: NDArray[np.float64]

    def traced(self, count: int) -> list[tuple[tuple[int, ...], tuple[int, ...]]]:
        """Rows and levels of the best ``count`` entries, if the detections after each are passed over."""
        final = self.scores + self.rest[:, None, None, None] + self.last[:, None, :, None]
        # More than ``count``: a way may end at several sizes of the patient, and counts once.
        best = np.argsort(-final, axis=None, kind="stable")[: count * len(_SEARCH_SCALES)]
        ways = []
        for flat in best:
            if final.flat[flat] > _NOTHING / 2:
                ways.append(self._back(*map(int, np.unravel_index(flat, final.shape))))
        return list(dict.fromkeys(ways))

    def _back(self, row: int, scale: int, level: int, rank: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
        rows, levels = [], []
        while row >= 0:
            rows.append(row)
            levels.append(level)
            # The size stays: it is the patient's, the same for the whole path.
            row, level, rank = (int(value) for value in self.origin[row, scale, level, rank])
        return tuple(rows[::-1]), tuple(levels[::-1])


def _searched(evidence: Evidence, costs: StepCosts, count: int) -> _Lattice:
    """Fill the lattice from head to feet."""
    rows, scales, levels = len(evidence), len(_SEARCH_SCALES), len(LEVELS)
    passed = np.concatenate([[0.0], np.cumsum(evidence.false)])
    scores = np.full((rows, scales, levels, count), _NOTHING)
    origin = np.full((rows, scales, levels, count, 3), -1, dtype=np.int32)
    for row in range(rows):
        # detections    0   1   2   3  row
        #               x   o   x   x   o      come from 1: pass over 2 and 3; or begin here: pass over 0 to 3
        first = (passed[row] + evidence.first[row] + scale_scores(_SEARCH_SCALES)[:, None])[:, :, None]
        sources = [(first, np.full((levels, 1, 3), -1, dtype=np.int32))]
        for above in range(max(0, row - MOST_SKIPPED - 1), row):
            skipped = passed[row] - passed[above + 1]
            steps = costs.scores(evidence, above, row, _SEARCH_SCALES)
            sources.append(_arrivals(scores[above] + skipped, steps, above))
        reached = np.concatenate([source for source, _ in sources], axis=2)
        came_from = np.concatenate([came for _, came in sources], axis=1)
        # All that may come before, side by side: reached (S, 27, many), of which k are kept for each size and level.
        own = evidence.looks[row] + evidence.real[row]
        _keep_best(reached, came_from, own, scores[row], origin[row])
    return _Lattice(scores, origin, passed[-1] - passed[1:], evidence.last)


def _arrivals(
    above: NDArray[np.float64], steps: NDArray[np.float64], row: int
) -> tuple[NDArray[np.float64], NDArray[np.int32]]:
    """Scores (S, 27, W k) of coming from ``row`` along each edge into each level, and where they come from."""
    graph = edges()
    count = above.shape[2]
    # above (S, 27, k) -> along each edge (S, E, k) -> gathered by its end (S, 27, W, k); -1 in ``into`` is no edge
    along = above[:, graph.start] + steps[:, :, None]
    into = np.where(graph.into[None, :, :, None] >= 0, along[:, graph.into], _NOTHING)
    scales, levels, width, _ = into.shape
    origin = np.empty((levels, width, count, 3), dtype=np.int32)
    origin[..., 0] = row
    origin[..., 1] = graph.start[graph.into][:, :, None]
    origin[..., 2] = np.arange(count)
    return into.reshape(scales, levels, width * count), origin.reshape(levels, width * count, 3)


def _keep_best(
    reached: NDArray[np.float64],
    came_from: NDArray[np.int32],
    own: NDArray[np.float64],
    scores: NDArray[np.float64],
    origin: NDArray[np.int32],
) -> None:
    """Write the best k of ``reached`` (S, 27, many) into ``scores`` (S, 27, k) and ``origin``, with their own score."""
    count = min(scores.shape[2], reached.shape[2])
    if reached.shape[2] > count:
        # The best k, in no order: they are sorted once, at the end.
        best = np.argpartition(-reached, count - 1, axis=2)[:, :, :count]
    else:
        best = np.broadcast_to(np.arange(count), (*reached.shape[:2], count))
    scores[:, :, :count] = np.take_along_axis(reached, best, axis=2) + own[None, :, None]
    origin[:, :, :count] = came_from[np.arange(len(own))[None, :, None], best]
