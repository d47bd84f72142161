"""A mask on its own, and a mask beside its scan: label ids, shapes, affines, form codes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.labels import VERTEBRAE, unknown_ids
from verse3d.core.volume import Volume
from verse3d.data.findings import Finding
from verse3d.data.pairs import SAME_GRID_TOLERANCE_MM, require_same_grid

_PIECE_VOXELS = 2**20


def count_labels(array: NDArray[np.unsignedinteger]) -> dict[int, int]:
    """Voxels of every id that occurs, 0 left out. Counted in pieces: counting widens each voxel to 64 bit."""
    flat = array.ravel(order="K")
    counts = np.zeros(int(np.iinfo(array.dtype).max) + 1, dtype=np.int64)
    for start in range(0, flat.size, _PIECE_VOXELS):
        found = np.bincount(flat[start : start + _PIECE_VOXELS])
        counts[: found.size] += found
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}


def vertebrae_of(counts: Mapping[int, int]) -> dict[int, int]:
    """The counts of VerSe's ids alone, from head to tail."""
    return {label.id: counts[label.id] for label in VERTEBRAE if label.id in counts}


def check_labels(case: str, mask: Volume, counts: Mapping[int, int]) -> Iterator[Finding]:
    """How labels are stored, and whether VerSe knows them."""
    if mask.header.get_data_dtype().kind == "f":
        yield Finding(
            case,
            "note",
            "mask-float",
            f"{mask.path}: labels are stored as {mask.header.get_data_dtype()}, all are whole numbers: accepted",
        )
    if unknown := unknown_ids(counts):
        yield Finding(
            case,
            "error",
            "mask-labels",
            f"{mask.path}: label ids {unknown} are unknown ({_where(mask.array, unknown[0])}); VerSe uses 1-25 and 28",
            "set those voxels to 0 or to the right vertebra",
        )
    if not counts:
        yield Finding(case, "warning", "mask-empty", f"{mask.path}: no voxel is labelled")


def _where(array: NDArray[Any], label: int) -> str:
    voxels = np.nonzero(array == label)
    first = tuple(int(axis[0]) for axis in voxels)
    return f"{voxels[0].size} voxels of {label}, the first at index {first}"


def check_pair(case: str, image: Volume, mask: Volume) -> Iterator[Finding]:
    """Whether a mask lies where its scan lies."""
    try:
        require_same_grid(image, mask)
    except GeometryError as error:
        code = "mask-shape" if image.geometry.shape != mask.geometry.shape else "mask-affine"
        yield Finding(case, "error", code, error.message, error.hint)
        return
    codes = [(int(volume.header["sform_code"]), int(volume.header["qform_code"])) for volume in (image, mask)]
    if codes[0] != codes[1]:
        yield Finding(
            case,
            "note",
            "mask-codes",
            f"{mask.path}: sform/qform codes {codes[1]} differ from the scan's {codes[0]}, the affines agree: accepted",
        )
    distance = image.geometry.distance_mm(mask.geometry)
    if distance > SAME_GRID_TOLERANCE_MM / 100:
        yield Finding(case, "note", "mask-affine", f"{mask.path} lies {distance:.3f} mm from its scan: accepted")
