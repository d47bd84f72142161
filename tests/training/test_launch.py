"""Steps that are compiled or recorded do what plain steps do, and give way where they cannot."""

import copy
import logging
import math

import pytest
import torch
from torch import nn

from tests.scans import tiny_config
from verse3d.core.config import RuntimeConfig
from verse3d.core.errors import ConfigError, TrainingError
from verse3d.model.modes import Method
from verse3d.training import launch
from verse3d.training.launch import Launcher, largest_batch, wants_compiling
from verse3d.training.learner import best_network, build_learner, learner_state, restore_learner
from verse3d.training.step import StepResult, training_step
from verse3d.training.step_values import StepValuesReader, require_finite

CPU, GPU = torch.device("cpu"), torch.device("cuda")
on_a_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")


def learner_of(device=CPU, seed=0, **sections):
    torch.manual_seed(seed)
    config = tiny_config(**sections)
    return build_learner(Method(config), config.optim, config.runtime, device)


def batch_of(seed=0, size=2, device=CPU):
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(size, 1, 16, 16, 16, generator=random)
    return {"image": image.to(device), "label": (image > 0.7).to(torch.uint8).to(device)}


def weights(network):
    return torch.cat([value.detach().cpu().double().ravel() for value in network.state_dict().values()])


def assert_same_learning(one, other):
    """AdamW moves a weight whose gradient is nearly nothing by the sign of its rounding, so single weights may differ
    by a step; all together stay within 2 %. Eight steps at this rate move them by far more.
    """
    found, expected = weights(one), weights(other)
    assert float((found - expected).norm() / expected.norm()) < 0.02


def broken(*_, **__):
    raise RuntimeError("no compiler here\nand a long story")


def test_a_network_that_cannot_be_compiled_is_trained_as_it_is(monkeypatch, caplog):
    monkeypatch.setattr(launch, "wants_compiling", lambda *_: True)
    monkeypatch.setattr(torch, "compile", lambda network, **_: broken)
    one, other = learner_of(network={"norm": "batch"}), learner_of(network={"norm": "batch"})
    steps = Launcher(one, RuntimeConfig(), 4)
    with caplog.at_level(logging.INFO):
        results = [steps(batch_of(number)) for number in range(3)]
    expected = [training_step(other, batch_of(number)) for number in range(3)]
    assert "the network is not compiled (no compiler here)" in caplog.text
    assert [float(one.loss) for one in results] == [float(one.loss) for one in expected]
    assert torch.equal(weights(one.network), weights(other.network)), "normalisation saw the first batch once"


def test_compiling_that_was_asked_for_and_fails_is_an_error(monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda network, **_: broken)
    steps = Launcher(learner_of(), RuntimeConfig(compile="on"), 4)
    with pytest.raises(ConfigError, match=r"runtime\.compile on: the network cannot be compiled here: no compiler"):
        steps(batch_of())


def test_a_recorded_step_that_was_asked_for_needs_a_gpu():
    with pytest.raises(ConfigError, match=r"runtime\.cuda_graph on needs a GPU"):
        Launcher(learner_of(), RuntimeConfig(cuda_graph="on"), 4)


@pytest.mark.parametrize(
    ("setting", "where", "expected"),
    [
        ("auto", ("cuda", 6000, True), True),
        ("auto", ("cuda", 100, True), False),
        ("auto", ("cuda", 6000, False), False),
        ("auto", ("cpu", 6000, True), False),
        ("off", ("cuda", 6000, True), False),
        ("on", ("cpu", 1, False), True),
    ],
)
def test_a_network_is_compiled_where_it_pays(monkeypatch, setting, where, expected):
    device, steps, compiler = where
    monkeypatch.setattr(launch, "_has_compiler", lambda: compiler)
    assert wants_compiling(RuntimeConfig(compile=setting), torch.device(device), steps) == expected


@pytest.mark.parametrize("most", [0, 1, 3, 6, 7])
def test_the_largest_batch_that_fits_is_found_by_trial(monkeypatch, most):
    learner, tried = learner_of(), []

    def forward(_, __, image, ___):
        tried.append(len(image))
        if len(image) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return next(learner.network.parameters()).sum()

    monkeypatch.setattr(launch, "forward", forward)
    assert largest_batch(learner, batch_of(size=8)) == most
    assert len(tried) <= 3
    assert all(parameter.grad is None for parameter in learner.network.parameters())


