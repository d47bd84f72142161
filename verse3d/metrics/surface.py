"""How far apart the surfaces of two masks lie, in millimetres of the world.

The distances are measured between voxel centres mapped through the affine, so anisotropic, oblique and even sheared
grids need no special case. Definitions follow Heimann et al., IEEE TMI 28(8), 2009 (doi:10.1109/TMI.2009.2013851) for
the average symmetric distance, and the larger of the two directed 95th percentiles, as MONAI computes it, for HD95.
"""

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry


@dataclass(frozen=True, eq=False)
class SurfaceDistances:
    """Distance of every surface voxel to the nearest surface voxel of the other mask, float64 mm.

    Attributes:
        a_to_b_mm: one value per surface voxel of mask ``a``; empty if either mask is.
        b_to_a_mm: one value per surface voxel of mask ``b``; empty if either mask is.
    """

    a_to_b_mm: NDArray[np.float64]
    b_to_a_mm: NDArray[np.float64]

    @property
    def defined(self) -> bool:
        """Both masks have a surface."""
        return self.a_to_b_mm.size > 0 and self.b_to_a_mm.size > 0


def surface_points_mm(mask: NDArray[np.bool_], geometry: Geometry) -> NDArray[np.float64]:
    """World mm (N, 3) of the mask's surface voxels: those that a 6-connected erosion takes away.

    Voxels at the border of the array count as surface, because nothing is known beyond it.

    Args:
        mask: bool or any dtype where non-zero means inside, of ``geometry.shape``.
        geometry: the grid of the mask.

    Raises:
        GeometryError: the mask does not have the shape of the geometry.
    """
    if mask.shape != geometry.shape:
        raise GeometryError(f"a mask of shape {mask.shape} does not lie on a grid of shape {geometry.shape}")
    # A vertebra fills a hundredth of a scan: all that follows happens in its box.
    extents = []
    for axis in range(3):
        others = tuple(other for other in range(3) if other != axis)
        found = np.flatnonzero(mask.any(axis=others))
        extents.append(slice(int(found[0]), int(found[-1]) + 1) if found.size else slice(0, 0))
    box = tuple(extents)
    inside = mask[box] != 0
    # Erosion takes away what has a neighbour outside (through a face), so the rest of the mask is the surface:
    #
    #     . # # # .        . . . . .        . # # # .
    #     # # # # #   -    . # # # .   =    # . . . #
    #     . # # # .        . . . . .        . # # # .
    surface = np.argwhere(inside & ~scipy.ndimage.binary_erosion(inside))
    return geometry.world_from_index(surface + [axis.start for axis in box])


def surface_distances(a: NDArray[np.bool_], b: NDArray[np.bool_], geometry: Geometry) -> SurfaceDistances:
    """Distances between the surfaces of two masks in both directions; exact, by nearest neighbour in world mm.

    Args:
        a: mask (I, J, K), non-zero inside.
        b: mask of the same shape.
        geometry: the grid of both.

    Returns:
        Two arrays, in no particular order; both empty if either mask is empty.

    Raises:
        GeometryError: a mask does not have the shape of the geometry.
    """
    points_a, points_b = surface_points_mm(a, geometry), surface_points_mm(b, geometry)
    # No distance to a surface that is not there, neither 0 nor infinite.
    if not (len(points_a) and len(points_b)):
        return SurfaceDistances(np.empty(0), np.empty(0))
    return SurfaceDistances(_nearest_mm(points_a, points_b), _nearest_mm(points_b, points_a))


def hd95_mm(distances: SurfaceDistances) -> float:
    """95 % Hausdorff distance in mm: the larger of the two directed 95th percentiles; NaN if undefined.

    Percentiles are interpolated linearly. Some tools take one percentile of all distances together, which is smaller.
    """
    if not distances.defined:
        return math.nan
    return float(max(np.percentile(distances.a_to_b_mm, 95), np.percentile(distances.b_to_a_mm, 95)))


def assd_mm(distances: SurfaceDistances) -> float:
    """Average symmetric surface distance in mm: the mean of all distances of both directions; NaN if undefined."""
    if not distances.defined:
        return math.nan
    return float(np.concatenate([distances.a_to_b_mm, distances.b_to_a_mm]).mean())


def _nearest_mm(points: NDArray[np.float64], others: NDArray[np.float64]) -> NDArray[np.float64]:
    # Each tree is asked once, so the time goes into building it: an unbalanced one is built much faster.
    distances, _ = scipy.spatial.cKDTree(others, balanced_tree=False, compact_nodes=False).query(points, workers=-1)
    return np.asarray(distances, dtype=np.float64)
