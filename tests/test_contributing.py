"""The recipes for contributors work as they are written, and the commands beside them exist."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

import verse3d
from tests.core.grids import affine, hounsfield, save_scan
from tests.scans import tiny_config
from verse3d.core.config import NetworkConfig
from verse3d.core.volume import read_image
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.convert import convert_cases
from verse3d.data.converted import read_conversion
from verse3d.model import networks
from verse3d.model.modes import MODES, get_mode, require_suitable

ROOT = Path(verse3d.__file__).parents[1]
PAGE = ROOT / "CONTRIBUTING.md"


@pytest.fixture(scope="module")
def page():
    if not PAGE.is_file():
        pytest.skip("CONTRIBUTING.md lies beside the package in a checkout only")
    return PAGE.read_text(encoding="utf-8")


def recipe(page, name):
    """What the code of a recipe defines."""
    (code,) = re.findall(rf"^```python {name}\n(.*?)^```$", page, flags=re.DOTALL | re.MULTILINE)
    namespace = {}
    exec(compile(code, f"CONTRIBUTING.md, {name}", "exec"), namespace)
    return namespace


@pytest.mark.parametrize(("dims", "size"), [(2, (9, 14)), (3, (5, 9, 7))])
def test_a_network_of_the_recipe_is_built_by_its_name(page, monkeypatch, dims, size):
    monkeypatch.setitem(networks._BUILDERS, "plain", recipe(page, "network")["plain"])
    config = NetworkConfig().model_copy(update={"name": "plain"})
    network = networks.build_network(config, spatial_dims=dims, output_channels=4, input_channels=3)
    assert network(torch.zeros(2, 3, *size)).shape == (2, 4, *size)


def test_a_mode_of_the_recipe_is_found_and_suits_a_config(page, monkeypatch):
    mode = recipe(page, "mode")["mode"]
    monkeypatch.setitem(MODES, mode.name, mode)
    config = tiny_config("3d", network={"channels": (4, 8, 16)}).model_copy(update={"mode": mode.name})
    require_suitable(config)
    assert get_mode("3d-shallow") is mode
    network = mode.network(config)
    patch = config.sampling.patch_voxels
    assert network(torch.zeros(1, 1, *patch)).shape[2:] == patch
    assert networks.parameter_count(network) < networks.parameter_count(MODES["3d"].network(config))


def test_a_layout_of_the_recipe_is_written_and_a_bad_case_is_left_out(page, tmp_path):
    scan = save_scan(tmp_path / "a_ct.nii.gz", hounsfield((7, 9, 5)), affine("PIR"))
    index = CaseIndex((Case("a", "a", image=scan), Case("b", "b", image=tmp_path / "missing.nii.gz")))
    out = tmp_path / "flat"
    result = convert_cases(index, recipe(page, "layout")["flat_layout"](index, out))
    assert [record.status for record in result.cases] == ["written", "left out"]
    assert (out / "a.nii.gz").resolve() == scan.resolve()
    assert [file.path for file in read_conversion(out).files] == ["a.nii.gz"]


def test_an_export_of_the_recipe_computes_what_the_network_does(page, tmp_path):
    form = recipe(page, "export")["form"]
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(4, 2, 1)).eval()
    for any_size, window in ((False, torch.rand(1, 3, 8, 12)), (True, torch.rand(2, 3, 6, 10))):
        folder = tmp_path / str(any_size)
        folder.mkdir()
        form.write(network, (3, 8, 12), folder, any_size=any_size)
        assert {path.name for path in folder.iterdir()} == set(form.files)
        with torch.no_grad():
            torch.testing.assert_close(form.load(folder)(window), network(window))


@pytest.mark.parametrize(("spacing", "codes"), [((1.0, 9.0, 1.0), ["thick-slices"]), ((1.0, 3.0, 1.0), [])])
def test_a_check_of_the_recipe_finds_what_it_is_for(page, tmp_path, spacing, codes):
    path = save_scan(tmp_path / "a.nii.gz", hounsfield((5, 4, 6)), np.diag([*spacing, 1.0]))
    findings = list(recipe(page, "check")["check_thickness"]("a", read_image(path)))
    assert [finding.code for finding in findings] == codes


def test_every_command_and_file_that_the_page_names_exists(page):
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    assert set(re.findall(r"^    make ([a-z-]+)", page, flags=re.MULTILINE)) <= targets
    named = re.findall(r"`([a-z_]+/[a-z_/]+\.py)`", page) + re.findall(r"\]\(([^)]+)\)", page)
    assert len(named) > 10
    assert [name for name in named if not ((ROOT / name).exists() or (ROOT / "verse3d" / name).exists())] == []
