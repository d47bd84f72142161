"""Files become cases: those that belong together are joined, and every subject gets one split."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from verse3d.core.logs import logger
from verse3d.data.cases import Case, Split
from verse3d.data.converted import origin_of
from verse3d.data.index.file_roles import (
    FoundFile,
    Role,
    bare_stem,
    lies_among_masks,
    lies_in_subset,
    names_its_role_only,
    says_role,
)
from verse3d.data.index.verse_names import parse_verse_name, subject_of
from verse3d.data.index.verse_release import released_series, released_subjects, split_of_folder
from verse3d.data.nnunet_labels import label_corrections

_log = logger(__name__)
_Files = dict[Role, FoundFile]


def group_files(found: Iterable[FoundFile]) -> tuple[Case, ...]:
    """Join the files of each case. Of two scans (or masks) of one case the second is left out with a warning."""
    groups: dict[tuple[str, str], _Files] = {}
    for file in found:
        files = groups.setdefault(file.key, {})
        first = files.setdefault(file.role, file)
        # `setdefault` gave back an earlier file of that role.
        if first.path != file.path and not _is_its_mask(files, file):
            _log.warning("%s is left out: %s is the %s of the same case", file.path, first.path, file.role)
    _adopt_centroids(groups)
    cases = [_case(files) for files in groups.values() if "image" in files or "mask" in files]
    return tuple(one_split_per_subject(cases))


def _is_its_mask(files: _Files, file: FoundFile) -> bool:
    """Of ``images/a_ct.nii.gz`` and ``labels/a_ct.nii.gz`` the second is the mask, although its name says "ct"."""
    if file.role != "image" or "mask" in files:
        return False
    first = files["image"]
    if lies_among_masks(file.path) == lies_among_masks(first.path):
        return False
    files["mask"], files["image"] = (file, first) if lies_among_masks(file.path) else (first, file)
    return True


def _adopt_centroids(groups: dict[tuple[str, str], _Files]) -> None:
    """Centroids whose name differs from the scan's in the orientation alone go to the one scan of that series."""
    for (folder, _), files in list(groups.items()):
        # Centroids alone under a name: those of "..._dir-iso_ctd.json" beside "..._ct.nii.gz".
        verse = parse_verse_name(files["centroids"].name) if files.keys() == {"centroids"} else None
        if verse is None:
            continue
        homes = [
            other
            for (place, _), other in groups.items()
            if place == folder
            and "image" in other
            and "centroids" not in other
            and (named := parse_verse_name(other["image"].name)) is not None
            and named.series == verse.series
        ]
        # With two scans of the series nobody can tell whose they are.
        if len(homes) == 1:
            homes[0]["centroids"] = files["centroids"]


def _case(files: _Files) -> Case:
    main = files["image"] if "image" in files else files["mask"]
    verse, subject = parse_verse_name(main.name), subject_of(main.name)
    released = released_series().get(verse.series) if verse else None
    # The folder says most precisely what somebody meant; the release's list knows its subjects anywhere.
    split = _split_of_folders(main.path) or released_subjects().get(subject)
    case = Case(
        case=main.name.replace("\\", "_"),  # the name of files to come
        subject=subject,
        image=files["image"].path if "image" in files else None,
        mask=files["mask"].path if "mask" in files else None,
        centroids=files["centroids"].path if "centroids" in files else None,
        split=split,
        split_origin="release" if split else "",
        series=verse.series if verse else "",
        part=released.part if released else "",
        relabel=label_corrections(files["mask"].path) if "mask" in files else (),
    )
    return _as_before_conversion(case, main.path)


def _as_before_conversion(case: Case, path: Path) -> Case:
    """Subject, split, fold and who made the mask, as ``verse3d convert`` wrote them down, if the file is its own."""
    origin = origin_of(path)
    if origin is None:
        return case
    return replace(
        case,
        subject=origin.subject or case.subject,
        split=origin.split,
        split_origin=origin.split_origin or case.split_origin,
        fold=origin.fold,
        automatic=origin.automatic,
    )


def one_split_per_subject(cases: Sequence[Case]) -> Iterator[Case]:
    """Where copies of a released subject come from different splits (MICCAI drew anew), the release list decides.

    A case without a split follows the others of its subject.
    """
    known: dict[str, set[Split]] = {}
    for case in cases:
        known.setdefault(case.subject, set()).update({case.split} if case.split else ())
    for case in cases:
        split, released = case.split, released_subjects().get(case.subject)
        # Both names of a subject may come from different drawings; the published one is what papers use.
        if len(known[case.subject]) > 1 and released:
            split = released
        elif case.split is None and len(known[case.subject]) == 1:
            (split,) = known[case.subject]
        if split == case.split:
            yield case
        else:
            note = f"put from {case.split or 'no split'} into {split}, where its subject is"
            yield replace(case, split=split, split_origin="release", notes=(*case.notes, note))


def layout_of(case: Case) -> str:
    """The layout a case was found in, in words."""
    path = case.image_path() if case.image else case.mask_path()
    verse = parse_verse_name(bare_stem(path, mask=case.image is None))
    if lies_in_subset(path):
        return "nnU-Net raw"
    if verse:
        return f"VerSe {verse.style}"
    if names_its_role_only(path):
        return "one folder per case"
    return "folders of images and labels" if says_role(path.parent.name) else "side by side"


def _split_of_folders(path: Path) -> Split | None:
    """What a release folder (or nnU-Net's folder for tests) says; the closest one decides."""
    for part in reversed(path.parts[:-1]):
        if split := split_of_folder(part):
            return split
        if part in ("imagesTs", "labelsTs"):
            return "test"
    return None


def unique_names(cases: Iterable[Case]) -> tuple[Case, ...]:
    """Names that occur twice get their folder in front, then a number."""
    taken: set[str] = set()
    unique = []
    for case in cases:
        name, path, number = case.case, case.image or case.mask, 2
        if name in taken and path is not None:
            name = f"{path.parent.name}-{name}"
        while name in taken:
            name = f"{case.case}-{number}"
            number += 1
        taken.add(name)
        unique.append(replace(case, case=name))
    return tuple(unique)