# --- readings


def result(loss, device=CPU, grad_norm=1.0):
    return StepResult(torch.tensor(loss, device=device), torch.tensor(grad_norm, device=device), 0.1)


def test_on_a_cpu_every_step_is_read_at_once():
    readings = StepValuesReader(CPU)
    for step in (1, 2, 3):
        (reading,) = readings.add(step, result(step / 4))
        assert (reading.step, reading.loss, reading.grad_norm, reading.lr) == (step, step / 4, 1.0, 0.1)
    assert readings.rest() == []


def test_results_are_read_in_order_none_twice_and_none_later_than_eight_steps():
    readings = StepValuesReader(CPU)
    readings._every = 4  # as on a GPU
    seen, late = [], 0
    for step in range(1, 19):
        arrived = [reading.step for reading in readings.add(step, result(float(step)))]
        late = max([late, *(step - one for one in arrived)])
        seen += arrived
    assert [reading.loss for reading in readings.rest()] == [13.0, 14.0, 15.0, 16.0, 17.0, 18.0]
    assert seen == list(range(1, 13))
    assert late <= 8


@pytest.mark.parametrize(
    ("loss", "grad_norm", "skips", "words"),
    [
        (math.nan, 1.0, False, "loss became nan"),
        (math.inf, 1.0, True, "loss became inf"),
        (0.5, math.inf, False, "length of the gradient became inf"),
        (0.5, math.inf, True, ""),
        (0.5, 1.0, False, ""),
    ],
)
def test_trouble_is_a_number_that_is_none(loss, grad_norm, skips, words):
    (reading,) = StepValuesReader(CPU).add(1, result(loss, grad_norm=grad_norm))
    assert reading.trouble(skips_infinite=skips) == words


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_no_numbers_are_refused(value):
    learner = learner_of(network={"norm": "batch"}, optim={"ema_decay": 0.9})
    require_finite(best_network(learner))
    buffers = dict(best_network(learner).named_buffers())
    next(one for name, one in buffers.items() if name.endswith("running_mean"))[0] = value
    with pytest.raises(TrainingError, match="no longer finite"):
        require_finite(best_network(learner))


