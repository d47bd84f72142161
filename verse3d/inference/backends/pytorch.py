"""The network in PyTorch itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import nn

from verse3d.core.runtime import Precision, channels_last, choose_precision
from verse3d.model.on_cpu import QuickConvolutions, QuickOnCpu

_WITH_KERNELS = (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.ConvTranspose3d)


@dataclass(eq=False)
class TorchBackend:
    """Runs the network as it is. Raises ``torch.OutOfMemoryError`` when a batch does not fit on a GPU.

    The network is built when it is first needed: MONAI takes seconds to import, and a scan can be read meanwhile.

    Attributes:
        build: gives the network with its weights. It raises ``CheckpointError`` if these do not fit.
        device: where it computes.
        number_format: of the forward pass.
    """

    build: Callable[[], nn.Module]
    device: torch.device
    number_format: Precision

    @cached_property
    def network(self) -> nn.Module:
        """On its device, in evaluation mode. Raises what ``build`` raises when it is first asked for."""
        built = self.build().to(self.device).eval()
        self.build = lambda: built  # what it was built from is given back: the weights in float32
        return built

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

    @property
    def takes_threads(self) -> bool:
        """On a CPU."""
        return self.device.type == "cpu"

    def make_ready(self, shape: Sequence[int]) -> None:
        """Build the network; PyTorch compiles nothing for a shape."""
        _ = self.network

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits (B, channels, ...) of float32 windows (B, n, ...), on the device; float16 comes back as float32."""
        with torch.no_grad():  # not inference mode: its tensors could not be changed in place by the caller
            if self.device.type == "cpu":
                logits = self._on_cpu(windows)
            else:
                with self.number_format.autocast(self.device):
                    logits = self.network(channels_last(windows.to(self.device, non_blocking=True)))
            return logits.float() if logits.dtype is torch.float16 else logits

    def _on_cpu(self, windows: torch.Tensor) -> torch.Tensor:
        windows = windows.to(self.device)
        if self.number_format.dtype is not torch.float32:
            with self.number_format.autocast(self.device), QuickOnCpu():
                lower: torch.Tensor = self.network(channels_last(windows))
            return lower
        with QuickConvolutions():
            logits: torch.Tensor = self.network(windows)
        return logits

    def to(self, device: torch.device) -> "TorchBackend":
        """The same network, moved. On a CPU fp16 becomes what the CPU is best at."""
        kept = self.number_format
        if device.type == "cpu" and kept.dtype is torch.float16:
            kept = choose_precision("auto", device)
        return torch_backend(self.network, device, kept)

    def record(self) -> dict[str, Any]:
        """Name, precision and device."""
        return {"name": self.name, "precision": self.precision, "device": str(self.device)}


def torch_backend(network: nn.Module, device: torch.device, precision: Precision) -> TorchBackend:
    """The network on ``device``, in evaluation mode."""
    backend = TorchBackend(lambda: network, device, precision)
    backend.make_ready(())
    return backend


def with_short_weights(network: nn.Module, dtype: torch.dtype) -> nn.Module:
    """The network, changed in place: weights of convolutions in the format and the order that they are used in.

    Autocast would convert them for every window. What else a network holds stays float32, as autocast leaves it, and so
    do weights from one channel: see ``model.on_cpu``. So logits are those of the network as it was.
    """
    for layer in network.modules():
        if isinstance(layer, _WITH_KERNELS) and layer.in_channels != 1:
            layer.to(dtype)
            layer.weight.data = channels_last(layer.weight.data)
    return network.requires_grad_(False)
