"""Finding scans and masks in folders as people keep them.

One rule covers the layouts: a NIfTI file is an image or a mask by its name or by the folder it lies in, and the two
belong together if the rest of their path is the same. What lies in a zip is found as if the zip were a folder.

===========================  ==================================================================================
VerSe, subject-based         ``rawdata/sub-X/sub-X_ct.nii.gz`` + ``derivatives/sub-X/sub-X_seg-vert_msk.nii.gz``
VerSe, MICCAI                ``verse401_verse201_CT-iso.nii.gz`` + ``verse401_verse201_CT-iso_seg.nii.gz``
nnU-Net, raw                 ``imagesTr/NAME_0000.nii.gz`` + ``labelsTr/NAME.nii.gz`` (+ ``imagesTs``, ``labelsTs``)
Flat image/label folders     ``images/NAME.nii.gz`` + ``labels/NAME.nii.gz``
One folder per case          ``NAME/ct.nii.gz`` + ``NAME/labels.nii.gz``
Side by side                 ``NAME.nii.gz`` + ``NAME_seg.nii.gz``
Scans alone                  ``NAME.nii.gz``
===========================  ==================================================================================
"""

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from verse3d.core.errors import DataError
from verse3d.core.files import read_json
from verse3d.core.logs import logger
from verse3d.core.volume import NIFTI_SUFFIXES, nifti_stem
from verse3d.data.archives import is_archive, list_members
from verse3d.data.cases import Case, CaseIndex, Split, read_index
from verse3d.data.naming import pairing_name, parse_verse_name, subject_of
from verse3d.data.nnunet import label_corrections
from verse3d.data.release import released_series, split_of_folder

PREDICTIONS_FILE = "predictions.json"
"""Lists the predicted masks in a folder."""

_log = logger(__name__)
_Role = Literal["image", "mask", "centroids"]
_MASK_SUFFIX = re.compile(r"[_-](seg-vert_msk|seg|msk|mask|masks|label|labels|segmentation|vertebrae)$", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"[_-](ct|0000)$", re.IGNORECASE)
_MASK_NAMES = {"label", "labels", "mask", "masks", "msk", "seg", "segmentation", "vertebrae"}
_IMAGE_NAMES = {"ct", "image", "img", "scan", "volume"}
_MASK_FOLDERS = {"labels", "label", "masks", "mask", "msk", "seg", "segmentation", "segmentations", "derivatives"}
_IMAGE_FOLDERS = {"images", "image", "rawdata", "scans", "ct", "cts"}
_SUBSET_FOLDER = re.compile(r"^(images|labels)(tr|ts)$")  # nnU-Net: one name may occur in both subsets
_FURTHER_CHANNEL = re.compile(r"_000[1-9]$")
_CENTROIDS = re.compile(r"(_seg-subreg_ctd|[_-]iso[_-]ctd|_ctd)\.json$", re.IGNORECASE)
_JUNK = re.compile(r"^\.|^__MACOSX$|subreg.*\.nii(\.gz)?$")


@dataclass(frozen=True)
class _Found:
    """A file, what it is, what it is called without suffixes, and the key that it shares with its partners."""

    role: _Role
    key: tuple[str, str]
    name: str
    path: Path


def load_cases(source: Path | Sequence[Path]) -> CaseIndex:
    """An index file, or everything found below one or several folders (or single NIfTI files).

    Raises:
        DataError: nothing is there, or no case is found.
    """
    sources = [source] if isinstance(source, Path) else list(source)
    if len(sources) == 1 and is_index(sources[0]):
        return read_index(sources[0])
    return discover(sources)


def is_index(source: Path) -> bool:
    """Whether ``load_cases`` takes it for an index: any file that is neither a scan nor a zip."""
    return source.is_file() and not (_is_nifti(source.name) or is_archive(source))


