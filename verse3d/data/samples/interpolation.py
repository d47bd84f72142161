"""Looking up a box between its voxels, on a CPU: the same as PyTorch's ``grid_sample``, in less time.

``grid_sample`` walks through a volume voxel by voxel. Here every step is one operation on a whole slab, which a core
does for eight or sixteen voxels at once, and image and label share the steps that they have in common.
"""

import math
from collections.abc import Sequence

import torch

_ZEROS = 2
"""Before and behind each axis: room for every neighbour of a place outside."""
_SCRATCH = 4
"""Rows of numbers that are needed at once: what is being mixed along each of three axes, and what is mixed into it."""
_EXACT_IN_FLOAT32 = 2**24


class PaddedBox:
    """A volume and its labels that are 0 outside, ready to be looked up.

        place   0   1   2   3  ...  I+1 I+2 I+3      in the padded volume
        value   0   0 | v   v  ...   v | 0   0       clamped to 1 ... I+2: all that lies outside meets zeros only

    Args:
        image: (n, I, J, K), of any real type, on the CPU.
        label: (1, I, J, K) uint8.
    """

    FIRST = _ZEROS
    """Where the first voxel is, along each axis. An even number: a place in the middle of two voxels is rounded to the
    even one, which then is the same as in a volume without zeros around it."""

    def __init__(self, image: torch.Tensor, label: torch.Tensor) -> None:
        self._lengths = tuple(label.shape[1:])
        padded = [length + 2 * _ZEROS for length in self._lengths]
        # Steps in memory from a voxel to its next neighbour along each axis.
        self._strides = (padded[1] * padded[2], padded[2], 1)
        self._image = [self._padded(channel, padded, torch.float32) for channel in image]
        # Half of all patches show no vertebra, and then there is nothing to look up.
        self._label = self._padded(label[0], padded, torch.uint8) if label.any() else None
        # Places in memory are counted in floats as long as these are exact: that saves a conversion for each axis.
        self._counts = torch.float32 if math.prod(padded) < _EXACT_IN_FLOAT32 else torch.float64
        self._scratch = torch.empty((_SCRATCH, 0))

    def look_up(self, places: Sequence[torch.Tensor], image: torch.Tensor, label: torch.Tensor) -> None:
        """Fill ``image`` (n, ...), interpolated along all three axes, and ``label`` (1, ...), of the nearest voxel.

        Args:
            places: along each axis, in voxels of the padded volume; float32 (...), changed.
            image, label: float32 and uint8.
        """
        first = self.FIRST - 1  # the last place outside
        shares = [
            place.clamp_(first, first + length + 1).reshape(-1)
            for place, length in zip(places, self._lengths, strict=True)
        ]
        if self._label is None:
            label.zero_()
        else:
            nearest = self._index([place.round() for place in shares])
            label[0] = self._label.index_select(0, nearest).reshape(label.shape[1:])
        lower = [place.floor() for place in shares]
        for place, low in zip(shares, lower, strict=True):
            place.sub_(low)
        index = self._index(lower)
        # Written into again and again: what lies in the cache of a core is there sooner than new memory.
        if self._scratch.shape[1] != len(index):
            self._scratch = torch.empty((_SCRATCH, len(index)))
        for target, channel in zip(image, self._image, strict=True):
            self._mix(channel, index, shares, self._scratch)
            target.copy_(self._scratch[0].reshape(target.shape))

    def _padded(self, volume: torch.Tensor, shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
        padded = torch.zeros(*shape, dtype=dtype)
        i, j, k = (slice(self.FIRST, self.FIRST + length) for length in self._lengths)
        padded[i, j, k] = volume
        return padded.reshape(-1)

    def _index(self, whole: Sequence[torch.Tensor]) -> torch.Tensor:
        """Where in memory the voxels with these numbers lie, (voxels,). The numbers are changed."""
        total, *rest = (numbers.to(self._counts) for numbers in whole)
        total.mul_(self._strides[0])
        for numbers, stride in zip(rest, self._strides[1:], strict=True):
            total.add_(numbers, alpha=stride)
        return total.to(torch.int64 if self._counts is torch.float64 else torch.int32)

    def _mix(
        self,
        channel: torch.Tensor,
        index: torch.Tensor,
        shares: Sequence[torch.Tensor],
        scratch: torch.Tensor,
        axis: int = 0,
    ) -> None:
        """Interpolate along the axes from ``axis`` on, into the first row of ``scratch``::

        along i, of two values, each of them
            along j, of two values, each of them
                along k, of two neighbours: channel[index], and one step in memory further
        """
        if axis == len(shares):
            torch.index_select(channel, 0, index, out=scratch[0])
            return
        self._mix(channel, index, shares, scratch, axis + 1)
        # The same index reads another neighbour of every voxel where memory is seen to begin so much later.
        self._mix(channel[self._strides[axis] :], index, shares, scratch[1:], axis + 1)
        scratch[0].lerp_(scratch[1], shares[axis])
