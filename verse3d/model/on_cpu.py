"""A network as it is, computed by what is quick on a CPU: for training and for prediction.

Of a U-Net that is narrow at its top level a CPU does not wait for the large convolutions. It waits for those from and
to one channel, for the backward pass of PReLU, and for data that changes its order in memory between two layers. All of
these can be computed in other ways that give the same but for rounding:

    instance norm            a batch norm of each sample: keeps the channels of a voxel together, as oneDNN wants them
    from one channel         in float32: of the 16 channels that AMX multiplies at once, 15 would be empty; or, where
                             it halves the resolution and nothing is learnt, with 8 voxels as 8 channels
    to few channels,
    at full resolution       at half the resolution, with 8 voxels as 8 channels (see ``half_resolution``)
    PReLU, one slope         backward as a leaky ReLU, and the slope's gradient as one sum

Prediction in float32 needs less: there, convolutions only must not fall back to PyTorch's own plain loop.
"""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from verse3d.core.runtime import channels_last
from verse3d.model.half_resolution import (
    CONVOLUTIONS,
    DIMENSIONS,
    convolved_at_half,
    doubled,
    doubles_to_few,
    halved,
    halves_from_one,
    is_between_few,
)

_TRANSPOSED = (torch.conv_transpose2d, torch.conv_transpose3d)
_AT_ONCE = 16
"""Channels that lie side by side in a register: the backward pass of a norm of any other number of them is slow."""
_ARGUMENTS = 7
"""How many ``nn.Conv2d`` and ``nn.Conv3d`` hand on, all by position."""


def quick_on(device: torch.device) -> AbstractContextManager[object]:
    """The quicker ways, if a network is on a CPU; on a GPU everything stays as it is."""
    return QuickOnCpu() if device.type == "cpu" else nullcontext()


class _Quicker(TorchFunctionMode):
    """While it is entered, some of PyTorch's functions are computed in another way."""

    def other_way(self, func: object, args: Sequence[Any], settings: Mapping[str, Any]) -> Callable[..., Any] | None:
        """What computes the same with the same arguments, or None to leave a function as it is."""
        raise NotImplementedError

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - a function of PyTorch
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the function returns
        """Called by PyTorch in place of each of its functions."""
        settings = kwargs or {}
        return (self.other_way(func, args, settings) or func)(*args, **settings)


class AtHalfResolution(_Quicker):
    """Layers from and to few channels are computed at half the resolution, and all others as they are.

    For a network that is traced, so that another program computes it in these ways, too.
    """

    def other_way(self, func: object, args: Sequence[Any], settings: Mapping[str, Any]) -> Callable[..., Any] | None:
        """For convolutions as layers call them: with all arguments by position."""
        if settings or not args or not isinstance(args[0], torch.Tensor) or args[0].device.type != "cpu":
            return None
        if func in _TRANSPOSED:
            return doubled if doubles_to_few(args) else None
        return _quicker_convolution(args) if func in CONVOLUTIONS.values() and _is_called_by_layer(args) else None


class QuickOnCpu(AtHalfResolution):
    """PyTorch's slow functions are computed in quicker ways on tensors of the CPU: all that the module's text lists."""

    def other_way(self, func: object, args: Sequence[Any], settings: Mapping[str, Any]) -> Callable[..., Any] | None:
        """For layers of a U-Net with few channels at its top level."""
        if func is functional.instance_norm:
            return _instance_norm if len(args) == 1 and _is_of_each_sample(args[0], settings) else None
        if func is torch.prelu:
            one_slope = not settings and args[0].device.type == "cpu" and args[1].numel() == 1
            return _shared_prelu if one_slope and torch.is_grad_enabled() else None
        return super().other_way(func, args, settings)


class QuickConvolutions(_Quicker):
    """Sends float32 convolutions on the CPU to oneDNN, always.

    By itself PyTorch computes those of a single small window with a plain loop that is several times slower: of a batch
    of one whose channels times first two axes make up at most 20,480 numbers. The results differ in rounding only.
    """

    def other_way(self, func: object, args: Sequence[Any], settings: Mapping[str, Any]) -> Callable[..., Any] | None:
        """For convolutions as layers call them."""
        fits = func in CONVOLUTIONS.values() and not settings and _is_called_by_layer(args)
        return _in_onednn if fits and args[0].dtype is torch.float32 else None


def _quicker_convolution(args: Sequence[Any]) -> Callable[..., Any] | None:
    if is_between_few(args):
        return convolved_at_half
    if halves_from_one(args):
        return halved
    return _convolved_in_float32 if args[1].shape[1] == 1 and torch.is_autocast_enabled("cpu") else None


def _is_called_by_layer(args: Sequence[Any]) -> bool:
    """Whether a convolution was called as ``nn.Conv2d`` and ``nn.Conv3d`` do, with padding in numbers, for oneDNN."""
    return (
        len(args) == _ARGUMENTS
        and not isinstance(args[4], str)
        and args[0].dim() in DIMENSIONS
        and args[0].device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _is_of_each_sample(image: torch.Tensor, settings: Mapping[str, Any]) -> bool:
    """Whether an instance norm takes mean and deviation from each sample of (B, channels, ...) itself."""
    # The function hands on all but its first argument by name.
    from_samples = settings.get("running_mean") is None and settings.get("use_input_stats", True)
    usual = image.device.type == "cpu" and image.dim() in DIMENSIONS and math.prod(image.shape[2:]) > 1
    return from_samples and usual and (image.shape[1] % _AT_ONCE == 0 or not torch.is_grad_enabled())


def _instance_norm(image: torch.Tensor, **settings: Any) -> torch.Tensor:  # noqa: ANN401 - of several kinds
    """Of the arguments of ``torch.nn.functional.instance_norm``, which would exchange the order in memory."""
    weight, bias, eps = settings.get("weight"), settings.get("bias"), settings.get("eps", 1e-5)
    normed = [
        torch.batch_norm(sample, weight, bias, None, None, True, 0.0, eps, True)
        for sample in torch.split(channels_last(image), 1)
    ]
    return normed[0] if len(normed) == 1 else torch.cat(normed)


def _in_onednn(  # noqa: PLR0917 - those of ``torch.conv3d``
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> torch.Tensor:
    return torch.mkldnn_convolution(image, weight, bias, padding, stride, dilation, groups)


def _convolved_in_float32(
    image: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    *others: Any,  # noqa: ANN401 - of several kinds
) -> torch.Tensor:
    """A convolution in float32, with its result in the format that autocast would have given."""
    wanted = torch.get_autocast_dtype("cpu")
    with torch.autocast("cpu", enabled=False):
        bias = None if bias is None else bias.float()
        convolved = _in_onednn(channels_last(image.float()), weight.float(), bias, *others)
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
