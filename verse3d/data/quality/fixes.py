"""Masks carried over to the grids of their scans, on request: new files beside a table that says what was done."""

import os
from collections.abc import Iterable
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.errors import DataError, OutputError
from verse3d.core.escapes import csv_table
from verse3d.core.files import make_folder, write_text
from verse3d.core.geometry import Geometry
from verse3d.core.paths import path_below
from verse3d.core.volume import read_geometry, read_labels, write_labels
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.pairs import carried_over, placement
from verse3d.data.quality.findings import Finding
from verse3d.data.schemes import scheme_of

FIXES_FILE = "fixes.csv"
_FIXABLE = ("mask-orientation", "mask-shape")


@dataclass(frozen=True)
class Fix:
    """A row of the table.

    Attributes:
        case: the name of the case.
        action: "regrid": the case gets the same mask on another grid.
        value: its absolute path; in the table only its name, as the two lie together.
        note: what was done, in words.
    """

    case: str
    action: str
    value: str
    note: str


@dataclass(frozen=True)
class FixReport:
    """What was written, and (case, reason) of what was not."""

    fixes: tuple[Fix, ...] = ()
    left: tuple[tuple[str, str], ...] = ()


def write_fixes(index: CaseIndex, findings: Iterable[Finding], folder: Path) -> FixReport:
    """Write every mask that covers the box of its scan on another grid as ``folder/CASE_seg-vert_msk.nii.gz``.

    ``folder/fixes.csv`` lists them, as the overrides of an index; it is written if there is anything to list. The
    ids are those of the mask file: corrections of labels stay in the index. Nothing that exists is touched.

    Args:
        index: the cases.
        findings: what ``check_cases`` found in them.
        folder: for the masks and the table; made if it is missing.

    Raises:
        OutputError: the table exists already, or the folder cannot be written to.
    """
    require_no_table(folder)
    found: dict[str, set[str]] = {}
    for finding in findings:
        found.setdefault(finding.case, set()).add(finding.code)
    fixes, left = [], []
    for case in index:
        codes = found.get(case.case, set())
        if not codes.intersection(_FIXABLE):
            continue
        try:
            fixes.append(_fix(case, folder, doubtful="left-right" in codes))
        except CASE_ERRORS as error:
            left.append((case.case, error.message if isinstance(error, DataError) else reason_of(error)))
    if fixes:
        write_text(folder / FIXES_FILE, _table(fixes))
    return FixReport(tuple(fixes), tuple(left))


def _fix(case: Case, folder: Path, *, doubtful: bool) -> Fix:
    grid, header = read_geometry(case.image_path())
    mask = read_labels(case.mask_path())
    if doubtful:
        raise DataError(f"{mask.path}: its header may be the wrong one, so it is not carried over by it")
    how = placement(mask.geometry, grid)
    labels = carried_over(mask, grid)
    place = path_below(make_folder(folder), f"{case.case}_seg-vert_msk.nii.gz")
    target = Path(os.path.abspath(place))  # noqa: PTH100 - keep links
    if labels.max() > 255:
        raise DataError(f"{mask.path} holds ids above 255")
    if not target.exists():
        write_labels(target, labels.astype("uint8"), like=header, scheme=scheme_of(mask).name)
    elif not _is_that_mask(target, labels, grid):  # of an earlier call that ended before its table was written
        raise DataError(f"{target} exists already and is another mask")
    axes = ["".join(geometry.axis_codes) for geometry in (mask.geometry, grid)]
    what = f"axes {axes[0]} turned to {axes[1]}, exact" if how == "turned" else "resampled by linear vote"
    return Fix(case.case, "regrid", str(target), f"{what}; from {case.mask}")


def _is_that_mask(target: Path, labels: NDArray[np.integer], grid: Geometry) -> bool:
    try:
        there = read_labels(target)
    except DataError:
        return False
    return there.geometry == grid and np.array_equal(there.array, labels)


def require_no_table(folder: Path) -> None:
    """Check before anything is read that an earlier table is not in the way.

    Raises:
        OutputError: it is.
    """
    table = folder / FIXES_FILE
    if table.exists():
        raise OutputError(f"{table} exists already", hint="name another folder, or move the earlier fixes away")


def _table(fixes: Iterable[Fix]) -> str:
    rows = (astuple(replace(fix, value=Path(fix.value).name)) for fix in fixes)
    return csv_table([[field.name for field in fields(Fix)], *rows])
