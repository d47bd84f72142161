"""The machine: devices and precisions are chosen or refused, random states return, and nothing is logged unasked."""

import logging
import random
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from verse3d.core import runtime
from verse3d.core.errors import ConfigError

CPU, GPU = torch.device("cpu"), torch.device("cuda")


@pytest.fixture(autouse=True)
def _logging_as_before():
    root = logging.getLogger("verse3d")
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)


# --- device


def test_an_unknown_device_is_refused():
    with pytest.raises(ConfigError, match="device 'cuda:7' is unknown; expected auto, cpu or cuda"):
        runtime.choose_device("cuda:7")


def test_a_gpu_is_refused_where_there_is_none(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(ConfigError, match="sees no GPU") as caught:
        runtime.choose_device("cuda")
    assert caught.value.option == "device"


@pytest.mark.parametrize(("available", "expected"), [(False, CPU), (True, GPU)])
def test_auto_takes_the_gpu_if_there_is_one(monkeypatch, available, expected):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: available)
    assert runtime.choose_device() == expected
    assert runtime.choose_device("cpu") == CPU


# --- precision


def test_fp16_is_refused_on_a_cpu():
    with pytest.raises(ConfigError, match="fp16 needs a GPU"):
        runtime.choose_precision("fp16", CPU)


@pytest.mark.parametrize(
    ("amp", "device", "dtype", "scales"),
    [
        ("off", CPU, torch.float32, False),
        ("bf16", CPU, torch.bfloat16, False),
        ("off", GPU, torch.float32, False),
        ("fp16", GPU, torch.float16, True),
    ],
)
def test_a_named_precision_is_taken_and_only_fp16_scales_the_loss(amp, device, dtype, scales):
    assert runtime.choose_precision(amp, device) == runtime.Precision(dtype, scales_loss=scales)


@pytest.mark.parametrize(
    ("capabilities", "dtype"),
    [
        ({}, torch.float32),
        ({"amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "AMD EPYC", "avx512_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": False}, torch.float32),
        ({"cpu_name": "Intel Xeon", "avx512_bf16": True, "amx_bf16": True}, torch.bfloat16),
        ({"cpu_name": "Arm Neoverse", "bf16": True}, torch.bfloat16),
    ],
    ids=str,
)
def test_auto_takes_bf16_only_where_the_cpu_is_quicker_with_it(monkeypatch, capabilities, dtype):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    assert runtime.choose_precision("auto", CPU).dtype == dtype


@pytest.mark.parametrize(("native", "dtype"), [(True, torch.bfloat16), (False, torch.float16)])
def test_auto_takes_fp16_on_a_gpu_that_only_emulates_bf16(monkeypatch, native, dtype):
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: native)
    assert runtime.choose_precision("auto", GPU) == runtime.Precision(dtype, scales_loss=not native)


@pytest.mark.parametrize(("amp", "dtype"), [("off", torch.float32), ("bf16", torch.bfloat16)])
def test_the_forward_pass_runs_in_the_chosen_precision(amp, dtype):
    layer, inputs = torch.nn.Linear(3, 5), torch.ones(2, 3)
    with runtime.choose_precision(amp, CPU).autocast(CPU):
        assert layer(inputs).dtype == dtype


# --- random state


def test_the_same_seed_gives_the_same_numbers_everywhere():
    def drawn() -> tuple:
        return random.random(), np.random.rand(), torch.rand(3).tolist()

    runtime.seed_everything(2**40 + 3)
    first = drawn()
    second = drawn()
    runtime.seed_everything(2**40 + 3)
    assert drawn() == first != second


def test_a_random_state_returns_through_a_plain_file(tmp_path):
    torch.rand(7)
    torch.save(runtime.random_state(), tmp_path / "state.pt")
    expected = torch.rand(5)
    torch.rand(11)
    runtime.restore_random_state(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(torch.rand(5), expected)


def test_the_state_of_more_gpus_than_there_are_does_not_stop_the_restoring():
    state = runtime.random_state()
    expected = torch.rand(5)
    runtime.restore_random_state({**state, "cuda": [state["torch"]] * (torch.cuda.device_count() + 1)})
    assert torch.equal(torch.rand(5), expected)


def test_peak_memory_is_that_of_this_process_in_megabytes():
    block = np.ones(30_000_000)
    assert block.nbytes / 1e6 < runtime.peak_rss_mb() < 1e6


LINUX = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux counts it so")


@LINUX
@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_peak_memory_is_not_that_of_the_program_that_started_this_one():
    block = np.ones(60_000_000)
    code = "from verse3d.core.runtime import peak_rss_mb; print(peak_rss_mb())"
    before = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    more = np.ones(100_000_000)
    after = float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)
    assert block.nbytes + more.nbytes > 1.2e9
    assert after == pytest.approx(before, rel=0.1)


def test_peak_memory_is_known_without_the_files_of_linux(monkeypatch, tmp_path):
    monkeypatch.setattr(runtime, "_STATUS", tmp_path / "missing")
    assert 50 < runtime.peak_rss_mb() < 1e6
