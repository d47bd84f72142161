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
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.filekinds import kind_of
from verse3d.core.logs import logger
from verse3d.data.cases import Case, CaseIndex, read_index
from verse3d.data.index.archives import is_archive, list_members
from verse3d.data.index.file_roles import FoundFile, found_file, is_junk, is_nifti, looks_like_mask
from verse3d.data.index.group import group_files, unique_names
from verse3d.data.index.other_files import dicom_beside, no_scan_found
from verse3d.data.predictions import is_predictions_file, read_predictions

_log = logger(__name__)


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
    """Whether ``load_cases`` takes it for an index: a file that is neither a scan (of whatever kind) nor a zip."""
    if not source.is_file() or is_nifti(source.name) or is_archive(source):
        return False
    kind = kind_of(source)
    return kind.is_text or not kind.hint  # who damaged an index wants to hear that it is damaged


def discover(roots: Sequence[Path]) -> CaseIndex:
    """Find all cases below the given folders (zips, single NIfTI files), in a stable order, each file once.

    Of two scans (or masks) that would belong to the same case, the second is left out with a warning.

    Raises:
        DataError: a root does not exist, there is no NIfTI file below any of them, or the files of one subject lie in
            folders of different splits.
    """
    return CaseIndex(unique_names(find_cases(roots)))


def find_cases(roots: Sequence[Path], *, without: Iterable[Path] = ()) -> tuple[Case, ...]:
    """The cases of ``discover`` as they are: several may share a name, and a subject may stand in several splits.

    Raises:
        DataError: a root does not exist, or there is no NIfTI file below any of them.
    """
    found: dict[Path, FoundFile] = {}
    # Real paths, because links may lead to one folder under two names, or in circles.
    visited = {os.path.realpath(path) for path in without}
    for root in roots:
        if not root.exists():
            raise DataError(f"{root} does not exist")
        for file in _files(Path(os.path.abspath(root)), visited):  # noqa: PTH100 - keep links as the user sees them
            found.setdefault(file.path, file)
    if not any(file.role != "centroids" for file in found.values()):
        raise no_scan_found(roots)
    for folder, files in dicom_beside(roots):
        _log.warning("%s also holds %s: DICOM is not read, convert it to NIfTI first", folder, files)
    return group_files(found.values())


def _files(root: Path, visited: set[str]) -> Iterator[FoundFile]:
    """What lies below an absolute root; folders and zips in ``visited`` are left out (links may lead in circles)."""
    if root.is_file():
        yield from _found_in_file(root, root, visited)
        return
    for folder, subfolders, names in os.walk(root, onerror=_tell, followlinks=True):
        real = os.path.realpath(folder)
        if real in visited:
            subfolders.clear()
            continue
        visited.add(real)
        # In place: `os.walk` goes where this list leads.
        subfolders[:] = sorted(name for name in subfolders if not is_junk(name))
        # Masks that verse3d made lie beside their list; only then is it read.
        has_list = any(is_predictions_file(name) for name in names)
        predicted = _predicted_masks(Path(folder), names) if has_list else frozenset()
        for name in sorted(names):
            path = Path(folder) / name
            if is_junk(name) or name in predicted:
                continue
            yield from _found_in_file(path, root, visited)


def _tell(error: OSError) -> None:
    _log.warning("%s is left out: %s", error.filename, error.strerror)


def _found_in_file(path: Path, root: Path, visited: set[str]) -> Iterator[FoundFile]:
    if not is_archive(path):
        yield from _found(path, root)
        return
    real = os.path.realpath(path)
    if real not in visited:  # a link may lead to a zip that was read already
        visited.add(real)
        yield from _packed(path, root)


def _packed(archive: Path, root: Path) -> Iterator[FoundFile]:
    """What lies in a zip, under paths that lead through it. A zip that cannot be read is left out with a warning."""
    try:
        members = [member.path for member in list_members(archive)]
    except DataError as error:
        _log.warning("%s", error)
        return
    for member in members:
        if not any(is_junk(part) for part in member.parts):
            yield from _found(archive / member, root)


def _found(path: Path, root: Path) -> Iterator[FoundFile]:
    if file := found_file(path, root):
        yield file


def _predicted_masks(folder: Path, names: Sequence[str]) -> frozenset[str]:
    """The names of masks that were predicted: taken for the truth they would score themselves."""
    try:
        records = read_predictions(folder).records.values()
        made = (record for record in records if record["status"] == "written" or record.get("mask_of"))
        return frozenset(str(record["mask"]) for record in made)
    except (DataError, KeyError, TypeError):  # a damaged list: any mask may have been predicted
        return frozenset(name for name in names if looks_like_mask(name))
