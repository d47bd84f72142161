"""What counts as near enough, and what never does."""

import json
from dataclasses import replace

import pytest
import torch

from tests.inference.backends.models import BFLOAT16, CPU, FLOAT32, MODES, config_of, windows_of, write_model
from verse3d.inference.backends import torch_backend
from verse3d.inference.backends.parity import Parity, measure_parity, shows_something


@pytest.fixture
def network(tmp_path):
    return write_model(tmp_path / "best.pt", config_of(scheme="vertebrae")).network


@pytest.fixture
def windows():
    return windows_of(MODES["3d"])


def test_the_same_logits_pass(network, windows):
    logits = torch_backend(network, CPU, FLOAT32)(windows)
    parity = measure_parity(network, windows, logits, FLOAT32)
    assert parity.passed and parity.largest_difference == 0 and parity.windows == 2
    assert parity.largest_logit == pytest.approx(float(logits.abs().max()))


@pytest.mark.parametrize(("share", "passed"), [(0.9, True), (1.1, False)])
def test_in_float32_one_logit_may_differ_by_a_thousandth_of_the_largest_and_no_more(network, windows, share, passed):
    logits = torch_backend(network, CPU, FLOAT32)(windows)
    logits[1, 3, 4, 5, 6] += share * 1e-3 * (1 + float(logits.abs().max()))
    assert measure_parity(network, windows, logits, FLOAT32).passed is passed


def test_in_bfloat16_what_pytorch_itself_gets_wrong_is_allowed_but_not_several_times_that(network, windows):
    own = torch_backend(network, CPU, BFLOAT16)(windows)
    parity = measure_parity(network, windows, own, BFLOAT16)
    assert parity.passed and parity.decided_otherwise > 0
    assert parity.allowed_otherwise == pytest.approx(2 * parity.decided_otherwise + 1e-4)
    noisy = own.float() + 0.5 * torch.randn(own.shape, generator=torch.Generator().manual_seed(0))
    worse = measure_parity(network, windows, noisy, BFLOAT16)
    assert worse.decided_otherwise > worse.allowed_otherwise and not worse.passed
    assert "another label" in worse.figures


@pytest.mark.parametrize("precision", [FLOAT32, BFLOAT16])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_never_passes(network, windows, precision, value):
    logits = torch_backend(network, CPU, precision)(windows).clone()
    logits[0, 0, 0, 0, 0] = value
    parity = measure_parity(network, windows, logits, precision)
    assert not parity.passed
    json.dumps(parity.to_dict(), allow_nan=False)
    assert not Parity.from_dict(parity.to_dict()).passed


def test_one_channel_is_decided_by_its_sign(tmp_path, windows):
    network = write_model(tmp_path / "best.pt", config_of()).network
    logits = torch_backend(network, CPU, FLOAT32)(windows)
    parity = measure_parity(network, windows, -logits, FLOAT32)
    assert parity.decided_otherwise == 1 and not parity.passed


def test_figures_survive_a_file():
    parity = Parity("bfloat16", 4.5, 0.03, 0.0055, 0.001, 0.0021, 2)
    assert Parity.from_dict(json.loads(json.dumps(parity.to_dict()))) == parity
    assert replace(parity, precision="float32").passed is False


def test_flat_windows_are_told_from_those_that_show_something():
    windows = torch.zeros(4, 1, 3, 3, 3)
    windows[1] = 0.7
    windows[2, 0, 1, 1, 1] = 0.2
    windows[3, 0, 1, 1, 1] = 0.05
    assert shows_something(windows).tolist() == [False, False, True, False]
