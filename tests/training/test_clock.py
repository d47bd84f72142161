"""The time of a run, on a clock that the tests turn."""

import itertools
import math
import time

import pytest

from tests.scans import tiny_config
from tests.training.runs import CPU, load, rows, train
from verse3d.core.errors import ConfigError
from verse3d.model.modes import Method
from verse3d.training import clock as clocks
from verse3d.training import engines, handlers, launch, loop
from verse3d.training.clock import Clock, Cost
from verse3d.training.learner import build_learner, learner_state, restore_learner
from verse3d.training.step import training_step


class Hands:
    """A monotonic clock that only moves when it is told to."""

    def __init__(self, monkeypatch):
        self.now = 1000.0
        self._monkeypatch = monkeypatch
        for module in (clocks, engines, handlers, loop):
            monkeypatch.setattr(module.time, "monotonic", lambda: self.now)

    def minutes(self, count):
        self.now += 60 * count

    def slow_steps(self, minutes):
        """From now on every step takes so long."""

        def step(learner, batch, network):
            self.minutes(minutes)
            return training_step(learner, batch, network)

        self._monkeypatch.setattr(launch, "training_step", step)


@pytest.fixture
def hands(monkeypatch):
    return Hands(monkeypatch)


def test_the_last_step_is_that_of_the_plan_until_the_speed_is_known_and_then_where_the_time_ends(hands):
    clock = Clock(hands.now, 60.0, 5.0, window=40)
    for step in range(1, 21):
        hands.minutes(1)
        clock.stepped(step)
        if step <= 10:
            assert clock.last_step(1000) == 1000
        else:
            assert clock.last_step(1000) == pytest.approx(60)
    assert clock.last_step(30) == 30, "the plan ends earlier"
    for step in range(21, 200):  # ten times faster
        hands.minutes(0.1)
        clock.stepped(step)
    assert clock.last_step(1000) == pytest.approx(199 + (60 - 20 - 17.9) / 0.1)


def test_a_run_without_limit_ends_with_its_plan_and_is_never_over(hands):
    clock = Clock(hands.now, None, 5.0, window=40)
    for step in range(1, 30):
        hands.minutes(10)
        clock.stepped(step)
    assert (clock.last_step(1000), clock.is_over, clock.save_is_due) == (1000, False, True)
    clock.saved(hands.now)
    assert not clock.save_is_due


def test_saving_after_epochs_takes_at_most_a_fiftieth_of_the_time(hands):
    clock = Clock(hands.now, None, 5.0, window=40)
    assert clock.epoch_save_is_due, "nobody knows yet how long it takes"
    began = hands.now
    hands.minutes(0.01)
    clock.saved(began)
    assert not clock.epoch_save_is_due
    hands.minutes(0.49)
    assert not clock.epoch_save_is_due
    hands.minutes(0.02)
    assert clock.epoch_save_is_due


def test_epochs_as_short_as_a_save_are_not_all_saved_and_the_last_one_is(dataset, tmp_path, monkeypatch, hands):
    saved = []

    def slow_save(session):
        hands.minutes(0.01)
        saved.append(session.standing.epoch)

    monkeypatch.setattr(loop, "save_last", slow_save)
    hands.slow_steps(0.1)
    config = tiny_config(
        optim={"epochs": 9, "steps_per_epoch": 2},
        validation={"every_epochs": 1000, "loss_batches": 0},
        runtime={"deterministic": False, "save_minutes": 5},
    )
    train(dataset, tmp_path / "run", config)
    assert saved == [0, 3, 6, 9]


