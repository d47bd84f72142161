"""The scout of an export: images of any size, as PyTorch or not at all; what its README says about bones and names."""

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.inference.backends.models import config_of, needs, write_model
from tests.scans import leftovers, scout_part
from verse3d.core.config import Config
from verse3d.core.errors import CheckpointError, Verse3dError
from verse3d.core.files import sha256_of
from verse3d.inference.export import FORMATS, export_model, job
from verse3d.inference.export.readme_names import names_section
from verse3d.inference.loading import open_level_networks
from verse3d.labelling.levels import STEPS
from verse3d.labelling.priors import shipped_priors
from verse3d.model.checkpoint import load_checkpoint, save_checkpoint
from verse3d.model.scout import SCOUT, USABLE


def named(naming="sequence") -> Config:
    config = config_of("3d", "unet")
    scout = config.scout.model_copy(update={"channels": (4, 8, 8)})
    labels = config.labels.model_copy(update={"scheme": "vertebrae", "naming": naming})
    return config.model_copy(update={"labels": labels, "scout": scout})


def with_scout(path: Path, config: Config, usable=1.0) -> Path:
    model = write_model(path, config)
    torch.manual_seed(3)
    scout = scout_part(config, {USABLE: usable})
    save_checkpoint(path, replace(model.checkpoint, networks={SCOUT: scout}))
    return path


@pytest.fixture
def model(tmp_path):
    return with_scout(tmp_path / "best.pt", named())


@pytest.mark.parametrize("to", FORMATS)
def test_the_readme_shows_how_to_compute_the_levels_of_a_scan_of_any_size(model, tmp_path, monkeypatch, to):
    needs(*FORMATS[to].packages)
    result = export_model(model, to, tmp_path / "out")
    monkeypatch.chdir(tmp_path / "out")
    _, code = re.findall(r"```python\n(.*?)```", Path("README.md").read_text(), re.DOTALL)
    (scout,) = open_level_networks([load_checkpoint(model)], [model], torch.device("cpu"))
    random = torch.Generator().manual_seed(0)
    for shape in ((1, 1, 8, 12, 16), (2, 1, 20, 4, 8)):  # multiples of 4, as the README asks for
        image = torch.rand(shape, generator=random)
        names = {"image": image.numpy()}
        exec(code, names)
        with torch.no_grad():
            expected = scout(image)
        np.testing.assert_allclose(np.asarray(names["logits"]), expected.numpy(), rtol=1e-3, atol=1e-3)
    assert {name.replace("model", "scout") for name in FORMATS[to].files} <= set(result.files)
    assert not leftovers(tmp_path)


def test_the_scout_is_described_for_programs_and_takes_part_in_what_is_replaced(model, tmp_path):
    out = tmp_path / "out"
    export_model(model, "torchscript", out)
    facts = json.loads((out / "export.json").read_text())
    scout = facts["scout"]
    assert scout["files"] == ["scout.pt"] and facts["sha256"]["scout.pt"] == sha256_of(out / "scout.pt")
    assert scout["input"]["shape"] == ["batch", 1, "4 i", "4 j", "4 k"] and scout["output"]["shape"][1] == 27
    assert scout["channels"][0] == "background" and scout["channels"][26] == "L6" and len(scout["channels"]) == 27
    assert scout["spacing_mm"] == 4 and scout["usable"] is True and scout["parity"]["passed"] is True
    before = (out / "scout.pt").read_bytes()
    with_scout(model, config_of())  # of one label, whose scout says where the spine is
    export_model(model, "torchscript", out, overwrite=True)
    text = (out / "README.md").read_text()
    assert (out / "scout.pt").read_bytes() != before
    assert "## The scout" in text and "From bones to names" not in text


def test_of_a_model_without_a_scout_there_is_none(tmp_path):
    write_model(tmp_path / "best.pt", named())
    result = export_model(tmp_path / "best.pt", "torchscript", tmp_path / "out")
    assert json.loads((tmp_path / "out" / "export.json").read_text())["scout"] is None
    assert "scout.pt" not in result.files and "## The scout" not in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize(("usable", "words"), [(1.0, "only 28 mm around that"), (0.0, "crops no scan by it")])
def test_the_readme_says_whether_scans_are_cropped_by_the_scout(tmp_path, usable, words):
    with_scout(tmp_path / "best.pt", named(), usable)
    export_model(tmp_path / "best.pt", "torchscript", tmp_path / "out")
    assert words in (tmp_path / "out" / "README.md").read_text()


def test_a_scout_that_computes_something_else_is_not_kept(model, tmp_path, monkeypatch):
    opened = job.scout_of

    def other(checkpoint, path):
        scout = opened(checkpoint, path)
        # As an exporter that loses something would: what is traced is not what is computed.
        scout.forward = lambda image: opened(checkpoint, path)(image) + 1.0 * torch.jit.is_tracing()
        return scout

    monkeypatch.setattr(job, "scout_of", other)
    with pytest.raises(Verse3dError, match="computes something else than PyTorch"):
        export_model(model, "torchscript", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["best.pt"]


def test_a_scout_whose_weights_do_not_fit_is_refused(model, tmp_path):
    checkpoint = load_checkpoint(model)
    scout = checkpoint.networks[SCOUT]
    larger = scout.config.model_copy(update={"scout": scout.config.scout.model_copy(update={"channels": (8, 8, 8)})})
    save_checkpoint(model, replace(checkpoint, networks={SCOUT: replace(scout, config=larger)}))
    with pytest.raises(CheckpointError):
        export_model(model, "torchscript", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_decoder_is_described_with_the_numbers_it_uses():
    text, priors = names_section(seen=True), shipped_priors()
    for (upper, lower), distance in zip(STEPS, np.exp(priors.log_step_mm), strict=True):
        assert f"{upper}-{lower} {distance:.1f}" in text
    assert "-6, -10.5, -14.25 for one, two, three" in text  # -4, -7, -9.5 of points, and half as much again
    assert "-4.0 for T13" in text and "CC BY-SA 4.0" in text and "less than 0.905" in text
    assert "named for certain" in names_section(seen=False)
