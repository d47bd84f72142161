"""The network grid: where its voxels lie, and what becomes of the grey values there."""

import numpy as np
from numpy.typing import NDArray

from verse3d.core.config import GridConfig
from verse3d.core.geometry import Geometry
from verse3d.core.limits import require_countable, require_ct_grid, voxel_count
from verse3d.core.memory import require_memory
from verse3d.core.resample import Finish


def network_geometry(source: Geometry, grid: GridConfig) -> Geometry:
    """The network grid of a scan: RAS axes (as near as its own allow), ``grid.spacing_mm``, the same first voxel.

    Raises:
        GeometryError: the scan's spacing is impossible, or the network grid would be larger than any memory.
    """
    require_ct_grid(source)
    #     source, e.g. PIR                network grid
    #     o---o---o---o                   x--x--x--x--x        axes permuted and flipped, never turned: so each axis
    #     |   |   |   |         ->        |  |  |  |  |        is interpolated for itself, and masks go back the same
    #     o---o---o---o                   x--x--x--x--x        way
    target = source.reoriented("RAS").resampled(grid.spacing_mm)
    require_countable(target.shape, "on the network grid the scan")
    return target


def fitting_geometry(source: Geometry, grid: GridConfig, bytes_each: int) -> Geometry:
    """The network grid of a scan, if so many bytes for each of its voxels are free.

    Raises:
        GeometryError: as for ``network_geometry``.
        MemoryLimitError: they are not.
    """
    target = network_geometry(source, grid)
    size = " x ".join(map(str, target.shape))
    require_memory(voxel_count(target.shape) * bytes_each, f"the scan on the network grid ({size} voxels)")
    return target


def windowing(grid: GridConfig) -> Finish:
    """A function that changes HU (float32, any shape) to 0 ... 1 in place: ``grid.window_hu``, clipped."""
    low, high = grid.window_hu

    def windowed(hu: NDArray[np.float32]) -> NDArray[np.float32]:
        hu -= low
        hu *= 1.0 / (high - low)
        return np.clip(hu, 0.0, 1.0, out=hu)

    return windowed
