"""Exports: every network in every mode and format, as PyTorch or not at all; only what an export wrote is replaced."""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import verse3d
from tests.inference.backends.models import KINDS, MODES, config_of, needs, reference, windows_of, write_model
from tests.pace import first_quickly
from tests.scans import leftovers
from verse3d.cli import main
from verse3d.core.errors import CheckpointError, ConfigError, DataError, OutputError, Verse3dError
from verse3d.core.files import sha256_of
from verse3d.core.labels import label_scheme
from verse3d.inference.export import FORMATS, export_model, formats
from verse3d.inference.export.phantom_windows import phantom_case, windows_of_phantom

PACKAGES = {name: form.packages for name, form in FORMATS.items()}


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "best.pt", config_of())


def says(text: str, *words: str) -> None:
    """Name the first words that are missing."""
    assert next((one for one in words if one not in text), None) is None


def run_example(folder: Path, image: np.ndarray, monkeypatch) -> np.ndarray:
    """The Python code of the export's own README, run inside its folder."""
    (code,) = re.findall(r"```python\n(.*?)```", (folder / "README.md").read_text(), re.DOTALL)
    monkeypatch.chdir(folder)
    names = {"image": image}
    exec(code, names)
    return np.asarray(names["logits"])


@pytest.mark.parametrize("to", FORMATS)
@pytest.mark.parametrize("kind", first_quickly(KINDS, 2), ids=" ".join)
def test_the_readme_of_every_export_shows_how_to_compute_what_pytorch_does(tmp_path, monkeypatch, kind, to):
    needs(*PACKAGES[to])
    mode = kind[0]
    model = write_model(tmp_path / "best.pt", config_of(*kind))
    result = export_model(model.path, to, tmp_path / "out")
    assert result.parity.passed and result.parity.windows == 2 and result.shape == MODES[mode]
    for batch in (1, 3):
        image = windows_of(MODES[mode], batch)
        logits = run_example(tmp_path / "out", image.numpy(), monkeypatch)
        torch.testing.assert_close(
            torch.from_numpy(logits).double(), reference(model.network, image), rtol=2e-4, atol=2e-4
        )
    assert sorted(result.files) == sorted(path.name for path in (tmp_path / "out").iterdir())
    assert not leftovers(tmp_path)


def test_what_is_exported_is_described_for_programs_and_people(model, tmp_path):
    model = write_model(tmp_path / "best.pt", config_of("2.5d", "classic", "vertebrae"))
    export_model(model.path, "torchscript", tmp_path / "out")
    facts = json.loads((tmp_path / "out" / "export.json").read_text())
    assert facts["input"] == {"name": "image", "dtype": "float32", "shape": ["batch", 3, 20, 24]}
    assert facts["output"] == {"name": "logits", "dtype": "float32", "shape": ["batch", 27, 20, 24]}
    assert facts["activation"] == "softmax" and facts["parity"]["passed"] is True
    assert facts["checkpoint_sha256"] == sha256_of(model.path)
    for name, sha256 in facts["sha256"].items():
        assert sha256_of(tmp_path / "out" / name) == sha256
    labels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [row["channel"] for row in labels] == list(range(27))
    by_network_id = {number: label.id for number, label in enumerate(label_scheme("vertebrae").labels, start=1)}
    assert {row["channel"]: row["id"] for row in labels} == {0: 0, **by_network_id}
    assert labels[26] | {"rgb": 0} == {"channel": 26, "id": 28, "name": "T13", "rgb": 0}
    text = (tmp_path / "out" / "README.md").read_text()
    says(text, "4 x 4 x 4 mm", "(HU - (-250)) / 1500", "20 rows and 24 columns", "B x 3 x 20 x 24", "| 26 | T13 | 28 |")
    assert facts["checkpoint_sha256"] in text and "Softmax" in text and "sagittal" in text


