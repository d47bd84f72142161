"""Convolutions at full resolution with few channels, computed at half the resolution, where a CPU is quick.

Eight voxels (four in 2D) become as many channels of one voxel, as in sub-pixel convolutions (Shi et al. 2016,
doi:10.1109/CVPR.2016.207). The results are those of PyTorch's own layers but for rounding, and so are the gradients.
"""

import itertools
import math
from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch
from torch.nn import functional

from verse3d.core.runtime import channels_last

CONVOLUTIONS = {2: torch.conv2d, 3: torch.conv3d}
"""By the number of axes."""
DIMENSIONS = (4, 5)
"""Of slices and of windows: (B, channels, ...)."""
_FEW, _FEW_FORWARD = 4, 1
"""Channels at full resolution up to which half the resolution is quicker; forward alone only for a single one."""
_KERNEL = 3
_TRANSPOSED_ARGUMENTS = 8
"""How many arguments ``nn.ConvTranspose3d`` hands on, all by position."""


def doubles_to_few(args: Sequence[Any]) -> bool:
    """Whether a transposed convolution doubles the resolution as those of a U-Net do, and gives few channels.

    Args:
        args: what it was called with, as ``nn.ConvTranspose3d`` does.
    """
    if len(args) != _TRANSPOSED_ARGUMENTS:
        return False
    image, weight, _, stride, padding, output_padding, groups, dilation = args
    return (
        image.dim() in DIMENSIONS
        and weight.shape[1] <= _few()
        and groups == 1
        and _are(_KERNEL, weight.shape[2:])
        and _are(2, stride)
        and _are(1, padding)
        and _are(1, output_padding)
        and _are(1, dilation)
    )


def halves_from_one(args: Sequence[Any]) -> bool:
    """Whether a convolution halves the resolution of one channel of an even size, and nobody asks for gradients.

    Args:
        args: what it was called with, as ``nn.Conv3d`` does: seven, all by position.
    """
    image, weight, _, stride, padding, dilation, groups = args
    return (
        not torch.is_grad_enabled()
        and weight.shape[1] == 1
        and groups == 1
        and _are(_KERNEL, weight.shape[2:])
        and _are(2, stride)
        and _are(1, padding)
        and _are(1, dilation)
        and _is_even(image)
    )


def is_between_few(args: Sequence[Any]) -> bool:
    """Whether a convolution keeps size and resolution, has few channels on both sides, and an even size.

    Args:
        args: what it was called with, as ``nn.Conv3d`` does: seven, all by position.
    """
    image, weight, _, stride, padding, dilation, groups = args
    return (
        max(weight.shape[:2]) <= _few()
        and groups == 1
        and _are(_KERNEL, weight.shape[2:])
        and _are(1, stride)
        and _are(1, padding)
        and _are(1, dilation)
        and _is_even(image)
    )


def _is_even(image: torch.Tensor) -> bool:
    return all(size % 2 == 0 for size in image.shape[2:])


def _few() -> int:
    return _FEW if torch.is_grad_enabled() else _FEW_FORWARD


def _are(expected: int, numbers: int | Sequence[int]) -> bool:
    return numbers == expected if isinstance(numbers, int) else all(number == expected for number in numbers)


def doubled(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: object) -> torch.Tensor:
    """A transposed convolution of kernel 3 and stride 2: (B, C, i, j, k) -> (B, few, 2i, 2j, 2k).

    Along an axis, with weights w0 w1 w2, voxel 2q of the result is made of one voxel of the image, 2q + 1 of two::

        result[2q]     = w1 image[q]                            both from image[q] and image[q + 1], so a convolution
        result[2q + 1] = w2 image[q] + w0 image[q + 1]          of kernel 2 gives both, as two channels
    """
    dims, (before, after) = image.dim() - 2, weight.shape[:2]
    taps = _picked(weight, _weights_of_doubling(dims))  # (before, after, 2 ** dims, 2 ** dims): parities, neighbours
    kernel = taps.permute(1, 2, 0, 3).reshape(after * 2**dims, before, *[2] * dims)
    # The last voxel has no neighbour behind it: zeros. Those before the first one give what nobody asked for.
    stacked = CONVOLUTIONS[dims](channels_last(image), kernel, _of_each_voxel(bias, dims), 1, 1)
    for axis in range(2, 2 + dims):
        stacked = stacked.narrow(axis, 1, stacked.shape[axis] - 1)
    return _interleaved(stacked, dims)


def halved(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: object) -> torch.Tensor:
    """A convolution of kernel 3 and stride 2 from one channel: (B, 1, 2i, 2j, 2k) -> (B, C, i, j, k).

    Two neighbours along an axis are two channels of one voxel of twice the size, and with the voxel before it they are
    all that a voxel of the result is made of::

        image     | a0 b0 | a1 b1 | a2 b2 |         result[1] = w0 b0 + w1 a1 + w2 b1
    """
    dims, after = image.dim() - 2, len(weight)
    taps = _picked(weight, _weights_of_halving(dims))  # (after, 1, parities, neighbours)
    kernel = taps.reshape(after, 2**dims, *[2] * dims)
    # The first voxel has no neighbour before it: zeros.
    stacked = functional.pad(channels_last(_stacked(image, dims)), (1, 0) * dims)
    return CONVOLUTIONS[dims](stacked, kernel, bias)


