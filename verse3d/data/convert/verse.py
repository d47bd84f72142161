"""VerSe's own subject-based tree: ``dataset-01training/rawdata/sub-X/…_ct.nii.gz`` and ``derivatives/sub-X/…``."""

import contextlib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy import ndimage

from verse3d.core.errors import DataError
from verse3d.core.files import write_json
from verse3d.core.labels import VERTEBRAE
from verse3d.core.volume import Volume, read_image, write_labels
from verse3d.core.wording import how_many
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.centroids import parse_centroids
from verse3d.data.convert.folder import OutputFolder
from verse3d.data.convert.names import alphanumeric, plain_name, unique_name
from verse3d.data.convert.records import CasePlan, CaseRecord, FileRecord, Layout
from verse3d.data.convert.sources import trusted_mask
from verse3d.data.index.verse_release import PARTS, split_of_folder

_FOLDERS = {
    "train": "dataset-01training",
    "validation": "dataset-02validation",
    "test": "dataset-03test",
    None: "dataset-undivided",
}
_SUBJECT = re.compile(r"sub-[A-Za-z0-9]+")
_VERSE_SUBJECT = re.compile(r"sub-(?:verse|gl)\d{3}")
_VERSE_SERIES = re.compile(r"(?:verse|gl)\d{3}")
_DIRECTION = re.compile(r"[_-](ax|iso|sag)$", re.IGNORECASE)


def verse_format(index: CaseIndex, out: Path) -> Layout:
    """How the cases become VerSe's tree below ``out``; ``verse3d index`` finds the same subjects and splits there.

    Names follow VerSe's grammar where the case's name, subject or series do, else they are ``sub-<subject>`` with the
    case behind it if the two differ.
    """
    # Whoever is called "sub-..." already chooses first, and so keeps the name.
    ordered = sorted({case.subject for case in index}, key=lambda name: (not _SUBJECT.fullmatch(name), name))
    given: set[str] = set()
    subjects = {
        name: unique_name(f"sub-{alphanumeric(name.removeprefix('sub-'))}", given, joint="") for name in ordered
    }
    taken: set[str] = set()
    return Layout(
        name="verse",
        folder=out,
        options={},
        plans=tuple(_plan(case, subjects[case.subject], taken) for case in index),
        extra=(),
        write_case=_write_case,
        finish=_finish,
    )


def _plan(case: Case, subject: str, taken: set[str]) -> CasePlan:
    stem = unique_name(_stem(case, subject), taken, joint="_run-")
    # The part of the release that it came in, if the folder of that name brings the case's split; else a plain one.
    folder = PARTS.get(case.part, "")
    if not case.split or split_of_folder(folder) != case.split:
        folder = _FOLDERS[case.split]
    derived = f"{folder}/derivatives/{subject}/{stem}"
    return CasePlan(
        case,
        stem,
        image=f"{folder}/rawdata/{subject}/{stem}_ct.nii.gz" if case.image else None,
        mask=f"{derived}_seg-vert_msk.nii.gz" if case.mask else None,
        centroids=f"{derived}_seg-subreg_ctd.json" if case.mask else None,
    )


def _stem(case: Case, subject: str) -> str:
    """The name without ``_ct``; its first part is always the subject."""
    plain = plain_name(case.case)
    if plain == subject or plain.startswith(f"{subject}_"):
        return plain
    if _VERSE_SUBJECT.fullmatch(subject) and (not case.series or _VERSE_SERIES.fullmatch(case.series)):
        split = f"_split-{case.series}" if case.series and f"sub-{case.series}" != subject else ""
        direction = _DIRECTION.search(case.case)
        return f"{subject}{split}" + (f"_dir-{direction[1].lower()}" if direction else "")
    return subject if case.case == case.subject else f"{subject}_acq-{plain}"


def _write_case(plan: CasePlan, out: OutputFolder) -> tuple[FileRecord, ...]:
    """Check a case, then write it. Holds its scan and its mask."""
    case = plan.case
    image = read_image(case.image_path()) if plan.image else None
    mask = trusted_mask(case, image, levels="VerSe's layout") if plan.mask else None
    records = []
    if image is not None and plan.image:
        records.append(FileRecord(plan.image, str(image.path), out.place(image.path, plan.image)))
    if mask is not None and plan.mask and plan.centroids:
        records += [_write_mask(case, mask, plan.mask, out), _write_centroids(case, mask, plan.centroids, out)]
    return tuple(records)


def _write_mask(case: Case, mask: Volume, path: str, out: OutputFolder) -> FileRecord:
    if not case.relabel:
        return FileRecord(path, str(mask.path), out.place(mask.path, path))
    labels = mask.array.astype(np.uint8)
    write_labels(out.target(path), labels, like=mask.header, scheme="vertebrae")
    changed = ", ".join(f"{stored} is {right}" for stored, right in case.relabel)
    return FileRecord(path, str(mask.path), "rewritten", note=f"labels corrected: {changed}")


def _write_centroids(case: Case, mask: Volume, path: str, out: OutputFolder) -> FileRecord:
    if case.centroids and not case.relabel:
        direction = ""
        with contextlib.suppress(DataError):  # what cannot be read is computed
            direction = parse_centroids(case.centroids).direction
        # Voxel indices along the axes of the mask: that is how the subject-based release has them.
        if direction == "".join(mask.geometry.axis_codes):
            return FileRecord(path, str(case.centroids), out.place(case.centroids, path))
    write_json(out.target(path), centroid_list(mask))
    return FileRecord(path, str(mask.path), "computed", note="the centre of the voxels of each label")


def centroid_list(mask: Volume) -> list[dict[str, Any]]:
    """The centre of each label from head to tail, as the subject-based release writes it.

    The first element gives the axes' directions; X, Y and Z are voxel indices along i, j and k with one decimal.
    """
    boxes = ndimage.find_objects(mask.array)
    points: list[dict[str, Any]] = [{"direction": list(mask.geometry.axis_codes)}]
    for label in VERTEBRAE:
        box = boxes[label.id - 1] if label.id <= len(boxes) else None
        if box is not None:
            inside = mask.array[box] == label.id
            centre = [float(c) + part.start for c, part in zip(ndimage.center_of_mass(inside), box, strict=True)]
            points.append({"label": label.id, **{axis: round(c, 1) for axis, c in zip("XYZ", centre, strict=True)}})
    return points


def _finish(folder: Path, records: Sequence[CaseRecord]) -> tuple[str, ...]:
    undivided = sum(any(_FOLDERS[None] in file.path for file in record.files) for record in records)
    without = how_many(undivided, "case has", "cases have")
    return (f"{without} no split: see {folder / _FOLDERS[None]}",) if undivided else ()
