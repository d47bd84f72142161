"""A comparison in words, as Markdown, CSV and JSON."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from verse3d.core.escapes import csv_table, markdown_text
from verse3d.core.wording import how_many, number_text
from verse3d.evaluation.case_values import METRICS, OF_NAMES
from verse3d.evaluation.comparison import Comparison, ContestantScores
from verse3d.evaluation.paired_tests import PairedDifference
from verse3d.evaluation.verdict import interval_text, p_text, verdicts
from verse3d.metrics.scores import statistics_of, without_nan
from verse3d.training.trained import TrainedModel

_PER_CASE = ("dice", "hd95_mm", *OF_NAMES, "slice_dice_all", "slice_dice_occupied", "consistency")
_OF_TRUTH = ("empty_slices", "consistency_of_truth")
"""The same for everybody."""
_COSTS: dict[str, Callable[[TrainedModel], float]] = {
    "parameters": lambda model: model.parameters,
    "training minutes (whole run)": lambda model: model.minutes,
    "training steps": lambda model: model.steps,
    "samples seen (patches or slices)": lambda model: model.samples,
    "labelled voxels seen": lambda model: model.voxels,
    "epoch of the weights": lambda model: model.epoch,
}
_EXPLAINED = """\
Volume Dice, HD95, ASSD and the volume error look at all vertebrae together, on the grid of each scan. Slice-wise Dice
is the mean over sagittal slices: over all slices a slice that is empty in truth and prediction counts as 1, so slices
without vertebrae lift it; over the occupied ones only those count in which truth or prediction holds a vertebra.
Through-plane consistency is the Dice between neighbouring sagittal slices of one mask; the gap is its distance from
the truth's own. Seconds go from reading a scan to its mask on disk; peak MB is the largest resident main memory
meanwhile in a program of its own. Differences are taken per case, the case is the unit: several runs of one name are
averaged first. Intervals are 95 % percentile bootstraps of the mean difference over cases; p is that of a two-sided
Wilcoxon signed-rank test, not corrected for the number of metrics."""
_NAMES_EXPLAINED = """\
Identified is the share of true vertebrae by VerSe's rule, Dice per vertebra the mean over the true ones: 0 for one that
is missed or has a wrong name."""


def markdown(comparison: Comparison) -> str:
    """The whole comparison as a page."""
    names = [standing.contestant.name for standing in comparison.standings]
    parts = [f"# {markdown_text(' against '.join(names))}"]
    for verdict in verdicts(comparison):
        details = [f"- {markdown_text(detail)}" for detail in verdict.details]
        parts.append("\n".join([f"**{markdown_text(verdict.headline)}**", "", *details]))
    parts.append(_circumstances(comparison))
    head = ["mean ± sd over the cases", *names]
    rows = [
        [metric.title, *(score_cell(standing, key) for standing in comparison.standings)]
        for key, metric in comparison.metrics.items()
    ]
    parts += ["## Scores", _table(head, rows)]
    for name, pairs in comparison.pairs.items():
        parts += [f"## {markdown_text(name)} minus {markdown_text(names[0])}, in pairs", _pair_table(comparison, pairs)]
    parts += ["## What it took", _cost_table(comparison), "## Case by case", _case_table(comparison)]
    explained = [_EXPLAINED, *([_NAMES_EXPLAINED] if OF_NAMES[0] in comparison.metrics else [])]
    return "\n\n".join([*parts, *explained]) + "\n"


def _circumstances(comparison: Comparison) -> str:
    lines = [f"{how_many(len(comparison.cases), 'case')}: {markdown_text(', '.join(comparison.cases))}."]
    if comparison.folds:
        lines.append("Each case is scored by the runs that kept it for testing (folds).")
    for standing in comparison.standings:
        members = standing.contestant.members
        if len(members) > 1:
            runs = markdown_text(", ".join(one.name for one in members))
            lines.append(f"{markdown_text(standing.contestant.name)}: {len(members)} runs ({runs}).")
        devices = markdown_text(", ".join(standing.devices)) or "unknown"
        lines.append(f"{markdown_text(standing.contestant.name)} predicted on: {devices}.")
    lines += [f"**Not equal** — {markdown_text(difference)}." for difference in comparison.differences]
    lines += [f"**Note** — {markdown_text(note)}." for note in comparison.notes]
    left_out = [(markdown_text(case), markdown_text(" ".join(reason.split()))) for case, reason in comparison.left_out]
    lines += [f"**Left out** — {case}: {reason}" for case, reason in left_out]
    return "\n".join(f"- {line}" for line in lines)


def score_cell(standing: ContestantScores, metric: str) -> str:
    """``mean ± sd``, the spread over the runs if there are several, and how many values are undefined."""
    found, digits = statistics_of(standing.column(metric)), METRICS[metric].digits
    text = number_text(found["mean"], digits)
    if found["n"] > 1:
        text += f" ± {found['sd']:.{digits}f}"
    if not math.isnan(standing.run_sd[metric]):
        text += f" (runs ± {standing.run_sd[metric]:.{digits}f})"
    return text + (f" ({standing.undefined[metric]} undefined)" if standing.undefined[metric] else "")


def _pair_table(comparison: Comparison, pairs: Mapping[str, PairedDifference]) -> str:
    head = ["", "pairs", "mean difference", "95 % interval", "p", "larger / equal / smaller"]
    rows = []
    # What is the same for everybody has no differences to tell.
    for key, pair in ((key, pairs[key]) for key in comparison.metrics if key not in _OF_TRUTH):
        digits = METRICS[key].digits
        interval = "–" if math.isnan(pair.low) else interval_text(key, pair)
        mean = "undefined" if math.isnan(pair.mean) else f"{pair.mean:+.{digits}f}"
        lost = f" ({pair.undefined} undefined)" if pair.undefined else ""
        p = "–" if math.isnan(pair.p) else p_text(pair.p).removeprefix("= ")
        counts = f"{pair.above} / {pair.ties} / {pair.below}"
        rows.append([METRICS[key].title, f"{pair.n}{lost}", mean, interval, p, counts])
    return _table(head, rows)


def _cost_table(comparison: Comparison) -> str:
    head = ["mean over the runs", *(standing.contestant.name for standing in comparison.standings)]
    models = [[member.model for member in standing.contestant.members] for standing in comparison.standings]
    rows = [
        ["mode", *(", ".join(sorted({model.config.mode for model in group})) for group in models)],
        ["network", *(", ".join(sorted({model.config.network.name for model in group})) for group in models)],
    ]
    rows += ([title, *(_cost(cost, group) for group in models)] for title, cost in _COSTS.items())
    return _table(head, rows)


def _cost(cost: Callable[[TrainedModel], float], models: Sequence[TrainedModel]) -> str:
    """The mean over the runs; unknown if it is for one of them."""
    # NaN of one run makes the mean NaN.
    mean = math.fsum(float(cost(model)) for model in models) / len(models)
    if math.isnan(mean):
        return "unknown"
    if mean >= 100 or mean == round(mean):
        return f"{mean:,.0f}"
    return f"{mean:.1f}"


def _case_table(comparison: Comparison) -> str:
    names = [standing.contestant.name for standing in comparison.standings]
    shown = [metric for metric in _PER_CASE if metric in comparison.metrics]
    head = ["case", *(f"{METRICS[metric].title}, {name}" for metric in shown for name in names)]
    rows = []
    for case in comparison.cases:
        cells = [
            number_text(standing.values[case][metric], METRICS[metric].digits)
            for metric in shown
            for standing in comparison.standings
        ]
        rows.append([case, *cells])
    return _table(head, rows)


def csv_text(comparison: Comparison) -> str:
    """One row per case and metric: the value of each contestant, and the differences from the first."""
    first, *others = comparison.standings
    names = [standing.contestant.name for standing in comparison.standings]
    rows: list[list[str]] = [["case", "metric", *names, *(f"{name} minus {names[0]}" for name in names[1:])]]
    for case in comparison.cases:
        for metric in comparison.metrics:
            base = first.values[case][metric]
            values = [standing.values[case][metric] for standing in comparison.standings]
            # NaN minus anything is NaN: where one is undefined the pair is, too.
            minus = [other.values[case][metric] - base for other in others]
            rows.append([case, metric, *("" if math.isnan(value) else repr(value) for value in [*values, *minus])])
    return csv_table(rows)


def json_dict(comparison: Comparison) -> dict[str, Any]:
    """Everything as plain values for strict JSON; what is undefined or unknown is None."""
    content = {
        "cases": list(comparison.cases),
        "verdicts": [asdict(verdict) for verdict in verdicts(comparison)],
        "differences_allowed": list(comparison.differences),
        "notes": list(comparison.notes),
        "left_out": [{"case": case, "reason": reason} for case, reason in comparison.left_out],
        "folds": comparison.folds,
        "runs": [_standing_dict(standing, tuple(comparison.metrics)) for standing in comparison.standings],
        "pairs": {
            name: {metric: asdict(pairs[metric]) for metric in comparison.metrics}
            for name, pairs in comparison.pairs.items()
        },
    }
    plain: dict[str, Any] = without_nan(content)  # type: ignore[assignment]
    return plain


def _standing_dict(standing: ContestantScores, metrics: Sequence[str]) -> dict[str, Any]:
    return {
        "name": standing.contestant.name,
        "models": [
            {
                "name": member.name,
                "path": str(member.model.path),
                "config": member.model.config.to_dict(),
                **{title: float(cost(member.model)) for title, cost in _COSTS.items()},
            }
            for member in standing.contestant.members
        ],
        "devices": list(standing.devices),
        "values": {case: {key: values[key] for key in metrics} for case, values in standing.values.items()},
        "summary": {
            metric: {**statistics_of(standing.column(metric)), "run_sd": standing.run_sd[metric]} for metric in metrics
        },
    }


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    # Each cell is escaped by itself, so a name with "|" in it makes no column.
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(markdown_text(cell) for cell in line) + " |" for line in lines)
