"""The text of a config: YAML 1.2, bounded, and never run; what is hostile is refused in few words."""

import time

import pytest

from tests.core.configs import SHIPPED, problems
from tests.mutants import text_mutants
from verse3d.core.config import Config, load_config, parse_config
from verse3d.core.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-4", 1e-4), ("1E-4", 1e-4), ("1.e-4", 1e-4), (".5", 0.5), ("+2", 2.0), ("3e0", 3.0), ("010", 10.0)],
)
def test_every_way_to_write_a_number_is_a_number(written, text, value):
    assert load_config(written(f"optim: {{lr: {text}}}")).optim.lr == value


def test_digits_with_a_leading_zero_are_decimal(written):
    assert load_config(written("runtime: {seed: 010}")).runtime.seed == 10


def test_off_is_a_word_where_a_word_is_wanted(written):
    assert load_config(written("runtime: {amp: off}")).runtime.amp == "off"


@pytest.mark.parametrize(("text", "value"), [("off", False), ("no", False), ("true", True), ("on", True)])
def test_off_means_false_where_a_truth_value_is_wanted(written, text, value):
    config = load_config(written(f"inference: {{largest_component_only: {text}}}"))
    assert config.inference.largest_component_only is value


def test_a_colon_between_digits_is_no_base_60_number(written):
    with pytest.raises(ConfigError, match=r"optim\.lr: .*got '1:30'"):
        load_config(written("optim: {lr: 1:30}"))


def test_true_is_no_number(written):
    with pytest.raises(ConfigError) as caught:
        load_config(written("optim: {lr: true}\nruntime: {seed: true}\ngrid: {spacing_mm: [true, 1, 1]}"))
    assert [line.split(":")[0] for line in problems(caught.value)] == ["grid.spacing_mm.0", "optim.lr", "runtime.seed"]


@pytest.mark.parametrize("text", [".nan", ".inf", "-.inf", "nan", "inf", "1e400", "null", "", "[1]", "1,5"])
def test_what_is_no_finite_number_is_refused_as_one(written, text):
    with pytest.raises(ConfigError, match=r"optim\.lr: "):
        load_config(written(f"optim:\n  lr: {text}\n"))


@pytest.mark.parametrize("text", ["optim: {lr: 1, lr: 2}", "mode: 3d\noptim: {}\nmode: 3d"])
def test_a_key_given_twice_is_refused(written, text):
    with pytest.raises(ConfigError, match=r"'(lr|mode)' is given twice"):
        load_config(written(text))


@pytest.mark.parametrize(
    "tag",
    [
        '!!python/object/apply:pathlib.Path.touch ["{}"]',
        "!!python/name:os.system",
        "!!python/object:os.system {{}}",
        "!!float abc",
        "!!bool maybe",
        "!!timestamp x",
        "!mine 3",
    ],
)
def test_tags_are_refused_and_nothing_is_run(written, tmp_path, tag):
    trace = tmp_path / "trace"
    with pytest.raises(ConfigError, match=r"tag .* is not allowed"):
        load_config(written(f"mode: {tag.format(trace)}"))
    assert not trace.exists()


@pytest.mark.parametrize(
    "text",
    [
        "optim: [",
        "a: 1\n- b",
        "\t- x",
        "[1, 2]: 3",
        "{a: 1}: 2",
        "[" * 3000,
        f"runtime: {{seed: {'9' * 5000}}}",
        "\x00",
    ],
    ids=["open bracket", "mixed", "tab", "list as key", "mapping as key", "deep", "huge number", "control character"],
)
def test_text_that_is_no_yaml_is_refused_with_the_file_named(written, text):
    with pytest.raises(ConfigError, match=r"mine\.yaml is not valid YAML"):
        load_config(written(text))


@pytest.mark.parametrize("text", ["just words", "- 1\n- 2", "3"])
def test_a_file_without_sections_is_refused(written, text):
    with pytest.raises(ConfigError, match="must hold sections"):
        load_config(written(text))


def test_a_file_that_is_no_text_is_refused(tmp_path):
    path = tmp_path / "picture.yaml"
    path.write_bytes(b"\xff\xfe\x00\x89PNG")
    with pytest.raises(ConfigError, match=r"cannot read .*picture\.yaml"):
        load_config(path)


def test_an_empty_file_gives_the_defaults(written):
    assert load_config(written("# nothing but a comment\n")) == Config()


