"""The same scan found twice is one case: copies are known by their series, else by their content.

VerSe'20 as given out at MICCAI holds VerSe'19 once more, under other names and partly turned or resampled. Of several
copies one is kept: rather whole than damaged, rather complete than without mask, rather unpacked than in a zip, rather
an original than an nnU-Net copy, rather in the subject-based release (the grid of the scanner) than in MICCAI's, else
the first one. It keeps the subject, the series and the split of the release, whichever copy they come from. What was
left out, and why, stands in ``notes``.
"""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.nifti_bytes import READ_ERRORS, voxel_chunks
from verse3d.core.volume import read_geometry
from verse3d.data.cases import Case
from verse3d.data.index.archives import archive_above
from verse3d.data.index.file_roles import bare_stem, lies_in_subset
from verse3d.data.index.group import one_split_per_subject
from verse3d.data.index.probe import Probe
from verse3d.data.index.verse_names import parse_verse_name

_SPACING_DECIMALS = 3
_HU_OFFSET, _HU_BINS = 2**15, 2**16


@dataclass(frozen=True)
class LeftOut:
    """A copy that did not become a case of its own: where it lies, which case was kept instead, and why."""

    case: str
    path: Path
    kept: str
    reason: str


Cases = tuple[Case, ...]
Probes = Mapping[Path, Probe]
"""What the headers of the files say, by path; files in zips are missing."""
_Identity = Callable[[Case], tuple[str | None, str]]
"""Case -> (what it shares with its copies, or None; why they are copies)."""


def merge_series(cases: Sequence[Case], probes: Probes) -> tuple[Cases, tuple[LeftOut, ...]]:
    """Keep one case per VerSe series. A mask or centroids that lie elsewhere without a scan are joined to it."""
    return _merged(cases, probes, lambda case: (case.series or None, f"same series {case.series}"))


def merge_content(cases: Sequence[Case], probes: Probes) -> tuple[Cases, tuple[LeftOut, ...]]:
    """Keep one of several scans with the same grey values, turned or not. Two scans of the release are never merged.

    Only scans whose shape and spacing (in any order of the axes) occur more than once are read, chunk by chunk. Who has
    a scan in common is one subject.
    """
    sizes: dict[object, list[Case]] = {}
    for case in cases:
        seen = probes.get(case.image) if case.image else None
        if seen and seen.geometry and not seen.problem:
            sizes.setdefault(_size_key(seen.geometry), []).append(case)
    # The release holds no scan twice by itself, so where all come from it there is nothing to read.
    candidates = [group for group in sizes.values() if len(group) > 1 and not all(case.part for case in group)]
    # Reading voxels takes minutes for a data set, so headers have to agree first.
    digests = {case.image_path(): content_digest(case) for group in candidates for case in group}
    released: dict[str, str] = {}
    for case in cases:
        if case.part and case.image:
            released.setdefault(digests.get(case.image, ""), case.series)

    def identity(case: Case) -> tuple[str | None, str]:
        digest = digests.get(case.image, "") if case.image else ""
        # The series keeps two scans of the release apart even if their voxels are the same.
        series = case.series if case.part else released.get(digest, "")
        return f"{digest} {series}" if digest else None, "same grey values"

    return _merged(cases, probes, identity)


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
        for _, values in voxel_chunks(case.image_path(), nib.load(case.image_path()).dataobj):
            if not np.all(np.isfinite(values)):
                return ""
            # Counted, not hashed in order: a turned copy holds the same values in another one.
            hu = np.clip(np.rint(values.astype(np.float64)) + _HU_OFFSET, 0, _HU_BINS - 1).astype(np.int64)
            counts += np.bincount(hu, minlength=_HU_BINS)
    except (DataError, *READ_ERRORS):
        return ""
    if np.count_nonzero(counts) < 2:  # an empty volume identifies nobody
        return ""
    return hashlib.blake2b(repr(_size_key(geometry)).encode() + counts.tobytes(), digest_size=16).hexdigest()


def _merged(cases: Sequence[Case], probes: Probes, identity: _Identity) -> tuple[Cases, tuple[LeftOut, ...]]:
    """Keep the best case of each identity; cases without one are kept."""
    # identity      copies of one scan                          kept
    # "verse004"    rawdata/.../sub-verse004_ct.nii.gz    ->    the best by `_rank`, under the name, subject and split
    #               verse004_CT-iso.nii.gz                      that the release gives it
    # (its path)    other.nii.gz                          ->    other.nii.gz
    copies: dict[object, list[Case]] = {}
    for case in cases:
        copies.setdefault(identity(case)[0] or _path(case), []).append(case)
    kept, left_out = [], []
    same_person: dict[str, str] = {}
    for group in copies.values():
        best, *others = sorted(group, key=lambda case: _rank(case, probes))
        joined, gone = _joined(best, others), [other for other in others if not _is_part_of(other, best)]
        same_person |= {other.subject: joined.subject for other in group if other.subject != joined.subject}
        out = [LeftOut(other.case, _path(other), joined.case, identity(best)[1]) for other in gone]
        notes = tuple(f"kept instead of {copy.path}: {copy.reason}" for copy in out)
        kept.append(replace(joined, notes=(*joined.notes, *notes)))
        left_out += out
    # Two names with a scan in common are one patient, who must not stand on both sides of a split.
    for place, case in enumerate(kept):
        subject = same_person.get(case.subject, case.subject)
        if subject != case.subject:
            note = f"shows {subject}: another scan called {case.subject} is a copy of one of {subject}"
            kept[place] = replace(case, subject=subject, notes=(*case.notes, note))
    return tuple(one_split_per_subject(kept)), tuple(left_out)


def _joined(best: Case, others: Sequence[Case]) -> Case:
    """The best copy under the name, subject and split that the release gives it, with what only the others have."""
    named = min((best, *others), key=lambda case: (not case.part, not case.series))
    halves = [other for other in others if _is_part_of(other, best)]
    extra: dict[str, Any] = {}
    notes: list[str] = []
    for half in halves:
        for name in ("mask", "centroids"):
            if getattr(best, name) is None and name not in extra and (found := getattr(half, name)):
                extra[name] = found
                notes.append(f"joined with {found}: same series {best.series}")
        # Corrections of ids belong to the mask that they were noted for.
        if extra.get("mask") == half.mask:
            extra["relabel"] = half.relabel
    identity = {name: getattr(named, name) for name in ("case", "subject", "split", "split_origin", "series", "part")}
    return replace(best, **identity, **extra, notes=(*named.notes, *notes))


def _is_part_of(other: Case, best: Case) -> bool:
    """Whether it is no copy but the mask that the scan lacks."""
    return best.image is not None and best.mask is None and other.image is None


def _path(case: Case) -> Path:
    return case.image if case.image is not None else case.mask_path()


def _rank(case: Case, probes: Probes) -> tuple[bool, ...]:
    """Smaller is better; of equals the first one found comes first."""
    path = _path(case)
    verse = parse_verse_name(bare_stem(path, mask=case.image is None))
    return (
        # False sorts before True: whole, with a scan, with a mask, unpacked, an original, on the grid of the scanner.
        any(seen.problem for file in (case.image, case.mask) if file and (seen := probes.get(file))),
        case.image is None,
        case.mask is None,
        archive_above(path) is not None,
        lies_in_subset(path),
        verse is None or verse.style != "subject-based",
    )
