"""Cleaning label maps: connected components that are too small to be a vertebra."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.axismaps import Box, box_of, slowest_first
from verse3d.core.config import InferenceConfig
from verse3d.core.geometry import Geometry

_TOUCHING = np.ones((3, 3, 3), dtype=bool)


def clean_up(labels: NDArray[np.uint8], geometry: Geometry, settings: InferenceConfig) -> NDArray[np.uint8]:
    """Remove, label by label, the components below ``min_component_ml`` and, if wanted, all but the largest.

    Args:
        labels: (I, J, K); changed in place and returned.
        geometry: the grid of ``labels``.
        settings: the two thresholds. Components are joined over faces, edges and corners.

    Holds 3 bytes for each voxel of the largest box around a label (5 if it has more than 65535 components).
    """
    # Rounded, so that a component of exactly the smallest volume stays whatever the float error of the determinant.
    minimum_voxels = round(settings.min_component_ml / geometry.voxel_ml, 6)
    if minimum_voxels <= 1 and not settings.largest_component_only:
        return labels
    # Whatever the order of the axes, components are the same; they are found fastest as the voxels lie in memory.
    order = slowest_first(labels)
    view = labels.transpose(order)
    labelled = box_of(view)
    if labelled is None:
        return labels
    view = view[labelled]
    boxes: Sequence[Box | None] = ndimage.find_objects(view)
    for label, box in enumerate(boxes, start=1):
        if box is not None:
            _clean_label(view[box], label, minimum_voxels, order if settings.largest_component_only else None)
    return labels


def _clean_label(part: NDArray[np.uint8], label: int, minimum_voxels: float, order: Sequence[int] | None) -> None:
    """Remove components of ``label``; all but the largest if ``order`` says which axis of the map each axis is."""
    components, count = _components(part == label)
    voxels = _component_voxels(components, count)
    gone = voxels < minimum_voxels
    if order is not None and count > 1:
        gone |= np.arange(count + 1) != _largest(components, voxels, order)
    gone[0] = False
    if gone.any():
        for plane, component in zip(part, components, strict=True):
            plane[gone[component]] = 0


def _components(mask: NDArray[np.bool_]) -> tuple[NDArray[np.integer], int]:
    """Numbered components, with the background 0, and how many there are."""
    try:
        return ndimage.label(mask, _TOUCHING, output=np.uint16)  # type: ignore[no-any-return]
    except RuntimeError:  # there are more
        return ndimage.label(mask, _TOUCHING)  # type: ignore[no-any-return]


def _component_voxels(components: NDArray[np.integer], count: int) -> NDArray[np.int64]:
    """The size of each component; 0 for the background. Counted by planes: counting widens numbers to 64 bit."""
    voxels = np.zeros(count + 1, np.int64)
    for plane in components:
        labelled = plane[plane > 0]
        if labelled.size:
            found = np.bincount(labelled)
            voxels[: found.size] += found
    return voxels


def _largest(components: NDArray[np.integer], voxels: NDArray[np.int64], order: Sequence[int]) -> int:
    """The largest component; of equal ones the one that comes first in the map (whose last axis runs fastest)."""
    largest = np.flatnonzero(voxels == voxels.max()).tolist()
    if len(largest) == 1:
        return int(largest[0])
    in_map = components.transpose(np.argsort(order))
    return int(min(largest, key=lambda number: np.argwhere(in_map == number)[0].tolist()))
