"""Settings: what YAML says is what the config holds, and every mistake is reported with its place."""

from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from tests.core.configs import SHIPPED, problems
from verse3d.core.config import Config, find_config, load_config, parse_config
from verse3d.core.errors import ConfigError


def test_all_mistakes_are_reported_at_once_each_with_its_place(written):
    text = """
    optim: {learning_rate: 3, epochs: many}
    network: {channels: [8, 16, 32, 64]}
    sampling: {patch_voxels: [64, 60, 64]}
    lables: {scheme: binary}
    """
    with pytest.raises(ConfigError) as caught:
        load_config(written(text))
    assert "has 4 problems" in caught.value.message
    found = {line.split(":")[0]: line for line in problems(caught.value)}
    assert found.keys() == {"optim.learning_rate", "optim.epochs", "sampling.patch_voxels", "lables"}
    assert "unknown setting" in found["optim.learning_rate"]
    assert "got 'many'" in found["optim.epochs"]
    assert "multiples of 8" in found["sampling.patch_voxels"]
    assert "[64, 60, 64]" in found["sampling.patch_voxels"]
    assert "did you mean 'labels'?" in found["lables"]


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("optm: {}", "optim"),
        ("sampling: {patch_voxel: [1, 1, 1]}", "patch_voxels"),
        ("augment: {mirror_left_rigth: 0}", "mirror_left_right"),
        ("inference: {min_component_m: 0}", "min_component_ml"),
    ],
)
def test_an_unknown_key_suggests_the_nearest_spelling_of_its_own_section(written, text, hint):
    with pytest.raises(ConfigError, match=f"unknown setting; did you mean '{hint}'"):
        load_config(written(text))


def test_an_unknown_key_like_no_other_gets_no_suggestion(written):
    with pytest.raises(ConfigError) as caught:
        load_config(written("optim: {qqqqqq: 1}"))
    assert problems(caught.value) == ["optim.qqqqqq: unknown setting"]


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("grid: {window_hu: [300, -100]}", "grid.window_hu"),
        ("grid: {window_hu: [100, 100]}", "grid.window_hu"),
        ("grid: {spacing_mm: [1, 1, 0]}", "grid.spacing_mm.2"),
        ("grid: {spacing_mm: [1, 1]}", "grid.spacing_mm.2"),
        ("grid: {spacing_mm: [[1], 1, 1]}", "grid.spacing_mm.0"),
        ("grid: {spacing_mm: true}", "grid.spacing_mm"),
        ("labels: {scheme: levels}", "labels.scheme"),
        ("network: {name: vit}", "network.name"),
        ("network: {channels: [16]}", "network.channels"),
        ("network: {channels: [16, 32], name: dynunet}", "network.channels"),
        ("network: {dropout: 1.0}", "network.dropout"),
        ("sampling: {patch_voxels: [96, 96, 0]}", "sampling.patch_voxels.2"),
        ("sampling: {batch_size: 0}", "sampling.batch_size"),
        ("sampling: {foreground_fraction: 1.01}", "sampling.foreground_fraction"),
        ("augment: {noise: -0.1}", "augment.noise"),
        ("optim: {epochs: 1.5}", "optim.epochs"),
        ("runtime: {amp: fp8}", "runtime.amp"),
        ("runtime: {seed: -1}", "runtime.seed"),
        ("runtime: {seed: 18446744073709551616}", "runtime.seed"),
        ("inference: {overlap: 1}", "inference.overlap"),
        ("inference: {largest_component_only: 2}", "inference.largest_component_only"),
        ("mode: 3", "mode"),
        ("optim: 5", "optim"),
        ("optim:", "optim"),
        ("1: 2", "1"),
    ],
)
def test_a_value_out_of_range_or_of_another_type_is_refused_at_its_place(written, text, place):
    with pytest.raises(ConfigError) as caught:
        load_config(written(text))
    assert [line.split(":")[0] for line in problems(caught.value)] == [place]


def test_one_number_stands_for_three_equal_ones():
    config = load_config("unet3d", ["grid.spacing_mm=2", "sampling.patch_voxels=64"])
    assert (config.grid.spacing_mm, config.sampling.patch_voxels) == ((2.0, 2.0, 2.0), (64, 64, 64))


def test_a_patch_of_which_a_single_voxel_would_remain_is_refused():
    settings = {"network": {"channels": [4, 8, 16]}, "sampling": {"patch_voxels": [4, 4, 4]}}
    with pytest.raises(ConfigError, match="a single voxel would remain"):
        parse_config(settings)
    settings["sampling"] = {"patch_voxels": [4, 4, 8]}
    assert parse_config(settings).sampling.patch_voxels == (4, 4, 8)


def test_overrides_change_single_values_lists_and_whole_sections():
    config = load_config(
        "unet3d",
        [
            "optim.lr=1e-4",
            "sampling.patch_voxels=[64, 96, 128]",
            " runtime.amp = off",
            "loss={name: dice_ce}",
            "mode=3d",
        ],
    )
    assert config.optim.lr == 1e-4
    assert config.sampling.patch_voxels == (64, 96, 128)
    assert config.sampling.batch_size == load_config("unet3d").sampling.batch_size
    assert config.runtime.amp == "off"
    assert config.loss.name == "dice_ce"


def test_the_later_of_two_overrides_counts():
    assert load_config("unet3d", ["optim.epochs=3", "optim.epochs=7"]).optim.epochs == 7


