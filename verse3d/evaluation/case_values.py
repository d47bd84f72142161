"""What a comparison knows of one case of one run: its scores, and what the prediction cost."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from verse3d.evaluation.score_folder import UNION, Evaluation
from verse3d.evaluation.scorecard import CaseCard
from verse3d.metrics.scores import LabelScore
from verse3d.metrics.slices import SliceScores


@dataclass(frozen=True)
class Metric:
    """A column of the comparison.

    Attributes:
        title: what it is called in tables, with its unit.
        better: "higher", "lower", or "" where neither is.
        digits: decimals shown.
    """

    title: str
    better: str
    digits: int


METRICS: dict[str, Metric] = {
    "dice": Metric("volume Dice", "higher", 3),
    "hd95_mm": Metric("HD95 mm", "lower", 2),
    "assd_mm": Metric("ASSD mm", "lower", 2),
    "volume_error_ml": Metric("volume error ml", "lower", 1),
    "volume_difference_ml": Metric("volume difference ml", "", 1),
    "id_rate": Metric("vertebrae identified (VerSe)", "higher", 3),
    "vertebra_dice": Metric("Dice per vertebra", "higher", 3),
    "slice_dice_all": Metric("slice-wise Dice (all slices, empty = 1)", "higher", 3),
    "slice_dice_occupied": Metric("slice-wise Dice (occupied slices)", "higher", 3),
    "slice_dice_truth": Metric("slice-wise Dice (slices with truth)", "higher", 3),
    "empty_slices": Metric("share of slices without a vertebra, truth", "", 3),
    "consistency": Metric("through-plane consistency", "", 3),
    "consistency_of_truth": Metric("through-plane consistency, truth", "", 3),
    "consistency_gap": Metric("through-plane consistency gap", "lower", 3),
    "seconds": Metric("seconds per scan", "lower", 1),
    "peak_rss_mb": Metric("peak MB per scan", "lower", 0),
}
OF_NAMES = ("id_rate", "vertebra_dice")
"""What masks without single vertebrae have none of."""


def case_values(evaluation: Evaluation, records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The values of every scored case by the names of ``METRICS``; NaN where one is undefined.

    Args:
        evaluation: the scores of a folder of masks.
        records: of the predictions, by case, as in ``predictions.json``.
    """
    return {
        case.case: {
            **_of_volume(case.labels[UNION]),
            **_of_names(evaluation.cards.get(case.case)),
            **_of_slices(evaluation.slices[case.case]),
            **{cost: float(records[case.case][cost]) for cost in ("seconds", "peak_rss_mb")},
        }
        for case in evaluation.cases
    }


def mean_of_defined(values: Sequence[float]) -> float:
    """The mean of what is not NaN; NaN if nothing is."""
    defined = [value for value in values if not math.isnan(value)]
    return math.fsum(defined) / len(defined) if defined else math.nan


def _of_volume(score: LabelScore) -> dict[str, float]:
    return {
        "dice": score.dice,
        "hd95_mm": score.hd95_mm,
        "assd_mm": score.assd_mm,
        # The mean of signed differences hides errors that cancel; how large they are is a metric of its own.
        "volume_error_ml": abs(score.volume_difference_ml),
        "volume_difference_ml": score.volume_difference_ml,
    }


def _of_names(card: CaseCard | None) -> dict[str, float]:
    if card is None:
        return dict.fromkeys(OF_NAMES, math.nan)
    # A vertebra without a name, or with a wrong one, has a Dice of 0.
    return {"id_rate": card.identification.id_rate, "vertebra_dice": card.dice}


def _of_slices(scores: SliceScores) -> dict[str, float]:
    return {
        "slice_dice_all": scores.slice_dice_all,
        "slice_dice_occupied": scores.slice_dice_occupied,
        "slice_dice_truth": scores.slice_dice_truth,
        # Where most slices are empty, their Dice of 1 hides what happens in the others.
        "empty_slices": scores.slices_without_truth / scores.slices,
        "consistency": scores.consistency,
        "consistency_of_truth": scores.consistency_of_truth,
        "consistency_gap": scores.consistency_gap,
    }
