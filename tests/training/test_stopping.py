"""Every way to stop a run, and that it goes on from the very step after which it was stopped."""

import os
import re
import signal
import threading
from dataclasses import dataclass, field

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.scans import tiny_config
from tests.training.runs import (
    DROPOUT,
    UNVALIDATED_DROPOUT,
    InterruptAt,
    assert_same,
    assert_same_run,
    load,
    rows,
    train,
)
from verse3d.cli import main
from verse3d.data.cases import write_index
from verse3d.training import fit as fit_module
from verse3d.training import handlers, keeping, launch, loop
from verse3d.training.signals import StopSignals, Terminated
from verse3d.training.step import training_step

VALIDATED = tiny_config(**DROPOUT)


@dataclass
class SignalAt:
    """A progress callback that sends this process signals after one batch; hears all batches."""

    step: int
    number: int
    heard: list[int] = field(default_factory=list)

    def __call__(self, what, done, total):
        if what.startswith("epoch"):
            self.heard.append(done)
            if done == self.step:
                os.kill(os.getpid(), self.number)


def steps_heard(dataset, out, config, **options):
    """Train, and tell which batches were trained."""
    heard = []
    train(
        dataset, out, config, progress=lambda what, done, _: what.startswith("epoch") and heard.append(done), **options
    )
    return heard


@pytest.mark.parametrize(("step", "config"), [(1, VALIDATED), (2, UNVALIDATED_DROPOUT), (5, VALIDATED), (8, VALIDATED)])
def test_an_interrupted_run_goes_on_after_the_very_step_that_was_done_to_the_same_end(
    dataset, tmp_path, plain, unvalidated, *, step, config
):
    stopped = train(dataset, tmp_path, config, progress=InterruptAt(step))
    saved = load(tmp_path / "last.pt")
    assert (stopped.stopped, saved["training"]["standing"]["step"]) == ("interrupted", step)
    assert stopped.epochs == (step - 1) // 2 == saved["epoch"]
    progress = SignalAt(0, signal.SIGTERM)  # hears all steps and sends nothing
    assert train(dataset, tmp_path, config, resume=True, progress=progress).stopped == "finished"
    assert progress.heard == list(range(step + 1, 9))
    assert_same_run(plain if config is VALIDATED else unvalidated, tmp_path)


@pytest.mark.parametrize(
    ("number", "stopped"),
    [(signal.SIGTERM, "terminated"), (signal.SIGUSR1, "terminated"), (signal.SIGINT, "interrupted")],
)
def test_a_signal_stops_after_the_step_saves_and_is_told(dataset, tmp_path, unvalidated, number, stopped):
    before = signal.getsignal(number)
    config, progress = UNVALIDATED_DROPOUT, SignalAt(1, number)
    assert train(dataset, tmp_path, config, progress=progress).stopped == stopped
    assert progress.heard == [1]
    assert signal.getsignal(number) is before
    assert "resumed" in (tmp_path / "log.txt").read_text()
    assert load(tmp_path / "last.pt")["training"]["standing"]["step"] == 1
    if number == signal.SIGUSR1:  # whichever it was, what is saved is the same; SIGTERM is gone on from below
        assert steps_heard(dataset, tmp_path, config, resume=True) == list(range(2, 9))
        assert_same_run(unvalidated, tmp_path)


def test_a_signal_in_the_middle_of_a_step_waits_for_its_end(dataset, tmp_path, unvalidated, monkeypatch):
    def step(learner, batch, network):
        os.kill(os.getpid(), signal.SIGTERM)
        done.append(batch)
        return training_step(learner, batch, network)

    done = []
    with monkeypatch.context() as patched:
        patched.setattr(launch, "training_step", step)
        assert train(dataset, tmp_path, UNVALIDATED_DROPOUT).stopped == "terminated"
    assert len(done) == 1
    assert load(tmp_path / "last.pt")["training"]["standing"]["step"] == 1
    train(dataset, tmp_path, UNVALIDATED_DROPOUT, resume=True)
    assert_same_run(unvalidated, tmp_path)


@pytest.mark.usefixtures("saves_every_epoch")
def test_a_second_ctrl_c_within_a_step_stops_there_and_keeps_what_was_saved(
    dataset, tmp_path, unvalidated, monkeypatch
):
    def step(learner, batch, network):
        if len(done) == 2:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)
        done.append(batch)
        return training_step(learner, batch, network)

    done = []
    with monkeypatch.context() as patched:
        patched.setattr(launch, "training_step", step)
        stopped = train(dataset, tmp_path, UNVALIDATED_DROPOUT)
    assert (stopped.stopped, stopped.epochs, len(done)) == ("interrupted", 1, 2)
    assert load(tmp_path / "last.pt")["training"]["standing"]["step"] == 2
    train(dataset, tmp_path, UNVALIDATED_DROPOUT, resume=True)
    assert_same_run(unvalidated, tmp_path)


