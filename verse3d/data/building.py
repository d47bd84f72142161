"""From folders as downloaded to an index: unpack, find, merge copies, correct, divide."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.data.archives import Unpacked, archive_above, find_archives, unpack
from verse3d.data.cases import Case, CaseIndex, Split
from verse3d.data.layouts import discover, layout_of
from verse3d.data.merge import LeftOut, merge_content, merge_series
from verse3d.data.overrides import Override, apply_overrides
from verse3d.data.probe import probe
from verse3d.data.release import PartReport, release_report
from verse3d.data.splits import assign_folds, assign_splits, split_by_subject

_log = logger(__name__)


@dataclass(frozen=True)
class IndexOptions:
    """How an index is made.

    Attributes:
        unpack_to: folder into which zips are unpacked first; None only lists what they hold.
        exclude_gl: leave the 30 "gl" subjects out (their licence is disputed, see docs/data.md).
        overrides: corrections, applied in order.
        assign: subjects or cases that must go to a split.
        resplit: forget the release's splits.
        seed: decides who is drawn into splits and folds.
        validation: share of subjects for choosing the best epoch.
        test: share of undivided subjects kept for testing.
        folds: how many cross-validation folds; 0 makes none.
    """

    unpack_to: Path | None = None
    exclude_gl: bool = False
    overrides: tuple[Override, ...] = ()
    assign: Mapping[str, Split] = field(default_factory=dict)
    resplit: bool = False
    seed: int = 0
    validation: float = 0.2
    test: float = 0.0
    folds: int = 0


@dataclass(frozen=True)
class IndexReport:
    """An index and what happened on the way to it.

    Attributes:
        cases: the index.
        layouts: how many cases came in which layout.
        release: the parts of the VerSe release, if any of its scans were found.
        left_out: copies of scans that are in the index under another name.
        damaged: (case, what is wrong) for files that cannot be what they say. They stay in the index.
        packed: how many cases still lie in zips.
        excluded_gl: how many cases ``exclude_gl`` removed.
        unpacked: what became of each zip.
        failures: (zip, reason) for zips that could not be unpacked.
    """

    cases: CaseIndex
    layouts: Mapping[str, int]
    release: tuple[PartReport, ...]
    left_out: tuple[LeftOut, ...]
    damaged: tuple[tuple[str, str], ...]
    packed: int
    excluded_gl: int
    unpacked: tuple[Unpacked, ...]
    failures: tuple[tuple[Path, str], ...]


def build_index(roots: Sequence[Path], options: IndexOptions, progress: Progress = no_progress) -> IndexReport:
    """Find all cases below ``roots``. Reads headers only; memory grows with the number of cases, not with voxels.

    Raises:
        DataError: a root is missing, no case is found, or splits, folds or corrections make no sense.
        OutputError: a zip cannot be unpacked because the disk is full or not writable.
    """
    unpacked, failures = _unpack_all(roots, options.unpack_to, progress)
    found = discover([*roots, *_unpack_folder(options, unpacked)], without=[done.archive for done in unpacked])
    named, copies = merge_series(found)
    geometry_of, damaged = _probe_all(named, progress)
    merged, same_content = merge_content(named, geometry_of)
    wanted = _without_gl(merged) if options.exclude_gl else merged
    index = _divided(apply_overrides(wanted, options.overrides), options)
    return IndexReport(
        cases=index,
        layouts=Counter(layout_of(case) for case in index),
        release=release_report(merged),
        left_out=(*copies, *same_content),
        damaged=tuple(damaged),
        packed=sum(_is_packed(case) for case in index),
        excluded_gl=len(merged) - len(wanted),
        unpacked=tuple(unpacked),
        failures=tuple(failures),
    )


def _unpack_folder(options: IndexOptions, unpacked: Sequence[Unpacked]) -> list[Path]:
    return [options.unpack_to] if options.unpack_to and unpacked else []


def _unpack_all(
    roots: Sequence[Path], target: Path | None, progress: Progress
) -> tuple[list[Unpacked], list[tuple[Path, str]]]:
    """Each zip goes into a folder of its own name; one that is refused does not stop the others."""
    unpacked: list[Unpacked] = []
    failures: list[tuple[Path, str]] = []
    for archive in find_archives(roots) if target else ():
        folder = (target or Path()) / archive.stem
        try:
            result = unpack(archive, folder, progress)
        except DataError as error:
            _log.error("%s", error)
            failures.append((archive, error.message))
            continue
        unpacked.append(result)
        for member, reason in result.refused:
            _log.error("%s: %s %s: not unpacked", archive, member, reason)
    return unpacked, failures


def _probe_all(index: CaseIndex, progress: Progress) -> tuple[dict[str, Geometry], list[tuple[str, str]]]:
    """The grids of the scans by case, and what is wrong with files, from headers and lengths alone."""
    geometry_of: dict[str, Geometry] = {}
    damaged = []
    for number, case in enumerate(index):
        progress("headers", number, len(index))
        for path in (case.image, case.mask):
            if path is None or archive_above(path):
                continue
            seen = probe(path)
            if seen.problem:
                damaged.append((case.case, seen.problem))
            elif path is case.image and seen.geometry:
                geometry_of[case.case] = seen.geometry
    progress("headers", len(index), len(index))
    return geometry_of, damaged


def _is_packed(case: Case) -> bool:
    return any(path is not None and archive_above(path) is not None for path in (case.image, case.mask))


def _without_gl(index: CaseIndex) -> CaseIndex:
    kept = tuple(case for case in index if not case.subject.startswith("sub-gl"))
    if not kept:
        raise DataError("without the gl subjects no case is left")
    return CaseIndex(kept)


def _divided(index: CaseIndex, options: IndexOptions) -> CaseIndex:
    assigned = assign_splits(index, options.assign)
    divided = split_by_subject(
        assigned, seed=options.seed, validation=options.validation, test=options.test, resplit=options.resplit
    )
    if options.resplit:
        divided = assign_splits(divided, options.assign)
    return assign_folds(divided, options.folds, seed=options.seed) if options.folds else divided
