"""Which backend is taken, and what is refused."""

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import verse3d
from tests.inference.backends.models import BFLOAT16, CPU, FLOAT32, MODES, config_of, needs, write_model
from verse3d.core.errors import CheckpointError, ConfigError
from verse3d.inference.backends import choose, open_backend

ROOT = Path(verse3d.__file__).parents[1]
CUDA = torch.device("cuda")


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "best.pt", config_of())


@pytest.fixture
def without_openvino(monkeypatch):
    monkeypatch.setattr(choose, "find_spec", lambda name: None)


def test_auto_takes_openvino_on_a_cpu_where_it_is_installed(model):
    needs("openvino")
    assert open_backend("auto", model.checkpoint, model.path, CPU, FLOAT32).name == "openvino"
    assert open_backend("torch", model.checkpoint, model.path, CPU, FLOAT32).name == "torch"


@pytest.mark.parametrize(
    ("changes", "computed", "taken"),
    [
        ({}, (BFLOAT16, 2), "torch"),
        ({}, (BFLOAT16, 4), "torch"),
        ({}, (BFLOAT16, 1), "openvino"),
        ({}, (BFLOAT16, 16), "openvino"),
        ({}, (FLOAT32, 2), "openvino"),
        ({"scheme": "vertebrae"}, (BFLOAT16, 2), "openvino"),
        ({"network": "dynunet"}, (BFLOAT16, 2), "openvino"),
    ],
)
def test_auto_takes_pytorch_for_small_networks_in_bfloat16_on_few_cores(
    tmp_path, changes, computed, taken, monkeypatch
):
    needs("openvino")
    precision, threads = computed
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    model = write_model(tmp_path / "best.pt", config_of(**changes))
    assert open_backend("auto", model.checkpoint, model.path, CPU, precision).name == taken
    assert open_backend("openvino", model.checkpoint, model.path, CPU, precision).name == "openvino"


def test_auto_takes_pytorch_where_openvino_is_missing(model, without_openvino):
    assert open_backend("auto", model.checkpoint, model.path, CPU, FLOAT32).name == "torch"


def test_openvino_that_is_missing_is_refused_with_the_command_that_installs_it(model, without_openvino):
    with pytest.raises(ConfigError, match=r"pip install 'verse3d\[openvino\]'"):
        open_backend("openvino", model.checkpoint, model.path, CPU, FLOAT32)


def test_openvino_on_a_gpu_is_refused(model):
    with pytest.raises(ConfigError, match="cuda"):
        open_backend("openvino", model.checkpoint, model.path, CUDA, FLOAT32)


def test_an_unknown_name_is_refused(model):
    with pytest.raises(ConfigError, match="auto, torch, openvino"):
        open_backend("tensorrt", model.checkpoint, model.path, CPU, FLOAT32)


def test_weights_of_another_network_are_refused_when_it_is_made_ready(tmp_path, model):
    other = write_model(tmp_path / "other.pt", config_of(network="dynunet"))
    object.__setattr__(model.checkpoint, "network", other.checkpoint.network)
    with pytest.raises(CheckpointError, match="do not fit"):
        open_backend("torch", model.checkpoint, model.path, CPU, FLOAT32).make_ready(MODES["3d"])


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_pytorch_never_loads_openvino_and_openvino_never_loads_what_reports_home(model):
    code = (
        "import sys, torch; from pathlib import Path; from verse3d.inference.backends import open_backend;"
        "from verse3d.model.checkpoint import load_checkpoint; from verse3d.core.runtime import choose_precision;"
        "path = Path(sys.argv[1]); model = load_checkpoint(path); cpu = torch.device('cpu');"
        "off = choose_precision('off', cpu); torch.manual_seed(0); windows = torch.rand(1, 1, 16, 16, 16);"
        "open_backend('torch', model, path, cpu, off)(windows);"
        "assert not [name for name in sys.modules if name.startswith('openvino')];"
        "used = open_backend('auto', model, path, cpu, off); used(windows);"
        "assert not [name for name in sys.modules if name.startswith('openvino_telemetry')];"
        "print(used.name)"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, str(model.path)],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.strip() == ("openvino" if find_spec("openvino") else "torch")
