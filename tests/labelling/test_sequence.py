"""The path search against plain enumeration, and the scores against sums written out by hand."""

from dataclasses import replace
from itertools import combinations, pairwise, product

import numpy as np
import pytest

from tests.labelling.spines import between, centres_of
from tests.pace import first_quickly
from verse3d.labelling.levels import ANOMALIES, LEVEL_INDEX, LEVELS, STEPS, edges, whole_spines
from verse3d.labelling.priors import SCALES, shipped_priors
from verse3d.labelling.sequence import Evidence, best_paths, path_score, step_costs
from verse3d.labelling.widths import width_scores

PRIORS = shipped_priors()


def random_evidence(seed: int, points: np.ndarray) -> Evidence:
    random = np.random.default_rng(seed)
    looks = random.normal(0.0, 2.0, (len(points), len(LEVELS)))
    odds = random.normal(1.0, 2.0, len(points))
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    widths = np.log(random.uniform(40.0, 90.0, len(points)))
    widths[random.random(len(points)) < 0.2] = np.nan
    first, last = random.normal(-2.0, 2.0, (2, len(points), len(LEVELS)))
    return Evidence(looks, -np.logaddexp(0, -odds), -np.logaddexp(0, odds) - 1.0, distances, widths, first, last)


def score_by_hand(rows, levels, evidence, priors) -> float:
    """The formula of the module, with loops: every stretch of a whole spine between two levels is a way to go."""
    score = sum(evidence.looks[r, n] + evidence.real[r] for r, n in zip(rows, levels, strict=True))
    score += sum(evidence.false[r] for r in range(len(evidence)) if r not in rows)
    if rows:
        score += evidence.first[rows[0], levels[0]] + evidence.last[rows[-1], levels[-1]]
    mm = {(LEVEL_INDEX[a], LEVEL_INDEX[b]): np.exp(x) for (a, b), x in zip(STEPS, priors.log_step_mm, strict=True)}
    weights = np.exp(-0.5 * (SCALES / 0.1) ** 2)
    widening = {
        (r, q, a, b): width_scores(evidence.log_widths[q] - evidence.log_widths[r])[
            next(number for number, way in enumerate(edges().ways) if (way[0], way[-1]) == (a, b))
        ]
        for (r, a), (q, b) in pairwise(zip(rows, levels, strict=True))
    }
    total = 0.0
    for size, weight in zip(SCALES, weights / weights.sum(), strict=True):
        steps = 0.0
        for (r, a), (q, b) in pairwise(zip(rows, levels, strict=True)):
            ways = {s[s.index(a) : s.index(b) + 1] for s in whole_spines() if a in s and b in s and a < b}
            values = []
            for way in [w for w in ways if len(w) <= 5]:
                names = [LEVELS[level] for level in way]
                met = ["T13" in names, ("T11", "L1") in list(pairwise(names)), "L6" in names]
                met.append(("L4", "S1") in list(pairwise(names)))
                expected = sum(mm[x, y] for x, y in pairwise(way))
                z = (np.log(evidence.distances_mm[r, q] / expected) - size) / priors.step_sd[0]
                values.append(
                    -3.0 * priors.step_weight[0] * np.log(1 + z * z / 5.0)
                    + priors.missed[len(way) - 2]
                    + np.dot(met, priors.anomalies)
                )
            steps += max(values, default=-1e30) + widening[r, q, a, b]
        total += weight * np.exp(steps)
    return float(score + (np.log(total) if total > 0 else -np.inf))


def all_paths(count: int):
    for picked in range(count + 1):
        for rows in combinations(range(count), picked):
            yield from ((rows, levels) for levels in product(range(len(LEVELS)), repeat=picked))


@pytest.mark.parametrize("seed", first_quickly(range(4), 1))
def test_the_best_paths_are_those_of_plain_enumeration(seed):
    points = centres_of(between("T10", "L1"))[:3] + np.random.default_rng(seed).normal(0, 4, (3, 3))
    evidence = random_evidence(seed, points)
    costs = step_costs(PRIORS)
    listed = [
        (path_score(rows, levels, evidence, costs), rows, levels)
        for rows, levels in all_paths(3)
        if all(a < b for a, b in pairwise(levels))
    ]
    expected = sorted(listed, reverse=True)[:5]
    found = best_paths(evidence, PRIORS, 5)
    assert [(path.rows, path.levels) for path in found] == [(rows, levels) for _, rows, levels in expected]


@pytest.mark.parametrize("seed", range(3))
def test_the_score_of_a_path_is_the_sum_written_out_by_hand(seed):
    random = np.random.default_rng(seed)
    evidence = random_evidence(seed, centres_of(between("T9", "L3")) + random.normal(0, 3, (7, 3)))
    costs = step_costs(PRIORS)
    paths = [
        ((0, 1, 2, 3), ("T9", "T10", "T11", "T12")),
        ((0, 2, 5), ("T11", "L1", "L2")),
        ((1, 3, 4, 6), ("T12", "T13", "L1", "L3")),
        ((2, 3, 4), ("L4", "L5", "L6")),
        ((0, 6), ("L4", "S1")),
        ((4,), ("C3",)),
        ((), ()),
    ]
    for rows, names in paths:
        levels = tuple(LEVEL_INDEX[name] for name in names)
        by_hand = score_by_hand(rows, levels, evidence, PRIORS)
        assert path_score(rows, levels, evidence, costs) == pytest.approx(by_hand, abs=1e-6)


def test_levels_that_cannot_follow_each_other_are_never_found():
    evidence = random_evidence(5, centres_of(between("T5", "L5")))
    evidence.looks[:, LEVEL_INDEX["C1"]] += 50.0  # every detection looks like C1
    for path in best_paths(evidence, PRIORS, 6):
        assert all(a < b for a, b in pairwise(path.levels))
        assert path.levels.count(LEVEL_INDEX["C1"]) <= 1


def test_an_anomaly_that_costs_nothing_is_found_and_one_that_costs_much_is_not():
    names = [*between("T9", "T12"), "T13", "L1", "L2"]
    evidence = random_evidence(0, centres_of(names))
    evidence.looks[:] = -20.0
    for row, name in enumerate(names):
        evidence.looks[row, LEVEL_INDEX["T12" if name == "T13" else name]] = 0.0
        evidence.looks[row, LEVEL_INDEX[name]] = 0.0
    evidence.real[:], evidence.false[:] = 0.0, -30.0
    evidence.first[:], evidence.last[:], evidence.log_widths[:] = 0.0, 0.0, np.nan
    cheap, dear = (replace(PRIORS, anomalies=np.full(len(ANOMALIES), cost)) for cost in (0.0, -60.0))
    assert list(best_paths(evidence, cheap)[0].names().values()) == names
    assert "T13" not in best_paths(evidence, dear)[0].names().values()


def test_nothing_detected_is_one_empty_path():
    (path,) = best_paths(random_evidence(0, np.zeros((0, 3))), PRIORS)
    assert path.rows == () and path.names() == {}
