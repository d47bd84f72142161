"""What the width of vertebrae says about their names."""

from itertools import pairwise

import numpy as np
import pytest

from tests.labelling.spines import WHOLE
from verse3d.labelling.levels import LEVELS, edges
from verse3d.labelling.widths import width_scores

MM = {"T10": 58.0, "T11": 52.0, "T12": 47.0, "L1": 71.0, "L2": 76.0}
"""An ordinary spine, measured between the tips of the transverse processes."""


def score_of(upper, lower, log_ratio):
    scores = width_scores(log_ratio)
    ways = [(LEVELS[way[0]], LEVELS[way[-1]]) for way in edges().ways]
    return scores[ways.index((upper, lower))]


@pytest.mark.parametrize("scale", [0.7, 1.0, 1.4])
@pytest.mark.parametrize("shift", [-2, -1, 1, 2])
def test_a_spine_of_any_size_fits_its_own_names_better_than_those_some_places_away(scale, shift):
    ratios = [float(np.log(scale * lower) - np.log(scale * upper)) for upper, lower in pairwise(MM.values())]

    def total(names):
        return sum(score_of(*pair, ratio) for pair, ratio in zip(pairwise(names), ratios, strict=True))

    moved = [WHOLE[WHOLE.index(name) + shift] for name in MM]
    assert total(list(MM)) > total(moved) + 1.0


def test_of_a_width_that_is_not_known_nothing_follows():
    assert not width_scores(float("nan")).any()


def test_a_single_width_that_is_wrong_costs_little():
    usual, odd = score_of("T4", "T5", 0.0), score_of("T4", "T5", np.log(3.0))
    assert usual > odd > usual - 6.0


def test_the_sacrum_is_as_likely_whatever_the_width():
    assert score_of("L5", "S1", -0.5) == score_of("L5", "S1", 0.5) < 0.0
