"""What a comparison knows of one case of one run: its scores, and what the prediction cost."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

from verse3d.evaluation.score_folder import UNION, Evaluation
from verse3d.metrics.scores import LabelScore
from verse3d.metrics.slices import SliceScores


def case_values(evaluation: Evaluation, records: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, float]]:
    """The values of every scored case by the names of ``comparison.METRICS``; NaN where one is undefined.

    Args:
        evaluation: the scores of a folder of masks.
        records: of the predictions, by case, as in ``predictions.json``.
    """
    return {
        case.case: {
            **_of_volume(case.labels[UNION]),
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
