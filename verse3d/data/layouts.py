"""Finding scans and masks in folders as people keep them.

One rule covers the layouts: a NIfTI file is an image or a mask by its name or by the folder it lies in, and the two
belong together if the rest of their path is the same.

===========================  ==================================================================================
VerSe, subject-based         ``rawdata/sub-X/sub-X_ct.nii.gz`` + ``derivatives/sub-X/sub-X_seg-vert_msk.nii.gz``
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
from verse3d.core.runtime import logger
from verse3d.core.volume import NIFTI_SUFFIXES, nifti_stem
from verse3d.data.cases import Case, CaseIndex, Split, read_index

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
_CENTROIDS = re.compile(r"_seg-subreg_ctd\.json$|_ctd\.json$")
_JUNK = re.compile(r"^\.|^__MACOSX$|subreg.*\.nii(\.gz)?$")
_BIDS_SUBJECT = re.compile(r"^(sub-[A-Za-z0-9]+)(?:_|$)")
_RELEASE_FOLDERS: tuple[tuple[re.Pattern[str], Split], ...] = (
    (re.compile(r"^dataset-(verse)?\d+training$", re.IGNORECASE), "train"),
    (re.compile(r"^dataset-(verse)?\d+validation$", re.IGNORECASE), "validation"),
    (re.compile(r"^dataset-(verse)?\d+test$", re.IGNORECASE), "test"),
)


@dataclass(frozen=True)
class _Found:
    """A file, what it is, and the key that it shares with its partners."""

    role: _Role
    key: tuple[str, str]
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
    """Whether ``load_cases`` takes it for an index: any file that is no scan."""
    return source.is_file() and not _is_nifti(source.name)


def discover(roots: Sequence[Path]) -> CaseIndex:
    """Find all cases below the given folders (or single NIfTI files), in a stable order, each file once.

    Of two scans (or masks) that would belong to the same case, the second is left out with a warning.

    Raises:
        DataError: a root does not exist, or there is no NIfTI file below any of them.
    """
    found: dict[Path, _Found] = {}
    visited: set[str] = set()
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
    return CaseIndex(tuple(_unique(_group(found.values()))))


def _files(root: Path, visited: set[str]) -> Iterator[_Found]:
    """What lies below an absolute root; folders in ``visited`` are left out (links may lead in circles)."""
    if root.is_file():
        yield from _found(root, root.parent)
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
            if not _JUNK.search(name) and name not in predicted:
                yield from _found(Path(folder) / name, root)


def _found(path: Path, root: Path) -> Iterator[_Found]:
    if role := _role(path, root):
        yield _Found(role, _key(path, root, role), path)


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


def _key(path: Path, root: Path, role: _Role) -> tuple[str, str]:
    """(the folders with those that only say "image" or "mask" left out, the bare name)."""
    if role == "centroids":
        name = _CENTROIDS.sub("", path.name)
    elif role == "mask":
        name = _MASK_SUFFIX.sub("", nifti_stem(path))
    else:
        name = scan_name(path)
    # The root's own name counts too, so that the two roots data/images and data/labels find together.
    neutral = list(_neutral(path.relative_to(root.parent).parts[:-1]))
    if name.lower() in _MASK_NAMES | _IMAGE_NAMES:
        name = neutral[-1] if neutral else root.parent.name
    return "/".join([str(root.parent), *neutral]), name


def scan_name(path: Path) -> str:
    """What a scan's file is called without its suffixes: "a" for ``a_ct.nii.gz``, ``a_0000.nii.gz`` or ``a.nii``.

    Raises:
        DataError: the name ends neither with .nii nor with .nii.gz.
    """
    return _IMAGE_SUFFIX.sub("", nifti_stem(path))


def _group(found: Iterable[_Found]) -> Iterator[Case]:
    groups: dict[tuple[str, str], dict[_Role, Path]] = {}
    for file in found:
        first = groups.setdefault(file.key, {}).setdefault(file.role, file.path)
        if first != file.path:
            _log.warning("%s is left out: %s is the %s of the same case", file.path, first, file.role)
    for (_, name), files in groups.items():
        main = files.get("image") or files.get("mask")
        if main is None:  # centroids alone
            continue
        match = _BIDS_SUBJECT.match(name)
        split = _release_split(main)
        yield Case(
            case=name,
            subject=match[1] if match else name,
            image=files.get("image"),
            mask=files.get("mask"),
            centroids=files.get("centroids"),
            split=split,
            split_origin="release" if split else "",
        )


def _release_split(path: Path) -> Split | None:
    for part in reversed(path.parts[:-1]):
        for pattern, split in _RELEASE_FOLDERS:
            if pattern.match(part):
                return split
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