def test_a_signal_ends_a_validation_at_once_and_the_steps_before_it_are_kept(dataset, tmp_path, plain, monkeypatch):
    def validate(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
            raise AssertionError("the validation goes on")
        return handlers_validate(*arguments)

    calls, handlers_validate = [], handlers.validate
    with monkeypatch.context() as patched:
        patched.setattr(handlers, "validate", validate)
        stopped = train(dataset, tmp_path, tiny_config(**DROPOUT))
    assert (stopped.stopped, stopped.epochs) == ("terminated", 1)
    assert load(tmp_path / "last.pt")["training"]["standing"]["step"] == 4
    assert steps_heard(dataset, tmp_path, tiny_config(**DROPOUT), resume=True) == [5, 6, 7, 8]
    assert_same_run(plain, tmp_path)


def test_a_signal_in_the_last_validation_loses_neither_steps_nor_validation(dataset, tmp_path, plain, monkeypatch):
    with monkeypatch.context() as patched:
        patched.setattr(handlers, "validate", lambda *_: os.kill(os.getpid(), signal.SIGTERM))
        config = tiny_config(**DROPOUT, validation={"every_epochs": 4})
        assert train(dataset, tmp_path, config).stopped == "terminated"
    assert steps_heard(dataset, tmp_path, config, resume=True) == []
    assert_same(load(plain / "last.pt")["network"], load(tmp_path / "last.pt")["network"])
    assert load(tmp_path / "last.pt")["epoch"] == 4
    assert rows(tmp_path)[-1]["validation_dice"] == rows(plain)[-1]["validation_dice"]


def test_the_program_exits_with_75_after_a_signal_of_the_cluster_and_the_same_command_goes_on(
    dataset, tmp_path, tiny_yaml, monkeypatch, capsys
):
    def step(learner, batch, network):
        os.kill(os.getpid(), signal.SIGUSR1)
        return training_step(learner, batch, network)

    write_index(tmp_path / "cases.jsonl", dataset)
    command = ["train", "--data", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "run"), "--device", "cpu"]
    with monkeypatch.context() as patched:
        patched.setattr(launch, "training_step", step)
        assert main([*command, "--config", tiny_yaml]) == 75
    told = capsys.readouterr()
    assert "terminated in the first epoch: no best.pt yet" in told.out and re.search(
        r"cost: .* min, 2 samples, ", told.out
    )
    assert main([*command, "--resume", "--max-epochs", "1"]) == 0
    with monkeypatch.context() as patched:  # before there is anything to save
        patched.setattr(fit_module, "seed_everything", lambda _: os.kill(os.getpid(), signal.SIGTERM))
        assert main([*command, "--resume"]) == 75


def test_signals_are_left_to_the_program_that_trains_in_another_thread(dataset, tmp_path):
    before, results = signal.getsignal(signal.SIGTERM), []
    thread = threading.Thread(target=lambda: results.append(train(dataset, tmp_path, max_epochs=1)))
    thread.start()
    thread.join()
    assert results[0].stopped == "epochs"
    assert signal.getsignal(signal.SIGTERM) is before


def test_held_signals_are_raised_when_they_may_and_only_once():
    with StopSignals() as signals, pytest.raises(Terminated, match="SIGUSR1"):
        with signals.held(), signals.held():
            os.kill(os.getpid(), signal.SIGUSR1)
        raise AssertionError("not raised")
    with StopSignals() as signals:
        with pytest.raises(Terminated):
            os.kill(os.getpid(), signal.SIGTERM)
        with signals.held():
            os.kill(os.getpid(), signal.SIGTERM)  # e.g. while what was done is saved
    with StopSignals(held=True) as signals:
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(Terminated), signals.at_once():
            raise AssertionError("not raised")


@pytest.mark.usefixtures("saves_every_epoch")
def test_between_epochs_a_run_is_saved_as_often_as_is_asked_for(dataset, tmp_path, plain, monkeypatch):
    def save(session):
        saved.append(session.standing.step)
        keeping_save(session)

    saved, keeping_save = [], keeping.save_last
    monkeypatch.setattr(loop, "save_last", save)
    train(dataset, tmp_path / "often", tiny_config(**DROPOUT, runtime={"save_minutes": 0}))
    assert saved == [0, 1, 2, 3, 4, 5, 6, 7, 8]
    saved.clear()
    train(dataset, tmp_path / "seldom", tiny_config(**DROPOUT, runtime={"save_minutes": 1e3}))
    assert saved == [0, 2, 4, 6, 8]
    one, other = load(plain / "last.pt")["training"], load(tmp_path / "often" / "last.pt")["training"]
    assert_same(one["learner"], other["learner"])


def test_tensorboard_shows_a_run_that_was_stopped_within_epochs_as_one_curve(dataset, tmp_path):
    config = tiny_config(runtime={"save_minutes": 0})
    for step in (1, 3, 6):
        train(dataset, tmp_path, config, resume=step > 1, progress=InterruptAt(step))
    train(dataset, tmp_path, config, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("train/loss_epoch")] == [2, 4, 6, 8]
