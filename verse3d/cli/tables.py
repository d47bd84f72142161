"""Results as tables and lines on standard output."""

import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console, RenderableType
from rich.table import Column, Table

from verse3d.cli.terminal import in_flags, out_console
from verse3d.core.escapes import one_line
from verse3d.core.wording import how_many

if TYPE_CHECKING:
    from verse3d.api.statistics import StatsResult
    from verse3d.data.convert import Conversion
    from verse3d.data.quality.checks import CheckReport
    from verse3d.data.quality.findings import Finding
    from verse3d.downloads.job import DownloadReport
    from verse3d.inference.records import PredictionRecord, PredictionReport
    from verse3d.report.dataset_stats import SplitSummary
    from verse3d.training.fit import FitResult


class _Rows(Table):
    """A table in which no name breaks out of its cell."""

    def add_row(self, *cells: RenderableType | None, **options: Any) -> None:  # noqa: ANN401
        """As in rich, with line breaks in texts shown as escapes."""
        super().add_row(*(one_line(cell) if isinstance(cell, str) else cell for cell in cells), **options)


def table(*headers: str, title: str | None = None) -> Table:
    """A table that breaks long names rather than cutting them off; in a file or a pipe plain columns without lines."""
    # A program that reads the output wants columns, not frames.
    lines = box.HEAVY_HEAD if out_console.is_terminal else None
    columns = (Column(header, overflow="fold", no_wrap=False) for header in headers)
    return _Rows(*columns, title=title, box=lines, pad_edge=lines is not None, show_edge=lines is not None)


def print_check(out: Console, report: "CheckReport", *, facts: bool = False) -> None:
    """The facts of all cases (if they are few or asked for), what was found by kind, then counts."""
    many = len(report.facts) > _FEW_CASES
    if facts or not many:
        rows = table("case", "voxels", "spacing mm", "axes", "stored as", "vertebrae")
        for case in report.facts:
            rows.add_row(case.case, case.shape, case.spacing_mm, case.axes, case.stored, case.levels)
        out.print(rows, soft_wrap=False)
    kinds: dict[tuple[str, str], list[Finding]] = {}
    order = list(_STYLES)  # from the worst to the mildest, then by code
    for finding in sorted(report.findings, key=lambda each: (order.index(each.severity), each.code)):
        kinds.setdefault((finding.severity, finding.code), []).append(finding)
    for (severity, code), findings in kinds.items():
        cases = len({finding.case for finding in findings})
        out.print(f"{severity} [{code}] {how_many(cases, 'case')}", style=_STYLES[severity])
        _print_kind(out, findings, _SHOWN_OF_A_KIND if many else len(findings))
    _print_fixes(out, report)
    counts = (how_many(number, severity) for severity, number in report.counts.items())
    out.print(f"{how_many(len(report.facts), 'case')}: {', '.join(counts)}")


_FEW_CASES = 50
_SHOWN_OF_A_KIND = 10
_STYLES = {"error": "bold red", "warning": "yellow", "note": "dim"}


def _print_kind(out: Console, findings: "Sequence[Finding]", shown: int) -> None:
    """The lines of a kind; a hint stands once below those that share it."""
    for number, finding in enumerate(findings[:shown]):
        out.print(f"  {one_line(finding.case)}: {in_flags(finding.message)}")
        # A hint is shown below the last of a run of findings that share it.
        following = findings[number + 1].hint if number + 1 < min(shown, len(findings)) else None
        if finding.hint and finding.hint != following:
            out.print(f"      -> {in_flags(finding.hint)}")
    if len(findings) > shown:
        out.print(f"  ... and {len(findings) - shown} more; --json FILE holds them all")


def _print_fixes(out: Console, report: "CheckReport") -> None:
    if report.fixed is None:
        return
    for fix in report.fixed.fixes:
        out.print(f"written {fix.value}: {fix.note}")
    for case, reason in report.fixed.left:
        out.print(f"not repaired: {one_line(case)}: {in_flags(reason)}")
    if not report.fixed.fixes and not report.fixed.left:
        out.print("no mask needs to be carried over")


def print_downloads(out: Console, report: "DownloadReport") -> None:
    """One row per archive, what went wrong with the others, what the licence asks for, and the next step."""
    from verse3d.downloads.mirrors import CITATIONS, LICENCE

    rows = table("archive", "status", "GB", "sha256", "from", title=str(report.folder))
    for record in report.records:
        one = record.locked
        facts = ("", "", "") if one is None else (f"{one.bytes / 1e9:.2f}", one.sha256[:12], one.url or "(was there)")
        rows.add_row(record.archive.name, record.status, *facts)
    out.print(rows, soft_wrap=False)
    for record in report.records:
        for reason in record.reasons:
            out.print(f"{one_line(record.archive.name)}: {in_flags(reason)}")
        if record.hint:
            out.print(f"  -> {in_flags(record.hint)}")
    if len(report.failed) < len(report.records):
        out.print(f"VerSe is licensed under {LICENCE}. Please cite:")
        for citation in CITATIONS:
            out.print(f"  {citation}")
        out.print(f"next: verse3d index {report.folder} --unpack SCANS -o cases.jsonl")


