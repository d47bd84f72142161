"""Results as tables and lines on standard output."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Column, Table

if TYPE_CHECKING:
    from verse3d.data.checks import CheckReport
    from verse3d.data.slicewriter import SliceReport
    from verse3d.inference.predict import PredictionReport
    from verse3d.report.compare import Comparison
    from verse3d.report.evaluation import Evaluation
    from verse3d.training.fit import FitResult

_COLUMNS = {
    "dice": "Dice",
    "hd95_mm": "HD95 mm",
    "assd_mm": "ASSD mm",
    "volume_difference_ml": "volume difference ml",
}

_SLICE_COLUMNS = {
    "slice_dice_all": "Dice, all slices (empty = 1)",
    "slice_dice_occupied": "Dice, occupied slices",
    "slice_dice_truth": "Dice, slices with truth",
    "consistency": "neighbours' Dice",
    "consistency_of_truth": "neighbours' Dice, truth",
}


def table(*headers: str, title: str | None = None) -> Table:
    """A table that breaks long names rather than cutting them off."""
    return Table(*(Column(header, overflow="fold") for header in headers), title=title)


def print_check(out: Console, report: "CheckReport") -> None:
    """The facts of all cases, then everything that was found, then a count."""
    rows = table("case", "voxels", "spacing mm", "axes", "stored as", "vertebrae")
    for facts in report.facts:
        rows.add_row(facts.case, facts.shape, facts.spacing_mm, facts.axes, facts.stored, facts.levels)
    out.print(rows, soft_wrap=False)
    styles = {"error": "bold red", "warning": "yellow", "note": "dim"}
    for finding in report.findings:
        out.print(f"{finding.severity:8}", style=styles[finding.severity], end="")
        out.print(f"{finding.case}: [{finding.code}] {finding.message}")
        if finding.hint:
            out.print(f"        -> {finding.hint}")
    counts = [sum(finding.severity == severity for finding in report.findings) for severity in styles]
    out.print(f"{len(report.facts)} cases: {counts[0]} errors, {counts[1]} warnings, {counts[2]} notes")


def print_slices(out: Console, report: "SliceReport") -> None:
    """One row per case, then the errors and a count."""
    rows = table("case", "split", "status", "slices")
    for record in report.records:
        rows.add_row(record.case, record.split, record.status, str(record.slices) if record.slices else "")
    out.print(rows, soft_wrap=False)
    for record in report.failures:
        out.print(f"{record.case} has no slices: {record.error}")
    out.print(f"{sum(record.slices for record in report.records)} slices in {report.folder}")


def print_training(out: Console, result: "FitResult") -> None:
    """How the run stands and where its files are."""
    validated = not math.isnan(result.best_dice)
    best = f"best validation Dice {result.best_dice:.4f} at epoch {result.best_epoch}, " if validated else ""
    model = result.best if result.best.exists() else "no best.pt yet"
    out.print(f"{result.stopped} after epoch {result.epochs}: {best}{model}")
    for case, reason in result.failures:
        out.print(f"left out {case}: {reason}")
    out.print(f"watch: tensorboard --logdir {result.folder / 'tensorboard'}")


def print_predictions(out: Console, report: "PredictionReport") -> None:
    """One row per scan, then warnings and errors."""
    rows = table("case", "status", "seconds", "peak MB", "vertebrae", "mask")
    for record in report.records:
        written = record.status == "written"
        numbers = (f"{record.seconds:.1f}", f"{record.peak_rss_mb:.0f}") if written else ("", "")
        found = _ends(record.levels) if written else ""
        rows.add_row(record.case, record.status, *numbers, found, str(report.folder / record.mask))
    out.print(rows, soft_wrap=False)
    for record in report.records:
        for text in (*record.warnings, *([record.error] if record.error else [])):
            out.print(f"{record.case}: {text}")


def _ends(levels: Sequence[str]) -> str:
    return "none" if not levels else levels[0] if len(levels) == 1 else f"{levels[0]} ... {levels[-1]}"


def print_scores(out: Console, result: "Evaluation") -> None:
    """One row per case and label, then the means."""
    rows = table("case", "label", *_COLUMNS.values())
    for case in result.cases:
        for name, score in case.labels.items():
            rows.add_row(case.case, name, *(_number(getattr(score, metric), metric) for metric in _COLUMNS))
    rows.add_section()
    for name, summary in result.summary.items():
        rows.add_row("mean ± sd", name, *(_mean_sd(summary[metric], metric) for metric in _COLUMNS))
    out.print(rows, soft_wrap=False)
    _print_slices(out, result)
    for case_name, reason in result.failures:
        out.print(f"{case_name} was not scored: {reason}")
    out.print(" ".join(str(path) for path in result.written))


def _print_slices(out: Console, result: "Evaluation") -> None:
    """Volume Dice beside slice-wise Dice of all vertebrae together, so that one sees how much the second flatters."""
    volume = {case.case: case.labels["vertebrae"].dice for case in result.cases}
    title = "all vertebrae together, by volume and slice by slice (sagittal)"
    rows = table("case", "volume Dice", *_SLICE_COLUMNS.values(), "slices without vertebrae", title=title)
    for case, scores in result.slices.items():
        numbers = (_number(getattr(scores, metric), "dice") for metric in _SLICE_COLUMNS)
        empty = f"{scores.slices_without_truth} of {scores.slices}"
        rows.add_row(case, _number(volume[case], "dice"), *numbers, empty)
    rows.add_section()
    means = (_mean_sd(result.slice_summary[metric], "dice") for metric in _SLICE_COLUMNS)
    rows.add_row("mean ± sd", _mean_sd(result.summary["vertebrae"]["dice"], "dice"), *means, "")
    out.print(rows, soft_wrap=False)


def print_comparison(out: Console, result: "Comparison") -> None:
    """The scores of all runs, what is to be said about them, and what was left out or is not equal."""
    from verse3d.report.compare import METRICS
    from verse3d.report.compare_text import score_cell
    from verse3d.report.verdict import verdicts

    rows = table("mean ± sd", *(standing.contestant.name for standing in result.standings))
    for key, metric in METRICS.items():
        rows.add_row(metric.title, *(score_cell(standing, key) for standing in result.standings))
    out.print(rows, soft_wrap=False)
    for verdict in verdicts(result):
        out.print(verdict.headline)
        for detail in verdict.details:
            out.print(f"  {detail}")
    for difference in result.differences:
        out.print(f"not equal: {difference}")
    for note in result.notes:
        out.print(f"flatters: {note}")
    for case, reason in result.left_out:
        out.print(f"left out {case}: {reason}")
    out.print(" ".join(str(path) for path in result.written))


def _number(value: float, metric: str) -> str:
    digits = 3 if metric == "dice" else 2
    return "undefined" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN


def _mean_sd(summary: Any, metric: str) -> str:  # noqa: ANN401 - a dict of numbers
    undefined = f" ({summary['undefined']} undefined)" if summary["undefined"] else ""
    if not summary["n"]:
        return f"undefined{undefined}"
    sd = f" ± {_number(summary['sd'], metric)}" if summary["n"] > 1 else ""
    return f"{_number(summary['mean'], metric)}{sd}{undefined}"