def convolved_at_half(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: object) -> torch.Tensor:
    """A convolution of kernel 3 between few channels: (B, few, 2i, 2j, 2k) -> (B, few, 2i, 2j, 2k).

    Two neighbours along an axis are two channels of one voxel of twice the size::

        image     | a0 b0 | a1 b1 | a2 b2 |         result[a1] = w0 b0 + w1 a1 + w2 b1
        channels  | a b   | a b   | a b   |         result[b1] =         w0 a1 + w1 b1 + w2 a2

    Four fifths of the new kernel are zeros, and it is still several times quicker.
    """
    dims, (after, before) = image.dim() - 2, weight.shape[:2]
    taps = _picked(weight, _weights_at_half(dims))  # (after, before, to parities, from parities, neighbours)
    kernel = taps.permute(0, 2, 1, 3, 4).reshape(after * 2**dims, before * 2**dims, *[_KERNEL] * dims)
    halved = channels_last(_stacked(image, dims))
    return _interleaved(CONVOLUTIONS[dims](halved, kernel, _of_each_voxel(bias, dims), 1, 1), dims)


def _picked(weight: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(a, b, *places.shape): the weights (a, b, 3, 3, 3) at flat places; 0 at the place behind the last."""
    flat = functional.pad(weight.flatten(2), (0, 1))
    return flat.index_select(2, places.flatten()).reshape(*weight.shape[:2], *places.shape)


@lru_cache
def _weights_of_doubling(dims: int) -> torch.Tensor:
    """(2 ** dims, 2 ** dims) places in the kernel, by parities of the result and by neighbours."""
    of_axis = {(0, 0): 1, (0, 1): None, (1, 0): 2, (1, 1): 0}
    corners = list(itertools.product((0, 1), repeat=dims))
    return _kept(
        [[_place([of_axis[pair] for pair in zip(parity, tap, strict=True)]) for tap in corners] for parity in corners]
    )


@lru_cache
def _weights_of_halving(dims: int) -> torch.Tensor:
    """(2 ** dims, 2 ** dims) places in the kernel, by parities of the image, and by the voxel before or itself."""
    of_axis = {(0, 0): None, (1, 0): 0, (0, 1): 1, (1, 1): 2}
    corners = list(itertools.product((0, 1), repeat=dims))
    return _kept(
        [[_place([of_axis[pair] for pair in zip(parity, tap, strict=True)]) for tap in corners] for parity in corners]
    )


@lru_cache
def _weights_at_half(dims: int) -> torch.Tensor:
    """(2 ** dims, 2 ** dims, 3 ** dims) places, by parities of the result, of the image, and by neighbours."""

    def along(to: int, of: int, neighbour: int) -> int | None:
        # From voxel 2 q + to of the result to voxel 2 (q + neighbour) + of of the image
        number = 2 * neighbour + of - to + 1
        return number if 0 <= number < _KERNEL else None

    corners = list(itertools.product((0, 1), repeat=dims))
    neighbours = list(itertools.product((-1, 0, 1), repeat=dims))
    return _kept(
        [[[_place(list(map(along, to, of, near))) for near in neighbours] for of in corners] for to in corners]
    )


def _kept(places: list[Any]) -> torch.Tensor:
    with torch.inference_mode(False):  # a training may use what a prediction before it made
        return torch.tensor(places)


def _place(numbers: Sequence[int | None]) -> int:
    """The flat place of one weight of a kernel, or the one behind the last where there is none along an axis."""
    known = [number for number in numbers if number is not None]
    if len(known) < len(numbers):
        return math.prod([_KERNEL] * len(numbers))
    place = 0
    for number in known:
        place = _KERNEL * place + number
    return place


def _of_each_voxel(bias: torch.Tensor | None, dims: int) -> torch.Tensor | None:
    return None if bias is None else bias.repeat_interleave(2**dims)


def _interleaved(stacked: torch.Tensor, dims: int) -> torch.Tensor:
    """(B, C * 2 ** dims, i, j, k) -> (B, C, 2i, 2j, 2k): depth to space."""
    batch, channels, *sizes = stacked.shape
    apart = stacked.reshape(batch, channels // 2**dims, *[2] * dims, *sizes)
    # B C  p q r  i j k  ->  B C  i p  j q  k r
    order = [0, 1, *itertools.chain(*((2 + dims + axis, 2 + axis) for axis in range(dims)))]
    return apart.permute(order).reshape(batch, channels // 2**dims, *[2 * size for size in sizes])


def _stacked(image: torch.Tensor, dims: int) -> torch.Tensor:
    """(B, C, 2i, 2j, 2k) -> (B, C * 2 ** dims, i, j, k): space to depth."""
    batch, channels, *sizes = image.shape
    halves = [size // 2 for size in sizes]
    apart = image.reshape(batch, channels, *itertools.chain(*((half, 2) for half in halves)))
    # B C  i p  j q  k r  ->  B C  p q r  i j k
    order = [0, 1, *(3 + 2 * axis for axis in range(dims)), *(2 + 2 * axis for axis in range(dims))]
    return apart.permute(order).reshape(batch, channels * 2**dims, *halves)
