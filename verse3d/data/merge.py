"""The same scan found twice is one case: copies are known by their series, else by their content.

VerSe'20 as given out at MICCAI holds VerSe'19 once more, under other names and partly turned or resampled. Of several
copies one is kept: rather complete than without mask, rather unpacked than in a zip, rather in the subject-based
release (the grid of the scanner) than in MICCAI's, else the first one. What was left out, and why, stands in ``notes``.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from nibabel.openers import ImageOpener
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.volume import READ_ERRORS, read_geometry
from verse3d.data.archives import archive_above
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.naming import parse_verse_name

_SPACING_DECIMALS = 3
_HU_OFFSET, _HU_BINS = 2**15, 2**16


@dataclass(frozen=True)
class LeftOut:
    """A copy that did not become a case of its own: where it lies, which case was kept instead, and why."""

    case: str
    path: Path
    kept: str
    reason: str


def merge_series(index: CaseIndex) -> tuple[CaseIndex, tuple[LeftOut, ...]]:
    """Keep one case per VerSe series. No file is read."""
    return _merged(index, lambda case: (case.series or None, f"same series {case.series}"))


def merge_content(index: CaseIndex, geometry_of: Mapping[str, Geometry]) -> tuple[CaseIndex, tuple[LeftOut, ...]]:
    """Keep one of several scans with the same grey values, turned or not. Two scans of the release are never merged.

    Only scans whose shape and spacing (in any order of the axes) occur more than once are read, plane by plane.

    Args:
        index: the cases.
        geometry_of: the scans' grids by case; cases that are missing here are not compared.
    """
    sizes: dict[object, list[Case]] = {}
    for case in index:
        if case.case in geometry_of:
            sizes.setdefault(_size_key(geometry_of[case.case]), []).append(case)
    candidates = [group for group in sizes.values() if len(group) > 1 and not all(case.part for case in group)]
    digests = {case.case: content_digest(case) for group in candidates for case in group}
    released: dict[str, str] = {}
    for case in index:
        if case.part:
            released.setdefault(digests.get(case.case, ""), case.series)

    def identity(case: Case) -> tuple[str | None, str]:
        digest = digests.get(case.case, "")
        series = case.series if case.part else released.get(digest, "")
        return f"{digest} {series}" if digest else None, "same grey values"

    return _merged(index, identity)


def _size_key(geometry: Geometry) -> tuple[tuple[int, float], ...]:
    spacing = (round(size, _SPACING_DECIMALS) for size in geometry.spacing_mm)
    return tuple(sorted(zip(geometry.shape, spacing, strict=True)))


def content_digest(case: Case) -> str:
    """Identifies the grey values of a scan, however it is turned, stored or compressed; "" if it cannot be read.

    A histogram of the values rounded to whole HU, with the sizes of the axes: memory does not grow with the volume.
    """
    try:
        geometry, _ = read_geometry(case.image_path())
        counts = np.zeros(_HU_BINS, dtype=np.int64)
        for plane in _planes(case.image_path()):
            hu = np.clip(np.rint(plane) + _HU_OFFSET, 0, _HU_BINS - 1).astype(np.int64)
            counts += np.bincount(hu.ravel(), minlength=_HU_BINS)
    except (DataError, *READ_ERRORS):
        return ""
    if np.count_nonzero(counts) < 2:  # an empty volume identifies nobody
        return ""
    return hashlib.blake2b(repr(_size_key(geometry)).encode() + counts.tobytes(), digest_size=16).hexdigest()


def _planes(path: Path) -> Iterator[NDArray[Any]]:
    """The volume plane by plane in the order of the file."""
    image = nib.load(path)
    stored = image.dataobj
    with ImageOpener(path) as handle:
        voxels = ArrayProxy(handle, (stored.shape, stored.dtype, stored.offset, stored.slope, stored.inter))
        for number in range(voxels.shape[-1]):
            yield np.asarray(voxels[..., number])


def _merged(
    index: CaseIndex, identity: Callable[[Case], tuple[str | None, str]]
) -> tuple[CaseIndex, tuple[LeftOut, ...]]:
    """Keep the best case of each identity; cases without one are kept."""
    copies: dict[str, list[Case]] = {}
    for case in index:
        copies.setdefault(identity(case)[0] or f"case {case.case}", []).append(case)
    kept, left_out = [], []
    for group in copies.values():
        best, *others = sorted(group, key=_rank)
        gone = [LeftOut(other.case, _path(other), best.case, identity(best)[1]) for other in others]
        notes = tuple(f"kept instead of {copy.path}: {copy.reason}" for copy in gone)
        kept.append(replace(best, notes=(*best.notes, *notes)))
        left_out += gone
    return CaseIndex(tuple(kept)), tuple(left_out)


def _path(case: Case) -> Path:
    return case.image if case.image is not None else case.mask_path()


def _rank(case: Case) -> tuple[bool, bool, bool, bool]:
    """Smaller is better; of equals the first one found comes first."""
    verse = parse_verse_name(case.case)
    return (
        case.image is None,
        case.mask is None,
        archive_above(_path(case)) is not None,
        verse is None or verse.style != "subject-based",
    )
