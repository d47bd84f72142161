"""Masks that other programs wrote: where they lie in a folder, and which of their ids is which vertebra.

Looked for, in this order, for a case called CASE:

    CASE_seg-vert_msk.nii.gz                          verse3d, VerSe
    CASE.nii.gz                                       nnU-Net; TotalSegmentator, all structures in one file
    CASE/CASE.nii.gz, CASE/segmentations.nii.gz       one folder per case
    CASE/[segmentations/]vertebrae_L1.nii.gz ...      TotalSegmentator, one file per structure

Ids are VerSe's own unless a label map says otherwise: a JSON file with ``{"27": "L5"}`` or ``{"L5": 27}``, nnU-Net's
``dataset.json``, or the word ``totalsegmentator``.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from verse3d.core.errors import ConfigError, DataError, GeometryError
from verse3d.core.labels import VERTEBRAE, level_called
from verse3d.core.paths import codings, name_problem
from verse3d.core.readers import MEGABYTE, read_record
from verse3d.core.volume import Volume, read_labels
from verse3d.data.nnunet_labels import numbered
from verse3d.data.pairs import SAME_GRID_TOLERANCE_MM

LabelMap = Mapping[int, int]
"""Id in the mask -> VerSe id; ids that it does not hold are background."""

# TotalSegmentator v2, task "total": 27 is L5, counting upwards to 50, C1. It knows neither L6 nor T13.
_FROM_L5_UP = [label.id for label in reversed(VERTEBRAE) if label.name not in ("L6", "T13")]
TOTALSEGMENTATOR: LabelMap = dict(zip(range(27, 51), _FROM_L5_UP, strict=True))
_PRESETS = {"totalsegmentator": TOTALSEGMENTATOR}
_HINT = 'expected {"27": "L5"}, {"L5": 27}, the dataset.json of nnU-Net, or the word totalsegmentator'


def read_label_map(source: str) -> LabelMap:
    """A preset by name, or a JSON file.

    Raises:
        ConfigError: neither a preset nor a file.
        DataError: the file is damaged, names no vertebra, or names one twice.
    """
    if source.lower() in _PRESETS:
        return _PRESETS[source.lower()]
    path = Path(source)
    if not path.is_file():
        raise ConfigError(f"{source} is neither a file nor a known label map", hint=_HINT)
    try:
        content = read_record(path, dict[str, Any], max_bytes=MEGABYTE)
    except DataError as error:
        raise DataError(f"{path} holds no label map: {error.message}", hint=_HINT) from error
    labels = content.get("labels", content)
    if not isinstance(labels, dict):
        raise DataError(f"{path} holds no label map", hint=_HINT)
    pairs = [pair for number, name in numbered(labels) if (pair := _pair(number, name, path))]
    if not pairs:
        raise DataError(f"{path} names no vertebra", hint=_HINT)
    # Two ids of one vertebra, or two vertebrae of one id: whichever was meant, half of it would be scored wrongly.
    found = dict(pairs)
    if len(found) != len(pairs) or len(set(found.values())) != len(pairs):
        raise DataError(f"{path} names an id or a vertebra twice", hint=_HINT)
    return found


def _pair(number: object, name: object, path: Path) -> tuple[int, int] | None:
    """(id in the mask, VerSe id), or None for what is no vertebra, such as the background or the sacrum."""
    level = level_called(str(name))
    if level is None:
        return None
    if not str(number).isdecimal() or not 0 < int(str(number)) < 1 << 16:
        raise DataError(f"{path}: {name!r} has the id {number!r}", hint=_HINT)
    return int(str(number)), level.id


def find_mask(folder: Path, case: str, suffix: str) -> Path | None:
    """The mask of a case, or the folder that holds it as one file per structure; None if there is none."""
    # A case is called what its index says, and that may lead out of the folder.
    if name_problem(case + suffix):
        return None
    found = (_mask_called(name, folder, suffix) for name in codings(case))
    return next((path for path in found if path), None)


def _mask_called(case: str, folder: Path, suffix: str) -> Path | None:
    inside = folder / case
    # Our own name first: a folder that holds both was filled by us.
    files = (folder / f"{case}{suffix}", folder / f"{case}.nii.gz", inside / f"{case}.nii.gz")
    for path in (*files, inside / "segmentations.nii.gz"):
        if path.is_file():
            return path
    for path in (inside, inside / "segmentations"):
        if _structures(path):
            return path
    return None


def read_foreign_mask(path: Path, label_map: LabelMap | None = None) -> Volume:
    """A mask in VerSe ids, uint8, on its own grid.

    Args:
        path: from ``find_mask``.
        label_map: which id is which vertebra; None: they are VerSe's. Not used for one file per structure.

    Raises:
        DataError: a file is damaged or no label map.
        GeometryError: the files of a folder lie on different grids.
    """
    if path.is_dir():
        return _merged(path)
    mask = read_labels(path)
    if label_map is None:
        return mask
    # One entry per value that a voxel can have; what the map does not name becomes background.
    table = np.zeros(np.iinfo(mask.array.dtype).max + 1, dtype=np.uint8)
    for stored, right in label_map.items():
        if stored < len(table):
            table[stored] = right
    return replace(mask, array=table[mask.array])


def _structures(folder: Path) -> dict[int, Path]:
    """VerSe id -> file, of the files that are called after a vertebra."""
    if not folder.is_dir():
        return {}
    found = {}
    for path in sorted(folder.glob("vertebrae_*.nii.gz")):
        if level := level_called(path.name.removesuffix(".nii.gz")):
            found[level.id] = path
    return found


def _merged(folder: Path) -> Volume:
    """The files of a folder as one label map; where two overlap, the lower vertebra wins."""
    files = _structures(folder)
    # From head to tail, each over the one before.
    order = [label.id for label in VERTEBRAE if label.id in files]
    result: Volume | None = None
    for label in order:
        part = read_labels(files[label])
        if result is None:
            result = replace(part, array=np.zeros(part.array.shape, np.uint8, order="F"), path=folder)
        elif result.geometry.distance_mm(part.geometry) > SAME_GRID_TOLERANCE_MM:
            raise GeometryError(f"{files[label]} lies on another grid than the other files of its folder")
        result.array[part.array > 0] = label
    if result is None:
        raise DataError(f"{folder} holds no file that is called after a vertebra")
    return result
