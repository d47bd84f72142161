"""The rate, the clipping, the running mean and one step, against formulas and loops written out here."""

import copy
import math

import pytest
import torch

from tests.scans import tiny_config
from verse3d.model.modes import Method
from verse3d.training.learner import best_network, build_learner, learner_state, restore_learner
from verse3d.training.step import training_step

CPU = torch.device("cpu")


def learner_of(seed=0, **sections):
    torch.manual_seed(seed)
    config = tiny_config(**sections)
    return build_learner(Method(config), config.optim, config.runtime, CPU)


def batch_of(seed=0, size=2):
    random = torch.Generator().manual_seed(seed)
    image = torch.rand(size, 1, 16, 16, 16, generator=random)
    return {"image": image, "label": (image > 0.7).to(torch.uint8)}


def weights_of(network):
    return [parameter.detach().clone() for parameter in network.parameters()]


@pytest.mark.parametrize(("epochs", "steps", "warmup"), [(5, 4, 6), (3, 5, 0), (2, 3, 50), (1, 1, 0)])
def test_the_rate_rises_linearly_and_falls_along_half_a_cosine_to_zero(epochs, steps, warmup):
    optim = {"lr": 0.02, "epochs": epochs, "steps_per_epoch": steps, "warmup_steps": warmup}
    learner = learner_of(optim=optim)
    total = epochs * steps
    rising = min(warmup, total // 2)
    rates = []
    for _ in range(total):
        rates.append(learner.optimizer.param_groups[0]["lr"])
        learner.optimizer.step()
        learner.schedule.after_step()
    for step, rate in enumerate(rates):
        if step < rising:
            expected = 0.02 * (step + 1) / rising
        else:
            expected = 0.02 * 0.5 * (1 + math.cos(math.pi * (step - rising) / (total - rising)))
        assert rate == pytest.approx(expected, abs=1e-12), step
    assert max(rates) == pytest.approx(0.02)
    assert learner.optimizer.param_groups[0]["lr"] == pytest.approx(0, abs=1e-12)


def test_the_step_tells_the_rate_that_it_used():
    learner = learner_of(optim={"lr": 0.1, "warmup_steps": 4, "epochs": 4, "steps_per_epoch": 4})
    assert [training_step(learner, batch_of()).lr for _ in range(4)] == pytest.approx([0.025, 0.05, 0.075, 0.1])


def test_the_optimizer_is_adamw_with_the_configured_decay():
    learner = learner_of(optim={"weight_decay": 0.3})
    assert type(learner.optimizer) is torch.optim.AdamW
    assert learner.optimizer.param_groups[0]["weight_decay"] == 0.3


def gradient_length(network):
    return math.sqrt(sum(float((parameter.grad**2).sum()) for parameter in network.parameters()))


def test_gradients_are_cut_to_the_longest_length_and_the_uncut_length_is_told():
    free, cut = learner_of(optim={"clip_grad_norm": 0}), learner_of(optim={"clip_grad_norm": 0.001})
    uncut = float(training_step(free, batch_of()).grad_norm)
    assert float(training_step(cut, batch_of()).grad_norm) == pytest.approx(uncut)
    assert uncut > 0.01
    assert gradient_length(free.network) == pytest.approx(uncut, rel=1e-5)
    assert gradient_length(cut.network) == pytest.approx(0.001, rel=1e-2)


@pytest.mark.parametrize("norm", ["instance", "batch"])
def test_the_running_mean_is_the_mean_written_out_by_hand(norm):
    learner = learner_of(optim={"ema_decay": 0.9, "lr": 0.05}, network={"norm": norm})
    expected = None
    for step in range(5):
        training_step(learner, batch_of(step))
        now = [value.detach().clone() for value in learner.network.state_dict().values() if value.is_floating_point()]
        expected = now if expected is None else [0.9 * e + 0.1 * n for e, n in zip(expected, now, strict=True)]
    kept = [value for value in best_network(learner).state_dict().values() if value.is_floating_point()]
    for found, wanted in zip(kept, expected, strict=True):
        torch.testing.assert_close(found, wanted)
    assert any(not torch.equal(a, b) for a, b in zip(kept, now, strict=True)), "the mean lags behind the weights"


def test_without_a_running_mean_the_network_itself_is_kept():
    learner = learner_of()
    assert best_network(learner) is learner.network


def test_a_step_learns_in_training_mode_even_after_a_validation():
    learner = learner_of(optim={"ema_decay": 0.5})
    learner.network.eval()
    training_step(learner, batch_of())
    assert learner.network.training


@pytest.mark.parametrize("scheme", ["binary", "vertebrae"])
@pytest.mark.parametrize("loss", ["dice", "dice_ce"])
def test_every_scheme_and_loss_goes_down_on_one_batch(scheme, loss):
    learner = learner_of(labels={"scheme": scheme}, loss={"name": loss}, optim={"epochs": 30, "lr": 0.02})
    batch = batch_of()
    losses = [float(training_step(learner, batch).loss) for _ in range(12)]
    assert all(math.isfinite(value) for value in losses)
    assert losses[-1] < losses[0]


def test_bf16_on_the_cpu_learns_too():
    learner = learner_of(runtime={"amp": "bf16"})
    assert math.isfinite(float(training_step(learner, batch_of()).loss))
    assert all(parameter.dtype == torch.float32 for parameter in learner.network.parameters())


@pytest.mark.parametrize("ema_decay", [0.0, 0.8])
def test_a_restored_learner_goes_on_exactly_as_the_saved_one(ema_decay):
    settings = {"optim": {"ema_decay": ema_decay, "lr": 0.03}, "network": {"dropout": 0.3}}
    one = learner_of(**settings)
    for step in range(3):
        training_step(one, batch_of(step))
    state = copy.deepcopy(learner_state(one))
    after = [training_step(one, batch_of(step)) for step in (3, 4)]

    other = learner_of(seed=99, **settings)
    restore_learner(other, state)
    assert [training_step(other, batch_of(step)) for step in (3, 4)] == after
    for network in (lambda learner: learner.network, best_network):
        for a, b in zip(weights_of(network(one)), weights_of(network(other)), strict=True):
            assert torch.equal(a, b)


def test_a_restored_schedule_follows_the_longer_plan_of_its_new_config():
    short, long = {"epochs": 2, "steps_per_epoch": 5, "warmup_steps": 0}, {"epochs": 4, "steps_per_epoch": 5}
    one = learner_of(optim=short)
    for step in range(5):
        training_step(one, batch_of(step))
    other = learner_of(optim={**short, **long})
    restore_learner(other, learner_state(one))
    training_step(other, batch_of())
    assert other.optimizer.param_groups[0]["lr"] == pytest.approx(0.01 * 0.5 * (1 + math.cos(math.pi * 6 / 20)))
