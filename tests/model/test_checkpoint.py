"""Model files: whole or not at all, plain data only, and refused with a reason when they are anything else."""

import hashlib
import resource
import struct

import pytest
import torch

from tests.model.model_files import (
    CONFIG,
    altered,
    checkpoint,
    network,
    refusal,
    resealed,
)
from verse3d.core.config import Config, parse_config
from verse3d.core.errors import CheckpointError, OutputError
from verse3d.core.labels import VERSE_IDS
from verse3d.model.checkpoint import (
    FORMAT,
    FORMAT_VERSION,
    Checkpoint,
    TrainedNetwork,
    load_checkpoint,
    load_weights,
    save_checkpoint,
    verify_checkpoint,
)
from verse3d.model.checksum import content_sha256
from verse3d.version import __version__

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")


# --- round trip


def test_a_checkpoint_is_read_as_it_was_written(tmp_path):
    model = network()
    model(torch.rand(1, 1, 8, 8, 8)).mean().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    training = {"optimizer": optimizer.state_dict(), "torch": torch.get_rng_state(), "best": None, "steps": 3}
    written = checkpoint(network=model.state_dict(), training=training)
    save_checkpoint(tmp_path / "deep" / "last.pt", written)
    read = load_checkpoint(tmp_path / "deep" / "last.pt")
    assert read.config == CONFIG
    assert (read.epoch, read.scores) == (7, {"validation_dice": 0.91})
    assert read.network.keys() == written.network.keys()
    assert all(torch.equal(read.network[key], written.network[key]) for key in written.network)
    assert torch.equal(read.training["torch"], training["torch"])
    optimizer.load_state_dict(read.training["optimizer"])
    assert read.versions["verse3d"] == __version__
    assert {"torch", "monai", "numpy", "python"} <= read.versions.keys()


def test_the_file_is_plain_data_that_anybody_can_read(saved):
    content = torch.load(saved, weights_only=True)
    assert (content["format"], content["format_version"]) == (FORMAT, FORMAT_VERSION)
    assert set(content["labels"].values()) == VERSE_IDS
    assert content["config"] == CONFIG.to_dict()


def test_the_scheme_of_a_checkpoint_is_that_of_its_config(saved):
    assert load_checkpoint(saved).scheme.name == "vertebrae"
    assert Checkpoint(Config(), {}, 0, {}).scheme.name == "binary"


def test_weights_of_a_checkpoint_fit_the_network_of_its_config(saved):
    model, inputs = network(), torch.rand(1, 1, 8, 8, 8)
    load_weights(model, load_checkpoint(saved).network, saved)
    other = network()
    load_weights(other, load_checkpoint(saved).network, saved)
    with torch.inference_mode():
        assert torch.equal(model.eval()(inputs), other.eval()(inputs))


# --- whole or not at all


def test_saving_replaces_the_file_and_leaves_nothing_beside_it(saved):
    save_checkpoint(saved, checkpoint(epoch=8))
    assert load_checkpoint(saved).epoch == 8
    assert [path.name for path in saved.parent.iterdir()] == ["best.pt"]


def test_a_save_that_fails_midway_keeps_the_old_file(saved):
    with pytest.raises(CheckpointError, match=r"best\.pt is not written(.|\n)*training.bad is function"):
        save_checkpoint(saved, checkpoint(training={"bad": lambda: 0}))
    assert load_checkpoint(saved).epoch == 7
    assert [path.name for path in saved.parent.iterdir()] == ["best.pt"]


def test_a_full_disk_is_reported_as_such_and_keeps_the_old_file(saved):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*best\.pt"):
            save_checkpoint(saved, checkpoint(epoch=8))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_checkpoint(saved).epoch == 7
    assert [path.name for path in saved.parent.iterdir()] == ["best.pt"]


def test_a_name_that_the_file_system_refuses_is_reported(tmp_path):
    with pytest.raises(OutputError, match="cannot write"):
        save_checkpoint(tmp_path / ("x" * 300 + ".pt"), checkpoint())
    assert list(tmp_path.iterdir()) == []


# --- damaged files


@pytest.mark.parametrize("name", ["none.pt", "."])
def test_a_missing_file_or_a_folder_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="there is no model file"):
        load_checkpoint(tmp_path / name)


# --- other files, other versions, missing parts


@pytest.mark.parametrize(
    "content", [{"w": torch.zeros(3)}, [1, 2], torch.zeros(3), "verse3d checkpoint", None], ids=str
)
def test_a_torch_file_of_another_program_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "foreign.pt")
    assert "is not a verse3d model" in refusal(tmp_path / "foreign.pt").message


@pytest.mark.parametrize("version", [0, 3, "1", True, 2.0, None, torch.zeros(3)], ids=str)
def test_another_format_version_is_refused_and_the_writer_is_named(saved, version):
    error = refusal(altered(saved, format_version=version, versions={"verse3d": "9.8.7"}))
    assert "reads versions 1 and 2" in error.message
    assert "9.8.7" in error.hint


def test_another_format_version_is_refused_even_if_the_writer_is_unknown(saved):
    assert "unknown" in refusal(altered(saved, format_version=3, versions=3)).hint


@pytest.mark.parametrize("name", ["config", "network", "epoch", "scores", "training", "versions", "sha256"])
def test_a_missing_part_is_named(saved, name):
    error = refusal(altered(saved, name))
    assert "is incomplete or inconsistent" in error.message
    assert name in error.message


@pytest.mark.parametrize(
    "changes",
    [
        {"config": "x"},
        {"config": None},
        {"network": 3},
        {"network": [torch.zeros(3)]},
        {"epoch": "x"},
        {"epoch": None},
        {"scores": 0.9},
        {"training": None},
        {"versions": "0.1"},
    ],
    ids=str,
)
def test_a_part_of_another_kind_is_refused(saved, changes):
    assert "is incomplete or inconsistent" in refusal(altered(saved, **changes)).message


