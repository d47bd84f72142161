"""Model files: whole or not at all, plain data only, and refused with a reason when they are anything else."""

import hashlib
import io
import pickle
import random
import resource
import struct
import time
import zipfile
from pathlib import Path

import pytest
import torch

from verse3d.core.config import Config, parse_config
from verse3d.core.errors import CheckpointError, OutputError
from verse3d.core.labels import VERSE_IDS
from verse3d.model import plainfile
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
from verse3d.model.networks import build_network
from verse3d.version import __version__

pytestmark = pytest.mark.filterwarnings("ignore:Detected pickle protocol")

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


@pytest.fixture
def saved(tmp_path) -> Path:
    save_checkpoint(tmp_path / "best.pt", checkpoint())
    return tmp_path / "best.pt"


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


# --- files that run code


class Bomb:
    """Creates a file when it is unpickled."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self):
        return Path.touch, (self.trace,)


@pytest.fixture
def trace(tmp_path) -> Path:
    return tmp_path / "it-ran"


def refuse(path: Path, trace: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is refused: .* could run code") as caught:
        load_checkpoint(path)
    assert "\n" not in caught.value.message
    assert not trace.exists()


def test_a_bomb_would_go_off_if_it_were_loaded_carelessly(trace):
    pickle.loads(pickle.dumps(Bomb(trace)))
    assert trace.exists()


def test_a_bare_pickle_is_never_run(tmp_path, trace):
    (tmp_path / "bomb.pt").write_bytes(pickle.dumps({"format": FORMAT, "network": Bomb(trace)}))
    refuse(tmp_path / "bomb.pt", trace)


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "legacy"])
@pytest.mark.parametrize("place", ["format", "config", "network", "training"])
def test_a_bomb_inside_a_torch_file_is_never_run(saved, trace, place, zipped):
    content = torch.load(saved, weights_only=True) | {place: Bomb(trace)}
    torch.save(content, saved, _use_new_zipfile_serialization=zipped)
    refuse(saved, trace)


def test_a_whole_network_object_is_refused(tmp_path, trace):
    torch.save(network(), tmp_path / "model.pt")
    refuse(tmp_path / "model.pt", trace)


# --- damaged files


def refusal(path: Path) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        load_checkpoint(path)
    assert str(path) in caught.value.message
    return caught.value


def test_a_file_truncated_anywhere_is_refused(saved):
    content = saved.read_bytes()
    for part in (0.0, 1e-4, 1e-3, 0.01, 0.3, 0.7, 0.99, 0.9999):
        saved.write_bytes(content[: int(part * len(content))])
        refusal(saved)
    saved.write_bytes(content[:-1])
    assert "truncated or damaged" in refusal(saved).message


def test_an_old_style_file_truncated_anywhere_is_refused(tmp_path):
    buffer = io.BytesIO()
    torch.save({"format": FORMAT, "w": torch.zeros(5)}, buffer, _use_new_zipfile_serialization=False)
    content, path = buffer.getvalue(), tmp_path / "old.pt"
    for length in range(len(content)):
        path.write_bytes(content[:length])
        refusal(path)


def test_random_bytes_are_refused(tmp_path):
    draw, path = random.Random(0), tmp_path / "noise.pt"
    for _ in range(200):
        path.write_bytes(draw.randbytes(draw.randint(0, 300)))
        refusal(path)


def test_flipped_bytes_are_refused(tmp_path):
    buffer, draw, path = io.BytesIO(), random.Random(1), tmp_path / "flipped.pt"
    torch.save({"format": "another", "w": torch.zeros(5)}, buffer, _use_new_zipfile_serialization=False)
    for _ in range(300):
        content = bytearray(buffer.getvalue())
        for _ in range(draw.randint(1, 5)):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(bytes(content))
        refusal(path)


@pytest.mark.parametrize("name", ["none.pt", "."])
def test_a_missing_file_or_a_folder_is_refused(tmp_path, name):
    with pytest.raises(CheckpointError, match="there is no model file"):
        load_checkpoint(tmp_path / name)


def test_another_zip_file_is_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "other.pt", "w") as archive:
        archive.writestr("readme.txt", "hello")
    assert "a zip archive of other files" in refusal(tmp_path / "other.pt").message


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


# --- weights


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


# --- version 1


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


def test_a_damaged_file_of_version_1_never_loads_as_other_weights(tmp_path):
    path = version_1(tmp_path / "best.pt", checkpoint(training=training_state()))
    assert_every_flip_is_noticed(path, flips=120)


@pytest.mark.parametrize("extra", [{"sha256": "0" * 64}, {"networks": {"scout": {}}}], ids=str)
def test_a_file_of_version_1_has_nothing_of_version_2(tmp_path, extra):
    path = version_1(tmp_path / "best.pt", checkpoint())
    torch.save(torch.load(path, weights_only=True) | extra, path)
    assert "is incomplete or inconsistent" in refusal(path).message


# --- the checksum


def training_state() -> dict:
    """What a last.pt holds: an optimizer after a step, a random state, numbers."""
    model = network()
    model(torch.rand(1, 1, 8, 8, 8)).mean().backward()
    optimizer = torch.optim.AdamW(model.parameters())
    optimizer.step()
    return {"optimizer": optimizer.state_dict(), "random": {"torch": torch.get_rng_state()}, "steps": 3}


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


def places_of(path: Path, kind: str) -> list[int]:
    """Some bytes of the tensors, of the zip's directory or of the pickle."""
    draw, size = random.Random(3), path.stat().st_size
    with zipfile.ZipFile(path) as archive:
        directory = archive.start_dir
        entries = archive.infolist()
    if kind == "directory":
        return list(range(directory, size, 3))
    wanted = [one for one in entries if ("/data/" in one.filename) == (kind == "tensors") and one.file_size]
    if kind == "pickle":
        wanted = [one for one in wanted if one.filename.endswith("data.pkl")]
    ends = {one.filename: next((o.header_offset for o in entries if o.header_offset > one.header_offset), directory)
            for one in wanted}  # fmt: skip
    return [draw.randrange(ends[one.filename] - one.file_size, ends[one.filename]) for one in wanted * 40][:120]


