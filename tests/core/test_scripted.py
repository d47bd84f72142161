"""What runs without Python's lock is the same function."""

import threading
import time
import warnings

import numpy as np
import pytest
import torch

from verse3d.core import scripted as module
from verse3d.core.axismaps import AxisMap
from verse3d.core.scripted import scripted
from verse3d.inference import aggregator, best_channel, dense_interpolation

CPU = torch.device("cpu")


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
        once = scripted(doubled_where, CPU)
    assert scripted(doubled_where, CPU) is once and isinstance(once, torch.jit.ScriptFunction)
    assert once(torch.tensor([1.0, 3.0]), [2.0, 5.0]).tolist() == [1.0, 12.0]


def test_without_torchscript_it_is_the_function_itself(without_torchscript):
    assert scripted(doubled_where, CPU) is doubled_where


def test_on_a_gpu_it_is_the_function_itself():
    assert scripted(doubled_where, torch.device("cuda")) is doubled_where


def test_threads_that_ask_at_once_get_the_same_and_warnings_stay_as_they_were(monkeypatch):
    module._compiled.cache_clear()
    compile_, compiling, most, found = torch.jit.script, [], [], []

    def noted(function):
        compiling.append(function)
        most.append(len(compiling))
        time.sleep(0.05)  # for the others to come
        script = compile_(function)
        compiling.pop()
        return script

    monkeypatch.setattr(torch.jit, "script", noted)
    before, together = list(warnings.filters), threading.Barrier(3)

    def ask():
        together.wait(20)
        found.append(scripted(doubled_where, CPU))

    threads = [threading.Thread(target=ask) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert most == [1] and len(found) == 3 and len(set(map(id, found))) == 1
    assert warnings.filters == before


@pytest.mark.parametrize("step", [1, -1], ids=["along", "against"])
def test_each_plane_of_the_network_is_carried_once_in_either_direction(step, monkeypatch):
    carried, plane = [], dense_interpolation._plane
    monkeypatch.setattr(dense_interpolation, "scripted", lambda function, device: function)
    monkeypatch.setattr(dense_interpolation, "_plane", lambda *words: carried.append(words[1]) or plane(*words))
    known = torch.softmax(torch.randn(5, 3, 2, 2, generator=torch.Generator().manual_seed(1)), 1)
    position = np.array([0, 0.5, 1, 1.25, 2.5, 3, 3.75, 4])[::step]
    lower = np.floor(position).astype(int)
    planes = AxisMap(lower, np.minimum(lower + 1, 4), np.float32(position - lower))
    across = AxisMap(np.array([0, 1]), np.array([1, 1]), np.float32([0, 0]))
    target = np.zeros((8, 2, 2), np.uint8)
    dense_interpolation.fill_densely(target, known, [planes, across, across], np.array([0, 7, 9], np.uint8))
    assert sorted(carried) == [0, 1, 2, 3, 4]
    mean = [torch.lerp(known[int(at)], known[min(int(at) + 1, 4)], float(at % 1)) for at in position]
    assert np.array_equal(target, np.array([0, 7, 9], np.uint8)[torch.stack(mean).argmax(1).numpy()])


SCRIPTED = [best_channel._choose, dense_interpolation._fill, aggregator._probabilities]


@pytest.mark.parametrize("function", SCRIPTED, ids=lambda function: f"{function.__module__}.{function.__name__}")
def test_whatever_of_ours_is_scripted_can_be(function):
    assert isinstance(scripted(function, CPU), torch.jit.ScriptFunction)


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
        known = scripted(aggregator._probabilities, CPU)(logits, weights, True, 2)
        target = np.zeros((4, 4, 4), np.uint8)
        dense_interpolation.fill_densely(target, known, maps, np.array([0, 7, 8, 9], np.uint8))
        return known, target, best_channel.best_channel(logits)

    compiled = labels()
    request.getfixturevalue("without_torchscript")
    plain = labels()
    for one, other in zip(compiled, plain, strict=True):
        assert np.array_equal(one, other)
    assert set(np.unique(compiled[1])) <= {0, 7, 8, 9} and len(np.unique(compiled[1])) > 2
