"""Scores and comparisons as tables on standard output."""

from typing import TYPE_CHECKING, Any

from rich.console import Console

from verse3d.cli.tables import table
from verse3d.cli.terminal import in_flags
from verse3d.core.escapes import one_line
from verse3d.core.wording import how_many

if TYPE_CHECKING:
    from verse3d.evaluation.comparison import Comparison
    from verse3d.evaluation.score_folder import Evaluation

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


def print_scores(out: Console, result: "Evaluation") -> None:
    """One row per case and label, then mean and sd of each label, then what is to be known about them."""
    rows = table("case", "label", *_COLUMNS.values())
    for case in result.cases:
        for name, score in case.labels.items():
            rows.add_row(case.case, name, *(_number(getattr(score, metric), metric) for metric in _COLUMNS))
    for name, summary in result.summary.items():
        rows.add_section()
        for statistic in ("mean", "sd", "undefined"):
            if cells := _statistics(summary, statistic):
                rows.add_row(statistic, name, *cells)
    out.print(rows, soft_wrap=False)
    if result.cases:
        _print_slices(out, result)
        _print_identification(out, result)
    _print_remarks(out, result)


def _print_remarks(out: Console, result: "Evaluation") -> None:
    """What is to be known about the scores, and where they were written."""
    for case_name, reason in result.failures:
        out.print(f"{one_line(case_name)} was not scored: {in_flags(reason)}")
    for note in result.notes:
        out.print(f"note: {in_flags(note)}", style="yellow")
    out.print(" ".join(str(path) for path in result.written))


def _statistics(summary: Any, statistic: str) -> list[str]:  # noqa: ANN401 - a dict of numbers per metric
    """The cells of a row of the summary; none where the row would say nothing."""
    of_metrics = [(summary[metric], metric) for metric in _COLUMNS]
    if statistic == "undefined":
        counts = [one["undefined"] for one, _ in of_metrics]
        return [str(count) for count in counts] if any(counts) else []
    if statistic == "sd" and all(one["n"] < 2 for one, _ in of_metrics):
        return []
    return [_number(one[statistic], metric) if one["n"] else "undefined" for one, metric in of_metrics]


def _print_identification(out: Console, result: "Evaluation") -> None:
    """How many vertebrae carry their name, by VerSe's rule, and what a shift of all names would mend."""
    from verse3d.metrics.identification import names

    if not result.cards:
        return
    columns = ("case", "identified", "d_mean (mm)", "missed", "extra", "shift", "mixed bones", "Dice in span")
    rows = table(*columns, title="names by VerSe's rule")
    for case, card in result.cards.items():
        found = card.identification
        lists = (found.missed, found.extra, card.bones.mixed_bones)
        missed, extra, mixed = (" ".join(names(ids)) or "-" for ids in lists)
        rate, distance = f"{len(found.identified)} of {found.true}", _number(found.d_mean_mm, "mm")
        shift = f"{found.shift:+d}" if found.shift else "-"
        rows.add_row(case, rate, distance, missed, extra, shift, mixed, _number(card.bones.union_dice_in_span, "dice"))
    out.print(rows, soft_wrap=False)


def _print_slices(out: Console, result: "Evaluation") -> None:
    """Volume Dice above slice-wise Dice of all vertebrae together, so that one sees how much the second flatters."""
    title = f"all vertebrae, sagittal slices, {how_many(len(result.cases), 'case')}"
    rows = table("", "mean ± sd", title=title)
    rows.add_row("volume Dice", _mean_sd(result.summary["vertebrae"]["dice"], "dice"))
    for metric, name in _SLICE_COLUMNS.items():
        rows.add_row(name, _mean_sd(result.slice_summary[metric], "dice"))
    empty, slices = (
        sum(getattr(one, of) for one in result.slices.values()) for of in ("slices_without_truth", "slices")
    )
    rows.add_row("slices without vertebrae", f"{empty} of {slices}")
    out.print(rows, soft_wrap=False)


def print_comparison(out: Console, result: "Comparison") -> None:
    """The scores of all runs, what is to be said about them, and what was left out or is not equal."""
    from verse3d.evaluation.verdict import verdicts
    from verse3d.report.compare_text import score_cell

    rows = table("mean ± sd", *(standing.contestant.name for standing in result.standings))
    for key, metric in result.metrics.items():
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
        out.print(f"left out {one_line(case)}: {in_flags(reason)}")
    out.print(" ".join(str(path) for path in result.written))


def _number(value: float, metric: str) -> str:
    digits = 3 if metric == "dice" else 2
    return "undefined" if value != value else f"{value:.{digits}f}"  # noqa: PLR0124 - NaN


def _mean_sd(summary: Any, metric: str) -> str:  # noqa: ANN401 - a dict of numbers
    undefined = f" ({summary['undefined']} undefined)" if summary["undefined"] else ""
    if not summary["n"]:
        return f"undefined{undefined}"
    mean = _number(summary["mean"], metric)
    if summary["n"] > 1:
        mean += f" ± {_number(summary['sd'], metric)}"
    return mean + undefined
