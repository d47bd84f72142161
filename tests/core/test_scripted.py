"""What runs without Python's lock is the same function."""

import warnings

import numpy as np
import pytest
import torch

from verse3d.core import scripted as module
from verse3d.core.axismaps import AxisMap
from verse3d.core.scripted import scripted
from verse3d.inference import aggregator, best_channel, dense_interpolation


def doubled_where(values: torch.Tensor, limits: list[float]) -> torch.Tensor:
    for limit in limits:
        values = torch.where(values > limit, values * 2, values)
    return values


@pytest.fixture
def without_torchscript(monkeypatch):
    def gone(_):
        raise RuntimeError("torch.jit.script was removed")

    monkeypatch.setattr(torch.jit, "script", gone)
    module._compiled.cache_clear()
    yield
    module._compiled.cache_clear()


def test_it_is_compiled_once_without_a_word():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        once = scripted(doubled_where)
    assert scripted(doubled_where) is once and isinstance(once, torch.jit.ScriptFunction)
    assert once(torch.tensor([1.0, 3.0]), [2.0, 5.0]).tolist() == [1.0, 12.0]


def test_without_torchscript_it_is_the_function_itself(without_torchscript):
    assert scripted(doubled_where) is doubled_where


SCRIPTED = [best_channel._choose, dense_interpolation._fill, aggregator._probabilities]


@pytest.mark.parametrize("function", SCRIPTED, ids=lambda function: f"{function.__module__}.{function.__name__}")
def test_whatever_of_ours_is_scripted_can_be(function):
    assert isinstance(scripted(function), torch.jit.ScriptFunction)


def test_with_and_without_torchscript_dense_labels_are_the_same(request):
    torch.manual_seed(0)
    logits = torch.randn(5, 6, 7, 4).half().movedim(-1, 0)  # (4, 5, 6, 7), channels side by side
    weights = torch.rand(5, 6, 7)
    weights[0, 0, 0] = 0  # nobody spoke there
    maps = [
        AxisMap(
            np.array([0, 0, size - 2, size - 1]), np.array([1, 0, size - 1, size - 1]), np.float32([0.3, 0, 0.9, 0])
        )
        for size in (5, 6, 7)
    ]

    def labels():
        known = scripted(aggregator._probabilities)(logits, weights, True, 2)
        target = np.zeros((4, 4, 4), np.uint8)
        dense_interpolation.fill_densely(target, known, maps, np.array([0, 7, 8, 9], np.uint8))
        return known, target, best_channel.best_channel(logits)

    compiled = labels()
    request.getfixturevalue("without_torchscript")
    plain = labels()
    for one, other in zip(compiled, plain, strict=True):
        assert np.array_equal(one, other)
    assert set(np.unique(compiled[1])) <= {0, 7, 8, 9} and len(np.unique(compiled[1])) > 2
