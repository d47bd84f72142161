"""What a file is by its name and its folder: a scan, a mask or centroids, and which case it belongs to."""

import re
import unicodedata
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from verse3d.core.logs import logger
from verse3d.core.nifti_header import NIFTI_SUFFIXES, nifti_stem
from verse3d.data.index.verse_names import pairing_name

_log = logger(__name__)
Role = Literal["image", "mask", "centroids"]
_MASK_SUFFIX = re.compile(r"[_-](seg-vert_msk|seg|msk|mask|masks|label|labels|segmentation|vertebrae)$", re.IGNORECASE)
_IMAGE_SUFFIX = re.compile(r"([_-](ct|0000))+$", re.IGNORECASE)
_DOWNLOADED_AGAIN = re.compile(r" ?\(\d+\)$")
_MASK_NAMES = {"label", "labels", "mask", "masks", "msk", "seg", "segmentation", "vertebrae"}
_IMAGE_NAMES = {"ct", "image", "img", "scan", "volume"}
_MASK_FOLDERS = {"labels", "label", "masks", "mask", "msk", "seg", "segmentation", "segmentations", "derivatives"}
_IMAGE_FOLDERS = {"images", "image", "rawdata", "scans", "ct", "cts"}
_SUBSET_FOLDER = re.compile(r"^(images|labels)(tr|ts)$")  # nnU-Net: one name may occur in both subsets
_FURTHER_CHANNEL = re.compile(r"_000[1-9]$")
_CENTROIDS = re.compile(r"(_seg-subreg_ctd|[_-]iso[_-]ctd|_ctd)\.json$", re.IGNORECASE)
_JUNK = re.compile(r"^\.|^__MACOSX$|subreg.*\.nii(\.gz)?$")


@dataclass(frozen=True)
class FoundFile:
    """A file, what it is, what it is called without suffixes, and the key that it shares with its partners."""

    role: Role
    key: tuple[str, str]
    name: str
    path: Path


def is_nifti(name: str) -> bool:
    """Whether a file is NIfTI by its name."""
    return name.lower().endswith(NIFTI_SUFFIXES)


def is_junk(name: str) -> bool:
    """Whether a file or folder is hidden, an AppleDouble, or a mask of parts of vertebrae."""
    return bool(_JUNK.search(name))


def looks_like_mask(name: str) -> bool:
    """Whether a NIfTI file says by its own name that it is a mask."""
    return bool(_MASK_SUFFIX.search(name.removesuffix(".gz").removesuffix(".nii")))


def found_file(path: Path, root: Path) -> FoundFile | None:
    """What a file below ``root`` is; None if it belongs to no case."""
    role = _role(path, root)
    if role is None:
        return None
    name = _bare_name(path, role, root)
    # data/images/a.nii and data/labels/a.nii belong together: parts of a path that only say "image" or "mask" are left
    # out. The root's own name counts too, so that two roots data/images and data/labels find together.
    folder = "/".join([str(root.parent), *_neutral(path.relative_to(root.parent).parts[:-1])])
    key = (folder, unicodedata.normalize("NFC", pairing_name(name)))
    return FoundFile(role, key, name, path)


def lies_among_masks(path: Path) -> bool:
    """Whether the closest folder that says anything says "masks"."""
    return next((role for role in map(_folder_role, reversed(path.parts[:-1])) if role), None) == "mask"


def lies_in_subset(path: Path) -> bool:
    """Whether it lies in a folder of nnU-Net raw data, such as ``imagesTr``."""
    return any(_SUBSET_FOLDER.match(part.lower()) for part in path.parts[:-1])


def names_its_role_only(path: Path) -> bool:
    """Whether the file is called ``ct``, ``labels`` or the like, and its folder names the case."""
    return _stem(path).lower() in _IMAGE_NAMES | _MASK_NAMES


def bare_stem(path: Path, *, mask: bool) -> str:
    """The file's name without its suffixes, e.g. "a" for ``a_ct_seg.nii.gz``."""
    return _IMAGE_SUFFIX.sub("", _MASK_SUFFIX.sub("", _stem(path)) if mask else _stem(path))


def _stem(path: Path) -> str:
    """Without ``.nii.gz``, and without the " (1)" that a browser adds to a second download."""
    return _DOWNLOADED_AGAIN.sub("", nifti_stem(path))


def _role(path: Path, root: Path) -> Role | None:
    if _CENTROIDS.search(path.name):
        return "centroids"
    if not is_nifti(path.name):
        return None
    stem = _stem(path)
    folders = path.relative_to(root.parent).parts[:-1]
    in_subset = [match[1] for folder in folders if (match := _SUBSET_FOLDER.match(folder.lower()))]
    if in_subset:
        return _role_in_subset(path, in_subset[-1])
    if stem.lower() in _MASK_NAMES or _MASK_SUFFIX.search(stem):
        return "mask"
    by_name = stem.lower() in _IMAGE_NAMES or _IMAGE_SUFFIX.search(stem)
    return "image" if by_name else next((role for role in map(_folder_role, reversed(folders)) if role), "image")


def _role_in_subset(path: Path, subset: str) -> Role | None:
    """In nnU-Net's folders there is no doubt, whatever the file is called."""
    if subset == "labels":
        return "mask"
    if _FURTHER_CHANNEL.search(_stem(path)):
        _log.warning("%s is left out: it is a second channel, a CT has one", path)
        return None
    return "image"


def says_role(name: str) -> bool:
    """Whether a folder of that name says what lies in it."""
    return _folder_role(name) is not None


def _folder_role(name: str) -> Role | None:
    bare = _SUBSET_FOLDER.sub(r"\1", name.lower())
    return "mask" if bare in _MASK_FOLDERS else "image" if bare in _IMAGE_FOLDERS else None


def _neutral(folders: Iterable[str]) -> Iterator[str]:
    """The folders without those that only say "image" or "mask"; of ``imagesTr`` and ``labelsTr`` the "tr" stays."""
    for name in folders:
        subset = _SUBSET_FOLDER.match(name.lower())
        if subset:
            yield subset[2]
        elif _folder_role(name) is None:
            yield name


def _bare_name(path: Path, role: Role, root: Path) -> str:
    """The file's name without what says its role; where nothing is left of it, the name of the case's folder."""
    name = _CENTROIDS.sub("", path.name) if role == "centroids" else bare_stem(path, mask=role == "mask")
    if name.strip("._- ") and name.lower() not in _MASK_NAMES | _IMAGE_NAMES:
        return name
    folders = path.relative_to(root.parent).parts[:-1]
    neutral = list(_neutral(folders))
    return neutral[-1] if neutral else root.parent.name


def scan_name(path: Path) -> str:
    """What a scan's file is called without its suffixes: "a" for ``a_ct.nii.gz``, ``a_0000.nii.gz`` or ``a.nii``.

    Raises:
        DataError: the name ends neither with .nii nor with .nii.gz.
    """
    return bare_stem(path, mask=False) or nifti_stem(path)
