"""Counting the windows that a sliding-window pass will visit, for progress bars and plans."""

import math
from collections.abc import Sequence

from verse3d.core.geometry import Shape


def count_windows(shape: Shape, window: Sequence[int], overlap: float) -> int:
    """How many windows MONAI's sliding window places over a volume (padded to one window if it is smaller).

    Example:
        >>> count_windows((200, 90, 96), (96, 96, 96), 0.5)
        4
    """
    return math.prod(_along_axis(size, length, overlap) for size, length in zip(shape, window, strict=True))


def _along_axis(size: int, window: int, overlap: float) -> int:
    if size <= window:
        return 1
    step = max(1, int(window * (1 - overlap)))
    return math.ceil((size - window) / step) + 1