def print_conversion(out: Console, result: "Conversion") -> None:
    """How the files came about, what was repaired, what was left out and why."""
    written = [record for record in result.cases if record.status == "written"]
    counts = Counter(file.how for record in written for file in record.files)
    rows = table("files", "how")
    for how, count in counts.most_common():
        rows.add_row(str(count), how)
    out.print(rows, soft_wrap=False)
    for record in written:
        for file in record.files:
            if file.how == "repaired":
                out.print(f"repaired {one_line(record.case)}: {file.note}; moved by at most {file.moved_mm:.3f} mm")
    for record in result.left_out:
        out.print(f"left out {one_line(record.case)}: {in_flags(record.reason)}")
    for note in result.notes:
        out.print(f"note: {note}")
    out.print(f"{len(written)} of {how_many(len(result.cases), 'case')} written: {result.folder / 'conversion.json'}")


def print_stats(out: Console, result: "StatsResult") -> None:
    """A column per split, then the cases that could not be used, then what was written."""
    # Ten facts of at most five splits: lying on its side the table fits a terminal of 80 characters.
    rows = table("", *(each.split for each in result.summary))
    for what, value in _STATS_ROWS.items():
        rows.add_row(what, *(value(each) for each in result.summary))
    out.print(rows, soft_wrap=False)
    for case, reason in result.failures:
        out.print(f"{one_line(case)} could not be used: {in_flags(reason)}")
    for note in result.notes:
        out.print(f"note: {one_line(note)}", style="yellow")
    for path in (result.table, *result.figures):
        out.print(str(path))


def _median(value: float, digits: int) -> str:
    return "-" if math.isnan(value) else f"{value:.{digits}f}"


_STATS_ROWS: "Mapping[str, Callable[[SplitSummary], str]]" = {
    "scans": lambda split: str(split.scans),
    "subjects": lambda split: str(split.subjects),
    "masks": lambda split: str(split.masks),
    "vertebrae": lambda split: str(split.vertebrae),
    "levels": lambda split: split.levels,
    "in-plane mm, median": lambda split: _median(split.in_plane_mm, 2),
    "through-plane mm, median": lambda split: _median(split.through_plane_mm, 2),
    "height of the scan mm, median": lambda split: _median(split.height_mm, 0),
    "HU inside of masks, median": lambda split: _median(split.inside_hu, 0),
}


def print_training(out: Console, result: "FitResult", fold: int | None = None) -> None:
    """How the run stands and where its files are."""
    validated = not math.isnan(result.best_dice)
    best = f"best validation Dice {result.best_dice:.4f} at epoch {result.best_epoch}, " if validated else ""
    model = result.best if result.best.exists() else "no best.pt yet"
    head = "" if fold is None else f"fold {fold}: "
    when = f"after epoch {result.epochs}" if result.epochs else "in the first epoch"
    out.print(f"{head}{_ENDED.get(result.stopped, result.stopped)} {when}: {best}{model}")
    if result.cost is not None:
        out.print(f"cost: {result.cost}")
    for case, reason in result.failures:
        out.print(f"left out {one_line(case)}: {in_flags(reason)}")
    out.print(f"watch: tensorboard --logdir {result.folder / 'tensorboard'}")


_ENDED = {"time": "out of time", "epochs": "stopped as asked"}
"""How a run ended, where the word of ``FitResult.stopped`` alone would be a riddle."""


def print_predictions(out: Console, report: "PredictionReport", *, details: bool = False) -> None:
    """One row per scan with what was found, then why some failed, then what is doubtful.

    Args:
        out: where to print.
        report: of a prediction.
        details: with time, memory and the path of each mask.
    """
    rows = table("case", "status", "vertebrae", "volume ml", "warnings", *(_DETAILS if details else ()))
    for record in report.records:
        cells = [record.case, record.status, "", "", str(len(record.warnings) or "")]
        if record.status == "written" or (record.status == "skipped" and record.voxels):
            cells[2:4] = _found(record), f"{record.labelled_ml:.0f}"
        if details:
            spent = (f"{record.seconds:.1f}", f"{record.plan.get('peak_mb', 0):.0f}", f"{record.peak_rss_mb:.0f}")
            cells += [*(spent if record.status == "written" else [""] * 3), str(report.folder / record.mask)]
        rows.add_row(*cells)
    out.print(rows, soft_wrap=False)
    for record in report.failures:
        out.print(f"{one_line(record.case)} failed: {in_flags(record.error)}")
    for record in report.records:
        for text in record.warnings:
            out.print(f"{one_line(record.case)}: {in_flags(text)}")
    counts = Counter(record.status for record in report.records)
    counted = [f"{counts[status]} {status}" for status in ("written", "skipped", "failed") if counts[status]]
    out.print(f"{', '.join(counted)}: {report.folder}")


_DETAILS = ("seconds", "expected MB", "peak MB", "mask")


def _found(record: "PredictionRecord") -> str:
    """How many vertebrae there are and which; a binary mask does not say how many."""
    levels = record.levels
    if not levels:
        return "none"
    if levels == ("vertebrae",):
        return "not told apart"
    return levels[0] if len(levels) == 1 else f"{len(levels)}: {levels[0]} to {levels[-1]}"
