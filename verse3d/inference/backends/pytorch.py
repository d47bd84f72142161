"""The network in PyTorch itself."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Self

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from verse3d.core.runtime import Precision, channels_last, choose_precision

_CONVOLUTIONS = (torch.conv2d, torch.conv3d)
_ARGUMENTS = 7


@dataclass(frozen=True, eq=False)
class TorchBackend:
    """Runs the network as it is. Raises ``torch.OutOfMemoryError`` when a batch does not fit on a GPU."""

    network: nn.Module
    device: torch.device
    number_format: Precision

    @property
    def name(self) -> str:
        """Always PyTorch, so "torch"."""
        return "torch"

    @property
    def precision(self) -> str:
        """Number format of the forward pass, e.g. "bfloat16"."""
        return str(self.number_format.dtype).removeprefix("torch.")

    @property
    def has_to_prove_itself(self) -> bool:
        """No: PyTorch is what others are compared with."""
        return False

    def make_ready(self, shape: Sequence[int]) -> None:
        """Nothing to do: the weights are loaded, and PyTorch compiles nothing for a shape."""

    def __call__(self, pieces: torch.Tensor) -> torch.Tensor:
        """Logits (B, channels, ...) of float32 pieces (B, n, ...), on the device; float16 comes back as float32."""
        with torch.no_grad():  # not inference mode: its tensors could not be changed in place by the caller
            if self.device.type == "cpu":
                logits = self._on_cpu(pieces)
            else:
                with self.number_format.autocast(self.device):
                    logits = self.network(channels_last(pieces.to(self.device, non_blocking=True)))
            return logits.float() if logits.dtype is torch.float16 else logits

    def _on_cpu(self, pieces: torch.Tensor) -> torch.Tensor:
        pieces = pieces.to(self.device)
        if self.number_format.dtype is not torch.float32:
            with self.number_format.autocast(self.device):
                lower: torch.Tensor = self.network(pieces)
            return lower
        with QuickConvolutions():
            logits: torch.Tensor = self.network(pieces)
        return logits

    def to(self, device: torch.device) -> Self:
        """The same network, moved. On a CPU fp16 becomes what the CPU is best at."""
        kept = self.number_format
        if device.type == "cpu" and kept.dtype is torch.float16:
            kept = choose_precision("auto", device)
        return replace(self, network=self.network.to(device), device=device, number_format=kept)

    def record(self) -> dict[str, Any]:
        """Name, precision and device."""
        return {"name": self.name, "precision": self.precision, "device": str(self.device)}


def torch_backend(network: nn.Module, device: torch.device, precision: Precision) -> TorchBackend:
    """The network on ``device``, in evaluation mode."""
    return TorchBackend(network.to(device).eval(), device, precision)


class QuickConvolutions(TorchFunctionMode):
    """Sends float32 convolutions on the CPU to oneDNN, always.

    By itself PyTorch computes those of a single small piece with a plain loop that is several times slower: of a batch
    of one whose channels times first two axes make up at most 20,480 numbers. The results differ in rounding only.
    """

    def __torch_function__(
        self,
        func: Any,  # noqa: ANN401 - a function of PyTorch
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401 - what the function returns
        """Called by PyTorch in place of each of its functions."""
        if func in _CONVOLUTIONS and not kwargs and _suits_onednn(args):
            image, weight, bias, stride, padding, dilation, groups = args
            return torch.mkldnn_convolution(image, weight, bias, padding, stride, dilation, groups)
        return func(*args, **(kwargs or {}))


def _suits_onednn(args: tuple[Any, ...]) -> bool:
    """Whether a convolution was called as ``nn.Conv2d`` and ``nn.Conv3d`` do, with padding in numbers."""
    return (
        len(args) == _ARGUMENTS
        and not isinstance(args[4], str)
        and args[0].dtype is torch.float32
        and args[0].device.type == "cpu"
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )
