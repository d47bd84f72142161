"""The built wheel works where nothing else of the project is."""

import csv
import subprocess
import sys
import venv
from pathlib import Path

import pytest

PHANTOM_DICE = 0.9
"""Of starter weights on a synthetic scan that they have not seen; they reach 0.96."""
ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_brings_its_configs_and_weights_that_segment_a_phantom(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin/pip"), "install", "--quiet", "--no-compile", "--constraint", str(ROOT / "constraints.txt")]
    subprocess.run([*pip, "torch"], check=True, capture_output=True)
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    code = (
        "from verse3d.core.config import load_config, find_config; import verse3d;"
        "load_config('unet3d'); load_config('demo3d'); print(find_config('unet3d'), verse3d.__file__)"
    )
    shown = subprocess.run(
        [str(home / "bin/python"), "-c", code], cwd=tmp_path, check=True, capture_output=True, text=True
    ).stdout
    assert shown.count(str(home)) == 2
    version = subprocess.run([str(home / "bin/verse3d"), "--version"], cwd=tmp_path, check=True, capture_output=True)
    assert version.stdout.startswith(b"verse3d ")
    # The starter weights and their card come along, and find a spine that nobody has shown them.
    program = [str(home / "bin/verse3d"), "-q"]
    subprocess.run([*program, "phantom", "scans", "--cases", "1", "--seed", "300"], cwd=tmp_path, check=True)
    subprocess.run([*program, "predict", "scans", "--out", "masks", "--device", "cpu"], cwd=tmp_path, check=True)
    subprocess.run(
        [*program, "evaluate", "--pred", "masks", "--truth", "scans", "--out", "scores.json"], cwd=tmp_path, check=True
    )
    rows = list(csv.DictReader((tmp_path / "scores.csv").read_text().splitlines()))
    (together,) = [row for row in rows if row["label"] == "vertebrae"]
    assert len(rows) > 1 and float(together["dice"]) > PHANTOM_DICE
    card = "from verse3d.model.starter import model_card; print(model_card())"
    shown = subprocess.run([str(home / "bin/python"), "-c", card], cwd=tmp_path, check=True, capture_output=True)
    assert b"CC BY-SA 4.0" in shown.stdout
