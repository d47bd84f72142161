"""Corrections to an index from a CSV, so that known errors of a data set are mended where everybody can see it.

Columns ``case, action, value, note``; ``case`` is the name of a case, a series or a subject, ``note`` is free.

=========  ===================  ==================================================================================
action     value                what happens
=========  ===================  ==================================================================================
relabel    ``19>20 20>21``      ids (or names: ``T12>L1``) of the mask are replaced whenever it is read, all at once
mask       a path               this mask (in VerSe ids) is used instead; relative paths start at the CSV
regrid     a path               the same mask on another grid: as ``mask``, and corrections of its ids still apply
split      train, validation …  the whole subject goes there
subject    a name               the scan shows somebody else than its name says
exclude                         the case is left out
=========  ===================  ==================================================================================
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.escapes import plain_cell
from verse3d.core.files import is_file
from verse3d.core.labels import vertebra
from verse3d.core.logs import logger
from verse3d.core.paths import composed
from verse3d.core.readers import MEGABYTE, Row, read_table
from verse3d.core.wording import brief, clipped
from verse3d.data.cases import SPLITS, Case
from verse3d.data.index.probe import probe

COLUMNS = ("case", "action", "value", "note")
_MOST_BYTES = 16 * MEGABYTE
_LONGEST_ID = 9
_LONGEST_PATH = 500
_PAIRS = re.compile(r"^\w+>\w+")
_log = logger(__name__)
_Change = Callable[[Case], Case | None]


@dataclass(frozen=True)
class Override:
    """One line of the CSV: whom it is about, and what it does to a case (None: leaves it out)."""

    name: str
    change: _Change
    words: str
    whole_subject: bool = False


@dataclass(frozen=True)
class Applied:
    """Cases after corrections, the names of those left out, and the names that no case has."""

    cases: tuple[Case, ...]
    excluded: tuple[str, ...] = ()
    unmatched: tuple[str, ...] = ()


def read_overrides(path: Path) -> tuple[Override, ...]:
    """Read a CSV of corrections.

    Raises:
        DataError: the file cannot be read, a column is missing, or lines make no sense; all of them are listed.
    """
    hint = f"its first line must be {','.join(COLUMNS)}, with commas"
    rows = read_table(path, needs=COLUMNS[:2], max_bytes=_MOST_BYTES, what="the overrides", hint=hint)
    read, problems = [], []
    for row in rows:
        try:
            read.append(_override(row, path.parent))
        except DataError as error:
            problems.append(f"line {row.line}: {error.message}")
    if problems:
        raise DataError("\n  - ".join([f"{path} has mistakes:", *problems]), hint=f"actions are {', '.join(_ACTIONS)}")
    return tuple(read)


def apply_overrides(cases: Iterable[Case], overrides: Iterable[Override]) -> Applied:
    """Correct the cases, one line after the other; what was done to a case stands in its ``notes``."""
    now = list(cases)
    excluded, unmatched = [], []
    for override in overrides:
        wanted = composed(override.name)
        hit = [case for case in now if wanted in map(composed, (case.case, case.series, case.subject))]
        if not hit:
            unmatched.append(override.name)
            continue
        names = {case.case for case in hit}
        subjects = {case.subject for case in hit} if override.whole_subject else set()
        changed = {case.case: override.change(case) for case in now if case.case in names or case.subject in subjects}
        gone = [name for name, case in changed.items() if case is None]
        excluded += gone
        now = [_noted(changed.get(case.case, case), case, override.words) for case in now if case.case not in gone]
    return Applied(tuple(now), tuple(excluded), tuple(unmatched))


def _noted(changed: Case | None, before: Case, words: str) -> Case:
    if changed is None or changed is before:
        return before
    return replace(changed, notes=(*changed.notes, words))


def _override(row: Row, folder: Path) -> Override:
    if row.surplus or _PAIRS.match(row.cells.get("note", "").strip()):
        raise DataError('a value that holds commas must stand in quotes: "T12>L1, L1>L2"')
    name, action, value, note = (plain_cell(row.cells.get(column, "").strip()) for column in COLUMNS)
    if not name:
        raise DataError("names no case")
    if action not in _ACTIONS:
        raise DataError(f"action {brief(action)} is unknown")
    words = f"override: {action} {value}".strip() + (f" ({note})" if note else "")
    return Override(name, _ACTIONS[action](value, folder), words, whole_subject=action == "split")


def _relabel(value: str, _: Path) -> _Change:
    wanted = {}
    texts = value.replace(",", " ").split()
    for text in texts:
        before, arrow, right = text.partition(">")
        if not arrow:
            raise DataError(f"{brief(text)} is not a pair such as 19>20 or T12>L1")
        wanted[_label_id(before)] = _label_id(right)
    if not texts or len(wanted) < len(texts):
        raise DataError(f"relabel needs pairs of different ids such as '19>20 20>21', got {brief(value)}")

    def change(case: Case) -> Case:
        # One relabelling that does what the earlier one and this one do in turn
        earlier = dict(case.relabel)
        both = {stored: wanted.get(now, now) for stored, now in earlier.items()}
        for stored, right in wanted.items():
            if stored not in earlier:
                both[stored] = right
        return replace(case, relabel=tuple(both.items()))

    return change


def _label_id(text: str) -> int:
    """A VerSe id, a level's name, or 0 for background."""
    if text == "0":
        return 0
    is_number = text.isascii() and text.isdecimal() and len(text) <= _LONGEST_ID
    return vertebra(int(text) if is_number else clipped(text)).id


def _mask(value: str, folder: Path) -> _Change:
    path = _usable_mask(value, folder)

    def change(case: Case) -> Case:
        if case.relabel:
            _log.warning("overrides: %s gets another mask: earlier corrections of its ids no longer apply", case.case)
        # Whoever made the one before did not make this one.
        return replace(case, mask=path, relabel=(), automatic=False)

    return change


def _regrid(value: str, folder: Path) -> _Change:
    path = _usable_mask(value, folder)
    return lambda case: replace(case, mask=path)


def _usable_mask(value: str, folder: Path) -> Path:
    path = folder.absolute() / value
    if not value or not is_file(path):
        raise DataError(f"the mask {clipped(str(path), _LONGEST_PATH)} does not exist")
    if problem := probe(path).problem:
        raise DataError(problem)
    return path


def _split(value: str, _: Path) -> _Change:
    if value not in SPLITS:
        raise DataError(f"split {brief(value)} is none of {', '.join(SPLITS)}")
    chosen = next(split for split in SPLITS if split == value)
    return lambda case: replace(case, split=chosen, split_origin="assigned")


def _subject(value: str, _: Path) -> _Change:
    if not value:
        raise DataError("subject needs a name")
    return lambda case: replace(case, subject=value)


def _exclude(value: str, _: Path) -> _Change:
    if value:
        raise DataError(f"exclude takes no value, got {brief(value)}")
    return lambda _: None


_ACTIONS: Mapping[str, Callable[[str, Path], _Change]] = {
    "relabel": _relabel,
    "mask": _mask,
    "regrid": _regrid,
    "split": _split,
    "subject": _subject,
    "exclude": _exclude,
}
