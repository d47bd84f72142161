"""A case is one scan with what belongs to it; an index is a list of cases that divides them by subject."""

import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any, Literal, get_args

from pydantic import BeforeValidator

from verse3d.core.errors import DataError
from verse3d.core.files import write_text
from verse3d.core.readers import MEGABYTE, Many, Record, Text, Whole, numbered_lines, parsed
from verse3d.core.wording import brief

Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = get_args(Split)
_PATHS = ("image", "mask", "centroids")
_OPTIONAL = ("series", "part", "fold", "relabel", "automatic", "notes")
"""Written only where there is something to say."""
_MOST_BYTES = 256 * MEGABYTE
_NEVER_IN_A_NAME = frozenset("/\\\0")
_LINE_HINT = "each line is a JSON object with 'case' and 'image'"


@dataclass(frozen=True)
class Case:
    """One scan.

    Attributes:
        case: unique name inside an index, e.g. "sub-verse401_split-verse201".
        subject: whom it belongs to, e.g. "sub-verse401". All cases of a subject share one split.
        image: the CT, absolute path; None if only a mask was found.
        mask: the vertebra mask in VerSe ids, absolute path, or None.
        centroids: the centroid JSON, absolute path, or None.
        split: "train", "validation", "test" or None (not yet divided).
        split_origin: who decided the split: "release" (the folder it came in), "seed N" or "assigned".
        series: which acquisition it is, the same in every release that holds it, e.g. "verse201"; else the case name.
        part: the part of the VerSe release it came in, e.g. "verse19training", or "".
        fold: number of its cross-validation fold, or None. All cases of a subject share one fold.
        relabel: (id in the mask file, right id) pairs that correct the mask whenever it is read.
        automatic: whether a program made the mask, and no expert has corrected it.
        notes: what was decided about this case, in words: copies left out, corrections made.
    """

    case: str
    subject: str
    image: Path | None
    mask: Path | None = None
    centroids: Path | None = None
    split: Split | None = None
    split_origin: str = ""
    series: str = ""
    part: str = ""
    fold: int | None = None
    relabel: tuple[tuple[int, int], ...] = ()
    automatic: bool = False
    notes: tuple[str, ...] = ()

    def image_path(self) -> Path:
        """The CT.

        Raises:
            DataError: the case has none.
        """
        if self.image is None:
            raise DataError(f"case {self.case} has a mask ({self.mask}) but no CT")
        return self.image

    def mask_path(self) -> Path:
        """The mask.

        Raises:
            DataError: the case has none.
        """
        if self.mask is None:
            raise DataError(f"case {self.case} ({self.image}) has no mask", hint="it can be predicted but not scored")
        return self.mask


@dataclass(frozen=True)
class CaseIndex:
    """Cases in a fixed order, with unique names.

    Raises:
        DataError: two cases share a name, or the cases of one subject stand in different splits.
    """

    cases: tuple[Case, ...]

    def __post_init__(self) -> None:
        twice = sorted(name for name, count in Counter(case.case for case in self.cases).items() if count > 1)
        if twice:
            raise DataError(f"the index holds these cases more than once: {', '.join(twice)}")
        splits: dict[str, set[Split | None]] = {}
        for case in self.cases:
            splits.setdefault(case.subject, set()).add(case.split)
        # A subject on both sides of a split would be recognised, not segmented.
        torn = sorted(subject for subject, found in splits.items() if len(found) > 1)
        if torn:
            raise DataError(
                f"the cases of these subjects stand in different splits: {', '.join(torn)}",
                hint="scores would flatter: give all cases of a subject the same split",
            )

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    def in_split(self, split: Split) -> tuple[Case, ...]:
        """The cases of that split that have both a CT and a mask."""
        return tuple(case for case in self.cases if case.split == split and case.image and case.mask)


