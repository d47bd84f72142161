"""Small model files, and ways to change what is in them."""

import random
import zipfile
from pathlib import Path

import pytest
import torch

from verse3d.core.config import Config, parse_config
from verse3d.core.errors import CheckpointError
from verse3d.model.checkpoint import (
    Checkpoint,
    load_checkpoint,
)
from verse3d.model.checksum import content_sha256
from verse3d.model.networks import build_network

CONFIG = parse_config(
    {
        "network": {"channels": [4, 6, 8]},
        "labels": {"scheme": "vertebrae"},
        "optim": {"lr": 3e-5},
        "runtime": {"amp": "off"},
    }
)


def network(config: Config = CONFIG, output_channels=27) -> torch.nn.Module:
    return build_network(config.network, spatial_dims=3, output_channels=output_channels)


def checkpoint(**changes) -> Checkpoint:
    values = {"config": CONFIG, "network": network().state_dict(), "epoch": 7, "scores": {"validation_dice": 0.91}}
    return Checkpoint(**(values | changes))


def altered(path: Path, *without: str, **changes) -> Path:
    """The file with other entries, and the checksum that it had."""
    content = torch.load(path, weights_only=True) | changes
    torch.save({key: value for key, value in content.items() if key not in without}, path)
    return path


def resealed(path: Path, **changes) -> Path:
    """The file with other entries and the checksum that belongs to them, as somebody would forge it."""
    content = torch.load(path, weights_only=True) | changes
    del content["sha256"]
    torch.save(content | {"sha256": content_sha256(content)}, path)
    return path


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.message
    return caught.value


def training_state() -> dict:
    """What a last.pt holds: an optimizer after a step, a random state, numbers."""
    model = network()
    model(torch.rand(1, 1, 8, 8, 8)).mean().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    return {"optimizer": optimizer.state_dict(), "random": {"torch": torch.get_rng_state()}, "steps": 3}


def rezipped(path: Path, change=lambda name, content: content, method=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))
    return path


def assert_every_flip_is_noticed(path: Path, flips: int, places=None) -> None:
    """Flip one byte after the other: the file is refused, or (of padding and dates) means exactly the same."""
    good, draw = path.read_bytes(), random.Random(2)
    meant = content_sha256(torch.load(path, weights_only=True))
    for place in places or [draw.randrange(len(good)) for _ in range(flips)]:
        spoilt = bytearray(good)
        spoilt[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bytes(spoilt))
        try:
            load_checkpoint(path)
        except CheckpointError:
            continue
        assert content_sha256(torch.load(path, weights_only=True)) == meant, place
    path.write_bytes(good)
