"""A network as it is, computed by what is quick on a CPU: for training, and for prediction in bfloat16.

Of a U-Net that is narrow at its top level a CPU does not wait for the large convolutions. It waits for those from and
to one channel, for the backward pass of PReLU, and for data that changes its order in memory between two layers. All of
these can be computed in other ways that give the same but for rounding:

    instance norm            a batch norm of each piece: keeps the channels of a voxel together, as oneDNN wants them
    from one channel         in float32: of the 16 channels that AMX multiplies at once, 15 would be empty
    to few channels,         at half the resolution, with 8 voxels as 8 channels, as sub-pixel convolutions do
    at full resolution       (Shi et al. 2016, doi:10.1109/CVPR.2016.207)
    PReLU, one slope         backward as a leaky ReLU, and the slope's gradient as one sum
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from verse3d.core.runtime import channels_last

_CONVOLUTIONS = {2: torch.conv2d, 3: torch.conv3d}
_TRANSPOSED = (torch.conv_transpose2d, torch.conv_transpose3d)
_DIMENSIONS = (4, 5)
"""Of slices and of windows: (B, channels, ...)."""
_FEW, _FEW_FORWARD = 4, 1
"""Channels at full resolution up to which half the resolution is quicker; forward alone only for a single one."""
_AT_ONCE = 16
"""Channels that lie side by side in a register: the backward pass of a norm of any other number of them is slow."""
_KERNEL = 3
_CALLED_BY_LAYER = {"convolution": 7, "transposed": 8}
"""How many arguments ``nn.Conv3d`` and ``nn.ConvTranspose3d`` hand on, all by position."""


def quick_on(device: torch.device) -> AbstractContextManager[object]:
    """The quicker ways, if a network is on a CPU; on a GPU everything stays as it is."""
    return QuickOnCpu() if device.type == "cpu" else nullcontext()


class QuickOnCpu(TorchFunctionMode):
    """While it is entered, PyTorch's slow functions are computed in the quicker way, on tensors of the CPU."""

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - a function of PyTorch
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the function returns
        """Called by PyTorch in place of each of its functions."""
        settings = kwargs or {}
        return (_quicker(func, args, settings) or func)(*args, **settings)


def _quicker(func: object, args: Sequence[Any], settings: Mapping[str, Any]) -> Callable[..., Any] | None:
    """What computes the same with the same arguments, or None to leave it as it is."""
    if func is functional.instance_norm:
        return _instance_norm if len(args) == 1 and _is_of_each_piece(args[0], settings) else None
    # Layers hand on all arguments of the others by position.
    if settings or not args or not isinstance(args[0], torch.Tensor) or args[0].device.type != "cpu":
        return None
    if func is torch.prelu:
        return _shared_prelu if args[1].numel() == 1 and torch.is_grad_enabled() else None
    if func in _TRANSPOSED:
        return _doubled if _doubles_to_few(args) else None
    return _quicker_convolution(args) if func in _CONVOLUTIONS.values() and is_called_by_layer(args) else None


def _quicker_convolution(args: Sequence[Any]) -> Callable[..., Any] | None:
    if _is_between_few(args):
        return _convolved_at_half
    return _convolved_in_float32 if args[1].shape[1] == 1 and torch.is_autocast_enabled("cpu") else None


