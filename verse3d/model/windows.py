"""Where the windows of a sliding-window pass lie, and how much each of their voxels counts."""

import math
from collections.abc import Sequence
from functools import lru_cache

import torch
from monai.data.utils import compute_importance_map

from verse3d.core.geometry import Shape

_SIGMA_OF_WINDOW = 0.125


def window_starts(size: int, window: int, overlap: float) -> list[int]:
    """The first voxels of the windows along an axis of ``size`` voxels, as MONAI's sliding window places them.

    Neighbours lie ``int(window * (1 - overlap))`` voxels apart, the last one ends with the axis.

    Example:
        >>> window_starts(200, 96, 0.5)
        [0, 48, 96, 104]
    """
    if size <= window:
        return [0]
    step = max(1, int(window * (1 - overlap)))
    count = math.ceil((size - window) / step) + 1
    return [min(number * step, size - window) for number in range(count)]


def count_windows(shape: Shape, window: Sequence[int], overlap: float) -> int:
    """How many windows MONAI's sliding window places over a volume (padded to one window if it is smaller).

    Example:
        >>> count_windows((200, 90, 96), (96, 96, 96), 0.5)
        4
    """
    return math.prod(len(window_starts(size, length, overlap)) for size, length in zip(shape, window, strict=True))


@lru_cache(maxsize=4)
def window_weights(window: Shape, blending: str) -> torch.Tensor:
    """How much the voxels of a window count where windows overlap, float32 of the window's shape. Not to be written to.

    Those of MONAI's ``SlidingWindowInferer``: "constant" is 1; "gaussian" has a deviation of an eighth of the window,
    counts (nearly) 1 in the centre, and nowhere less than 0.001.
    """
    weights: torch.Tensor = compute_importance_map(window, mode=blending, sigma_scale=_SIGMA_OF_WINDOW)
    return weights.float()
