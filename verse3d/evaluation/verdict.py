"""What a comparison says, in plain words, and whether there are enough cases to say it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from verse3d.core.wording import how_many
from verse3d.evaluation.case_values import METRICS
from verse3d.evaluation.comparison import Comparison
from verse3d.evaluation.paired_tests import FEWEST_CASES, PairedDifference

_SIGNIFICANT = 0.05
_VERDICT = ("dice", "hd95_mm", "assd_mm", "volume_error_ml", "slice_dice_occupied", "consistency_gap")


@dataclass(frozen=True)
class Verdict:
    """What a comparison says about one contestant, set against the first.

    Attributes:
        headline: how many cases, whether that is enough, and who is better in what.
        details: one sentence per metric: by how much, in how many cases, how sure.
    """

    headline: str
    details: tuple[str, ...]


def verdicts(comparison: Comparison) -> tuple[Verdict, ...]:
    """In plain words, one for each contestant but the first."""
    first, count = comparison.standings[0].contestant.name, len(comparison.cases)
    return tuple(
        Verdict(
            f"{other} against {first}: {_how_sure(count)} {_who_leads(pairs, first, other)}",
            tuple(_sentence(metric, pairs[metric], first, other) for metric in _VERDICT),
        )
        for other, pairs in comparison.pairs.items()
    )


def _how_sure(cases: int) -> str:
    if cases == 1:
        return "n = 1: an example, no estimate."
    if cases < FEWEST_CASES:
        return f"n = {cases}: too few cases for any claim (below {FEWEST_CASES} no paired test can reach p < 0.05)."
    return f"n = {cases}."


def _who_leads(pairs: Mapping[str, PairedDifference], first: str, other: str) -> str:
    """``a is better in X, Y; b in Z; no difference is shown in W``, or who is ahead where nothing can be shown."""
    groups: dict[str, list[str]] = {}
    for metric in _VERDICT:
        pair = pairs[metric]
        ahead = _who_is_better(metric, pair, first, other)
        if not pair.n:
            place = "undefined is"
        elif not ahead:
            place = "equal is"
        # Too few cases for a test: what is ahead may be said, what is better may not.
        elif math.isnan(pair.p):
            place = f"{ahead} is ahead in"
        else:
            place = f"{ahead} is better in" if _is_shown(pair) else "no difference is shown in"
        groups.setdefault(place, []).append(METRICS[metric].title)
    return "; ".join(f"{place} {', '.join(titles)}" for place, titles in groups.items()) + "."


def _sentence(metric: str, pair: PairedDifference, first: str, other: str) -> str:
    title = METRICS[metric].title
    lost = f" ({pair.undefined} undefined)" if pair.undefined else ""
    ahead = _who_is_better(metric, pair, first, other)
    if not pair.n:
        return f"{title}: undefined in every pair."
    if not ahead:
        return f"{title}: equal on average{lost}."
    size = f"{abs(pair.mean):.{METRICS[metric].digits}f}"
    if not float(size):  # what would be rounded to 0 keeps its first digit
        size = f"{abs(pair.mean):.1g}"
    if pair.n == 1:
        return f"{title}: {ahead} is ahead by {size} in the one case{lost}."
    # `above` counts cases in which `other` has the larger value:
    #
    #     better    ahead     wins
    #     higher    other     above
    #     higher    first     below
    #     lower     other     below
    #     lower     first     above
    wins = pair.above if (METRICS[metric].better == "higher") == (ahead == other) else pair.below
    text = f"{title}: {ahead} is ahead by {size} on average and in {wins} of {how_many(pair.n, 'case')}{lost}"
    if math.isnan(pair.p):
        return f"{text}."
    shown = "" if _is_shown(pair) else ": no difference is shown"
    # A small p with the mean on the other side: few large differences against many small ones.
    if shown and pair.p < _SIGNIFICANT:
        shown = ": the mean and most of the cases disagree"
    return f"{text}; {other} minus {first}: 95 % interval {interval_text(metric, pair)}, p {p_text(pair.p)}{shown}."


def _is_shown(pair: PairedDifference) -> bool:
    """A small p, and the mean is not turned round by a few outliers among the cases."""
    return pair.p < _SIGNIFICANT and (pair.mean > 0) == (pair.above > pair.below)


def _who_is_better(metric: str, pair: PairedDifference, first: str, other: str) -> str:
    """By the mean difference; nobody where it is 0 or undefined."""
    if pair.mean == 0 or math.isnan(pair.mean):
        return ""
    other_is_higher = pair.mean > 0
    higher_is_better = METRICS[metric].better == "higher"
    if other_is_higher == higher_is_better:
        return other
    return first


def interval_text(metric: str, pair: PairedDifference) -> str:
    """``+0.010 to +0.050``, with the decimals of the metric."""
    digits = METRICS[metric].digits
    return f"{pair.low:+.{digits}f} to {pair.high:+.{digits}f}"


def p_text(value: float) -> str:
    """``= 0.031`` or ``< 0.001``."""
    return f"= {value:.3f}" if value >= 0.001 else "< 0.001"
