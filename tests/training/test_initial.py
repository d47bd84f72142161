"""Training that begins with the weights of another model."""

import logging
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import verse3d
from tests import scans
from tests.scans import save_model, tiny_config
from verse3d.core.errors import CheckpointError, ConfigError
from verse3d.model.checkpoint import TrainedNetwork, load_checkpoint
from verse3d.model.modes import Method
from verse3d.model.starter import starter_file
from verse3d.training.initial import InitialScout, begin_scout_with, begin_with, read_initial
from verse3d.training.learner import best_network, build_learner
from verse3d.training.scout import ScoutTraining
from verse3d.training.scout_samples import ScoutSamples

WIDE = {"channels": [16, 32, 64, 128], "residual_units": 2}
"""So wide that its output layer is the lesser part, as in every real network."""
CPU = torch.device("cpu")


def learner_of(config, seed=1):
    torch.manual_seed(seed)
    return build_learner(Method(config), config.optim, config.runtime, CPU)


def test_a_learner_begins_with_exactly_the_weights_of_the_model_and_so_does_its_mean(tmp_path):
    config = tiny_config(optim={"ema_decay": 0.9})
    initial = read_initial(save_model(tmp_path / "a.pt", config, seed=7))
    learner = learner_of(config)
    begin_with(learner, initial, Method(config))
    for network in (learner.network, best_network(learner)):
        assert all(torch.equal(weight, initial.network[name]) for name, weight in network.state_dict().items())


def test_layers_for_other_labels_stay_as_drawn_and_are_named(tmp_path, caplog):
    initial = read_initial(save_model(tmp_path / "binary.pt", tiny_config(network=WIDE), seed=7))
    config = tiny_config(labels={"scheme": "vertebrae"}, network=WIDE)
    learner, untouched = learner_of(config), learner_of(config).network.state_dict()
    with caplog.at_level(logging.INFO, logger="verse3d"):
        begin_with(learner, initial, Method(config))
    same = {name for name, weight in learner.network.state_dict().items() if torch.equal(weight, untouched[name])}
    fresh = {name for name, weight in untouched.items() if weight.shape != initial.network[name].shape}
    assert fresh and fresh <= same
    learnt = [name for name, weight in learner.network.state_dict().items() if name not in fresh]
    assert all(torch.equal(learner.network.state_dict()[name], initial.network[name]) for name in learnt)
    assert next(name for name in untouched if name in fresh) in caplog.text


@pytest.mark.parametrize(
    ("change", "differs", "to_set"),
    [
        ({"network": {"channels": [4, 8, 16]}}, "network.channels is [4, 8] there and [4, 8, 16] here", "[4,8]`"),
        ({"network": {"channels": [8, 16]}}, "network.channels is [4, 8] there and [8, 16] here", "[4,8]`"),
        ({"network": {"name": "classic"}}, "network.name is unet there and classic here", "`network.name=unet`"),
    ],
    ids=["deeper", "wider", "another network"],
)
def test_the_weights_of_another_network_are_refused_with_what_differs(tmp_path, change, differs, to_set):
    initial = read_initial(save_model(tmp_path / "a.pt", tiny_config(), seed=7))
    config = tiny_config(**change)
    with pytest.raises(CheckpointError, match="are of another network: ") as caught:
        begin_with(learner_of(config), initial, Method(config))
    assert caught.value.message.endswith(differs), "and nothing else differs"
    assert caught.value.hint.startswith("leave `config` away") and caught.value.hint.endswith(to_set)


def test_weights_that_their_own_config_does_not_describe_are_refused_by_their_share(tmp_path):
    config = tiny_config()
    initial = read_initial(save_model(tmp_path / "a.pt", config, seed=7))
    emptied = replace(initial, network=dict(list(initial.network.items())[:1]))
    with pytest.raises(CheckpointError, match=r"only \d+% of the numbers to learn are in it") as caught:
        begin_with(learner_of(config), emptied, Method(config))
    assert caught.value.hint == "leave `config` away to train the model's own network"


def test_another_grid_is_warned_about(tmp_path, caplog):
    initial = read_initial(save_model(tmp_path / "a.pt", tiny_config(), seed=7))
    config = tiny_config(grid={"spacing_mm": [3.0, 3.0, 3.0], "window_hu": [-250, 1250]})
    begin_with(learner_of(config), initial, Method(config))
    assert "grid.spacing_mm" in caplog.text and "grid.window_hu" not in caplog.text


def test_a_training_from_a_model_takes_its_config_and_starts_nearer(dataset, tmp_path):
    """With a rate of almost zero, what comes out is what went in."""
    model = save_model(tmp_path / "a.pt", tiny_config(optim={"epochs": 3}), seed=7)
    index = tmp_path / "cases.jsonl"
    scans.write_index(index, dataset)
    still = ["optim.lr=1e-12", "optim.epochs=1", "optim.warmup_steps=0", "optim.weight_decay=0"]
    result = verse3d.train(data=index, out=tmp_path / "run", from_model=model, overrides=still, device="cpu")
    before, after = load_checkpoint(model), load_checkpoint(result.best)
    assert after.config.network == before.config.network and after.config.grid == before.config.grid
    assert after.config.optim.epochs == 1
    assert all(torch.allclose(after.network[name], before.network[name], atol=1e-6) for name in before.network)
    assert "begins with the weights of" in (tmp_path / "run" / "log.txt").read_text()


def test_a_resumed_run_takes_no_other_weights(tmp_path):
    with pytest.raises(ConfigError, match="own weights"):
        verse3d.train(data=tmp_path, out=tmp_path, from_model="starter", resume=True)


def test_a_setting_that_does_not_exist_is_refused_before_anything_is_made(tmp_path):
    model = save_model(tmp_path / "a.pt", tiny_config())
    with pytest.raises(ConfigError, match="unknown setting"):
        verse3d.train(data=tmp_path, out=tmp_path / "run", from_model=model, overrides=["optim.rate=1"])
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("channels", "window", "begun"),
    [((4, 8), [-250, 1250], True), ((4, 8, 8), [-250, 1250], False), ((4, 8), [-1000, 1000], False)],
)
def test_a_scout_of_the_same_size_and_window_goes_on_and_another_begins_anew(channels, window, begun, caplog):
    config = tiny_config(scout={"enabled": True, "channels": (4, 8)}, grid={"window_hu": [-250, 1250]})
    stored = TrainedNetwork(config, Method(config).scout().state_dict())
    # A scout is drawn by the seed: with another one it has the weights of the first only if it has been given them.
    wanted = tiny_config(scout={"enabled": True, "channels": channels}, grid={"window_hu": window}, runtime={"seed": 7})
    scout = ScoutTraining(wanted, ScoutSamples(0, config.grid, 0, pytest.fail), [], CPU)
    begin_scout_with(scout, InitialScout(Path("a.pt"), stored))
    weights = scout.network.state_dict()
    assert begun == all(torch.equal(weights[name], weight) for name, weight in stored.network.items())
    assert begun != ("begins anew" in caplog.text)


@pytest.mark.parametrize("labels", [{"naming": "direct"}, {"scheme": "binary", "naming": "direct"}])
def test_the_starter_weights_can_be_fine_tuned_to_other_labels(labels):
    """The shipped model fits the network that its own config describes with other labels."""
    initial = read_initial(starter_file())
    labels = initial.config.labels.model_copy(update=labels)
    config = initial.config.model_copy(update={"labels": labels})
    begin_with(learner_of(config), replace(initial, config=config), Method(config))