def is_called_by_layer(args: Sequence[Any]) -> bool:
    """Whether a convolution was called as ``nn.Conv2d`` and ``nn.Conv3d`` do, with padding in numbers, for oneDNN."""
    return (
        len(args) == _CALLED_BY_LAYER["convolution"]
        and not isinstance(args[4], str)
        and args[0].dim() in _DIMENSIONS
        and args[0].device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _is_of_each_piece(image: torch.Tensor, settings: Mapping[str, Any]) -> bool:
    """Whether an instance norm takes mean and deviation from each piece of (B, channels, ...) itself."""
    # The function hands on all but its first argument by name.
    from_pieces = settings.get("running_mean") is None and settings.get("use_input_stats", True)
    usual = image.device.type == "cpu" and image.dim() in _DIMENSIONS and math.prod(image.shape[2:]) > 1
    return from_pieces and usual and (image.shape[1] % _AT_ONCE == 0 or not torch.is_grad_enabled())


def _instance_norm(image: torch.Tensor, **settings: Any) -> torch.Tensor:  # noqa: ANN401 - of several kinds
    """Of the arguments of ``torch.nn.functional.instance_norm``, which would exchange the order in memory."""
    weight, bias, eps = settings.get("weight"), settings.get("bias"), settings.get("eps", 1e-5)
    normed = [
        torch.batch_norm(piece, weight, bias, None, None, True, 0.0, eps, True)
        for piece in torch.split(channels_last(image), 1)
    ]
    return normed[0] if len(normed) == 1 else torch.cat(normed)


def _convolved_in_float32(  # noqa: PLR0917 - those of ``torch.conv3d``
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    """A convolution in float32, with its result in the format that autocast would have given."""
    wanted = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.float()
        image = channels_last(image.float())
        convolved = torch.mkldnn_convolution(image, weight.float(), bias, padding, stride, dilation, groups)
    return convolved.to(wanted)


def _shared_prelu(image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    activated: torch.Tensor = _SharedPReLU.apply(image, weight)  # type: ignore[no-untyped-call]
    return activated


class _SharedPReLU(torch.autograd.Function):
    """PReLU with one slope for all channels.

    PyTorch's own backward pass writes the slope's gradient of each voxel before it adds them up, without the CPU's wide
    instructions, and takes four times as long.
    """

    @staticmethod
    def forward(ctx: Any, image: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:  # noqa: ANN401 - PyTorch's
        ctx.slope = float(weight.to(image.dtype))  # rounded as PyTorch does
        ctx.save_for_backward(image)
        ctx.weight_shape, ctx.weight_dtype = weight.shape, weight.dtype
        return functional.leaky_relu(image, ctx.slope)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:  # noqa: ANN401 - PyTorch's
        (image,) = ctx.saved_tensors
        of_image = torch.ops.aten.leaky_relu_backward(gradient, image, ctx.slope, False)
        exact = torch.promote_types(image.dtype, torch.float32)  # millions of voxels are too many for 16 bits
        of_slope = (gradient * image.clamp(max=0)).sum(dtype=exact)
        return of_image, of_slope.reshape(ctx.weight_shape).to(ctx.weight_dtype)


def _doubles_to_few(args: Sequence[Any]) -> bool:
    """Whether a transposed convolution doubles the resolution as those of a U-Net do, and gives few channels."""
    if len(args) != _CALLED_BY_LAYER["transposed"]:
        return False
    image, weight, _, stride, padding, output_padding, groups, dilation = args
    return (
        image.dim() in _DIMENSIONS
        and weight.shape[1] <= _few()
        and groups == 1
        and _are(_KERNEL, weight.shape[2:])
        and _are(2, stride)
        and _are(1, padding)
        and _are(1, output_padding)
        and _are(1, dilation)
    )


def _is_between_few(args: Sequence[Any]) -> bool:
    """Whether a convolution keeps size and resolution, has few channels on both sides, and an even size."""
    image, weight, _, stride, padding, dilation, groups = args
    return (
        max(weight.shape[:2]) <= _few()
        and groups == 1
        and _are(_KERNEL, weight.shape[2:])
        and _are(1, stride)
        and _are(1, padding)
        and _are(1, dilation)
        and all(size % 2 == 0 for size in image.shape[2:])
    )


def _few() -> int:
    return _FEW if torch.is_grad_enabled() else _FEW_FORWARD


def _are(expected: int, numbers: int | Sequence[int]) -> bool:
    return numbers == expected if isinstance(numbers, int) else all(number == expected for number in numbers)


def _doubled(image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: object) -> torch.Tensor:
    """A transposed convolution of kernel 3 and stride 2: (B, C, i, j, k) -> (B, few, 2i, 2j, 2k).

    Along an axis, with weights w0 w1 w2, voxel 2q of the result is made of one voxel of the image, 2q + 1 of two::

        result[2q]     = w1 image[q]                            both from image[q] and image[q + 1], so a convolution
        result[2q + 1] = w2 image[q] + w0 image[q + 1]          of kernel 2 gives both, as two channels
    """
    dims, (before, after) = image.dim() - 2, weight.shape[:2]
    taps = _picked(weight, _weights_of_doubling(dims))  # (before, after, 2 ** dims, 2 ** dims): parities, neighbours
    kernel = taps.permute(1, 2, 0, 3).reshape(after * 2**dims, before, *[2] * dims)
    # The last voxel has no neighbour behind it: zeros.
    padded = functional.pad(channels_last(image), (0, 1) * dims)
    return _interleaved(_CONVOLUTIONS[dims](padded, kernel, _of_each_voxel(bias, dims)), dims)


def _convolved_at_half(
    image: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, *_: object
) -> torch.Tensor:
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
    return _interleaved(_CONVOLUTIONS[dims](halved, kernel, _of_each_voxel(bias, dims), 1, 1), dims)


def _picked(weight: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    """(a, b, *places.shape): the weights (a, b, 3, 3, 3) at flat places; 0 at the place behind the last."""
    flat = functional.pad(weight.flatten(2), (0, 1))
    return flat.index_select(2, places.flatten()).reshape(*weight.shape[:2], *places.shape)


@lru_cache
def _weights_of_doubling(dims: int) -> torch.Tensor:
    """(2 ** dims, 2 ** dims) places in the kernel, by parities of the result and by neighbours. See ``_doubled``."""
    of_axis = {(0, 0): 1, (0, 1): None, (1, 0): 2, (1, 1): 0}
    corners = list(itertools.product((0, 1), repeat=dims))
    return torch.tensor(
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
    return torch.tensor(
        [[[_place(list(map(along, to, of, near))) for near in neighbours] for of in corners] for to in corners]
    )


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