def discover(roots: Sequence[Path], *, without: Iterable[Path] = ()) -> CaseIndex:
    """Find all cases below the given folders (zips, single NIfTI files), in a stable order, each file once.

    Of two scans (or masks) that would belong to the same case, the second is left out with a warning. ``without`` names
    folders and zips that are not looked into.

    Raises:
        DataError: a root does not exist, or there is no NIfTI file below any of them.
    """
    found: dict[Path, _Found] = {}
    visited = {os.path.realpath(path) for path in without}
    for root in roots:
        if not root.exists():
            raise DataError(f"{root} does not exist")
        for file in _files(Path(os.path.abspath(root)), visited):  # noqa: PTH100 - keep links as the user sees them
            found.setdefault(file.path, file)
    if not any(file.role != "centroids" for file in found.values()):
        raise DataError(
            f"no NIfTI scan (.nii or .nii.gz) was found in {', '.join(str(root) for root in roots)}",
            hint="point at the folder that holds the unpacked data set",
        )
    return CaseIndex(tuple(_unique(_one_split_per_subject(list(_group(found.values()))))))


def _files(root: Path, visited: set[str]) -> Iterator[_Found]:
    """What lies below an absolute root; folders and zips in ``visited`` are left out (links may lead in circles)."""
    if root.is_file():
        yield from _found_in_file(root, root, visited)
        return
    for folder, subfolders, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        subfolders[:] = sorted(name for name in subfolders if not _JUNK.search(name))
        predicted = _predicted_masks(Path(folder), names) if PREDICTIONS_FILE in names else frozenset()
        for name in sorted(names):
            path = Path(folder) / name
            if _JUNK.search(name) or name in predicted:
                continue
            yield from _found_in_file(path, root, visited)


def _found_in_file(path: Path, root: Path, visited: set[str]) -> Iterator[_Found]:
    if not is_archive(path):
        yield from _found(path, root)
    elif (real := os.path.realpath(path)) not in visited:
        visited.add(real)
        yield from _packed(path, root)


def _packed(archive: Path, root: Path) -> Iterator[_Found]:
    """What lies in a zip, under paths that lead through it. A zip that cannot be read is left out with a warning."""
    try:
        members = [member.path for member in list_members(archive)]
    except DataError as error:
        _log.warning("%s", error)
        return
    for member in members:
        if not any(_JUNK.search(part) for part in member.parts):
            yield from _found(archive / member, root)


def _found(path: Path, root: Path) -> Iterator[_Found]:
    if role := _role(path, root):
        name = _bare_name(path, role, root)
        yield _Found(role, (_neutral_folder(path, root), pairing_name(name)), name, path)


def _predicted_masks(folder: Path, names: Sequence[str]) -> frozenset[str]:
    """The names of masks that were predicted: taken for the truth they would score themselves."""
    try:
        records = read_json(folder / PREDICTIONS_FILE)["cases"]
        return frozenset(str(record["mask"]) for record in records if record["status"] == "written")
    except (DataError, KeyError, TypeError):  # a damaged list: any mask may have been predicted
        return frozenset(name for name in names if _MASK_SUFFIX.search(name.removesuffix(".gz").removesuffix(".nii")))


def _is_nifti(name: str) -> bool:
    return name.lower().endswith(NIFTI_SUFFIXES)


def _role(path: Path, root: Path) -> _Role | None:
    if _CENTROIDS.search(path.name):
        return "centroids"
    if not _is_nifti(path.name):
        return None
    stem = nifti_stem(path)
    if stem.lower() in _MASK_NAMES or _MASK_SUFFIX.search(stem):
        return "mask"
    if stem.lower() in _IMAGE_NAMES or _IMAGE_SUFFIX.search(stem):
        return "image"
    folders = path.relative_to(root.parent).parts[:-1]
    if _FURTHER_CHANNEL.search(stem) and any(_SUBSET_FOLDER.match(folder.lower()) for folder in folders):
        _log.warning("%s is left out: it is a second channel, a CT has one", path)
        return None
    return next((role for role in map(_folder_role, reversed(folders)) if role), "image")


def _folder_role(name: str) -> _Role | None:
    bare = _SUBSET_FOLDER.sub(r"\1", name.lower())
    return "mask" if bare in _MASK_FOLDERS else "image" if bare in _IMAGE_FOLDERS else None


def _neutral(folders: Iterable[str]) -> Iterator[str]:
    """The folders without those that only say "image" or "mask"; of ``imagesTr`` and ``labelsTr`` the "tr" stays."""
    for name in folders:
        if subset := _SUBSET_FOLDER.match(name.lower()):
            yield subset[2]
        elif _folder_role(name) is None:
            yield name


