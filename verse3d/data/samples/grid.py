"""The network grid: where its voxels lie, and what becomes of the grey values there."""

import numpy as np
from numpy.typing import NDArray

from verse3d.core.config import GridConfig
from verse3d.core.geometry import Geometry
from verse3d.core.limits import require_countable, require_ct_grid, voxel_count
from verse3d.core.memory import require_memory
from verse3d.core.resample import Finish, Ready, all_ready, resample_finished
from verse3d.core.volume import Volume

COARSE_MM = 4.0
"""Spacing of the small copy of each case in the store, which the scout learns from."""


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


def prepare_image(volume: Volume, grid: GridConfig) -> tuple[NDArray[np.float32], Geometry]:
    """A scan for inference: (I, J, K) float32 0 ... 1 on the network grid, and that grid."""
    target = fitting_geometry(volume.geometry, grid, bytes_each=4)
    return resample_finished(volume.array, volume.geometry, target, np.float32, windowing(grid)), target


def prepare_image_float16(
    volume: Volume, grid: GridConfig, ready: Ready = all_ready
) -> tuple[NDArray[np.float16], Geometry]:
    """The image of ``prepare_image`` rounded to float16, as in training; no float32 volume is held meanwhile.

    A scan that is still being read is followed: see ``resample_finished``.
    """
    target = fitting_geometry(volume.geometry, grid, bytes_each=2)
    finish = windowing(grid)
    return resample_finished(volume.array, volume.geometry, target, np.float16, finish, ready=ready), target
