"""Two tiny trainings in two modes, set against each other by the command line, with nothing replaced."""

import json

import pytest
from PIL import Image

import verse3d
from tests import scans
from tests.scans import tiny_config
from verse3d.cli import main
from verse3d.data.cases import write_index

SLICES = {"network": {"name": "classic", "channels": [4, 8], "norm": "batch"}, "slices": {"size_pixels": [32, 32]}}


@pytest.mark.slow
def test_a_volume_and_a_slice_model_are_trained_and_compared(tmp_path, capsys):
    index = tmp_path / "cases.jsonl"
    write_index(index, scans.write_dataset(tmp_path / "data", ("train", "train", "validation", "test")))
    short = {"optim": {"epochs": 1, "steps_per_epoch": 2}}
    for mode, more in (("3d", {}), ("2d", SLICES)):
        config = tiny_config(**short, **more).model_copy(update={"mode": mode})
        verse3d.train(data=index, out=tmp_path / mode, mode=mode, config=config, device="cpu")
    runs, out = [str(tmp_path / mode) for mode in ("3d", "2d")], tmp_path / "out"
    assert main(["compare", *runs, "--data", str(index), "--out", str(out), "--device", "cpu", "--pictures", "1"]) == 0
    shown = capsys.readouterr().out
    assert "2d against 3d: n = 1: an example, no estimate." in shown and str(out / "compare.md") in shown
    content = json.loads((out / "compare.json").read_text())
    volume, slices = content["runs"]
    assert [run["models"][0]["config"]["mode"] for run in content["runs"]] == ["3d", "2d"]
    assert volume["models"][0]["labelled voxels seen"] == 2 * 2 * 16**3
    assert slices["models"][0]["labelled voxels seen"] == 2 * 2 * 32**2
    for run in content["runs"]:
        values = run["values"]["case3"]
        assert values["seconds"] > 0 and 100 < values["peak_rss_mb"] < 1e4
        assert run["devices"] == ["cpu"]
        for picture in ("case3.png", "loss.png"):
            assert min(Image.open(out / run["name"] / "pictures" / picture).size) > 200
    assert (out / "compare.csv").exists() and min(Image.open(out / "compare.png").size) > 400
    assert scans.leftovers(tmp_path) == []
