"""What goes wrong within a training: bad numbers, bad cases, too little memory or disk."""

import logging
import math
from dataclasses import replace

import pytest
import torch

from tests import scans
from tests.scans import tiny_config
from tests.training.runs import (
    UNVALIDATED,
    assert_same,
    load,
    rows,
    train,
)
from verse3d.core.errors import DataError, OutputError, TrainingError
from verse3d.data.cases import CaseIndex
from verse3d.model import checkpoint as checkpoints
from verse3d.model.checkpoint import load_checkpoint
from verse3d.training import handlers, launch
from verse3d.training import step as steps_module
from verse3d.training.step import StepResult, training_step
from verse3d.training.step_values import StepValuesReader


@pytest.mark.parametrize("sick", ["loss", "grad_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_loss_or_gradient_that_is_no_number_stops_with_a_clear_message(dataset, tmp_path, monkeypatch, sick, value):
    steps = []

    def step(learner, batch, network):
        result = training_step(learner, batch, network)
        steps.append(result)
        return replace(result, **{sick: torch.tensor(value)}) if len(steps) == 6 else result

    monkeypatch.setattr(launch, "training_step", step)
    with pytest.raises(TrainingError, match=rf"became {value} in epoch 3, step 6") as caught:
        train(dataset, tmp_path, UNVALIDATED)
    assert "resumed" in caught.value.hint
    assert "became" in (tmp_path / "log.txt").read_text()
    last = load(tmp_path / "last.pt")
    assert last["epoch"] == 2
    assert all(torch.isfinite(weight).all() for weight in last["network"].values())
    monkeypatch.undo()
    assert train(dataset, tmp_path, UNVALIDATED, resume=True).epochs == 4


def test_with_losses_that_are_read_late_nothing_bad_is_saved_either(dataset, tmp_path, monkeypatch):
    def late(device):
        readings = StepValuesReader(device)
        readings._every = 4  # as on a GPU
        return readings

    def step(learner, batch, network):
        result = training_step(learner, batch, network)
        done.append(result)
        return replace(result, loss=torch.tensor(math.nan)) if len(done) == 5 else result

    done = []
    monkeypatch.setattr(handlers, "StepValuesReader", late)
    monkeypatch.setattr(launch, "training_step", step)
    with pytest.raises(TrainingError, match="loss became nan in epoch 3, step 5"):
        train(dataset, tmp_path)
    assert load(tmp_path / "last.pt")["epoch"] == 2
    assert len(done) <= 10


def test_a_mean_of_the_weights_that_is_no_number_is_neither_validated_nor_saved(dataset, tmp_path, monkeypatch):
    """The loss is one of the weights themselves, so it tells nothing."""
    steps = []

    def step(learner, batch, network):
        result = training_step(learner, batch, network)
        steps.append(result)
        if len(steps) == 5:
            next(learner.average.module.parameters()).data.view(-1)[0] = math.nan
        return result

    monkeypatch.setattr(launch, "training_step", step)
    with pytest.raises(TrainingError, match="no longer finite"):
        train(dataset, tmp_path, tiny_config(optim={"ema_decay": 0.9}))
    for name in ("last.pt", "best.pt"):
        assert all(torch.isfinite(weight).all() for weight in load(tmp_path / name)["network"].values())


@pytest.mark.parametrize(("most", "words"), [(1, "the largest that does is 1"), (0, "not even a single sample")])
def test_a_batch_that_does_not_fit_is_refused_with_the_largest_that_does(dataset, tmp_path, monkeypatch, most, words):
    forward = launch.forward

    def limited(learner, network, image, label):
        if len(image) > most:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return forward(learner, network, image, label)

    monkeypatch.setattr(launch, "forward", limited)
    monkeypatch.setattr(steps_module, "forward", limited)
    with pytest.raises(TrainingError, match=words) as caught:
        train(dataset, tmp_path)
    assert "sampling." in caught.value.hint


def test_with_a_loss_scaler_an_infinite_gradient_is_only_a_skipped_step(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(torch.amp.GradScaler, "is_enabled", lambda _: True)
    monkeypatch.setattr(torch.amp.GradScaler, "scale", lambda _, loss: loss)
    monkeypatch.setattr(torch.amp.GradScaler, "unscale_", lambda *_: None)
    monkeypatch.setattr(torch.amp.GradScaler, "step", lambda _, optimizer: optimizer.step())
    monkeypatch.setattr(torch.amp.GradScaler, "update", lambda _: None)
    monkeypatch.setattr(launch, "training_step", lambda *_: StepResult(torch.tensor(0.5), torch.tensor(math.inf), 0.1))
    assert train(dataset, tmp_path, tiny_config(optim={"epochs": 1})).stopped == "finished"


def test_a_corrupt_case_is_listed_and_the_others_are_trained_on(dataset, tmp_path):
    (tmp_path / "bad_ct.nii.gz").write_text("not a scan")
    bad = [
        replace(dataset.cases[n], case=f"bad{n}", subject=f"bad{n}", image=tmp_path / "bad_ct.nii.gz") for n in (0, 3)
    ]
    result = train(CaseIndex((bad[0], *dataset, bad[1])), tmp_path / "run", tiny_config(optim={"epochs": 1}))
    assert [case for case, _ in result.failures] == ["bad0", "bad3"]
    assert all("bad_ct.nii.gz" in reason for _, reason in result.failures)
    assert result.stopped == "finished"
    assert "bad0 is left out" in (tmp_path / "run" / "log.txt").read_text()


def test_without_a_usable_training_case_every_reason_is_told(dataset, tmp_path):
    bad = [replace(case, image=tmp_path / f"{case.case}_ct.nii.gz") for case in dataset]
    with pytest.raises(DataError) as caught:
        train(CaseIndex(tuple(bad)), tmp_path / "run")
    assert all(f"{case.case}: " in str(caught.value) for case in bad if case.split == "train")
    with pytest.raises(DataError, match="no training case"):
        train(CaseIndex(dataset.in_split("validation")), tmp_path / "other")


def test_without_validation_cases_the_last_epoch_is_the_best_and_a_warning_says_so(dataset, tmp_path, caplog):
    with caplog.at_level(logging.WARNING):
        result = train(CaseIndex(dataset.in_split("train")), tmp_path, tiny_config(optim={"epochs": 2}))
    assert "no validation case" in caplog.text
    assert math.isnan(result.best_dice)
    best, last = load(tmp_path / "best.pt"), load(tmp_path / "last.pt")
    assert best["epoch"] == 2
    assert_same(best["network"], last["network"])
    assert [row["validation_dice"] for row in rows(tmp_path)] == ["", ""]


def test_a_validation_case_without_any_vertebra_has_no_dice_and_spoils_no_mean(dataset, tmp_path):
    empty = scans.spine(7)
    empty.mask[:] = 0
    empty.write(tmp_path / "empty_ct.nii.gz", tmp_path / "empty_msk.nii.gz")
    paths = {"image": tmp_path / "empty_ct.nii.gz", "mask": tmp_path / "empty_msk.nii.gz"}
    cases = (*dataset, replace(dataset.cases[3], case="empty", subject="empty", **paths))
    config = tiny_config(optim={"epochs": 1})
    with_empty = train(CaseIndex(cases), tmp_path / "a", config).best_dice
    assert with_empty == train(dataset, tmp_path / "b", config).best_dice


def test_a_disk_that_fills_up_leaves_the_last_whole_epoch_and_no_litter(dataset, tmp_path, monkeypatch):
    save, saved = torch.save, []

    def full(content, handle):
        saved.append(content)
        if len(saved) == 5:
            handle.write(b"half a file")
            raise OSError(28, "No space left on device")
        save(content, handle)

    monkeypatch.setattr(checkpoints.torch, "save", full)
    with pytest.raises(OutputError, match="disk is full"):
        train(dataset, tmp_path)
    monkeypatch.undo()
    assert not scans.leftovers(tmp_path)
    load_checkpoint(tmp_path / "best.pt")
    epoch = load_checkpoint(tmp_path / "last.pt").epoch
    assert 1 <= epoch < 4
    assert train(dataset, tmp_path, resume=True).epochs == 4


def test_a_run_folder_below_a_file_is_refused(dataset, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        train(dataset, tmp_path / "file" / "run")
