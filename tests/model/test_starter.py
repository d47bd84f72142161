"""The model that comes with verse3d: whole, small, described, and chosen where none is named."""

import logging
from pathlib import Path

import pytest
import torch

from tests.scans import tiny_config
from verse3d.core.errors import CheckpointError, ConfigError
from verse3d.core.files import sha256_of
from verse3d.data.cases import read_index
from verse3d.model import starter
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from verse3d.model.locate import model_file, model_files
from verse3d.model.modes import Method
from verse3d.model.scout import SCOUT, USABLE
from verse3d.model.starter import model_card, starter_file, starter_folder
from verse3d.training.trained import load_trained


@pytest.fixture
def nowhere(tmp_path, monkeypatch):
    """A copy of verse3d that was built without starter weights."""
    monkeypatch.setattr(starter, "starter_folder", lambda: tmp_path / "verse3d" / "starter")


def test_the_weights_are_small_on_disk_and_float32_in_memory():
    assert starter_file().stat().st_size <= 10_000_000
    weights = load_checkpoint(starter_file()).network
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    # What was rounded to half precision is still exactly a half-precision number.
    assert all(torch.equal(weight, weight.half().float()) for weight in weights.values())


def test_half_precision_survives_saving_and_loading(tmp_path):
    weights = {"conv.weight": torch.randn(3, 2, generator=torch.Generator().manual_seed(0)).half()}
    save_checkpoint(tmp_path / "half.pt", Checkpoint(tiny_config(), weights, epoch=1, scores={}))
    loaded = load_checkpoint(tmp_path / "half.pt").network["conv.weight"]
    assert loaded.dtype is torch.float32 and torch.equal(loaded, weights["conv.weight"].float())


def test_a_weight_beyond_half_precision_is_not_saved(tmp_path):
    weights = {"conv.weight": torch.tensor([1e5]).half()}
    with pytest.raises(CheckpointError, match="infinite"):
        save_checkpoint(tmp_path / "half.pt", Checkpoint(tiny_config(), weights, epoch=1, scores={}))


def test_the_starter_folder_is_a_run_that_tells_its_training_cases_but_no_path():
    model = load_trained(starter_folder())
    assert model.epoch > 0 and model.steps > 0 and model.cases is not None
    assert {case.case for case in model.cases.in_split("train")} >= {"sub-verse005", "sub-verse007"}
    for case in read_index(starter_folder() / "cases.jsonl"):
        assert case.image.is_relative_to(starter_folder()) and not case.image.exists()


def test_the_model_card_describes_these_very_weights():
    card = model_card()
    model = load_trained(starter_folder())
    assert sha256_of(starter_file()) in card
    assert all(case.case in card for case in model.cases)
    for needed in ("CC BY-SA 4.0", "no medical device", "Sekuboyina", "Löffler", "Liebl", "neck"):
        assert needed in card, needed


@pytest.mark.parametrize("name", [None, "starter"])
def test_no_model_and_the_word_starter_mean_the_starter_weights_and_say_what_they_are(
    name, tmp_path, monkeypatch, caplog
):
    monkeypatch.chdir(tmp_path)
    with caplog.at_level(logging.INFO, logger="verse3d"):
        assert model_file(name) == starter_file()
    (line,) = caplog.messages
    assert "starter weights" in line and "not a medical device" in line and "\n" not in line


def test_a_file_or_folder_called_starter_goes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "starter").mkdir()
    (tmp_path / "starter" / "best.pt").touch()
    assert model_file("starter") == Path("starter/best.pt")


def test_several_models_are_named_one_by_one(tmp_path):
    (tmp_path / "a.pt").touch()
    assert model_files(None) == [starter_file()]
    assert model_files(str(tmp_path / "a.pt")) == model_files(tmp_path / "a.pt") == [tmp_path / "a.pt"]
    assert model_files([tmp_path / "a.pt", "starter"]) == [tmp_path / "a.pt", starter_file()]
    with pytest.raises(ConfigError, match="no model"):
        model_files([])


@pytest.mark.usefixtures("nowhere")
def test_a_copy_without_starter_weights_says_so():
    with pytest.raises(CheckpointError, match="no starter weights") as caught:
        model_file(None)
    assert "best.pt of a run folder" in caught.value.hint
    with pytest.raises(CheckpointError, match="no model card"):
        model_card()


def test_the_file_tells_what_scans_the_starter_weights_have_seen():
    seen = load_checkpoint(starter_file()).trained_on
    assert seen is not None and (seen.cases, seen.phantoms) == (12, 5)
    low, high = seen.ranges["coarsest"]
    assert low == 1.0 and 3.0 <= high < 3.5
    assert seen.ranges.keys() >= {"median", "bright", "height"}


def test_the_starter_names_vertebrae_by_sequence_and_brings_a_scout_of_the_same_config():
    checkpoint = load_checkpoint(starter_file())
    assert (checkpoint.config.labels.scheme, checkpoint.config.labels.naming) == ("vertebrae", "sequence")
    scout = checkpoint.networks[SCOUT]
    assert scout.config.scout == checkpoint.config.scout and checkpoint.config.scout.enabled
    assert scout.scores[USABLE] == 1.0
    Method(scout.config).scout().load_state_dict(dict(scout.network))
    # Nothing of the machine that trained it is left: these decide about the user's.
    assert (checkpoint.config.runtime.workers, checkpoint.config.runtime.compile) == ("auto", "auto")