def _bare_name(path: Path, role: _Role, root: Path) -> str:
    """The file's name without what says its role; where nothing is left of it, the name of the case's folder."""
    if role == "centroids":
        name = _CENTROIDS.sub("", path.name)
    elif role == "mask":
        name = _MASK_SUFFIX.sub("", nifti_stem(path))
    else:
        name = scan_name(path)
    if name.lower() in _MASK_NAMES | _IMAGE_NAMES:
        neutral = list(_neutral(path.relative_to(root.parent).parts[:-1]))
        return neutral[-1] if neutral else root.parent.name
    return name


def _neutral_folder(path: Path, root: Path) -> str:
    """The folder without the parts that only say "image" or "mask"."""
    # The root's own name counts too, so that the two roots data/images and data/labels find together.
    return "/".join([str(root.parent), *_neutral(path.relative_to(root.parent).parts[:-1])])


def scan_name(path: Path) -> str:
    """What a scan's file is called without its suffixes: "a" for ``a_ct.nii.gz``, ``a_0000.nii.gz`` or ``a.nii``.

    Raises:
        DataError: the name ends neither with .nii nor with .nii.gz.
    """
    return _IMAGE_SUFFIX.sub("", nifti_stem(path))


_Files = dict[_Role, _Found]


def _group(found: Iterable[_Found]) -> Iterator[Case]:
    groups: dict[tuple[str, str], _Files] = {}
    for file in found:
        first = groups.setdefault(file.key, {}).setdefault(file.role, file)
        if first.path != file.path:
            _log.warning("%s is left out: %s is the %s of the same case", file.path, first.path, file.role)
    _adopt_centroids(groups)
    for files in groups.values():
        if "image" in files or "mask" in files:
            yield _case(files)


def _adopt_centroids(groups: dict[tuple[str, str], _Files]) -> None:
    """Centroids whose name differs from the scan's in the orientation alone go to the one scan of that series."""
    for (folder, _), files in list(groups.items()):
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
        if len(homes) == 1:
            homes[0]["centroids"] = files["centroids"]


def _case(files: _Files) -> Case:
    main = files["image"] if "image" in files else files["mask"]
    verse = parse_verse_name(main.name)
    released = released_series().get(verse.series) if verse else None
    split = _split_of_folders(main.path)
    if split is None and released:
        split = released.split
    return Case(
        case=main.name,
        subject=subject_of(main.name),
        image=files["image"].path if "image" in files else None,
        mask=files["mask"].path if "mask" in files else None,
        centroids=files["centroids"].path if "centroids" in files else None,
        split=split,
        split_origin="release" if split else "",
        series=verse.series if verse else "",
        part=released.part if released else "",
        relabel=label_corrections(files["mask"].path) if "mask" in files else (),
    )


def _one_split_per_subject(cases: Sequence[Case]) -> Iterator[Case]:
    """Where copies of a released subject come from different splits (MICCAI drew anew), the release list decides.

    A case without a split follows the others of its subject.
    """
    known: dict[str, set[Split]] = {}
    for case in cases:
        known.setdefault(case.subject, set()).update({case.split} if case.split else ())
    for case in cases:
        split, released = case.split, released_series().get(case.series)
        if len(known[case.subject]) > 1 and released:
            split = released.split
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
    verse = parse_verse_name(scan_name(path) if case.image else _MASK_SUFFIX.sub("", nifti_stem(path)))
    if verse:
        return f"VerSe {verse.style}"
    if any(_SUBSET_FOLDER.match(part.lower()) for part in path.parts):
        return "nnU-Net raw"
    if nifti_stem(path).lower() in _IMAGE_NAMES | _MASK_NAMES:
        return "one folder per case"
    return "folders of images and labels" if _folder_role(path.parent.name) else "side by side"


def _split_of_folders(path: Path) -> Split | None:
    """What a release folder (or nnU-Net's folder for tests) says; the closest one decides."""
    for part in reversed(path.parts[:-1]):
        if split := split_of_folder(part):
            return split
        if part in ("imagesTs", "labelsTs"):
            return "test"
    return None


def _unique(cases: Iterable[Case]) -> Iterator[Case]:
    """Names that occur twice get their folder in front, then a number."""
    taken: set[str] = set()
    for case in cases:
        name, path = case.case, case.image or case.mask
        if name in taken and path is not None:
            name = f"{path.parent.name}-{name}"
        number = 2
        while name in taken:
            name = f"{case.case}-{number}"
            number += 1
        taken.add(name)
        yield replace(case, case=name)
