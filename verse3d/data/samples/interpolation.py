"""Looking up a box between its voxels, on a CPU: the same as PyTorch's ``grid_sample``, in less time.

``grid_sample`` walks through a volume voxel by voxel. Here every step is one operation on a whole slab, which a core
does for eight or sixteen voxels at once, and image and label share the steps that they have in common.
"""

import math
from collections.abc import Sequence
from itertools import product

import torch

_BEFORE, _AFTER = 1, 2
"""Zeros around each axis: room for every neighbour of a place outside."""
_EXACT_IN_FLOAT32 = 2**24


class PaddedBox:
    """A volume and its labels that are 0 outside, ready to be looked up.

        -1   0   1  ...  I-1   I  I+1        places are clamped to -1 ... I: all that lies outside meets zeros only
         0 | v   v  ...   v  | 0   0

    Args:
        image: (n, I, J, K), of any real type, on the CPU.
        label: (1, I, J, K) uint8.
    """

    def __init__(self, image: torch.Tensor, label: torch.Tensor) -> None:
        self._lengths = tuple(label.shape[1:])
        padded = [length + _BEFORE + _AFTER for length in self._lengths]
        # Steps in memory from a voxel to its next neighbour along each axis.
        self._strides = (padded[1] * padded[2], padded[2], 1)
        self._image = [self._padded(channel, padded, torch.float32) for channel in image]
        # Half of all patches show no vertebra, and then there is nothing to look up.
        self._label = self._padded(label[0], padded, torch.uint8) if label.any() else None
        # Places in memory are counted in floats as long as these are exact: that saves a conversion for each axis.
        self._counts = torch.float32 if math.prod(padded) < _EXACT_IN_FLOAT32 else torch.float64

    def look_up(self, places: Sequence[torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> None:
        """Fill ``image`` (n, ...), interpolated along all three axes, and ``label`` (1, ...), of the nearest voxel.

        Args:
            places: along each axis, in voxels from the first one; float32 (...), changed.
            image, label: float32 and uint8.
        """
        for place, length in zip(places, self._lengths, strict=True):
            place.clamp_(-1, length)
        if self._label is None:
            label.zero_()
        else:
            nearest = self._index([place.round() for place in places])
            label[0] = self._label.index_select(0, nearest).reshape(label.shape[1:])
        lower = [place.floor() for place in places]
        shares = [place.sub_(low).reshape(-1) for place, low in zip(places, lower, strict=True)]
        index = self._index(lower)
        for target, channel in zip(image, self._image, strict=True):
            target.copy_(self._mixed(channel, index, shares).reshape(target.shape))

    def _padded(self, volume: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        padded = torch.zeros(*shape, dtype=dtype)
        i, j, k = (slice(_BEFORE, _BEFORE + length) for length in self._lengths)
        padded[i, j, k] = volume
        return padded.reshape(-1)

    def _index(self, whole: Sequence[torch.Tensor]) -> torch.Tensor:
        """Where in memory the voxels with these numbers lie, (voxels,)."""
        first, *rest = (numbers.to(self._counts) for numbers in whole)
        total = first * self._strides[0] + _BEFORE * sum(self._strides)
        for numbers, stride in zip(rest, self._strides[1:], strict=True):
            total.add_(numbers, alpha=stride)
        return total.to(torch.int64 if self._counts is torch.float64 else torch.int32).reshape(-1)

    def _mixed(self, channel: torch.Tensor, index: torch.Tensor, shares: Sequence[torch.Tensor]) -> torch.Tensor:
        values = []
        for corner in product((0, 1), repeat=3):
            # The same index reads another neighbour of every voxel where memory is seen to begin so much later.
            step = sum(along * stride for along, stride in zip(corner, self._strides, strict=True))
            values.append(channel[step:].index_select(0, index))
        # 8 corners -> 4 along the last axis -> 2 along the middle one -> 1
        for share in reversed(shares):
            values = [low.lerp_(high, share) for low, high in zip(values[::2], values[1::2], strict=True)]
        return values[0]
