"""What a run saves and what it resumes from: damage, full disks, bad losses, and what has changed meanwhile."""

import errno
import math
import os
from dataclasses import replace

import pytest
import torch

from tests import scans
from tests.scans import save_sealed, tiny_config
from tests.training.runs import (
    InterruptAt,
    assert_same,
    load,
    train,
)
from verse3d.core import files
from verse3d.core.errors import CheckpointError, DataError, OutputError, TrainingError
from verse3d.data.cases import CaseIndex
from verse3d.model import checkpoint as checkpoints
from verse3d.model.checkpoint import load_checkpoint
from verse3d.training import keeping, launch, resume
from verse3d.training.session import DRAWS
from verse3d.training.step import training_step

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
    assert "relabelling or who made the mask of case1\n" in caplog.text
    assert f"torch: {torch.__version__} before, 99.0 now" in caplog.text
    assert "the code of verse3d" in caplog.text


def test_a_deterministic_run_whose_data_have_changed_is_refused_until_it_need_not_be_one(tmp_path):
    index = scans.write_dataset(tmp_path / "data")
    config = tiny_config(runtime={"deterministic": True})
    train(index, tmp_path / "run", config, max_epochs=1)
    os.utime(index.cases[0].image, (1, 1))
    with pytest.raises(TrainingError, match="who made the mask of case0"):
        train(index, tmp_path / "run", config, resume=True)
    assert train(index, tmp_path / "run", tiny_config(), resume=True, max_epochs=2).epochs == 2


def test_a_deterministic_run_in_which_other_borders_would_be_learnt_is_refused(tmp_path):
    index = scans.write_dataset(tmp_path / "data")
    config = tiny_config(labels={"automatic_borders": "ignore"}, runtime={"deterministic": True})
    train(index, tmp_path / "run", config, max_epochs=1)
    made = CaseIndex(tuple(replace(case, automatic=case.case == "case0") for case in index))
    with pytest.raises(TrainingError, match="who made the mask of case0"):
        train(made, tmp_path / "run", config, resume=True)


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
