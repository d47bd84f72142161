"""What ``verse3d index`` found, as tables and lines on standard output."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console

from verse3d.cli.tables import table
from verse3d.cli.terminal import in_flags
from verse3d.core.escapes import one_line
from verse3d.core.wording import how_many

if TYPE_CHECKING:
    from verse3d.data.index.build import IndexReport

_SHOWN_COPIES = 10
_SPLITS = ("train", "validation", "test", None)


def print_index(out: Console, report: "IndexReport", path: Path, *, missing: bool = False) -> None:
    """What of the VerSe release was found, how the cases are divided, and what was left out or is damaged.

    Args:
        out: where to print.
        report: what was found.
        path: of the index.
        missing: name the scans of VerSe that are missing even where most of them are.
    """
    if report.release:
        _print_release(out, report)
    _print_splits(out, report, path)
    absent = _missing(report, everything=missing)
    for line in (*_found(report), *absent, *_look_like_masks(report), *_left_out(report), *_zips(report)):
        out.print(line)
    for case, problem in report.damaged:
        out.print(f"damaged: {one_line(case)}: {problem}")


def _print_release(out: Console, report: "IndexReport") -> None:
    """The six parts of VerSe with what is missing, by name; a part of which nothing is there is one line."""
    rows = table("VerSe part", "scans", "of", "subjects", "of", "missing", "without mask")
    totals = [0, 0, 0, 0]
    for part in report.release:
        numbers = (part.scans, part.expected_scans, part.subjects, part.expected_subjects)
        totals = [total + number for total, number in zip(totals, numbers, strict=True)]
        # Of a part that nobody fetched nothing is missing by mistake.
        missing = str(len(part.missing)) if part.scans else "not found"
        rows.add_row(part.part, *map(str, numbers), missing, str(len(part.without_mask)))
    rows.add_section()
    without = sum(len(part.without_mask) for part in report.release)
    rows.add_row("all", *map(str, totals), str(totals[1] - totals[0]), str(without))
    out.print(rows, soft_wrap=False)


def _print_splits(out: Console, report: "IndexReport", path: Path) -> None:
    rows = table("split", "cases", "subjects", "with scan and mask", title=str(path))
    for split in _SPLITS:
        chosen = [case for case in report.cases if case.split == split]
        if chosen:
            # Who trains needs both; a scan alone can only be predicted.
            complete = sum(bool(case.image and case.mask) for case in chosen)
            rows.add_row(
                split or "(none)", str(len(chosen)), str(len({case.subject for case in chosen})), str(complete)
            )
    out.print(rows, soft_wrap=False)


def _found(report: "IndexReport") -> Iterator[str]:
    yield "layouts: " + ", ".join(f"{name} {count}" for name, count in report.layouts.items())
    if folds := Counter(case.fold for case in report.cases if case.fold is not None):
        yield "folds: " + ", ".join(f"{fold}: {how_many(count, 'case')}" for fold, count in sorted(folds.items()))
    if made := sum(case.automatic for case in report.cases):
        yield f"made by a program: {how_many(made, 'mask')}"


def _missing(report: "IndexReport", *, everything: bool) -> Iterator[str]:
    """The names of missing scans, where a part is nearly whole; who has a few scans of VerSe misses nothing."""
    for part in report.release:
        nearly_whole = part.scans * 2 > part.expected_scans
        if part.missing and part.scans and (everything or nearly_whole):
            yield f"missing from {part.part}: {' '.join(part.missing)}"
        if part.without_mask:
            yield f"without mask in {part.part}: {' '.join(part.without_mask)}"


def _look_like_masks(report: "IndexReport") -> Iterator[str]:
    for case, path, (low, high) in report.look_like_masks:
        as_mask = f"{path.name.partition('.nii')[0]}_seg.nii.gz"
        yield (
            f"{one_line(case)} looks like a mask (whole numbers {low} ... {high}, most of them 0) but is named like a "
            f"scan: call it {one_line(as_mask)}, or put it into a folder labels/"
        )


def _left_out(report: "IndexReport") -> Iterator[str]:
    for copy in report.left_out[:_SHOWN_COPIES]:
        yield f"copy left out: {one_line(str(copy.path))} ({copy.reason}; kept {copy.kept})"
    if len(report.left_out) > _SHOWN_COPIES:
        yield f"... {len(report.left_out)} copies left out in all: the notes of the index name each of them"
    if report.excluded_gl is not None:
        yield f"{how_many(report.excluded_gl, 'scan')} of gl subjects left out"
    if report.excluded:
        yield f"left out by corrections: {' '.join(report.excluded)}"
    if report.unmatched:
        yield f"corrections without a case: {' '.join(report.unmatched)}"


def _zips(report: "IndexReport") -> Iterator[str]:
    for done in report.unpacked:
        files = f"{how_many(done.written, 'file')} written, {done.kept} kept"
        yield f"unpacked {one_line(str(done.archive))} to {done.folder}: {files}"
        yield from (
            f"not unpacked: {one_line(str(done.archive))}: {one_line(member)} {in_flags(reason)}"
            for member, reason in done.refused
        )
    for archive, reason in report.failures:
        yield f"zip not read: {one_line(str(archive))}: {in_flags(reason)}"
    if report.packed:
        still = how_many(report.packed, "case still lies in a zip: unpack it", "cases still lie in zips: unpack them")
        yield f"{still} with --unpack FOLDER before anything else"
