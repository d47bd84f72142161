"""Training a network that finds bones without names."""

import math

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import verse3d
from tests.scans import tiny_config, write_dataset
from tests.training.runs import assert_same_run
from verse3d.api.models import _paint_confusion
from verse3d.core.labels import PARTS
from verse3d.model.checkpoint import load_checkpoint
from verse3d.training.fit import fit
from verse3d.training.session import FitOptions

NAMES = {
    "labels": {"scheme": "vertebrae", "naming": "sequence", "cut_vertebrae": "ignore"},
    "loss": {"name": "dice_ce"},
    "scout": {"enabled": True},
    "runtime": {"deterministic": True},
}


@pytest.mark.slow
def test_a_network_of_parts_is_trained_validated_by_its_bones_resumed_and_predicted_with(tmp_path):
    index = write_dataset(tmp_path / "data")
    config, out = tiny_config(**NAMES), tmp_path / "run"
    once = {"device": torch.device("cpu"), "paint_confusion": _paint_confusion}
    first = fit(config, index, out, FitOptions(**once, max_epochs=1))
    assert 0.0 <= first.best_dice <= 1.0
    assert not math.isnan(first.best_dice)
    more = fit(config, index, out, FitOptions(**once, max_epochs=2, resume=True))
    assert more.epochs == 2
    fit(config, index, tmp_path / "at once", FitOptions(**once, max_epochs=2))
    assert_same_run(out, tmp_path / "at once")
    events = EventAccumulator(str(out / "tensorboard")).Reload()
    assert [event.step for event in events.Images("validation_names/levels")] == [2, 4]
    assert [event.step for event in events.Scalars("validation/id_rate")] == [2, 4]
    checkpoint = load_checkpoint(out / "best.pt")
    assert checkpoint.scheme == PARTS
    scan = index.cases[0].image_path()
    found = verse3d.load_model(out, device="cpu").segment(scan)
    assert found.vertebrae is not None
    assert found.labels.dtype == np.uint8
