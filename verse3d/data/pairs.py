"""A scan and its mask belong together: reading the mask of a case, and making sure that both share a grid."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_nearest, resample_vote
from verse3d.core.volume import Volume, read_labels
from verse3d.data.cases import Case

SAME_GRID_TOLERANCE_MM = 0.1
_LARGEST_STORED, _LARGEST_RIGHT = 2**16 - 1, 255
GridMatch = Literal["same", "turned", "scaled", "apart"]


def read_mask(case: Case) -> Volume:
    """The mask of a case in VerSe ids, uint8 or uint16 on its own grid, with the case's ``relabel`` applied.

    Raises:
        DataError: the case has no mask, or it is missing, damaged or no label map; or ``relabel`` is impossible.
        GeometryError: its affine is singular or not finite.
    """
    return relabelled(read_labels(case.mask_path()), case.relabel)


def relabelled(mask: Volume, relabel: Sequence[tuple[int, int]]) -> Volume:
    """The same mask with ids replaced, all pairs (id in the file, right id) at once, so that ids can be swapped.

    Raises:
        DataError: an id is negative or above 255, the largest that a mask of ours can hold.
    """
    if not relabel:
        return mask
    if wrong := [pair for pair in relabel if not (0 <= pair[0] <= _LARGEST_STORED and 0 <= pair[1] <= _LARGEST_RIGHT)]:
        raise DataError(
            f"{mask.path}: the correction {wrong[0][0]}>{wrong[0][1]} is impossible: ids lie between 0 and 255",
            hint="correct 'relabel' of the case in the index, or the overrides that it came from",
        )
    # One look-up for all pairs at once: ids that are swapped do not meet.
    table = np.arange(np.iinfo(mask.array.dtype).max + 1).astype(mask.array.dtype)
    for stored, right in relabel:
        if stored < table.size:  # else no voxel can have it
            table[stored] = right
    return replace(mask, array=table[mask.array])


def placement(mask: Geometry, image: Geometry) -> GridMatch:
    """How the grid of a mask lies on that of its scan.

    Returns:
        "same" (to 0.1 mm), "turned" (the same voxels with axes permuted or flipped), "scaled" (another spacing over the
        same box, whose edges agree to half a voxel of the coarser grid) or "apart".
    """
    if image.distance_mm(mask) <= SAME_GRID_TOLERANCE_MM:
        return "same"
    turned = mask.reoriented(image.axis_codes)
    if image.distance_mm(turned) <= SAME_GRID_TOLERANCE_MM:
        return "turned"
    return "scaled" if _same_box(turned, image) else "apart"


def _same_box(mask: Geometry, image: Geometry) -> bool:
    spacings = np.array([mask.spacing_mm, image.spacing_mm])
    if np.allclose(spacings[0], spacings[1], rtol=0.01, atol=0):
        return False  # a voxel more or less is no other spacing
    # Edges of the outermost voxels, half a voxel beyond their centres: these are what both grids share.
    ends = np.array(mask.shape) - 0.5
    edges = [[i, j, k] for i in (-0.5, ends[0]) for j in (-0.5, ends[1]) for k in (-0.5, ends[2])]
    expected = np.where(np.array(edges) < 0, -0.5, np.array(image.shape) - 0.5)
    off_mm = np.abs(image.index_from_world(mask.world_from_index(edges)) - expected) * image.spacing_mm
    return bool((off_mm <= 0.5 * spacings.max(axis=0) + SAME_GRID_TOLERANCE_MM).all())


def carried_over(mask: Volume, grid: Geometry) -> NDArray[np.unsignedinteger[Any]]:
    """The labels of a mask on the grid of its scan: exact where only axes differ, else by linear vote.

    Raises:
        GeometryError: the two do not cover the same box, or are rotated against each other.
    """
    how = placement(mask.geometry, grid)
    if how == "apart":
        raise GeometryError(f"{mask.path} and its scan do not cover the same box", hint="export the mask again")
    # The same voxels in another order: each goes to exactly one place.
    if how != "scaled":
        return resample_nearest(mask.array, mask.geometry, grid)
    if mask.array.dtype != np.uint8:
        raise GeometryError(f"{mask.path} holds ids above 255, which cannot be carried to another spacing")
    return resample_vote(mask.array, mask.geometry, grid)


def require_same_grid(image: Volume, mask: Volume) -> None:
    """Check in mm that a mask lies on the grid of its scan.

    Raises:
        GeometryError: the shapes differ, or some corner lies more than 0.1 mm away.
    """
    require_same_geometry(image.geometry, mask.geometry, image.path, mask.path)


def require_same_geometry(image: Geometry, mask: Geometry, image_path: Path, mask_path: Path) -> None:
    """As ``require_same_grid``, before the voxels of both are read."""
    if image.shape != mask.shape:
        raise GeometryError(
            f"{mask_path} has shape {mask.shape}, its scan {image_path} has {image.shape}",
            hint="the mask belongs to another grid: export it again on the scan's grid",
        )
    distance = image.distance_mm(mask)
    if distance > SAME_GRID_TOLERANCE_MM:
        raise GeometryError(
            f"{mask_path} lies up to {distance:.1f} mm away from its scan {image_path}: "
            f"axes {''.join(mask.axis_codes)} against {''.join(image.axis_codes)}",
            hint="the headers disagree; find out which one is right before training on them",
        )
