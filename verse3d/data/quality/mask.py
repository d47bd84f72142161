"""A mask on its own, and a mask beside its scan: label ids, shapes, affines, form codes."""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, unknown_ids
from verse3d.core.volume import Volume
from verse3d.core.wording import how_many
from verse3d.data.pairs import SAME_GRID_TOLERANCE_MM, GridMatch, carried_over, placement, require_same_grid
from verse3d.data.quality.findings import Finding
from verse3d.data.schemes import MaskScheme

ONLY_C1 = "mask-only-c1"
"""The code of a finding: the mask is read as a C1 alone, which it may not be."""
_CHUNK_VOXELS = 2**20
_BRIGHTER_HU = 50.0
_FIXES = "`verse3d.check(fixes=FOLDER)`"


def count_labels(array: NDArray[np.unsignedinteger]) -> dict[int, int]:
    """Voxels of every id that occurs, 0 left out. Counted in chunks: counting widens each voxel to 64 bit."""
    flat = array.ravel(order="K")
    counts = np.zeros(int(np.iinfo(array.dtype).max) + 1, dtype=np.int64)
    for start in range(0, flat.size, _CHUNK_VOXELS):
        # As long as the largest id of the chunk needs it.
        found = np.bincount(flat[start : start + _CHUNK_VOXELS])
        counts[: found.size] += found
    return {int(label): int(counts[label]) for label in np.flatnonzero(counts) if label}


def vertebrae_of(counts: Mapping[int, int]) -> dict[int, int]:
    """The counts of VerSe's ids alone, from head to tail."""
    return {label.id: counts[label.id] for label in VERTEBRAE if label.id in counts}


def check_labels(
    case: str, mask: Volume, counts: Mapping[int, int], scheme: MaskScheme | None = None
) -> Iterator[Finding]:
    """How labels are stored, whether VerSe knows them, and whether they are levels at all."""
    if scheme and scheme.is_binary:
        yield Finding(
            case,
            "note",
            "mask-binary",
            f"{mask.path} is a binary mask ({scheme.reason}): 1 is any vertebra, the levels are not known",
            "train and score it with the scheme binary",
        )
    elif scheme and scheme.doubt:
        yield Finding(
            case,
            "note",
            ONLY_C1,
            f"{mask.path}: {scheme.doubt}",
            "if it is a binary mask, train and score it with the scheme binary",
        )
    if mask.header.get_data_dtype().kind == "f":
        yield Finding(
            case,
            "note",
            "mask-float",
            f"{mask.path}: labels are stored as {mask.header.get_data_dtype()}, all are whole numbers: accepted",
        )
    if unknown := unknown_ids(counts):
        voxels = np.nonzero(mask.array == unknown[0])
        first = tuple(int(axis[0]) for axis in voxels)
        where = f"{how_many(voxels[0].size, 'voxel')} of {unknown[0]}, the first at index {first}"
        yield Finding(
            case,
            "error",
            "mask-labels",
            f"{mask.path}: label ids {unknown} are unknown ({where}); VerSe uses 1-25 and 28",
            "set those voxels to 0 or to the right vertebra",
        )
    if not counts:
        yield Finding(case, "warning", "mask-empty", f"{mask.path}: no voxel is labelled")


def check_pair(case: str, image: Volume, mask: Volume) -> Iterator[Finding]:
    """Whether a mask lies where its scan lies."""
    # "same"       nothing to say but small differences
    # "turned"     the same box with other axes: carried over without loss
    # "scaled"     the same box with other voxels: carried over by vote
    # "apart"      nobody knows where the mask belongs
    how = placement(mask.geometry, image.geometry)
    if how == "same":
        yield from _check_same_grid(case, image, mask)
    elif how == "turned":
        yield Finding(
            case,
            "error",
            "mask-orientation",
            f"{mask.path} has axes {_axes(mask)}, its scan {image.path} has {_axes(image)}, over the same box: "
            "training refuses the pair, but the mask can be carried over exactly",
            f"{_FIXES} writes it on the scan's grid",
        )
    else:
        yield _misplaced(case, image, mask, how)
    if how != "same" and image.geometry.shape == mask.geometry.shape:
        yield from _check_left_right(case, image, mask, how)


