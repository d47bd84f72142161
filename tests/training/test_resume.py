"""Every way to stop a run, and that it goes on from the very step after which it was stopped."""

import errno
import math
import os
import re
import signal
import threading
from dataclasses import dataclass, field, replace

import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests import scans
from tests.scans import save_sealed, tiny_config
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
from verse3d.core import files
from verse3d.core.errors import CheckpointError, DataError, OutputError, TrainingError
from verse3d.data.cases import CaseIndex, write_index
from verse3d.model import checkpoint as checkpoints
from verse3d.model.checkpoint import load_checkpoint
from verse3d.training import fit as fit_module
from verse3d.training import handlers, keeping, launch, loop, resume
from verse3d.training.session import DRAWS
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


# --- saving


def write_damaged(monkeypatch, name):
    """From now on the file of that name is not what was meant, once it is read back."""
    load_plain = checkpoints.load_plain

    def damaged(path):
        content = load_plain(path)
        if path.name.endswith(name) and path.name != name:
            next(iter(content["network"].values())).view(-1)[0] += 1
        return content

    monkeypatch.setattr(checkpoints, "load_plain", damaged)


@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_checkpoint_that_is_read_back_damaged_does_not_replace_the_old_one(dataset, tmp_path, monkeypatch, name):
    train(dataset, tmp_path, max_epochs=1)
    before = (tmp_path / name).read_bytes()
    with monkeypatch.context() as patched:
        write_damaged(patched, name)
        patched.setattr(keeping, "is_better", lambda *_: True)
        with pytest.raises(OutputError, match=rf"{name}: .*read back damaged; {name} is still that of before"):
            train(dataset, tmp_path, resume=True)
    assert (tmp_path / name).read_bytes() == before
    assert not scans.leftovers(tmp_path)
    assert train(dataset, tmp_path, resume=True, max_epochs=2).epochs == 2


@pytest.mark.parametrize("name", ["config.yaml", "cases.jsonl", "store.txt", "last.pt", "best.pt", "history.csv"])
def test_a_full_disk_ends_the_run_says_so_and_keeps_what_was_saved(dataset, tmp_path, monkeypatch, name):
    """Whichever file meets it first; the run goes on when there is room again."""

    def full(path):
        if path.name.endswith(name) and (name != "last.pt" or (tmp_path / name).exists()):
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    flush = files.flush_file
    with monkeypatch.context() as patched:
        patched.setattr(files, "flush_file", full)
        with pytest.raises(OutputError, match=name) as caught:
            train(dataset, tmp_path)
    assert "disk is full" in caught.value.hint
    assert not scans.leftovers(tmp_path)
    resumable = (tmp_path / "last.pt").exists()
    assert resumable == (name in ("last.pt", "best.pt", "history.csv"))
    if resumable:
        assert "is still that of before" in str(caught.value) or name != "last.pt"
        load_checkpoint(tmp_path / "last.pt")
    assert train(dataset, tmp_path, resume=resumable, max_epochs=2).epochs == 2


