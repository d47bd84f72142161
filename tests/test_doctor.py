"""What doctor says about an installation: what is there, what is missing, whether it works, and nothing private."""

import json
from pathlib import Path

import pytest

import verse3d
from tests.scans import save_model, spine, tiny_config
from verse3d import phantoms
from verse3d.api import diagnosing
from verse3d.cli import main
from verse3d.core.errors import CheckpointError
from verse3d.model.starter import model_card
from verse3d.phantoms import writer


@pytest.fixture
def small_phantom(monkeypatch):
    """Phantoms that take no time: blocks in which the starter weights see no vertebra."""

    def make_case(seed, index, *, anomaly=None):
        data = spine(seed + index)
        headers = phantoms.make_case.__globals__["Headers"](sform_code=1, qform_code=1)
        return phantoms.PhantomCase(data.hu, data.mask, data.geometry, {}, headers, ("T12", "L1", "L2"))

    monkeypatch.setattr(writer, "make_case", make_case)


def test_versions_device_cores_memory_and_disk_are_told_without_any_path():
    found = verse3d.doctor(self_test=False)
    assert found.is_well and verse3d.doctor(self_test=False).facts.keys() == found.facts.keys()
    assert {"verse3d", "Python", "torch", "system", "cores", "free memory", "device"} <= found.facts.keys()
    assert found.facts["verse3d"] == verse3d.__version__
    told = json.dumps([found.facts, [one.what + one.remedy for one in found.advice]])
    for private in (str(Path.home()), str(Path.cwd()), __import__("platform").node()):
        assert private not in told


def test_a_missing_extra_is_named_with_what_to_install(monkeypatch):
    monkeypatch.setattr(diagnosing, "installed_version", lambda name: "not installed" if name == "openvino" else "1.0")
    found = verse3d.doctor(self_test=False)
    assert [(one.what, "verse3d[openvino]" in one.remedy, one.serious) for one in found.advice] == [
        ("openvino is not installed", True, False)
    ]


def test_a_gpu_that_pytorch_does_not_see_is_told(monkeypatch):
    monkeypatch.setattr(diagnosing.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr(diagnosing.torch.cuda, "is_available", lambda: False)
    assert any("sees no GPU" in one.what for one in verse3d.doctor(self_test=False).advice)


def test_little_memory_and_little_disk_are_told(monkeypatch):
    monkeypatch.setattr(diagnosing, "free_memory_bytes", lambda: 10**9)
    monkeypatch.setattr(diagnosing, "_LEAST_DISK", 1e18)
    told = " ".join(one.what for one in verse3d.doctor(self_test=False).advice)
    assert "3 GB of memory" in told and "of disk" in told


def test_the_self_test_runs_all_the_way_and_fails_where_nothing_is_found(small_phantom):
    found = verse3d.doctor()
    assert not found.is_well
    assert found.facts["self-test"].startswith("failed: a synthetic scan was made, segmented and scored")
    assert "Dice" in found.advice[-1].what and found.advice[-1].serious


def test_an_error_in_the_self_test_is_told_without_the_users_paths(monkeypatch, capsys):
    def broken(*_, **__):
        raise RuntimeError(f"cannot load {Path.home()}/patients/x.nii")

    monkeypatch.setattr(diagnosing, "predict", broken)
    monkeypatch.setattr(diagnosing, "phantom", lambda *_, **__: None)
    assert main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "cannot load .../patients/x.nii" in out and "NOT work" in out
    assert str(Path.home()) + "/" not in out


def test_the_card_of_the_starter_weights_is_shown(capsys):
    assert main(["doctor", "--model", "starter", "--no-self-test", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["about_model"] == model_card()


def test_a_model_of_ones_own_is_described(tmp_path, capsys):
    path = save_model(tmp_path / "a.pt", tiny_config())
    assert main(["doctor", "--model", str(path), "--no-self-test"]) == 0
    out = capsys.readouterr().out
    assert "labels: binary" in out and "[4.0, 4.0, 4.0] mm" in out and "epoch 1" in out
    with pytest.raises(CheckpointError):
        verse3d.doctor(model=tmp_path / "none.pt", self_test=False)


@pytest.mark.slow  # a whole phantom, and the real weights
def test_a_sound_installation_passes_its_self_test():
    found = verse3d.doctor()
    assert found.is_well and "segmented and scored" in found.facts["self-test"]