def test_overrides_of_bad_form_are_told_together_with_all_other_mistakes(tmp_path):
    with pytest.raises(ConfigError) as caught:
        load_config("unet3d", ["optim.lr", "optim.lrr=3", "mode=4"])
    assert caught.value.message.startswith("`overrides` has 3 problems:")
    assert all(word in caught.value.message for word in ("section.key=value", "lrr", "mode"))
    (tmp_path / "own.yaml").write_text("optim: {epoch: 3}")
    with pytest.raises(ConfigError) as caught:
        load_config(tmp_path / "own.yaml", ["optim.lr"])
    first, second = caught.value.message.split(f"\n{tmp_path / 'own.yaml'} has 1 problem:")
    assert "section.key=value" in first and "did you mean 'epochs'" in second


def test_overrides_of_bad_form_are_all_reported():
    bad = ["optim.lr", "=3", ".lr=3", "optim.=3", "optim..lr=3", "optim.lr=[1", "optim.lr=!!float 3"]
    with pytest.raises(ConfigError) as caught:
        load_config("unet3d", [*bad, "optim.lr=1e-3"])
    assert f"`overrides` has {len(bad)} problems" in caught.value.message
    assert len(problems(caught.value)) == len(bad)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("optim.lrr=3", "optim.lrr: unknown setting; did you mean 'lr'?"),
        ("optim.lr=fast", "optim.lr: .*got 'fast'"),
        ("optim.lr=", "optim.lr: .*got None"),
        ("sampling.patch_voxels=64,64,64", "sampling.patch_voxels: .*got '64,64,64'"),
        ("sampling.patch_voxels=[64, 64, 65]", "sampling.patch_voxels: must be multiples of 16"),
        ("mode.x=1", "mode: .*string"),
    ],
)
def test_an_override_is_checked_like_the_file(override, message):
    with pytest.raises(ConfigError, match=message):
        load_config("unet3d", [override])


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.stem)
def test_every_shipped_config_loads_by_name_and_by_path_and_opens_with_its_command(path, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # names must not depend on the working folder
    assert load_config(path.stem) == load_config(path) == load_config(path.name) == load_config(str(path))
    opening = path.read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    comment = [line for line in opening[:4] if line.startswith("#")]
    assert opening[0].startswith("# ")
    assert any(line.startswith("#   verse3d ") for line in comment)


def test_there_are_shipped_configs():
    assert {"unet3d", "demo3d"} <= {path.stem for path in SHIPPED}


@pytest.mark.parametrize("one", [("unet3d", "slices2d", "slices25d"), ("unet3d-cpu", "slices2d-cpu")])
def test_what_is_trained_with_the_defaults_of_each_mode_can_be_compared(one):
    first, *others = (load_config(name) for name in one)
    for other in others:
        assert other.grid == first.grid and other.labels.scheme == first.labels.scheme
        assert other.inference.min_component_ml == first.inference.min_component_ml
        assert other.inference.largest_component_only == first.inference.largest_component_only


def test_an_unknown_name_lists_the_shipped_ones_and_suggests_the_nearest():
    with pytest.raises(ConfigError) as caught:
        find_config("unet3")
    assert all(path.stem in caught.value.message for path in SHIPPED)
    assert caught.value.hint == "did you mean 'unet3d'?"


@pytest.mark.parametrize("name", ["", ".", "no/such/unet3d", "configs", "../unet3d.yaml"])
def test_a_path_that_is_no_file_is_refused_even_if_it_ends_like_a_shipped_name(name, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="neither a file nor one of"):
        find_config(name)


def test_a_file_of_the_user_wins_over_a_shipped_name(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    Path("unet3d").write_text("optim: {epochs: 3}")
    assert load_config("unet3d").optim.epochs == 3


def test_a_config_cannot_be_changed():
    config = Config()
    with pytest.raises(ValidationError, match="frozen"):
        config.mode = "2d"
    with pytest.raises(ValidationError, match="frozen"):
        config.optim.lr = 1.0
    with pytest.raises(TypeError):
        config.sampling.patch_voxels[0] = 5
    assert config == Config()


SETTINGS = st.fixed_dictionaries(
    {
        "optim": st.fixed_dictionaries({"lr": st.floats(min_value=1e-12, max_value=1e6)}),
        "grid": st.fixed_dictionaries({"spacing_mm": st.tuples(*[st.floats(min_value=0.05, max_value=20)] * 3)}),
        "runtime": st.fixed_dictionaries(
            {
                "amp": st.sampled_from(["auto", "off", "bf16", "fp16"]),
                "seed": st.integers(min_value=0, max_value=2**64 - 1),
            }
        ),
        "inference": st.fixed_dictionaries({"largest_component_only": st.booleans()}),
    }
)


@given(settings=SETTINGS)
def test_what_is_written_as_yaml_is_read_as_the_same_config(settings, tmp_path_factory):
    config = parse_config(settings)
    path = tmp_path_factory.getbasetemp() / "round_trip.yaml"
    path.write_text(config.to_yaml(), encoding="utf-8")
    assert load_config(path) == config
    assert parse_config(config.to_dict()) == config


def test_the_written_yaml_is_complete_and_plain():
    values = yaml.safe_load(Config().to_yaml())
    assert values == Config().to_dict()
    assert values.keys() == Config.model_fields.keys()
    assert values["optim"].keys() == type(Config().optim).model_fields.keys()