def test_an_export_of_bones_says_how_they_are_found_and_that_names_are_not_in_it(tmp_path):
    config = config_of("3d", "unet")
    labels = config.labels.model_copy(update={"scheme": "vertebrae", "naming": "sequence"})
    model = write_model(tmp_path / "best.pt", config.model_copy(update={"labels": labels}))
    export_model(model.path, "torchscript", tmp_path / "out")
    text = (tmp_path / "out" / "README.md").read_text()
    assert "| 2 | core |" in text
    assert "not named for certain" in text
    channels = json.loads((tmp_path / "out" / "labels.json").read_text())
    assert [row["name"] for row in channels] == ["background", "vertebra", "core"]


def test_windows_are_described_with_overlap_margin_and_weights(tmp_path):
    config = config_of()
    sampling = config.sampling.model_copy(update={"patch_voxels": (16, 32, 48), "margin_voxels": (0, 3, 8)})
    inference = config.inference.model_copy(update={"overlap": 0.25})
    model = write_model(tmp_path / "best.pt", config.model_copy(update={"sampling": sampling, "inference": inference}))
    assert export_model(model.path, "torchscript", tmp_path / "out").shape == (1, 16, 32, 48)
    text = (tmp_path / "out" / "README.md").read_text()
    says(text, "16 x 32 x 48", "0 x 3 x 8", "12 x 24 x 36", "2 x 4 x 6 voxels", "exp(-logit)")


def test_windows_of_slices_are_described_and_checked_like_any_other_window(tmp_path):
    config = config_of("2.5d", "classic, linear")
    slices = config.slices.model_copy(update={"spacing_mm": 4.0})
    model = write_model(tmp_path / "best.pt", config.model_copy(update={"slices": slices}))
    result = export_model(model.path, "torchscript", tmp_path / "out")
    assert result.shape == (3, 20, 24) and result.parity.passed
    text = (tmp_path / "out" / "README.md").read_text()
    says(text, "windows of slices", "covered by windows of 20 rows and 24 columns", "every 10 x 12 pixels", "2.5 x 3")
    assert "stretched to" not in text


def test_windows_of_the_phantom_show_vertebrae_and_are_always_the_same():
    for mode, shape in MODES.items():
        config = config_of(mode)
        drawn = windows_of_phantom(config, phantom_case(config), 3)
        assert drawn.shape == (3, *shape) and drawn.dtype is torch.float32
        assert drawn.min() >= 0 and drawn.max() <= 1 and (drawn.flatten(1).std(1) > 0.05).all()
        torch.testing.assert_close(drawn, windows_of_phantom(config, phantom_case(config), 3), rtol=0, atol=0)


@pytest.mark.slow
def test_windows_of_the_real_phantom(monkeypatch):
    monkeypatch.undo()
    drawn = windows_of_phantom(config_of(), phantom_case(config_of()), 2)
    assert drawn.shape == (2, 1, 16, 16, 16) and (drawn.flatten(1).std(1) > 0.05).all()


def wrong(form, network_seed=9):
    """The format, but of another network."""

    def write(network, shape, folder):
        torch.manual_seed(network_seed)
        for parameter in network.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        form.write(network, shape, folder)
        torch.manual_seed(network_seed)
        for parameter in network.parameters():
            parameter.data -= 0.1 * torch.randn_like(parameter)

    return formats.Format(form.name, form.files, form.packages, write, form.load, form.example)


