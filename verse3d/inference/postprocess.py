"""Cleaning label maps: connected components that are too small to be a vertebra."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.config import InferenceConfig
from verse3d.core.geometry import Geometry

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


def clean_up(labels: NDArray[np.uint8], geometry: Geometry, settings: InferenceConfig) -> NDArray[np.uint8]:
    """Remove, label by label, the components below ``min_component_ml`` and, if wanted, all but the largest.

    Args:
        labels: (I, J, K); changed in place and returned.
        geometry: the grid of ``labels``.
        settings: the two thresholds. Components are joined over faces, edges and corners.
    """
    # Rounded, so that a component of exactly the smallest volume stays whatever the float error of the determinant.
    minimum_voxels = round(settings.min_component_ml / geometry.voxel_ml, 6)
    if minimum_voxels <= 1 and not settings.largest_component_only:
        return labels
    boxes: Sequence[tuple[slice, ...] | None] = ndimage.find_objects(labels)
    for label, box in enumerate(boxes, start=1):
        if box is None:
            continue
        part = labels[box]
        components, _ = ndimage.label(part == label, structure=_TOUCHING)
        voxels = np.bincount(components.ravel())
        voxels[0] = 0
        keep = voxels >= minimum_voxels
        if settings.largest_component_only:
            keep &= np.arange(voxels.size) == voxels.argmax()
        keep[0] = True
        part[~keep[components]] = 0
    return labels
