"""Model files that older versions wrote."""

from pathlib import Path

import pytest
import torch

from tests.model.model_files import CONFIG, assert_every_flip_is_noticed, checkpoint, network, refusal, training_state
from verse3d.model.checkpoint import (
    FORMAT,
    Checkpoint,
    load_checkpoint,
    load_weights,
)

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def version_1(path: Path, checkpoint: Checkpoint) -> Path:
    """A file as the first releases wrote it: state dicts with their hidden attributes, no checksum."""
    content = {
        "format": FORMAT,
        "format_version": 1,
        "config": checkpoint.config.to_dict(),
        "labels": {label.name: label.id for label in checkpoint.scheme.labels},
        "versions": {"verse3d": "0.1.0", "python": "3.11.9", "torch": "2.4.0", "monai": "1.4.0", "numpy": "1.26.4"},
        "epoch": checkpoint.epoch,
        "scores": checkpoint.scores,
        "network": checkpoint.network,
        "training": checkpoint.training,
    }
    torch.save(content, path)
    return path


def test_a_file_of_version_1_still_loads(tmp_path):
    written = checkpoint(training=training_state())
    read = load_checkpoint(version_1(tmp_path / "best.pt", written))
    assert (read.config, read.epoch, read.scores, read.networks) == (CONFIG, 7, {"validation_dice": 0.91}, {})
    assert all(torch.equal(read.network[name], weight) for name, weight in written.network.items())
    load_weights(network(), read.network, tmp_path / "best.pt")
    torch.optim.AdamW(network().parameters()).load_state_dict(read.training["optimizer"])


@pytest.mark.slow  # it spoils a file in hundreds of places
def test_a_damaged_file_of_version_1_never_loads_as_other_weights(tmp_path):
    path = version_1(tmp_path / "best.pt", checkpoint(training=training_state()))
    assert_every_flip_is_noticed(path, flips=120)


@pytest.mark.parametrize("extra", [{"sha256": "0" * 64}, {"networks": {"scout": {}}}], ids=str)
def test_a_file_of_version_1_has_nothing_of_version_2(tmp_path, extra):
    path = version_1(tmp_path / "best.pt", checkpoint())
    torch.save(torch.load(path, weights_only=True) | extra, path)
    assert "is incomplete or inconsistent" in refusal(path).message
