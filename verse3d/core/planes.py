"""Slices of a volume turned the way that radiologists look at them; arrays in, arrays out, nothing is drawn here.

Sagittal: anterior on the left, head up. Coronal and axial follow the radiological convention: the patient's right is on
the left of the picture; coronal head up, axial anterior up. Slices follow the axes of the array, so on an oblique scan
they are the nearest planes, not resampled ones.
"""

from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from verse3d.core.axes import PLANES, PlaneName
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry

_OPPOSITE = {"R": "L", "A": "P", "S": "I"}


@dataclass(frozen=True, eq=False)
class PlaneSlice:
    """One slice as it is to be shown.

    Attributes:
        plane: which plane it is.
        pixels: (rows, columns), row 0 on top, column 0 on the left; a view of the volume, same dtype.
        pixel_mm: height and width of one pixel.
        position_mm: where the middle of the slice lies along the world axis across the plane (x, y or z).
        left: anatomical direction at the left edge, "A", "R" ...; likewise the other three.
        right: see ``left``.
        top: see ``left``.
        bottom: see ``left``.
    """

    plane: PlaneName
    pixels: NDArray[Any]
    pixel_mm: tuple[float, float]
    position_mm: float
    left: str
    right: str
    top: str
    bottom: str

    @property
    def size_mm(self) -> tuple[float, float]:
        """Height and width of the whole picture."""
        return self.pixels.shape[0] * self.pixel_mm[0], self.pixels.shape[1] * self.pixel_mm[1]


def plane_slice(array: NDArray[Any], geometry: Geometry, plane: PlaneName, centre_mm: ArrayLike) -> PlaneSlice:
    """The slice of a volume nearest to a point, turned for display without copying the volume.

    Args:
        array: voxels (I, J, K) in any axis order.
        geometry: their grid.
        plane: "sagittal", "coronal" or "axial".
        centre_mm: world mm (3,); a point outside of the volume gives the slice at its border.

    Raises:
        GeometryError: the array does not have the shape of the geometry.
    """
    if array.shape != geometry.shape:
        raise GeometryError(f"an array of shape {array.shape} does not lie on a grid of shape {geometry.shape}")
    # Turned to RAS first, as a view: then every plane is a fixed index, and both other axes only need flipping.
    view, grid = nib.apply_orientation(array, nib.io_orientation(geometry.affine)), geometry.reoriented("RAS")
    across = PLANES.index(plane)
    across_to, up = [axis for axis in range(3) if axis != across]
    index = np.rint(grid.index_from_world(np.reshape(centre_mm, (1, 3)))[0]).astype(int)
    # A point outside gives the nearest slice at the border.
    number = int(np.clip(index[across], 0, grid.shape[across] - 1))
    middle = (np.array(grid.shape) - 1) / 2
    middle[across] = number
    return PlaneSlice(
        plane=plane,
        # volume (R, A, S), `across` taken out        rows                columns
        #   sagittal   (A, S)                         S, from the head    A, from the front
        #   coronal    (R, S)                         S, from the head    R, from the patient's right
        #   axial      (R, A)                         A, from the front   R, from the patient's right
        pixels=np.moveaxis(view, across, 0)[number, ::-1, ::-1].T,
        pixel_mm=(grid.spacing_mm[up], grid.spacing_mm[across_to]),
        position_mm=float(grid.world_from_index(middle[None])[0, across]),
        left="RAS"[across_to],
        right=_OPPOSITE["RAS"[across_to]],
        top="RAS"[up],
        bottom=_OPPOSITE["RAS"[up]],
    )
