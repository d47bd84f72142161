"""Weights of a model file: of the network of its config, and numbers."""

import pytest
import torch

from tests.model.model_files import CONFIG, checkpoint, network, refusal, resealed
from verse3d.core.config import parse_config
from verse3d.core.errors import CheckpointError
from verse3d.model.checkpoint import (
    Checkpoint,
    TrainedNetwork,
    load_checkpoint,
    load_weights,
    save_checkpoint,
)
from verse3d.model.weights import require_sound_weights

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


def test_weights_of_another_shape_are_refused(saved):
    other = parse_config({"network": {"channels": [4, 6, 10]}})
    with pytest.raises(CheckpointError, match=r"best\.pt do not fit the network(.|\n)*size mismatch"):
        load_weights(network(other), load_checkpoint(saved).network, saved)


@pytest.mark.parametrize("change", ["fewer", "more"])
def test_missing_or_surplus_weights_are_refused(saved, change):
    weights = dict(load_checkpoint(saved).network)
    name = next(iter(weights))
    if change == "fewer":
        del weights[name]
    else:
        weights["surplus"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=f"do not fit(.|\n)*{'surplus' if change == 'more' else name}"):
        load_weights(network(), weights, saved)


@pytest.mark.parametrize("weights", [None, [1, 2], {"w": "words"}], ids=str)
def test_what_are_no_weights_is_refused(saved, weights):
    with pytest.raises(CheckpointError, match="do not fit"):
        load_weights(network(), weights, saved)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("place", ["network", "networks"])
def test_weights_that_are_not_finite_are_neither_written_nor_loaded(saved, value, place):
    spoilt = network().state_dict()
    name = next(iter(spoilt))
    spoilt[name].view(-1)[1:3] = value
    part = TrainedNetwork(CONFIG, spoilt)
    with pytest.raises(CheckpointError, match=rf"is not written(.|\n)*2 of the \d+ weights in .*{name} are NaN or inf"):
        save_checkpoint(saved, checkpoint(network=spoilt) if place == "network" else checkpoint(networks={"s": part}))
    assert load_checkpoint(saved).epoch == 7
    plain = {"config": CONFIG.to_dict(), "network": dict(spoilt), "epoch": 1, "scores": {}}
    error = refusal(resealed(saved, **{place: dict(spoilt) if place == "network" else {"s": plain}}))
    assert "are NaN or infinite" in error.message and error.hint and error.exit_code == 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 7, 33, 70_001])
def test_one_value_that_is_not_finite_is_found_wherever_it_lies(dtype, count):
    weight = torch.randn(count, generator=torch.Generator().manual_seed(0)).to(dtype)
    require_sound_weights({"w": weight, "none": weight[:0], "one": weight[0]}, "network")
    for value in (float("nan"), float("inf"), -float("inf")):
        for place in {0, count // 2, count - 1}:
            spoilt = weight.clone()
            spoilt[place] = value
            with pytest.raises(ValueError, match=rf"^1 of the {count} weights in network\.w are NaN or infinite$"):
                require_sound_weights({"w": spoilt}, "network")


@pytest.mark.parametrize(
    "weight",
    [
        torch.ones(4, dtype=torch.int32),
        torch.ones(4, dtype=torch.int64),
        torch.ones(4, dtype=torch.bool),
        torch.ones(4, dtype=torch.complex64),
        torch.eye(4).to_sparse(),
        torch.quantize_per_tensor(torch.ones(4), 0.1, 0, torch.qint8),
        torch.ones(1).expand(10**6, 10**6),
        torch.rand(4, 4).T,
        torch.rand(9)[3:],
        torch.ones(4).to(torch.float8_e4m3fn),
    ],
    ids=["int32", "int64", "bool", "complex", "sparse", "quantized", "huge", "turned", "part", "float8"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_weights_of_another_kind_are_refused(saved, weight):
    content = torch.load(saved, weights_only=True)
    name = next(iter(content["network"]))
    content["network"][name] = weight
    torch.save(content, saved)
    error = refusal(saved)
    assert error.hint and error.exit_code == 4


def test_integers_in_place_of_weights_are_refused_where_only_the_network_can_tell(saved):
    weights = dict(load_checkpoint(saved).network)
    name = next(name for name, weight in weights.items() if weight.is_floating_point())
    with pytest.raises(CheckpointError, match=r"do not fit(.|\n)*int64"):
        load_weights(network(), weights | {name: torch.ones_like(weights[name]).long()}, saved)


def test_the_counters_of_batch_normalisation_are_stored_and_needed(tmp_path):
    config = parse_config({"network": {"channels": [4, 6], "norm": "batch"}})
    model = network(config, 1)
    save_checkpoint(tmp_path / "a.pt", Checkpoint(config, model.state_dict(), 1, {}))
    weights = dict(load_checkpoint(tmp_path / "a.pt").network)
    load_weights(network(config, 1), weights, tmp_path / "a.pt")
    counter = next(name for name in weights if name.endswith("num_batches_tracked"))
    del weights[counter]
    with pytest.raises(CheckpointError, match=f"1 weights are missing, e.g. {counter}"):
        load_weights(network(config, 1), weights, tmp_path / "a.pt")
