"""What paired differences say: their mean, how sure it is, and whether there are enough cases to say anything.

The unit is the case. Several runs of one approach are averaged per case before anything here is called: more seeds make
a case's value steadier, they do not make more cases.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

FEWEST_CASES = 6
"""Below this no two-sided signed-rank test can reach 0.05: with 5 cases its smallest p is 2 / 2**5 = 0.0625."""
_RESAMPLES = 9999
_CONFIDENCE = 0.95


@dataclass(frozen=True)
class PairedDifference:
    """Second minus first, over the cases in which both are defined.

    Attributes:
        n: pairs.
        undefined: cases left out because one of the two was NaN.
        mean: of the differences; NaN without pairs.
        low: lower end of the 95 % bootstrap interval of the mean (percentiles of the means of resampled cases);
            NaN for fewer than two pairs. Too narrow when there are few cases.
        high: its upper end.
        p: two-sided p of the Wilcoxon signed-rank test; NaN for fewer than ``FEWEST_CASES`` pairs.
        above: cases in which the second is larger.
        below: cases in which it is smaller; the rest are ties.
    """

    n: int
    undefined: int
    mean: float
    low: float
    high: float
    p: float
    above: int
    below: int

    @property
    def ties(self) -> int:
        """Cases in which both are equal."""
        return self.n - self.above - self.below


def paired_difference(first: ArrayLike, second: ArrayLike) -> PairedDifference:
    """Compare two values of the same cases.

    Args:
        first: one number per case; NaN is undefined.
        second: likewise, in the same order.

    Raises:
        ValueError: the two have different lengths.
    """
    ones, others = np.asarray(first, dtype=float), np.asarray(second, dtype=float)
    if ones.shape != others.shape or ones.ndim != 1:
        raise ValueError(f"pairs need two equally long rows of numbers, got shapes {ones.shape} and {others.shape}")
    # NaN in either makes the difference NaN: an undefined score is no pair.
    differences = others - ones
    defined = differences[~np.isnan(differences)]
    low, high = bootstrap_interval(defined)
    return PairedDifference(
        n=len(defined),
        undefined=len(differences) - len(defined),
        mean=float(defined.mean()) if len(defined) else math.nan,
        low=low,
        high=high,
        p=signed_rank_p(defined),
        above=int(np.count_nonzero(defined > 0)),
        below=int(np.count_nonzero(defined < 0)),
    )


def bootstrap_interval(values: Sequence[float] | NDArray[np.float64]) -> tuple[float, float]:
    """95 % percentile interval of the mean of ``values``, cases drawn with replacement; the same at every call.

    Returns:
        (NaN, NaN) for fewer than two values. Efron & Tibshirani 1993, An Introduction to the Bootstrap, chapter 13.
    """
    if len(values) < 2:
        return math.nan, math.nan
    found = stats.bootstrap(
        (np.asarray(values),),
        np.mean,
        n_resamples=_RESAMPLES,
        confidence_level=_CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(found.low), float(found.high)


def signed_rank_p(differences: Sequence[float] | NDArray[np.float64]) -> float:
    """Two-sided p of the Wilcoxon signed-rank test (Wilcoxon 1945, doi:10.2307/3001968).

    The distribution is made by flipping the signs: all of them up to 13 cases, else 9999 random ones. So ties and
    zeros (which get rank 0, Pratt's way of counting them) need no approximation.

    Returns:
        NaN for fewer than ``FEWEST_CASES`` differences; 1 if all are 0.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < FEWEST_CASES:
        return math.nan
    # Zeros get no rank, so there would be nothing to flip.
    if not values.any():
        return 1.0
    # The same seed at every call: a table that is written again must not change.
    flips = stats.PermutationMethod(n_resamples=_RESAMPLES, rng=np.random.default_rng(0))
    return float(stats.wilcoxon(values, zero_method="pratt", method=flips).pvalue)