def _check_same_grid(case: str, image: Volume, mask: Volume) -> Iterator[Finding]:
    codes = [(int(volume.header["sform_code"]), int(volume.header["qform_code"])) for volume in (image, mask)]
    if codes[0] != codes[1]:
        yield Finding(
            case,
            "note",
            "mask-codes",
            f"{mask.path}: sform/qform codes {codes[1]} differ from the scan's {codes[0]}, the affines agree: accepted",
        )
    # Below the tolerance and above rounding: some program moved the origin a little.
    distance = image.geometry.distance_mm(mask.geometry)
    if distance > SAME_GRID_TOLERANCE_MM / 100:
        yield Finding(case, "note", "mask-affine", f"{mask.path} lies {distance:.3f} mm from its scan: accepted")


def _misplaced(case: str, image: Volume, mask: Volume, how: GridMatch) -> Finding:
    try:
        require_same_grid(image, mask)
    except GeometryError as error:
        message, hint = error.message, error.hint
    if image.geometry.shape == mask.geometry.shape:
        code = "mask-affine"
    elif how == "apart" and (by_one := _by_one(image.geometry, mask.geometry)):
        code, message = "mask-shape-by-one", f"{message}: {by_one}"
        hint = "export the mask again on the scan's grid; nobody can tell at which end the voxel is missing"
    else:
        code = "mask-shape"
    if how == "scaled":
        hint = f"both cover the same box: {_FIXES} writes the mask resampled on the scan's grid"
    return Finding(case, "error", code, message, hint)


def _by_one(image: Geometry, mask: Geometry) -> str:
    """In words: the axes that differ by one voxel and whether the rest agrees; "" if more than that differs."""
    if image.axis_codes != mask.axis_codes:
        return ""
    differences = [other - one for one, other in zip(image.shape, mask.shape, strict=True)]
    if max(map(abs, differences)) > 1:
        return ""
    axes = [
        f"{'one voxel more' if difference > 0 else 'one voxel less'} along {name} ({code})"
        for difference, name, code in zip(differences, "ijk", image.axis_codes, strict=True)
        if difference
    ]
    origin_mm = float(np.linalg.norm(image.affine[:3, 3] - mask.affine[:3, 3]))
    same_spacing = np.allclose(image.spacing_mm, mask.spacing_mm, rtol=1e-3, atol=0)
    origin = "the origins agree" if origin_mm <= SAME_GRID_TOLERANCE_MM else f"the origins lie {origin_mm:.1f} mm apart"
    return f"{', '.join(axes)}; {origin}, the spacings {'agree' if same_spacing else 'differ'}"


def _check_left_right(case: str, image: Volume, mask: Volume, how: GridMatch) -> Iterator[Finding]:
    """Two grids of one shape: which header is wrong, and does it exchange left and right?

    The scan itself is asked: bone is bright, so the mask belongs where the voxels under it are brighter.
    """
    exchanged = any({one, other} == {"L", "R"} for one, other in zip(_axes(image), _axes(mask), strict=True))
    if how == "turned":
        by_header = _mean_hu(image, carried_over(mask, image.geometry))
        # Voxel by voxel, as if the mask had the scan's header: brighter there, and its own header is wrong.
        by_index = _mean_hu(image, mask.array)
        if not by_index > by_header + _BRIGHTER_HU:
            return
        reason = (
            f"voxel by voxel the mask covers brighter tissue ({by_index:.0f} HU on average) than by its header "
            f"({by_header:.0f} HU), so its header is the wrong one"
        )
    elif exchanged:
        reason = "the headers exchange left and right"
    else:
        return
    yield Finding(
        case,
        "warning",
        "left-right",
        f"{mask.path} (axes {_axes(mask)}) and its scan {image.path} ({_axes(image)}): {reason}",
        "look at both in a viewer before you carry the mask over; give it the header of the scan if that is right",
    )


def _mean_hu(image: Volume, labels: NDArray[Any]) -> float:
    inside = image.array[labels > 0]
    return float(inside.mean(dtype=np.float64)) if inside.size else float("nan")


def _axes(volume: Volume) -> str:
    return "".join(volume.geometry.axis_codes)
