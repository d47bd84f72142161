"""Which backend runs a model."""

from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from verse3d.core.errors import ConfigError
from verse3d.core.runtime import Precision
from verse3d.inference.backends.base import Backend
from verse3d.inference.backends.openvino import OpenVinoBackend
from verse3d.inference.backends.pytorch import TorchBackend, with_short_weights
from verse3d.model.checkpoint import Checkpoint, load_weights
from verse3d.model.modes import Method

BackendName = Literal["auto", "torch", "openvino"]
BACKENDS: tuple[str, ...] = get_args(BackendName)
_FEW_CHANNELS, _FEW_THREADS = 3, range(2, 5)
"""Output channels, and PyTorch's threads, for which PyTorch was found to be the quicker one (docs/performance.md)."""


def network_of(checkpoint: Checkpoint, path: Path) -> nn.Module:
    """The network of a checkpoint with its weights, on the CPU in evaluation mode.

    Raises:
        CheckpointError: the weights do not fit the network of the config.
    """
    network = checkpoint.method.network()
    load_weights(network, checkpoint.network, path)
    return network.eval()


def open_backend(name: str, checkpoint: Checkpoint, path: Path, device: torch.device, precision: Precision) -> Backend:
    """A model, ready to be shown windows.

    Args:
        name: "torch", "openvino", or "auto": on a CPU the quicker one of those that are installed, on a GPU PyTorch.
        checkpoint: the model.
        path: where it was read from; OpenVINO keeps its converted model beside it.
        device: where to compute.
        precision: number format of the forward pass.

    Raises:
        ConfigError: the name is unknown; OpenVINO was asked for and is missing, or on a GPU.
        CheckpointError: the weights do not fit the network of the config, when the backend is made ready.
    """
    if name not in BACKENDS:
        raise ConfigError(f"backend {name!r} is unknown; expected one of {', '.join(BACKENDS)}")
    installed = find_spec("openvino") is not None
    if name == "openvino":
        _require_openvino(installed, device)
    by_pytorch = name == "torch" or (name == "auto" and is_quicker_in_pytorch(checkpoint.method, precision))
    if by_pytorch or device.type != "cpu" or not installed:
        return TorchBackend(partial(_network_for_pytorch, checkpoint, path, device, precision), device, precision)
    return OpenVinoBackend.of(partial(network_of, checkpoint, path), checkpoint, path, precision)


def is_quicker_in_pytorch(method: Method, precision: Precision) -> bool:
    """Whether PyTorch takes less time than OpenVINO for a network on the CPU, by what was measured.

    It does for UNets with few labels in bfloat16 on two cores: two of their windows fit beside each other, each on a
    core of its own. It also converts nothing before the first scan. Elsewhere OpenVINO divides a window better.
    """
    is_small = method.architecture.name == "unet" and method.network_scheme.output_channels <= _FEW_CHANNELS
    return is_small and precision.dtype is torch.bfloat16 and torch.get_num_threads() in _FEW_THREADS


def _network_for_pytorch(checkpoint: Checkpoint, path: Path, device: torch.device, precision: Precision) -> nn.Module:
    network = network_of(checkpoint, path)
    if device.type == "cpu" and precision.dtype is not torch.float32:
        return with_short_weights(network, precision.dtype)
    return network


def _require_openvino(installed: bool, device: torch.device) -> None:
    if device.type != "cpu":
        raise ConfigError(
            f"the backend openvino computes on the CPU, not on device {device.type!r}",
            hint="use `backend=torch` on a GPU, or `device=cpu`",
            option="backend",
        )
    if not installed:
        raise ConfigError(
            "the backend openvino needs the package openvino",
            hint="pip install 'verse3d[openvino]'",
            option="backend",
        )
