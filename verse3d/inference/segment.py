"""Segmenting one volume that is in memory, by the very steps with which ``predict`` makes a mask."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.logs import Progress, no_progress
from verse3d.core.volume import StoredVoxels, Volume
from verse3d.data.samples.grid import network_geometry
from verse3d.inference.budget import Budget
from verse3d.inference.mask_warnings import empty_mask_warning, mask_warnings
from verse3d.inference.scan_warnings import scan_warnings, tissue_warnings
from verse3d.labelling.vertebrae import NamedBones


@dataclass(frozen=True, eq=False)
class SegmentedVolume:
    """The finished mask of a scan.

    Attributes:
        labels: file ids, uint8 (I, J, K) on the grid of the scan.
        named: its vertebrae, of models that name them by their sequence.
        warnings: what makes it doubtful, as ``predict`` records it.
    """

    labels: NDArray[np.uint8]
    named: NamedBones | None
    warnings: tuple[str, ...]


def segment_volume(budget: Budget, volume: Volume, progress: Progress = no_progress) -> SegmentedVolume:
    """Segment a scan.

    Args:
        budget: the predictor, and the memory that it may take.
        volume: the scan, HU; held by the caller all the while.
        progress: told about the windows.

    Raises:
        GeometryError: no CT has such voxels.
        MemoryLimitError: the volume does not fit.
        NotFiniteError: the network answers NaN or infinity.
    """
    predictor, geometry = budget.predictor, volume.geometry
    plan = budget.plan(StoredVoxels(geometry, volume.header, volume.array.dtype.itemsize))
    grid = network_geometry(geometry, predictor.method.grid)
    warnings = scan_warnings(volume, predictor.trained_on)
    image, _ = predictor.prepare(volume)
    warnings += tissue_warnings(image, grid, predictor.method.grid.window_hu, predictor.trained_on)
    aggregator, done = predictor.segment(image, grid, geometry, plan.settings, progress=progress)
    # The mask needs the room; the caller still holds the scan itself.
    del image
    labels = aggregator.mask()
    named = predictor.finish(labels, geometry, done.levels)
    all_cut = bool(named and named.vertebrae)
    odd = mask_warnings(labels, geometry) if labels.any() else (empty_mask_warning(all_cut=all_cut),)
    return SegmentedVolume(labels, named, (*odd, *warnings, *(named.notes if named else ())))
