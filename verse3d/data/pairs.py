"""A scan and its mask belong together: reading the mask of a case, and making sure that both share a grid."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from verse3d.core.errors import GeometryError
from verse3d.core.volume import Volume, read_labels
from verse3d.data.cases import Case

SAME_GRID_TOLERANCE_MM = 0.1


def read_mask(case: Case) -> Volume:
    """The mask of a case in VerSe ids, uint8 or uint16 on its own grid, with the case's ``relabel`` applied.

    Raises:
        DataError: the case has no mask, or it is missing, damaged or no label map.
        GeometryError: its affine is singular or not finite.
    """
    return relabelled(read_labels(case.mask_path()), case.relabel)


def relabelled(mask: Volume, relabel: Sequence[tuple[int, int]]) -> Volume:
    """The same mask with ids replaced, all pairs (id in the file, right id) at once, so that ids can be swapped."""
    if not relabel:
        return mask
    table = np.arange(np.iinfo(mask.array.dtype).max + 1).astype(mask.array.dtype)
    for stored, right in relabel:
        table[stored] = right
    return replace(mask, array=table[mask.array])


def require_same_grid(image: Volume, mask: Volume) -> None:
    """Check in mm that a mask lies on the grid of its scan.

    Raises:
        GeometryError: the shapes differ, or some corner lies more than 0.1 mm away.
    """
    if image.geometry.shape != mask.geometry.shape:
        raise GeometryError(
            f"{mask.path} has shape {mask.geometry.shape}, its scan {image.path} has {image.geometry.shape}",
            hint="the mask belongs to another grid: export it again on the scan's grid",
        )
    distance = image.geometry.distance_mm(mask.geometry)
    if distance > SAME_GRID_TOLERANCE_MM:
        raise GeometryError(
            f"{mask.path} lies up to {distance:.1f} mm away from its scan {image.path}: "
            f"axes {''.join(mask.geometry.axis_codes)} against {''.join(image.geometry.axis_codes)}",
            hint="the headers disagree; find out which one is right before training on them",
        )
