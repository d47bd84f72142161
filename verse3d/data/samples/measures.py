"""Numbers that tell whether a scan is like others: spacing, field of view, grey values of the tissue."""

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry

SAMPLED_MM = 4.0
"""Grey values are compared on a grid of about this spacing, whatever the spacing of the scan."""
_WORLD_AXES = {"width": "RL", "depth": "AP", "height": "SI"}


def grid_measures(geometry: Geometry) -> dict[str, float]:
    """Spacing and field of view of a scan: "finest", "coarsest" (mm a voxel), "width", "depth", "height" (mm)."""
    sizes = np.array(geometry.shape) * geometry.spacing_mm
    along = dict(zip(geometry.axis_codes, sizes, strict=True))
    measures = {"finest": min(geometry.spacing_mm), "coarsest": max(geometry.spacing_mm)}
    for name, codes in _WORLD_AXES.items():
        measures[name] = float(next(along[code] for code in codes if code in along))
    return measures


def tissue_measures(image: NDArray[np.floating], window_hu: tuple[float, float]) -> dict[str, float]:
    """Grey values of what is no air, HU: "median" and "bright", the hundredth that is brightest. Nothing if all is air.

    Args:
        image: (I, J, K) 0 ... 1, on a grid of about ``SAMPLED_MM``.
        window_hu: what 0 and 1 are.
    """
    low, high = window_hu
    tissue = image[image > 0]
    if not tissue.size:
        return {}
    median, bright = np.percentile(tissue.astype(np.float32), [50, 99])
    return {"median": float(low + (high - low) * median), "bright": float(low + (high - low) * bright)}