class Measured(nn.Module):
    """Says that it has no length, as a compiled network does when it is asked whether it is true."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def __len__(self):
        raise TypeError("UNet does not support len()")

    def forward(self, image):
        return self.network(image)


def test_a_network_without_a_truth_value_is_called_all_the_same():
    one, other = learner_of(), learner_of()
    found = training_step(one, batch_of(), Measured(one.network))
    assert float(found.loss) == float(training_step(other, batch_of()).loss)


def test_how_another_kind_of_device_computes_does_not_keep_a_run_from_going_on():
    """Without a GPU: only the settings that AdamW has on one are in the state."""
    one, other = learner_of(), learner_of(seed=9)
    training_step(one, batch_of(0))
    state = copy.deepcopy(learner_state(one))
    for group in state["optimizer"]["param_groups"]:
        group |= {"fused": True, "capturable": True}
    restore_learner(other, state)
    expected, found = training_step(one, batch_of(1)), training_step(other, batch_of(1))
    assert float(found.loss) == float(expected.loss)
    assert torch.equal(weights(other.network), weights(one.network))
    assert not any(group["fused"] or group["capturable"] for group in other.optimizer.param_groups)


# --- on a GPU


@on_a_gpu
@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
@pytest.mark.parametrize("loss", ["dice", "dice_ce", "bce"])
def test_recorded_steps_learn_what_plain_steps_learn(norm, ema_decay, optimizer, loss):
    sections = {"network": {"norm": norm}, "optim": {"ema_decay": ema_decay, "name": optimizer}, "loss": {"name": loss}}
    plain, recorded = learner_of(GPU, **sections), learner_of(GPU, **sections)
    steps, longest = Launcher(recorded, RuntimeConfig(cuda_graph="on"), 8), 0.0
    for number in range(8):
        one, other = training_step(plain, batch_of(number, device=GPU)), steps(batch_of(number, device=GPU))
        assert float(other.loss) == pytest.approx(float(one.loss), rel=1e-3)
        # Where a loss has run flat, the gradient is what rounding left of it.
        longest = max(longest, float(one.grad_norm))
        assert float(other.grad_norm) == pytest.approx(float(one.grad_norm), rel=5e-2, abs=1e-3 * longest)
        assert other.lr == one.lr
    assert steps._recording is not None
    assert_same_learning(recorded.network, plain.network)
    assert_same_learning(best_network(recorded), best_network(plain))
    if ema_decay:
        assert int(recorded.average.n_averaged) == int(plain.average.n_averaged) == 8


@on_a_gpu
def test_recorded_steps_follow_the_rate():
    """With a rate of nearly nothing the weights stay where they are, although the recorded rate was another one."""
    learner = learner_of(GPU)
    steps = Launcher(learner, RuntimeConfig(cuda_graph="on"), 8)
    for number in range(5):
        steps(batch_of(number, device=GPU))
    learner.optimizer.param_groups[0]["lr"].fill_(1e-30)
    before = weights(learner.network)
    steps(batch_of(6, device=GPU))
    assert torch.equal(weights(learner.network), before)


@on_a_gpu
def test_27_classes_and_bf16_are_recorded_too():
    learner = learner_of(GPU, labels={"scheme": "vertebrae"}, loss={"name": "dice_ce"}, runtime={"amp": "bf16"})
    steps = Launcher(learner, RuntimeConfig(cuda_graph="on"), 40)
    losses = [float(steps(batch_of(device=GPU)).loss) for _ in range(30)]
    assert losses[-1] < losses[0] and all(map(math.isfinite, losses))


@on_a_gpu
def test_a_step_that_cannot_be_recorded_is_launched_kernel_by_kernel(monkeypatch, caplog):
    monkeypatch.setattr(launch, "record", broken)
    one, other = learner_of(GPU), learner_of(GPU)
    steps = Launcher(one, RuntimeConfig(), 8)
    with caplog.at_level(logging.INFO):
        for number in range(6):
            result_here = steps(batch_of(number, device=GPU))
            expected = training_step(other, batch_of(number, device=GPU))
            assert float(result_here.loss) == pytest.approx(float(expected.loss), rel=1e-3)
    assert "kernel by kernel (no compiler here)" in caplog.text


@on_a_gpu
def test_fp16_is_not_recorded():
    learner = learner_of(GPU, runtime={"amp": "fp16"})
    steps = Launcher(learner, RuntimeConfig(), 8)
    assert all(math.isfinite(float(steps(batch_of(number, device=GPU)).loss)) for number in range(6))
    assert steps._recording is None
    with pytest.raises(ConfigError, match="fp16"):
        Launcher(learner, RuntimeConfig(cuda_graph="on"), 8)


@on_a_gpu
@pytest.mark.slow
def test_a_compiled_and_recorded_network_learns_what_a_plain_one_learns():
    plain, quick = learner_of(GPU), learner_of(GPU)
    steps = Launcher(quick, RuntimeConfig(compile="on", cuda_graph="on"), 8)
    for number in range(6):
        one, other = training_step(plain, batch_of(number, device=GPU)), steps(batch_of(number, device=GPU))
        assert float(other.loss) == pytest.approx(float(one.loss), rel=2e-2)


@on_a_gpu
@pytest.mark.parametrize(("first", "second"), [(GPU, CPU), (CPU, GPU), (GPU, GPU)])
@pytest.mark.parametrize("optimizer", ["adamw", "rmsprop"])
def test_a_run_goes_on_on_another_kind_of_device(first, second, optimizer):
    one = learner_of(first, optim={"name": optimizer, "ema_decay": 0.5})
    for number in range(3):
        training_step(one, batch_of(number, device=first))
    state = copy.deepcopy(learner_state(one))  # as from a file: PyTorch's optimizers would share the tensors
    assert all(isinstance(group["lr"], float) for group in state["optimizer"]["param_groups"])
    other = learner_of(second, seed=9, optim={"name": optimizer, "ema_decay": 0.5})
    restore_learner(other, state)
    expected, found = training_step(one, batch_of(3, device=first)), training_step(other, batch_of(3, device=second))
    assert float(found.loss) == pytest.approx(float(expected.loss), rel=1e-3)
    assert_same_learning(other.network, one.network)