@pytest.mark.parametrize("minutes", [0, -1.0, math.nan])
def test_a_limit_that_is_no_time_is_refused_before_anything_is_written(dataset, tmp_path, minutes):
    with pytest.raises(ConfigError, match="`max_minutes` must be above 0"):
        train(dataset, tmp_path / "run", max_minutes=minutes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(("limit", "steps"), [(0.5, 1), (1.0, 1), (2.5, 3), (4.0, 4), (5.0, 5)])
def test_a_run_ends_with_the_first_step_after_its_limit_and_is_validated(dataset, tmp_path, hands, limit, steps):
    hands.slow_steps(1)
    config = tiny_config(optim={"steps_per_epoch": 4}, validation={"every_epochs": 100})
    result = train(dataset, tmp_path, config, max_minutes=limit)
    assert (result.stopped, result.epochs) == ("time", steps // 4)
    assert math.isfinite(result.best_dice) and result.best.exists()
    assert result.best_epoch == load(result.best)["epoch"] == -(-steps // 4)
    [*_, last] = rows(tmp_path)
    assert (int(last["step"]), float(last["minutes"])) == (steps, steps)
    assert last["validation_dice"] and int(last["epoch"]) == -(-steps // 4)
    assert str(result.cost).startswith(f"{steps}.0 min, {2 * steps} samples")


def test_a_run_stopped_by_time_within_an_epoch_goes_on_there_and_rewrites_the_row_of_the_part(dataset, tmp_path, hands):
    hands.slow_steps(1)
    config = tiny_config(runtime={"deterministic": True}, optim={"steps_per_epoch": 4, "epochs": 2})
    train(dataset, tmp_path / "parts", config, max_minutes=2.5)
    assert [row["step"] for row in rows(tmp_path / "parts")] == ["3"]
    train(dataset, tmp_path / "parts", config, resume=True)
    assert [row["step"] for row in rows(tmp_path / "parts")] == ["4", "8"]
    train(dataset, tmp_path / "whole", config)
    one, other = (load(tmp_path / name / "last.pt")["training"]["learner"] for name in ("whole", "parts"))
    assert all((one["network"][name] == other["network"][name]).all() for name in one["network"])


def test_a_validation_that_passes_the_limit_ends_the_run_without_another_step(dataset, tmp_path, monkeypatch, hands):
    validate = handlers.validate

    def slow(*arguments):
        hands.minutes(10)
        calls.append(arguments)
        return validate(*arguments)

    calls = []
    monkeypatch.setattr(handlers, "validate", slow)
    hands.slow_steps(1)
    result = train(dataset, tmp_path, max_minutes=5)
    assert (result.stopped, result.epochs, len(calls)) == ("time", 1, 1)


def test_progress_knows_the_limit(dataset, tmp_path, hands):
    hands.slow_steps(1)
    heard = []
    config = tiny_config(optim={"epochs": 50}, validation={"every_epochs": 1000, "loss_batches": 0})
    train(dataset, tmp_path, config, max_minutes=18, progress=lambda what, *done: heard.append(done))
    assert heard[5][-1] == 100
    assert heard[15][-1] == heard[-1][-1] == 18


def rates(tmp_path):
    return [float(row["lr"]) for row in rows(tmp_path)]


def test_the_rate_falls_to_nothing_by_the_end_of_the_time_without_a_jump(dataset, tmp_path, hands):
    hands.slow_steps(1)
    optim = {"epochs": 500, "steps_per_epoch": 3, "lr": 0.01}
    config = tiny_config(optim=optim, validation={"every_epochs": 1000, "loss_batches": 0})
    train(dataset, tmp_path, config, max_minutes=60)
    found = rates(tmp_path)
    assert len(found) == 20 and found[-1] < 1e-4
    falls = [before - after for before, after in itertools.pairwise(found)]
    assert all(0 <= fall < 0.001 for fall in falls)


@pytest.mark.parametrize("section", [{"runtime": {"deterministic": True}}, {"optim": {"schedule": "plateau"}}])
def test_seconds_decide_no_rate_where_they_must_not(dataset, tmp_path, monkeypatch, hands, section):
    hands.slow_steps(1)
    validation = {"every_epochs": 1000, "loss_batches": 0}
    sections = {
        **section,
        "optim": {"epochs": 500, "steps_per_epoch": 6, "lr": 0.01, **section.get("optim", {})},
        "validation": validation,
    }
    train(dataset, tmp_path, tiny_config(**sections), max_minutes=18)
    assert rates(tmp_path)[-1] > 0.0099


def learner_of(**optim):
    config = tiny_config(optim={"lr": 1.0, "warmup_steps": 10, **optim})
    return build_learner(Method(config), config.optim, config.runtime, CPU)


def test_with_an_end_that_is_known_from_the_start_the_rate_is_the_cosine_of_a_run_of_that_length():
    limited, short = learner_of(epochs=50, steps_per_epoch=10), learner_of(epochs=10, steps_per_epoch=10)
    for _ in range(100):
        limited.schedule.end_at(100)
        assert limited.schedule.rate == pytest.approx(short.schedule.rate, abs=1e-9)
        for learner in (limited, short):
            learner.optimizer.step()
            learner.schedule.after_step()
    assert limited.schedule.rate == pytest.approx(0, abs=1e-9)


def test_a_run_that_was_stopped_within_its_time_goes_on_from_its_rate_and_one_that_used_it_up_from_the_plan():
    learner = learner_of(epochs=50, steps_per_epoch=10)
    for step in range(99):
        learner.schedule.end_at(100)
        learner.optimizer.step()
        learner.schedule.after_step()
        if step == 59:
            rate, state = learner.schedule.rate, learner_state(learner)
    again = learner_of(epochs=50, steps_per_epoch=10)
    restore_learner(again, state)
    again.schedule.end_at(500)
    assert again.schedule.state_dict()["done"] == pytest.approx(50 / 90)
    again.optimizer.step()
    again.schedule.after_step()
    assert again.schedule.rate == pytest.approx(rate, abs=0.01)
    learner.schedule.end_at(None)
    restore_learner(again, learner_state(learner))
    planned = 0.5 * (1 + math.cos(math.pi * 89 / 490))
    assert again.schedule.rate == pytest.approx(planned)


def test_a_date_that_jumps_changes_nothing(dataset, tmp_path, monkeypatch):
    dates = iter(range(10**9, 0, -(10**5)))
    with monkeypatch.context() as patched:
        patched.setattr(time, "time", lambda: float(next(dates)))
        result = train(dataset, tmp_path, max_minutes=10)
    assert (result.stopped, result.epochs) == ("finished", 4)
    assert result.cost is not None and 0 < result.cost.minutes < 10


def test_the_cost_is_said_in_words_and_without_what_does_not_apply():
    assert str(Cost(2.04, 16, 0.25, 611.4, 0.0)) == (
        "2.0 min, 16 samples, 25 % of the steps waiting for data, peak 611 MB of memory"
    )
    assert str(Cost(2.0, 0, math.nan, 611.0, 99.6)) == "2.0 min, 0 samples, peak 611 MB of memory, 100 MB on the GPU"
