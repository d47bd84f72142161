"""Segmenting one volume that is in memory, by the very steps with which ``predict`` makes a mask."""

import numpy as np
from numpy.typing import NDArray

from verse3d.core.logs import Progress, no_progress
from verse3d.core.volume import StoredVoxels, Volume
from verse3d.data.samples.grid import network_geometry
from verse3d.inference.budget import Budget
from verse3d.inference.postprocess import clean_up


def segment_volume(budget: Budget, volume: Volume, progress: Progress = no_progress) -> NDArray[np.uint8]:
    """The cleaned labels of a scan, file ids, uint8 (I, J, K) on the scan's grid.

    Args:
        budget: the predictor, and the memory that it may take.
        volume: the scan, HU; held by the caller all the while.
        progress: told about the windows.

    Raises:
        GeometryError: no CT has such voxels.
        MemoryLimitError: the volume does not fit.
        NotFiniteError: the network answers NaN or infinity.
    """
    predictor = budget.predictor
    plan = budget.plan(StoredVoxels(volume.geometry, volume.header, volume.array.dtype.itemsize))
    grid = network_geometry(volume.geometry, predictor.config.grid)
    image, _ = predictor.prepare(volume)
    answer, _ = predictor.segment(image, grid, volume.geometry, plan.settings, progress=progress)
    del image
    return clean_up(answer.mask(), volume.geometry, predictor.config.inference)