def write_index(path: Path, index: CaseIndex) -> None:
    """Write one JSON object per line. Paths below the index's folder are stored relative to it, others absolute.

    Raises:
        OutputError: the file cannot be written.
    """
    folder = Path(os.path.abspath(path)).parent  # noqa: PTH100 - the folder as the user sees it, and what it links to
    # Both: a scan may be named through the link that the index is reached by, or past it.
    folders = (folder, folder.resolve())
    write_text(path, "".join(json.dumps(_row(case, folders)) + "\n" for case in index))


def read_index(path: Path) -> CaseIndex:
    """Read what ``write_index`` wrote.

    Raises:
        DataError: the file is missing or empty, or a line is not a case; the line is named.
    """
    lines = numbered_lines(path, max_bytes=_MOST_BYTES, what="the index")
    base = path.resolve().parent
    cases = [_case(line, base, f"{path}, line {number}") for number, line in lines]
    if not cases:
        raise DataError(f"the index {path} holds no case", hint="make one with: verse3d index ROOT -o cases.jsonl")
    return CaseIndex(tuple(cases))


def _row(case: Case, folders: Sequence[Path]) -> dict[str, Any]:
    paths = {name: _stored(getattr(case, name), folders) for name in _PATHS}
    said = {name: getattr(case, name) for name in _OPTIONAL}
    return {
        "case": case.case,
        "subject": case.subject,
        **paths,
        "split": case.split,
        "split_origin": case.split_origin,
        # Fold 0 says something, False says nothing.
        **{name: value for name, value in said.items() if value is not False and value not in ("", None, ())},
    }


def _stored(path: Path | None, folders: Sequence[Path]) -> str | None:
    if path is None:
        return None
    absolute = Path(os.path.abspath(path))  # noqa: PTH100 - keeps links as the user sees them
    for folder in folders:
        if absolute.is_relative_to(folder):
            return absolute.relative_to(folder).as_posix()
    return str(absolute)


def _as_text(value: object) -> object:
    """Who writes an index by hand may call a case 7."""
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_Name = Annotated[Text, BeforeValidator(_as_text)]


class _Line(Record):
    """A line of an index. What is null counts as not given.

    Ids and paths may be anything here: a case that cannot be read with them fails by itself, with its own name.
    """

    case: _Name
    subject: Text | None = None
    image: Text | None = None
    mask: Text | None = None
    centroids: Text | None = None
    split: Split | None = None
    split_origin: Text | None = None
    series: Text | None = None
    part: Text | None = None
    fold: Whole | None = None
    relabel: Many[tuple[Whole, Whole]] = ()
    automatic: bool | None = None
    notes: Many[Text] = ()


def _case(line: str, base: Path, place: str) -> Case:
    row = parsed(line, _Line, place, hint=_LINE_HINT)
    name = row.case
    # Masks are named after the case, so the name must be one of a file. How long one may be depends on the disk.
    if not name or name in (".", "..") or set(name) & _NEVER_IN_A_NAME or not _is_encodable(name):
        raise DataError(f"{place}: {brief(name)} is no name for a case; it must work as a file name")
    if not (row.image or row.mask):
        raise DataError(f"{place}: case {name} has neither an 'image' nor a 'mask'")
    # Below the folder of the index unless absolute. C:/data/x.nii.gz leads nowhere but on Windows; who reads it
    # elsewhere is told of it as it is.
    paths = [
        None if not stored else Path(stored) if PureWindowsPath(stored).is_absolute() else base / stored
        for stored in (row.image, row.mask, row.centroids)
    ]
    return Case(
        name,
        row.subject or name,
        image=paths[0],
        mask=paths[1],
        centroids=paths[2],
        split=row.split,
        split_origin=row.split_origin or "",
        series=row.series or "",
        part=row.part or "",
        fold=row.fold,
        relabel=row.relabel,
        automatic=bool(row.automatic),
        notes=row.notes,
    )


def _is_encodable(name: str) -> bool:
    """Whether the file system has bytes for it: half of a surrogate pair has none."""
    try:
        os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return True