def doubling(levels: int, width: int = 9) -> str:
    """Every line stands for ``width`` times what the line before it stands for."""
    lines = [f"a0: &a0 [{', '.join(['x'] * width)}]"]
    for level in range(1, levels):
        lines.append(f"a{level}: &a{level} [{', '.join([f'*a{level - 1}'] * width)}]")
    return "\n".join(lines)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (doubling(9), "more than 10000 values"),
        (doubling(14, 2), "more than 10000 values"),
        ("optim: " + "[" * 5000, "nests more than 20 deep"),
        ("optim: " + "[" * 30 + "]" * 30, "nests more than 20 deep"),
        ("optim: " + "{a: " * 30 + "1" + "}" * 30, "nests more than 20 deep"),
        ("optim: &a [*a]", "stands for something that holds it"),
        ("optim: &a {lr: *a}", "stands for something that holds it"),
        ("optim: {lr: *nowhere}", "undefined alias"),
        ("optim: {lr: " + "9" * 5000 + "}", r"the number 9+\.\.\.9+ is too large"),
        ("# " + "x" * 200_000, "is too long"),
        ("mode: " + "x" * 900_000, "larger than"),
        ("a\x00b: 1", "special characters are not allowed"),
        ("? [1, 2]\n: 3", "is no key"),
        ("!!python/object:os.system x", "is not allowed"),
    ],
)
def test_a_text_that_stands_for_too_much_is_refused_at_once(written, text, reason):
    start = time.process_time()
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config(written(text))
    assert time.process_time() - start < 3
    assert len(caught.value.message) < 1500


def test_aliases_that_stand_for_little_are_as_good_as_what_they_stand_for(written):
    config = load_config(written("grid: {spacing_mm: &s [2, 2, 2]}\nsampling: {patch_voxels: &p [32, 32, 32]}"))
    assert load_config(written("grid: {spacing_mm: &s [2, 2, 2]}\nsampling: {patch_voxels: [32, 32, 32]}")) == config
    shared = load_config(written("sampling: {patch_voxels: &p [32, 32, 32], margin_voxels: *p}"))
    assert shared.sampling.margin_voxels == shared.sampling.patch_voxels == (32, 32, 32)


def test_an_error_does_not_write_out_what_aliases_stand_for(written):
    text = doubling(3) + "\noptim: {lr: [*a2]}\n"
    with pytest.raises(ConfigError) as caught:
        load_config(written(text))
    assert "optim.lr: input should be a valid number" in caught.value.message
    assert len(caught.value.message) < 1000


def test_thousands_of_unknown_settings_are_counted_not_listed(written):
    with pytest.raises(ConfigError, match=r"has 4000 problems(?s:.*)\.\.\. and 3970 more") as caught:
        load_config(written("".join(f"k{number}: 1\n" for number in range(4000))))
    assert len(caught.value.message.splitlines()) == 32


@pytest.mark.parametrize(
    ("override", "reason"),
    [
        ("optim.lr=" + "[" * 1000, "nests more than 20 deep"),
        ("optim.lr=" + "9" * 5000, "is too large"),
        ("optim.lr=&a [*a]", "stands for something that holds it"),
        ("optim.lr=" + "x" * 10**6, "is too long"),
        (".".join("a" * 3000) + "=1", "is not of the form"),
        ("a" * 100_000 + "=1", "unknown setting"),
        ("optim.lr=1e999", "finite"),
        ("\ud800=1", "unable to parse"),
    ],
)
def test_a_hostile_value_on_the_command_line_is_refused_in_few_words(override, reason):
    with pytest.raises(ConfigError, match=reason) as caught:
        load_config("unet3d", [override])
    assert len(caught.value.message) < 1000


@pytest.mark.parametrize("name", ["x" * 5000, "a\0b", "a\ud800", "configs/" + "y" * 300])
def test_a_name_that_no_file_can_have_is_no_config(name):
    with pytest.raises(ConfigError, match="is neither a file nor one of"):
        load_config(name)


def test_every_mutant_of_a_config_is_a_config_or_an_error_in_words(written):
    text = SHIPPED[0].read_text(encoding="utf-8")
    read = 0
    for mutant in text_mutants(text, 250, seed=3):
        path = written("")
        path.write_bytes(mutant.encode("utf-8", "surrogatepass"))
        try:
            load_config(path)
        except ConfigError as error:
            assert len(error.message) < 2500
        else:
            read += 1
    assert 10 < read < 240


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("grid", "spacing_mm", 1e-6),
        ("grid", "spacing_mm", [1.0, 1.0, 1000.0]),
        ("sampling", "margin_voxels", 10**12),
        ("sampling", "patch_voxels", 4096),
        ("sampling", "patch_voxels", [1024, 1024, 512]),
        ("sampling", "batch_size", 10**9),
        ("network", "channels", [16, 10**6]),
        ("inference", "windows_per_batch", 10**9),
        ("slices", "size_pixels", 10**6),
        ("runtime", "workers", 10**6),
    ],
)
def test_sizes_that_no_memory_holds_are_refused(section, key, value):
    with pytest.raises(ConfigError, match=rf"{section}\.{key}"):
        parse_config({section: {key: value}})
