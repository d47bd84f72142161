"""From folders as downloaded to an index: unpack, find, merge copies, correct, divide."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from verse3d.core.errors import DataError, OutputError
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.paths import path_below, same_on_disk
from verse3d.data.cases import Case, CaseIndex, Split
from verse3d.data.index.archives import Unpacked, archive_above, find_archives, list_members, unpack
from verse3d.data.index.deduplicate import LeftOut, merge_content, merge_series
from verse3d.data.index.discover import find_cases
from verse3d.data.index.group import layout_of, unique_names
from verse3d.data.index.mask_look import label_range
from verse3d.data.index.overrides import Override, apply_overrides
from verse3d.data.index.probe import Probe, probe
from verse3d.data.index.verse_names import is_gl
from verse3d.data.index.verse_release import PartReport, release_report
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
        automatic: folders whose masks were made by a program.
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
    automatic: tuple[Path, ...] = ()


@dataclass(frozen=True)
class IndexReport:
    """An index and what happened on the way to it.

    Attributes:
        cases: the index.
        layouts: how many cases came in which layout.
        release: the parts of the VerSe release, if any of its scans were found.
        left_out: copies of scans that are in the index under another name.
        damaged: (case, what is wrong) for files that cannot be what they say. They stay in the index.
        look_like_masks: (case, its scan, lowest and highest value) for scans that look like masks.
        packed: how many cases still lie in zips.
        excluded_gl: how many cases ``exclude_gl`` removed; None if it was not asked for.
        excluded: names of the cases that corrections removed.
        unmatched: names in the corrections that no case has.
        unpacked: what became of each zip.
        failures: (zip, reason) for zips that could not be read or unpacked.
    """

    cases: CaseIndex
    layouts: Mapping[str, int]
    release: tuple[PartReport, ...]
    left_out: tuple[LeftOut, ...]
    damaged: tuple[tuple[str, str], ...]
    look_like_masks: tuple[tuple[str, Path, tuple[int, int]], ...]
    packed: int
    excluded_gl: int | None
    excluded: tuple[str, ...]
    unmatched: tuple[str, ...]
    unpacked: tuple[Unpacked, ...]
    failures: tuple[tuple[Path, str], ...]


def build_index(roots: Sequence[Path], options: IndexOptions, progress: Progress = no_progress) -> IndexReport:
    """Find all cases below ``roots``. Reads headers only; memory grows with the number of cases, not with voxels.

    Raises:
        DataError: a root is missing, no case is found, no mask lies below a folder of ``automatic``, or splits, folds
            or corrections make no sense.
        OutputError: a zip cannot be unpacked because the disk is full or not writable.
    """
    # zips -> files -> cases -> one case per series -> one per content -> names -> corrections -> splits and folds
    #
    # What was unpacked is found in its folder, and no second time in its zip.
    unpacked, failures = _unpack_all(roots, options.unpack_to, progress)
    folders = [options.unpack_to] if options.unpack_to and unpacked else []
    found = find_cases([*roots, *folders], without=[done.archive for done in unpacked])
    probes = _probe_all(found, progress)
    # By name first: that costs nothing, and leaves fewer scans to be compared by their voxels.
    one_each, copies = merge_series(found, probes)
    merged, same_content = merge_content(one_each, probes)
    # Masks of a program lie below its folder, or where zips from there were unpacked.
    programs = {
        folder: (folder, *(done.folder for done in unpacked if _is_below(done.archive, [folder])))
        for folder in options.automatic
    }
    named = _marked(unique_names(merged), programs)
    wanted = _without_gl(named) if options.exclude_gl else named
    corrected = apply_overrides(wanted, options.overrides)
    # Again: a correction may have brought other masks.
    index = _divided(CaseIndex(_marked(corrected.cases, programs)), options)
    _require_masks(programs, (*named, *index))
    return IndexReport(
        cases=index,
        layouts=Counter(layout_of(case) for case in index),
        release=release_report(named),
        left_out=(*copies, *same_content),
        damaged=tuple(_damaged(index, probes)),
        look_like_masks=tuple(_look_like_masks(index)),
        packed=sum(_is_packed(case) for case in index),
        excluded_gl=len(named) - len(wanted) if options.exclude_gl else None,
        excluded=corrected.excluded,
        unmatched=corrected.unmatched,
        unpacked=tuple(unpacked),
        failures=tuple(failures),
    )


def _unpack_all(
    roots: Sequence[Path], target: Path | None, progress: Progress
) -> tuple[list[Unpacked], list[tuple[Path, str]]]:
    """Each zip goes into a folder of its own; one that is refused does not stop the others.

    Without a target the zips are only looked into.
    """
    unpacked: list[Unpacked] = []
    failures: list[tuple[Path, str]] = []
    taken: set[str] = set()
    for archive in find_archives(root for root in roots if root.exists()):
        try:
            if target is None:
                list_members(archive)
                continue
            # Two zips of one name get folders of their own: name, name-2, name-3 ...
            name, number = archive.stem, 2
            while same_on_disk(name) in taken:
                name, number = f"{archive.stem}-{number}", number + 1
            taken.add(same_on_disk(name))
            folder = path_below(target, name)  # the stem of "...zip" is ".."
            unpacked.append(unpack(archive, folder, progress))
        # A full disk stops every zip that follows; a damaged zip only itself.
        except OutputError:
            raise
        except DataError as error:
            failures.append((archive, error.message))
    for done in unpacked:
        for member, reason in done.refused:
            _log.error("%s: %s %s: not unpacked", done.archive, member, reason)
    return unpacked, failures


def _probe_all(cases: Sequence[Case], progress: Progress) -> dict[Path, Probe]:
    """What the headers and lengths of all files say; those in zips are left out."""
    probes: dict[Path, Probe] = {}
    for number, case in enumerate(cases):
        progress("headers", number, len(cases))
        for path in (case.image, case.mask):
            if path is not None and archive_above(path) is None:
                probes[path] = probe(path)
    progress("headers", len(cases), len(cases))
    return probes


def _damaged(index: CaseIndex, probes: Mapping[Path, Probe]) -> Iterator[tuple[str, str]]:
    for case in index:
        files = [path for path in (case.image, case.mask) if path]
        for path in files:
            seen = probes.get(path)
            if seen and seen.problem:
                yield case.case, seen.problem


def _look_like_masks(index: CaseIndex) -> Iterator[tuple[str, Path, tuple[int, int]]]:
    """Scans without a mask that are masks themselves by what they hold; a scan with a mask has proved its role."""
    for case in index:
        if case.image is None or case.mask is not None or _is_packed(case):
            continue
        labels = label_range(case.image)
        if labels:
            yield case.case, case.image, labels


def _is_packed(case: Case) -> bool:
    return any(path is not None and archive_above(path) is not None for path in (case.image, case.mask))


def _without_gl(cases: Sequence[Case]) -> tuple[Case, ...]:
    kept = []
    for case in cases:
        files = [path.name for path in (case.image, case.mask) if path is not None]
        names = (case.case, case.subject, case.series, *files)
        if not any(map(is_gl, names)):
            kept.append(case)
    if not kept:
        raise DataError("without the gl subjects no case is left")
    return tuple(kept)


def _marked(cases: Sequence[Case], programs: Mapping[Path, Sequence[Path]]) -> tuple[Case, ...]:
    """The cases; those whose masks lie in one of these places say that a program made them."""
    places = [place for found in programs.values() for place in found]
    return tuple(
        replace(case, automatic=True) if case.mask is not None and _is_below(case.mask, places) else case
        for case in cases
    )


def _require_masks(programs: Mapping[Path, Sequence[Path]], cases: Sequence[Case]) -> None:
    """Of each folder, or else it was mistyped."""
    masks = [case.mask for case in cases if case.mask is not None]
    empty = [str(folder) for folder, places in programs.items() if not any(_is_below(mask, places) for mask in masks)]
    if empty:
        raise DataError(
            f"no mask of the index lies below {', '.join(empty)}", hint="name a folder that is among those searched"
        )


def _is_below(path: Path, folders: Sequence[Path]) -> bool:
    """Whether a path, as the user sees it or with its links followed, is in one of the folders."""
    ways = {Path(os.path.abspath(path)), path.resolve()}  # noqa: PTH100 - abspath keeps links
    places = {Path(os.path.abspath(folder)) for folder in folders} | {folder.resolve() for folder in folders}  # noqa: PTH100
    return any(way.is_relative_to(place) for way in ways for place in places)


def _divided(index: CaseIndex, options: IndexOptions) -> CaseIndex:
    # Before the others are drawn, so that who is put somewhere does not count among them.
    assigned = assign_splits(index, options.assign)
    divided = split_by_subject(
        assigned, seed=options.seed, validation=options.validation, test=options.test, resplit=options.resplit
    )
    # Drawing anew forgets what was assigned, too.
    if options.resplit:
        divided = assign_splits(divided, options.assign)
    return assign_folds(divided, options.folds, seed=options.seed) if options.folds else divided
