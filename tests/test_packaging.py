"""The built wheel works where nothing else of the project is."""

import subprocess
import sys
import venv
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_a_wheel_in_an_empty_environment_brings_its_configs(tmp_path: Path) -> None:
    subprocess.run(
        [sys.executable, "-m", "build", "--wheel", "--outdir", str(tmp_path), str(ROOT)],
        check=True,
        capture_output=True,
    )
    wheel = next(tmp_path.glob("*.whl"))
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    pip = [str(home / "bin/pip"), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
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