def test_a_full_disk_under_tensorboard_ends_the_run_and_says_so(dataset, tmp_path, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("torch.utils.tensorboard.SummaryWriter.add_scalar", full)
    with pytest.raises(OutputError, match="tensorboard") as caught:
        train(dataset, tmp_path)
    assert "disk is full" in caught.value.hint


# --- a loss that is no number


def sick_at(monkeypatch, step):
    def sick(learner, batch, network):
        result = training_step(learner, batch, network)
        batches.append({name: value.clone() for name, value in batch.items()})
        return replace(result, loss=torch.tensor(math.nan)) if len(batches) == step else result

    batches = []
    monkeypatch.setattr(launch, "training_step", sick)
    return batches


def test_the_batch_whose_loss_is_no_number_is_kept_with_the_names_of_its_cases(dataset, tmp_path, monkeypatch):
    batches = sick_at(monkeypatch, 3)
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 2, step 3 .*bad_batch\.pt") as caught:
        train(dataset, tmp_path)
    kept = load(tmp_path / "bad_batch.pt")
    assert_same({name: kept[name] for name in ("image", "label")}, batches[2])
    assert (kept["epoch"], kept["step"], kept["positions"]) == (2, 3, [0, 1])
    assert math.isnan(kept["loss"])
    assert set(kept["cases"]) <= {"case0", "case1", "case2"} and len(kept["cases"]) == 2
    assert all(case in caught.value.message for case in kept["cases"])


def test_that_the_bad_batch_cannot_be_kept_hides_no_bad_loss(dataset, tmp_path, monkeypatch):
    def full(path):
        if path.name.endswith("bad_batch.pt"):
            raise OSError(errno.ENOSPC, "No space left on device")
        flush(path)

    flush = files.flush_file
    monkeypatch.setattr(files, "flush_file", full)
    sick_at(monkeypatch, 1)
    with pytest.raises(TrainingError, match=r"loss became nan in epoch 1, step 1 .*could not be kept: .*No space left"):
        train(dataset, tmp_path)
    assert not (tmp_path / "bad_batch.pt").exists()


# --- what has changed meanwhile


def test_data_and_code_that_have_changed_are_named_and_the_run_goes_on(dataset, tmp_path, monkeypatch, caplog):
    data, run = tmp_path / "data", tmp_path / "run"
    index = scans.write_dataset(data)
    train(index, run, max_epochs=1)
    os.utime(index.cases[1].mask, (1, 1))
    monkeypatch.setattr(resume, "code_sha256", lambda: "other")
    versions = {**checkpoints.installed_versions(), "torch": "99.0"}
    monkeypatch.setattr(resume, "installed_versions", lambda: versions)
    train(index, run, resume=True, max_epochs=2)
    assert "mask or relabelling of case1\n" in caplog.text
    assert f"torch: {torch.__version__} before, 99.0 now" in caplog.text
    assert "the code of verse3d" in caplog.text


def test_a_deterministic_run_whose_data_have_changed_is_refused_until_it_need_not_be_one(tmp_path):
    index = scans.write_dataset(tmp_path / "data")
    config = tiny_config(runtime={"deterministic": True})
    train(index, tmp_path / "run", config, max_epochs=1)
    os.utime(index.cases[0].image, (1, 1))
    with pytest.raises(TrainingError, match="relabelling of case0"):
        train(index, tmp_path / "run", config, resume=True)
    assert train(index, tmp_path / "run", tiny_config(), resume=True, max_epochs=2).epochs == 2


def test_a_run_saved_before_data_and_code_were_noted_goes_on_in_silence(dataset, tmp_path, caplog):
    train(dataset, tmp_path, max_epochs=1)
    content = load(tmp_path / "last.pt")
    for name in ("data", "code", "others"):
        del content["training"][name]
    for name in ("losses", "grad_norms", "epoch_seconds", "epoch_waited"):
        del content["training"]["standing"][name]
    save_sealed(content, tmp_path / "last.pt")
    assert train(dataset, tmp_path, resume=True, max_epochs=2).epochs == 2
    assert content["training"]["draws"] == DRAWS
    assert "has changed" not in caplog.text


# --- damaged numbers


@pytest.fixture(scope="module")
def stopped(dataset, tmp_path_factory):
    """A run that was stopped after its third step; read only."""
    out = tmp_path_factory.mktemp("runs") / "stopped"
    train(dataset, out, tiny_config(optim={"ema_decay": 0.5}), progress=InterruptAt(3))
    return out


NAN, INF = math.nan, math.inf
DAMAGES = {
    "schedule.step": ("schedule", "step", [-(2**62), -1, 2**62, 2, 4, 3.0, "3"]),
    "schedule.done": ("schedule", "done", [-0.1, 1.1, NAN, "0"]),
    "standing.step": ("standing", "step", [-1, 1, 2, 4, 5, 2**62]),
    "standing.epoch": ("standing", "epoch", [-1, 2, 2**62]),
    "standing.minutes": ("standing", "minutes", [-1.0, NAN, INF, 1e300]),
    "standing.best_dice": ("standing", "best_dice", [-0.5, 1.5, INF]),
    "standing.losses": ("standing", "losses", [[], [NAN], [0.1, 0.2], ["a"], torch.zeros(1), (0.5,)]),
    "standing.grad_norms": ("standing", "grad_norms", [[], [-1.0], [NAN]]),
    "standing.epoch_seconds": ("standing", "epoch_seconds", [-1.0, NAN]),
}


@pytest.mark.parametrize("place", DAMAGES)
def test_a_state_with_a_number_that_cannot_be_is_refused_when_it_is_read(dataset, tmp_path, stopped, place):
    part, name, values = DAMAGES[place]
    for value in values:
        content = load(stopped / "last.pt")
        state = content["training"]["standing"] if part == "standing" else content["training"]["learner"][part]
        state[name] = value
        for file in ("config.yaml", "cases.jsonl", "history.csv", "store.txt"):
            (tmp_path / file).write_bytes((stopped / file).read_bytes())
        save_sealed(content, tmp_path / "last.pt")
        with pytest.raises((CheckpointError, DataError), match="damaged"):
            train(dataset, tmp_path, tiny_config(optim={"ema_decay": 0.5}), resume=True)


def spoil_first(state, name, value):
    state["optimizer"]["state"][0][name].view(-1)[0] = value


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: spoil_first(state, "exp_avg", NAN),
        lambda state: spoil_first(state, "exp_avg_sq", -1.0),
        lambda state: spoil_first(state, "step", -5.0),
        lambda state: spoil_first(state, "step", 1e30),
        lambda state: next(iter(state["network"].values())).view(-1).fill_(INF),
        lambda state: next(iter(state["average"].values())).fill_(-7),
        lambda state: state["random"].update(torch=torch.zeros(3, dtype=torch.uint8)),
    ],
)
def test_tensors_with_numbers_that_cannot_be_are_refused(dataset, tmp_path, stopped, spoil):
    content = load(stopped / "last.pt")
    spoil(content["training"]["learner"])
    for file in ("config.yaml", "cases.jsonl", "history.csv", "store.txt"):
        (tmp_path / file).write_bytes((stopped / file).read_bytes())
    save_sealed(content, tmp_path / "last.pt")
    with pytest.raises(CheckpointError, match="damaged"):
        train(dataset, tmp_path, tiny_config(optim={"ema_decay": 0.5}), resume=True)


def test_what_the_config_decides_is_not_taken_from_a_state(dataset, tmp_path, stopped):
    content = load(stopped / "last.pt")
    content["training"]["learner"]["optimizer"]["param_groups"][0].update(weight_decay=-1e9, betas=(0.5, 7.0))
    for file in ("config.yaml", "cases.jsonl", "history.csv", "store.txt"):
        (tmp_path / file).write_bytes((stopped / file).read_bytes())
    save_sealed(content, tmp_path / "last.pt")
    train(dataset, tmp_path, tiny_config(optim={"ema_decay": 0.5}), resume=True)
    groups = load(tmp_path / "last.pt")["training"]["learner"]["optimizer"]["param_groups"]
    assert (groups[0]["weight_decay"], groups[0]["betas"]) == (1e-4, (0.9, 0.999))


def test_resuming_without_the_cases_of_the_run_names_its_own_index(dataset, tmp_path, stopped):
    with pytest.raises(DataError, match="other train cases") as caught:
        train(CaseIndex(dataset.cases[1:]), stopped, tiny_config(optim={"ema_decay": 0.5}), resume=True)
    assert str(stopped / "cases.jsonl") in caught.value.hint
