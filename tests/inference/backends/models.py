"""Tiny models of every kind, and the windows that they look at."""

import tempfile
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
import yaml
from torch import nn

from tests.scans import tiny_config
from verse3d.core.config import Config, parse_config
from verse3d.core.labels import label_scheme
from verse3d.core.runtime import Precision
from verse3d.inference.backends import network_of
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from verse3d.model.modes import get_mode

CPU = torch.device("cpu")
FLOAT32 = Precision(torch.float32, scales_loss=False)
BFLOAT16 = Precision(torch.bfloat16, scales_loss=False)

NETWORKS = {
    "unet": {"name": "unet"},
    "dynunet": {"name": "dynunet", "channels": [4, 6, 8]},
    "dynunet, residual": {"name": "dynunet", "channels": [4, 6, 8], "residual_units": 1, "norm": "batch"},
    "segresnet": {"name": "segresnet", "channels": [8, 16]},
    "classic": {"name": "classic"},
    "classic, linear": {"name": "classic", "upsampling": "linear", "norm": "batch"},
}
MODES = {"3d": (1, 16, 16, 16), "2d": (1, 20, 24), "2.5d": (3, 20, 24)}
"""Shape of a window by mode."""

KINDS = [
    *(("3d", network, "binary") for network in NETWORKS),
    *(("2d", network, "binary") for network in ("unet", "segresnet", "classic")),
    *(("2.5d", network, "binary") for network in ("dynunet", "classic, linear")),
    ("3d", "unet", "vertebrae"),
    ("2d", "classic", "vertebrae"),
]
"""Mode, network and label scheme: every one of each, not each with each."""


@dataclass
class Model:
    """A checkpoint on disk and what was read from it."""

    path: Path
    checkpoint: Checkpoint

    @property
    def network(self) -> nn.Module:
        return network_of(self.checkpoint, self.path)


def config_of(mode="3d", network="unet", scheme="binary") -> Config:
    slices = {"size_pixels": [20, 24], "neighbours": 1 if mode == "2.5d" else 0}
    return tiny_config(mode, network=NETWORKS[network], labels={"scheme": scheme}, slices=slices)


def write_model(path: Path, config: Config, seed=1) -> Model:
    """A checkpoint with random weights."""
    path.write_bytes(model_bytes(config.to_yaml(), seed))
    return Model(path, load_checkpoint(path))


@cache
def model_bytes(config_text: str, seed: int) -> bytes:
    """What lies in the file of that model: tests write the same ones again and again."""
    torch.manual_seed(seed)
    config = parse_config(yaml.safe_load(config_text))
    network = get_mode(config.mode).network(config)
    for module in network.modules():  # norms that do something
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 2.0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.pt"
        save_checkpoint(path, Checkpoint(config, network.state_dict(), epoch=1, scores={}))
        return path.read_bytes()


def windows_of(shape, batch=2, seed=0) -> torch.Tensor:
    """Grey values 0 ... 1 that differ from voxel to voxel."""
    return torch.rand(batch, *shape, generator=torch.Generator().manual_seed(seed))


def reference(network: nn.Module, windows: torch.Tensor) -> torch.Tensor:
    """What plain PyTorch computes, window by window, in double precision."""
    with torch.no_grad():
        exact = network.eval().double()
        logits = torch.cat([exact(window[None].double()) for window in windows])
    return logits


def channels(config: Config) -> int:
    return label_scheme(config.labels.scheme).output_channels


def needs(*packages: str):
    """Skips a test where a package is missing that the extra ``dev`` installs."""
    # Found, not imported: OpenVINO imported by anything but the package would start a process that reports to its
    # makers with every conversion, which takes longer than to convert.
    for package in packages:
        if find_spec(package) is None:
            pytest.skip(f"the package {package} is not installed (pip install 'verse3d[dev]')", allow_module_level=True)
