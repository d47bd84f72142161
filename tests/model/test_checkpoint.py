"""Model files: whole or not at all, plain data only, and refused with a reason when they are anything else."""

import io
import pickle
import random
import resource
import zipfile
from pathlib import Path

import pytest
import torch

from verse3d.core.config import Config, parse_config
from verse3d.core.errors import CheckpointError, OutputError
from verse3d.core.labels import VERSE_IDS
from verse3d.model.checkpoint import FORMAT, FORMAT_VERSION, Checkpoint, load_checkpoint, load_weights, save_checkpoint
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
    """The file with other entries."""
    content = torch.load(path, weights_only=True) | changes
    torch.save({key: value for key, value in content.items() if key not in without}, path)
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
    with pytest.raises((AttributeError, pickle.PicklingError)):
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
    assert "truncated or damaged" in refusal(tmp_path / "other.pt").message


# --- other files, other versions, missing parts


@pytest.mark.parametrize(
    "content", [{"w": torch.zeros(3)}, [1, 2], torch.zeros(3), "verse3d checkpoint", None], ids=str
)
def test_a_torch_file_of_another_program_is_refused(tmp_path, content):
    torch.save(content, tmp_path / "foreign.pt")
    assert "is not a verse3d model" in refusal(tmp_path / "foreign.pt").message


@pytest.mark.parametrize("version", [0, 2, "1", None, torch.zeros(3)], ids=str)
def test_another_format_version_is_refused_and_the_writer_is_named(saved, version):
    error = refusal(altered(saved, format_version=version, versions={"verse3d": "9.8.7"}))
    assert "reads version 1" in error.message
    assert "9.8.7" in error.hint


def test_another_format_version_is_refused_even_if_the_writer_is_unknown(saved):
    assert "unknown" in refusal(altered(saved, format_version=2, versions=3)).hint


@pytest.mark.parametrize("name", ["config", "network", "epoch", "scores", "training", "versions"])
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
    message = refusal(altered(saved, config=config)).message
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