def test_a_config_that_this_version_does_not_understand_is_refused_with_its_mistakes(saved):
    config = CONFIG.to_dict() | {"colour": "red", "mode": 3}
    message = refusal(resealed(saved, config=config)).message
    assert "colour: unknown setting" in message and "mode: " in message


# --- the checksum


def test_the_checksum_is_that_of_names_types_shapes_and_bytes():
    values = torch.arange(6, dtype=torch.float32)
    one = content_sha256({"a": values, "b": {"c": 1}})
    assert one == content_sha256({"b": {"c": 1}, "a": values.clone()})
    assert one == content_sha256({"a": torch.arange(12.0)[::2].div(2).contiguous(), "b": {"c": 1}})
    others = [values.reshape(2, 3), values.double(), values.to(torch.int32), values + 1, -values, values[:5].clone()]
    named = [{"a": other, "b": {"c": 1}} for other in others]
    named += [{"A": values, "b": {"c": 1}}, {"a": values, "b": {"c": 1.0}}, {"a": values, "b": {"c": True}}]
    named += [{"a": values, "b": {"c": "1"}}, {"a": values, "b": [1]}, {"a": values, "b": {"c": 1, "d": None}}]
    named += [{"a": values, "b": {"c": 1}, "e": {}}, {"a": values, "b": {1: 1}}, {"a": values, "b": {"1": 1}}]
    assert len({one, *map(content_sha256, named)}) == 1 + len(named)


def test_the_checksum_of_a_file_of_one_value_is_known():
    tensor = hashlib.sha256(struct.pack("<2f", 1, 2)).hexdigest()
    lines = f'[[],"mapping",2]\n[["a"],"int",1]\n[["w"],"tensor","torch.float32",[2],"{tensor}"]\n'
    assert content_sha256({"w": torch.tensor([1.0, 2.0]), "a": 1}) == hashlib.sha256(lines.encode()).hexdigest()


def test_a_file_can_be_verified_after_it_was_written(saved):
    sha256 = save_checkpoint(saved, checkpoint(epoch=8))
    verify_checkpoint(saved, sha256)
    other = save_checkpoint(saved.with_name("last.pt"), checkpoint(epoch=9))
    with pytest.raises(CheckpointError, match="was written"):
        verify_checkpoint(saved, other)
    saved.write_bytes(saved.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="truncated or damaged"):
        verify_checkpoint(saved, sha256)


def test_tensors_that_share_their_memory_are_stored_once(tmp_path):
    weights = network().state_dict()
    save_checkpoint(tmp_path / "one.pt", checkpoint(network=weights))
    save_checkpoint(tmp_path / "two.pt", checkpoint(network=weights, training={"learner": {"network": weights}}))
    tensors = sum(weight.numel() * weight.element_size() for weight in weights.values())
    assert (tmp_path / "two.pt").stat().st_size - (tmp_path / "one.pt").stat().st_size < tensors / 2
    assert load_checkpoint(tmp_path / "two.pt").training["learner"]["network"].keys() == weights.keys()


def test_views_are_stored_as_what_they_show(tmp_path):
    weights = dict(network().state_dict())
    name = next(name for name, weight in weights.items() if weight.dim() == 5)
    turned = weights[name].transpose(2, 4).clone().transpose(2, 4)
    large = torch.rand(1000)
    save_checkpoint(tmp_path / "a.pt", checkpoint(network=weights | {name: turned}, training={"view": large[5:7]}))
    read = load_checkpoint(tmp_path / "a.pt")
    assert torch.equal(read.network[name], weights[name])
    assert torch.equal(read.training["view"], large[5:7])


# --- further networks


def scout_of(checkpoint: Checkpoint) -> TrainedNetwork:
    config = parse_config({"network": {"channels": [4, 6]}, "grid": {"spacing_mm": [6, 6, 6]}})
    return TrainedNetwork(config, network(config, 1).state_dict(), epoch=3, scores={"validation_dice": 0.8})


def test_a_file_can_hold_further_networks_by_name(tmp_path):
    scout = scout_of(checkpoint())
    save_checkpoint(tmp_path / "best.pt", checkpoint(networks={"scout": scout}))
    read = load_checkpoint(tmp_path / "best.pt").networks["scout"]
    assert (read.config, read.epoch, read.scores) == (scout.config, 3, {"validation_dice": 0.8})
    assert read.scheme.name == "binary"
    load_weights(network(scout.config, 1), read.network, tmp_path / "best.pt")


@pytest.mark.parametrize(
    "change",
    [{"network": {"w": 3}}, {"epoch": -1}, {"scores": {"dice": "x"}}, {"config": {"mode": 3}}, {"colour": 1}],
    ids=str,
)
def test_a_further_network_is_validated_as_the_first_one(saved, change):
    save_checkpoint(saved, checkpoint(networks={"scout": scout_of(checkpoint())}))
    part = torch.load(saved, weights_only=True)["networks"]["scout"]
    assert "is incomplete or inconsistent" in refusal(resealed(saved, networks={"scout": part | change})).message


@pytest.mark.parametrize("networks", [[], {"../x": {}}, {3: {}}, {"scout": None}], ids=str)
def test_further_networks_of_another_form_are_refused(saved, networks):
    assert "networks" in refusal(resealed(saved, networks=networks)).message


def test_an_unknown_part_is_refused(saved):
    assert "colour" in refusal(resealed(saved, colour="red")).message


def test_labels_that_are_not_those_of_the_config_are_refused(saved):
    assert "labels" in refusal(resealed(saved, labels={"vertebrae": 1})).message
