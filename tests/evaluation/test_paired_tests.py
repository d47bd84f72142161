"""Paired statistics against arithmetic by hand, brute force, and another implementation."""

import itertools
import math

import numpy as np
import pytest
from scipy import stats

from verse3d.evaluation.paired_tests import FEWEST_CASES, bootstrap_interval, paired_difference, signed_rank_p


def brute_force_p(differences):
    """All sign patterns of the signed ranks, one by one; zeros keep their rank in the ranking and count nothing."""
    sizes = [abs(value) for value in differences]
    ranks = [0 if size == 0 else sum(other < size for other in sizes) + (sizes.count(size) + 1) / 2 for size in sizes]
    observed = abs(sum(math.copysign(rank, value) for rank, value in zip(ranks, differences, strict=True)))
    patterns = list(itertools.product((1, -1), repeat=len(ranks)))
    sums = [abs(sum(sign * rank for sign, rank in zip(pattern, ranks, strict=True))) for pattern in patterns]
    return sum(value >= observed - 1e-9 for value in sums) / len(patterns)


def test_a_difference_is_second_minus_first_over_the_pairs_that_are_defined():
    found = paired_difference([0.8, 0.9, math.nan, 0.5, 0.7], [0.9, 0.8, 0.9, 0.8, 0.7])
    assert (found.n, found.undefined) == (4, 1)
    assert (found.above, found.below, found.ties) == (2, 1, 1)
    assert found.mean == pytest.approx((0.1 - 0.1 + 0.3 + 0.0) / 4)
    assert found.low <= found.mean <= found.high
    assert math.isnan(found.p)


def test_one_pair_has_a_difference_and_neither_interval_nor_p():
    found = paired_difference([1.0], [3.0])
    assert (found.n, found.mean, found.above) == (1, 2.0, 1)
    assert math.isnan(found.low) and math.isnan(found.high) and math.isnan(found.p)


def test_no_pair_at_all_is_undefined_and_counted():
    found = paired_difference([math.nan, 1.0], [1.0, math.nan])
    assert (found.n, found.undefined, found.above, found.below, found.ties) == (0, 2, 0, 0, 0)
    assert math.isnan(found.mean) and math.isnan(found.p)


def test_pairs_of_different_length_are_refused():
    with pytest.raises(ValueError, match="equally long"):
        paired_difference([1.0, 2.0], [1.0])


def test_equal_rows_have_no_difference_and_p_1():
    found = paired_difference(np.arange(8), np.arange(8))
    assert (found.mean, found.low, found.high, found.p, found.ties) == (0, 0, 0, 1, 8)


def test_the_same_difference_everywhere_has_an_interval_of_no_width():
    assert bootstrap_interval([0.25] * 7) == (0.25, 0.25)


def test_the_interval_of_two_values_is_that_of_their_four_resamples():
    # Means of the resamples: 0 (1/4), 0.5 (1/2), 1 (1/4): the 2.5 % and 97.5 % points are the ends.
    assert bootstrap_interval([0.0, 1.0]) == (0.0, 1.0)


def test_the_interval_is_that_of_all_resamples_of_a_few_values():
    values = np.array([0.0, 0.1, 0.4, 1.0, 2.5])
    means = [np.mean(draw) for draw in itertools.product(values, repeat=5)]
    low, high = bootstrap_interval(values)
    assert low == pytest.approx(np.quantile(means, 0.025), abs=0.05)
    assert high == pytest.approx(np.quantile(means, 0.975), abs=0.05)
    assert bootstrap_interval(values) == (low, high)


def test_six_cases_are_the_fewest_that_can_be_told_apart():
    five, six = [1.0, 2.0, 3.0, 4.0, 5.0], [1.0, 2.0, 3.0, 4.0, 5.0, 6.0]
    assert FEWEST_CASES == 6
    assert math.isnan(signed_rank_p(five)) and brute_force_p(five) > 0.05
    assert signed_rank_p(six) == pytest.approx(2 / 2**6)


@pytest.mark.parametrize(
    "differences",
    [
        [0.3, -0.1, 0.7, 0.2, 0.9, -0.4, 0.5],
        [1, 1, -1, 2, 2, -3, 3, 3],  # ties
        [0, 0, 1, -2, 3, 4, 5, 6],  # zeros
        [0, 0, 0, 0, 0, 0, -1],
        [-5, -4, -3, -2, -1, -0.5, 0, 1, 1],
    ],
)
def test_p_is_that_of_all_sign_patterns_with_ties_and_zeros(differences):
    assert signed_rank_p(differences) == pytest.approx(brute_force_p(differences))
    assert signed_rank_p([-value for value in differences]) == pytest.approx(brute_force_p(differences))


def test_p_is_that_of_the_exact_table_where_there_are_neither_ties_nor_zeros():
    for seed in range(2):
        differences = np.random.default_rng(seed).normal(0.4, 1, 11)
        assert signed_rank_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue)


@pytest.mark.slow  # ten thousand draws
def test_p_of_many_cases_is_drawn_and_close_to_the_exact_one():
    differences = np.random.default_rng(5).normal(0.35, 1, 30)
    assert signed_rank_p(differences) == pytest.approx(stats.wilcoxon(differences, method="exact").pvalue, abs=0.01)