@pytest.mark.parametrize("kind", ["tensors", "directory", "pickle"])
def test_no_flipped_byte_loads_as_another_model(tmp_path, kind):
    small = {"a.weight": torch.rand(3, 4), "a.bias": torch.rand(5), "b": torch.tensor(2.0)}
    save_checkpoint(tmp_path / "last.pt", checkpoint(network=small, training={"random": torch.get_rng_state()}))
    assert_every_flip_is_noticed(tmp_path / "last.pt", 0, places_of(tmp_path / "last.pt", kind))


@pytest.mark.parametrize("section", ["network", "training"])
def test_other_tensors_under_a_sound_zip_are_noticed(tmp_path, section):
    save_checkpoint(tmp_path / "last.pt", checkpoint(training=training_state()))
    content = torch.load(tmp_path / "last.pt", weights_only=True)
    state = content["network"] if section == "network" else content["training"]["optimizer"]["state"][0]
    name = next(name for name, value in state.items() if value.numel() > 1)
    state[name].view(-1)[0] += 1e-6
    torch.save(content, tmp_path / "last.pt")
    error = refusal(tmp_path / "last.pt")
    assert "truncated or damaged" in error.message and "copy it again" in error.hint


@pytest.mark.parametrize(
    "change",
    [{"epoch": 8}, {"scores": {"validation_dice": 0.92}}, {"config": Config().to_dict()}, {"training": {"a": 1}}],
    ids=lambda change: next(iter(change)),
)
def test_other_plain_values_under_a_sound_zip_are_noticed(saved, change):
    assert "does not have the SHA-256" in refusal(altered(saved, **change)).message


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


# --- weights that are no numbers, or of another kind


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


# --- files that promise more than they hold


def rezipped(path: Path, change=lambda name, content: content, method=zipfile.ZIP_STORED) -> Path:
    with zipfile.ZipFile(path) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(path, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(name, change(name, content))
    return path


@pytest.fixture
def few_bytes():
    """Whatever is asked for beyond 3 GB is refused, so that a promise that is believed shows as an error."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    used = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 3 * 10**9, hard))
    yield
    resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


def test_compressed_entries_are_refused(saved):
    assert "compressed" in refusal(rezipped(saved, method=zipfile.ZIP_DEFLATED)).message


def test_a_directory_that_promises_more_than_the_file_holds_is_refused(saved, few_bytes):
    content = bytearray(rezipped(saved).read_bytes())
    with zipfile.ZipFile(saved) as archive:
        place = archive.start_dir
    struct.pack_into("<II", content, place + 20, 4 * 10**9, 4 * 10**9)  # both sizes of its first entry
    saved.write_bytes(bytes(content))
    assert "promises" in refusal(saved).message


def test_a_storage_that_says_it_is_longer_than_its_bytes_is_refused(saved, few_bytes):
    name = next(iter(torch.load(saved, weights_only=True)["network"]))
    content = torch.load(saved, weights_only=True)
    content["network"] = {name: torch.ones(77)}
    torch.save(content, saved)
    longer = lambda inside, data: data.replace(b"K\x4dt", b"J\x00\x00\x00\x40t") if inside.endswith(".pkl") else data  # noqa: E731
    assert "a storage that is not there as it says" in refusal(rezipped(saved, longer)).message


def test_a_pickle_that_asks_for_a_hundred_gigabytes_is_refused(saved, few_bytes):
    asks = b"\x80\x02cbuiltins\nbytearray\n\x8a\x05\x00\xe8\x76\x48\x17\x85R."
    path = rezipped(saved, lambda inside, data: asks if inside.endswith("data.pkl") else data)
    assert "bytearray" in refusal(path).message


def test_nested_lists_without_end_are_refused(saved):
    deep: list = []
    for _ in range(200):
        deep = [deep]
    assert "levels" in refusal(altered(saved, training={"deep": deep})).message


def test_lists_that_multiply_are_refused_quickly(saved):
    wide: list = [0] * 1000
    for _ in range(20):
        wide = [wide] * 1000
    start = time.monotonic()
    assert "values" in refusal(altered(saved, training={"wide": wide})).message
    assert time.monotonic() - start < 10


def test_an_entry_that_says_it_is_a_folder_is_refused(saved):
    content = bytearray(saved.read_bytes())
    with zipfile.ZipFile(saved) as archive:
        place = archive.start_dir
    content[place + 38] |= 0x10  # PyTorch's reader would leave its bytes as the memory happened to be
    saved.write_bytes(bytes(content))
    assert "folder" in refusal(saved).message


def test_two_entries_of_one_name_are_refused(saved):
    with zipfile.ZipFile(saved, "a") as archive, pytest.warns(UserWarning, match="Duplicate name"):
        archive.writestr(archive.namelist()[0], b"again")
    assert "share a name" in refusal(saved).message


def test_a_file_larger_than_the_free_memory_is_not_read(saved, monkeypatch):
    monkeypatch.setattr(plainfile, "free_memory_bytes", lambda: 1000)
    assert "free memory" in refusal(saved).message