@pytest.mark.parametrize("to", FORMATS)
def test_an_export_that_computes_something_else_is_not_kept(model, tmp_path, monkeypatch, to):
    needs(*PACKAGES[to])
    monkeypatch.setitem(formats.FORMATS, to, wrong(FORMATS[to]))
    with pytest.raises(Verse3dError, match="computes something else than PyTorch: logits differ by up to"):
        export_model(model.path, to, tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def failing(form, error, *, when):
    def fail(*_):
        raise error

    parts = {"write": form.write, "load": form.load} | {when: fail}
    return formats.Format(form.name, form.files, (), parts["write"], parts["load"], form.example)


@pytest.mark.parametrize("when", ["write", "load"])
@pytest.mark.parametrize("error", [RuntimeError("no such operator\nmore"), ValueError(), KeyError("x")], ids=str)
def test_a_network_that_cannot_be_exported_is_named_and_nothing_is_left(model, tmp_path, monkeypatch, when, error):
    monkeypatch.setitem(formats.FORMATS, "onnx", failing(FORMATS["onnx"], error, when=when))
    with pytest.raises(Verse3dError, match="cannot be exported to onnx"):
        export_model(model.path, "onnx", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


@pytest.mark.parametrize("when", ["write", "load"])
def test_a_full_disk_leaves_an_earlier_export_as_it_was(model, tmp_path, monkeypatch, when):
    out = tmp_path / "out"
    export_model(model.path, "torchscript", out)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    full = failing(FORMATS["torchscript"], OSError(28, "No space left on device"), when=when)
    monkeypatch.setitem(formats.FORMATS, "torchscript", full)
    with pytest.raises(OutputError, match="No space left"):
        export_model(model.path, "torchscript", out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before
    assert not leftovers(tmp_path)


def test_an_earlier_export_is_replaced_only_on_request(model, tmp_path):
    out = tmp_path / "out"
    export_model(model.path, "torchscript", out)
    with pytest.raises(DataError, match="`overwrite`"):
        export_model(model.path, "torchscript", out)
    write_model(model.path, config_of(), seed=2)
    before = (out / "model.pt").read_bytes()
    export_model(model.path, "torchscript", out, overwrite=True)
    assert (out / "model.pt").read_bytes() != before and not leftovers(tmp_path)


def something(out, model):
    out.mkdir()
    (out / "truth.nii.gz").write_bytes(b"mask")


def beside_an_export(out, model):
    export_model(model.path, "torchscript", out)
    (out / "notes.txt").write_text("mine")


def changed_export(out, model):
    export_model(model.path, "torchscript", out)
    (out / "README.md").write_text("my own words")


def somebody_elses_manifest(out, model):
    out.mkdir()
    (out / "export.json").write_text('{"format": "other"}')


@pytest.mark.parametrize("fill", [something, beside_an_export, changed_export, somebody_elses_manifest])
def test_what_no_export_wrote_is_never_replaced(model, tmp_path, fill):
    out = tmp_path / "out"
    fill(out, model)
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    with pytest.raises(DataError, match="no export wrote"):
        export_model(model.path, "torchscript", out, overwrite=True)
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_an_empty_folder_is_filled_and_a_file_is_refused(model, tmp_path):
    (tmp_path / "empty").mkdir()
    assert export_model(model.path, "torchscript", tmp_path / "empty").files
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="is a file"):
        export_model(model.path, "torchscript", tmp_path / "file", overwrite=True)
    with pytest.raises(OutputError):
        export_model(model.path, "torchscript", tmp_path / "file" / "below")


@pytest.mark.parametrize("to", ["onnx", "openvino"])
def test_a_missing_package_is_named_with_the_command_that_installs_it(model, tmp_path, monkeypatch, to):
    monkeypatch.setattr(formats, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match=re.escape(f"pip install 'verse3d[{to}]'")):
        export_model(model.path, to, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    assert export_model(model.path, "torchscript", tmp_path / "out").files


def test_unknown_formats_and_things_that_are_no_model_are_refused(model, tmp_path):
    with pytest.raises(ConfigError, match="onnx, openvino, torchscript"):
        export_model(model.path, "tensorrt", tmp_path / "out")
    with pytest.raises(CheckpointError):
        export_model(tmp_path / "missing.pt", "torchscript", tmp_path / "out")
    (tmp_path / "no.pt").write_bytes(os.urandom(100))
    with pytest.raises(CheckpointError):
        export_model(tmp_path / "no.pt", "torchscript", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_command_writes_and_says_what(model, tmp_path, capsys):
    arguments = ["export", "--model", str(model.path), "--to", "torchscript", "--out", str(tmp_path / "out")]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "README.md, export.json, labels.json, model.pt" in shown and "1 x 16 x 16 x 16" in shown
    assert main(arguments) == DataError.exit_code
    assert main([*arguments, "--overwrite"]) == 0
    assert callable(verse3d.export) and callable(verse3d.api.export)
