"""Whole (tiny) trainings: what they leave behind, and that every way to stop and go on changes nothing."""

import logging
import math
import os
import re
import shutil
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import verse3d
from tests import scans
from tests.scans import save_sealed, tiny_config
from tests.training.runs import CPU, DROPOUT, InterruptAt, assert_same, assert_same_run, load, rows, train
from verse3d.core.config import Config, load_config
from verse3d.core.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError
from verse3d.core.logs import no_progress
from verse3d.data.cases import CaseIndex, read_index, write_index
from verse3d.data.samples import prepare
from verse3d.data.samples.store import open_store
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.inference.loading import open_predictor
from verse3d.inference.predict import predict_cases
from verse3d.model import checkpoint as checkpoints
from verse3d.model.checkpoint import load_checkpoint
from verse3d.training import feed, handlers, launch
from verse3d.training import step as steps_module
from verse3d.training.monitor import Monitor
from verse3d.training.runfolder import resume_folder, start_folder
from verse3d.training.step import StepResult, training_step
from verse3d.training.step_values import StepValuesReader

UNVALIDATED = tiny_config(validation={"every_epochs": 100, "loss_batches": 0})
"""Whole scans are validated at the very end only: for tests of something else."""
UNVALIDATED_2D = tiny_config("2d", validation={"every_epochs": 100, "loss_batches": 0})

COLUMNS = [
    "epoch",
    "step",
    "train_loss",
    "validation_loss",
    "lr",
    "grad_norm",
    "patches_per_s",
    "waiting_share",
    "minutes",
    "validation_dice",
]


@pytest.fixture(scope="module")
def finished(dataset, tmp_path_factory):
    """An uninterrupted run of four epochs of two steps, with pictures; read only."""
    out = tmp_path_factory.mktemp("runs") / "finished"
    index = out.parent / "cases.jsonl"
    write_index(index, dataset)
    config = tiny_config(**DROPOUT, validation={"pictures": 1})
    verse3d.train(data=index, out=out, config=config, device="cpu")
    return out


@pytest.fixture(scope="module")
def plain(dataset, tmp_path_factory):
    """An uninterrupted run without pictures; read only."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    train(dataset, out, tiny_config(**DROPOUT))
    return out


@pytest.fixture(scope="module")
def begun(dataset, tmp_path_factory):
    """A run after its first epoch, in 3D; read only."""
    out = tmp_path_factory.mktemp("runs") / "begun"
    train(dataset, out, UNVALIDATED, max_epochs=1)
    return out


@pytest.fixture(scope="module")
def begun_2d(dataset, tmp_path_factory):
    """A run after its first epoch, slice by slice; read only."""
    out = tmp_path_factory.mktemp("runs") / "begun2d"
    train(dataset, out, UNVALIDATED_2D, max_epochs=1)
    return out


class TestAFinishedRun:
    def test_has_all_the_files(self, finished):
        names = {path.name for path in finished.iterdir()}
        files = {"last.pt", "best.pt", "config.yaml", "history.csv", "log.txt", "cases.jsonl", "store.txt"}
        assert names == files | {"tensorboard"}

    def test_has_checkpoints_of_plain_data_that_describe_themselves(self, finished):
        for name in ("last.pt", "best.pt"):
            content = load(finished / name)
            assert content["config"] == load_config(finished / "config.yaml").to_dict()
            assert content["labels"] == {"vertebrae": 1}
            assert {"verse3d", "torch", "monai", "python"} <= content["versions"].keys()
            assert all(isinstance(value, float) for value in content["scores"].values())
        assert load(finished / "best.pt")["training"] == {}

    def test_has_the_score_of_the_best_epoch_in_its_best_checkpoint(self, finished):
        best = load(finished / "best.pt")
        dice = {int(row["epoch"]): float(row["validation_dice"]) for row in rows(finished)}
        assert best["scores"]["validation_dice"] == pytest.approx(max(dice.values()), rel=1e-5)
        assert dice[best["epoch"]] == pytest.approx(max(dice.values()))

    def test_has_a_history_with_one_row_per_epoch(self, finished):
        table = rows(finished)
        assert list(table[0]) == COLUMNS
        assert [row["epoch"] for row in table] == ["1", "2", "3", "4"]
        assert [row["step"] for row in table] == ["2", "4", "6", "8"]
        for row in table:
            assert all(math.isfinite(float(row[name])) for name in COLUMNS)
        assert float(table[-1]["lr"]) == 0

    def test_has_a_config_that_trains_the_same_again(self, finished):
        assert yaml.safe_load((finished / "config.yaml").read_text())["optim"]["epochs"] == 4
        assert load_config(finished / "config.yaml") == tiny_config(**DROPOUT, validation={"pictures": 1})

    def test_has_a_log_with_every_epoch_and_its_validation(self, finished):
        log = (finished / "log.txt").read_text()
        for epoch in range(1, 5):
            assert f"epoch {epoch}: loss" in log
            assert re.search(rf"epoch {epoch}: loss .* validation Dice 0\.\d{{4}}, ", log)

    def test_has_the_index_that_it_used(self, finished, dataset):
        assert [case.case for case in read_index(finished / "cases.jsonl")] == [case.case for case in dataset]

    def test_has_tensorboard_events_that_read_back(self, finished):
        events = EventAccumulator(str(finished / "tensorboard"), {"images": 0, "scalars": 0})
        events.Reload()
        per_step, per_epoch = list(range(1, 9)), [2, 4, 6, 8]
        for tag, steps in {
            "train/loss": per_step,
            "train/lr": per_step,
            "train/grad_norm": per_step,
            "train/loss_epoch": per_epoch,
            "validation/loss": per_epoch,
            "train/patches_per_s": per_epoch,
            "train/waiting_share": per_epoch,
            "validation/dice_mean": per_epoch,
            "validation_dice/case3": per_epoch,
            "validation_label/vertebrae": per_epoch,
            "memory/rss_mb": per_epoch,
        }.items():
            assert [event.step for event in events.Scalars(tag)] == steps, tag
        rates = [event.value for event in events.Scalars("train/lr")]
        assert rates[:3] == pytest.approx([0.005, 0.01, 0.01])
        pictures = events.Images("validation/case3")
        assert [event.step for event in pictures] == [0, *per_epoch]  # the first one shows the truth alone
        assert len({(event.width, event.height) for event in pictures[1:]}) == 1
        dice = [float(row["validation_dice"]) for row in rows(finished)]
        assert [event.value for event in events.Scalars("validation/dice_mean")] == pytest.approx(dice, rel=1e-4)

    def test_shows_its_settings_in_tensorboard(self, finished):
        events = EventAccumulator(str(finished / "tensorboard"), {"tensors": 0})
        events.Reload()
        [text] = events.Tensors("config/text_summary")
        assert b"steps_per_epoch: 2" in text.tensor_proto.string_val[0]
        plugins = {metadata.plugin_data.plugin_name for metadata in events.summary_metadata.values()}
        assert "hparams" in plugins

    def test_is_refused_without_resume_or_overwrite(self, finished, dataset):
        before = {path: path.stat().st_mtime_ns for path in finished.iterdir()}
        with pytest.raises(DataError, match="already holds a run") as caught:
            train(dataset, finished)
        assert "`resume`" in caught.value.hint and "`overwrite`" in caught.value.hint
        assert {path: path.stat().st_mtime_ns for path in finished.iterdir()} == before

    def test_has_the_validation_dice_that_predict_and_evaluate_find(self, finished, dataset, tmp_path):
        best = finished / "best.pt"
        case = dataset.in_split("validation")
        predict_cases(case, open_predictor([best], CPU, backend="torch"), tmp_path / "masks", about=dict)
        scored = evaluate_folder(tmp_path / "masks", CaseIndex(case), tmp_path / "scores.json")
        dice = scored.cases[0].labels["vertebrae"].dice
        assert load(best)["scores"]["validation_dice"] == pytest.approx(dice, abs=1e-12)


@pytest.mark.parametrize("ema_decay", [0.0, 0.7])
def test_two_and_two_epochs_equal_four(dataset, tmp_path, plain, ema_decay):
    config, whole = tiny_config(**DROPOUT, optim={"ema_decay": ema_decay}), plain
    if ema_decay:
        whole = tmp_path / "whole"
        train(dataset, whole, config)
    first = train(dataset, tmp_path / "parts", config, max_epochs=2)
    assert (first.stopped, first.epochs) == ("epochs", 2)
    second = train(dataset, tmp_path / "parts", config, resume=True)
    assert (second.stopped, second.epochs) == ("finished", 4)
    assert_same_run(whole, tmp_path / "parts")


SLICES = {"network": {"name": "classic", "norm": "batch", "dropout": 0.3}, "loss": {"name": "bce"}}
PLATEAU = {"name": "rmsprop", "schedule": "plateau", "plateau_patience": 0, "plateau_factor": 0.5}


@pytest.mark.parametrize("mode", ["2d", "2.5d"])
def test_one_and_two_epochs_equal_three_slice_by_slice_with_a_rate_that_follows_the_validation(dataset, tmp_path, mode):
    # Stretched slices, and windows of slices whose pixels have a size.
    slices = {"neighbours": 1, "spacing_mm": 3.0} if mode == "2.5d" else {}
    config = tiny_config(mode, **SLICES, optim={**PLATEAU, "ema_decay": 0.5, "epochs": 3}, slices=slices)
    train(dataset, tmp_path / "whole", config)
    train(dataset, tmp_path / "parts", config, max_epochs=1)
    train(dataset, tmp_path / "parts", config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_validation_because_the_run_was_stopped_does_not_change_how_it_goes_on(dataset, tmp_path):
    config = tiny_config(optim={**PLATEAU, "epochs": 4}, validation={"every_epochs": 2})
    train(dataset, tmp_path / "whole", config)
    train(dataset, tmp_path / "parts", config, max_epochs=1)
    train(dataset, tmp_path / "parts", config, resume=True)
    one, other = load(tmp_path / "whole" / "last.pt")["training"], load(tmp_path / "parts" / "last.pt")["training"]
    assert_same(one["learner"], other["learner"])


def test_a_rate_that_follows_the_validation_wants_one(dataset, tmp_path):
    index = CaseIndex(tuple(case for case in dataset if case.split == "train"))
    with pytest.raises(DataError, match="there is no validation case"):
        train(index, tmp_path, tiny_config(optim=PLATEAU))
    assert not (tmp_path / "last.pt").exists()


@pytest.mark.parametrize(("mode", "other"), [("2d", "3d"), ("3d", "2d")])
def test_a_run_of_one_mode_is_not_resumed_in_another(dataset, begun, begun_2d, mode, other):
    out = begun if mode == "3d" else begun_2d
    with pytest.raises(ConfigError, match=rf"{out.name} is a run of mode {mode}, not {other}") as caught:
        train(dataset, out, tiny_config(other), resume=True)
    assert f"mode {mode}" in caught.value.hint
    index = out / "cases.jsonl"
    with pytest.raises(ConfigError, match=f"is a run of mode {mode}, not {other}"):
        verse3d.train(data=index, out=out, mode=other, resume=True, device="cpu")


def test_weights_of_another_mode_in_a_run_folder_are_refused(dataset, tmp_path, begun, begun_2d):
    out = shutil.copytree(begun_2d, tmp_path / "2d")
    shutil.copy(begun / "last.pt", out / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt is a model of mode 3d, the run in .* is of mode 2d"):
        train(dataset, out, UNVALIDATED_2D, resume=True)


def test_the_validation_loss_is_that_of_the_same_patches_every_time(dataset, tmp_path):
    config = tiny_config(optim={"lr": 1e-30, "weight_decay": 0}, validation={"loss_batches": 3})
    train(dataset, tmp_path, config)
    losses = [float(row["validation_loss"]) for row in rows(tmp_path)]
    assert len(set(losses)) == 1 and 0 < losses[0] < 1


def test_measuring_the_validation_loss_does_not_change_the_training(dataset, tmp_path, plain):
    train(dataset, tmp_path, tiny_config(**DROPOUT, validation={"loss_batches": 0}))
    one, other = load(plain / "last.pt")["training"], load(tmp_path / "last.pt")["training"]
    assert_same(one["learner"], other["learner"])


@pytest.mark.parametrize("part", ["network", "optimizer", "schedule", "random"])
def test_a_run_whose_training_state_does_not_fit_is_refused(dataset, tmp_path, begun, part):
    out = shutil.copytree(begun, tmp_path / "run")
    content = load(out / "last.pt")
    content["training"]["learner"][part] = {"surplus": 1}
    save_sealed(content, out / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt cannot be gone on with"):
        train(dataset, out, UNVALIDATED, resume=True)


@pytest.mark.parametrize("epoch", [0, 2, 2**31])
def test_a_run_whose_state_is_of_another_epoch_than_its_weights_is_refused(dataset, tmp_path, begun, epoch):
    out = shutil.copytree(begun, tmp_path / "run")
    content = load(out / "last.pt")
    content["training"]["standing"]["epoch"] = epoch
    save_sealed(content, out / "last.pt")
    with pytest.raises(CheckpointError, match=rf"after epoch {epoch}, its weights are those after epoch 1"):
        train(dataset, out, UNVALIDATED, resume=True)


def test_no_validation_loss_is_measured_where_none_is_wanted(dataset, tmp_path):
    train(dataset, tmp_path, tiny_config(validation={"loss_batches": 0}), max_epochs=1)
    assert [row["validation_loss"] for row in rows(tmp_path)] == [""]


def test_two_and_two_epochs_equal_four_with_patches_from_other_processes(dataset, tmp_path, plain):
    config = tiny_config(**DROPOUT, runtime={"workers": 2})
    train(dataset, tmp_path, config, max_epochs=2)
    train(dataset, tmp_path, config, resume=True)
    one, other = load(plain / "last.pt")["training"], load(tmp_path / "last.pt")["training"]
    assert_same(one["learner"]["network"], other["learner"]["network"])


@pytest.mark.parametrize("step", [1, 5, 8])
def test_a_run_interrupted_in_the_middle_of_an_epoch_is_resumed_to_the_same_end(dataset, tmp_path, plain, step):
    config = tiny_config(**DROPOUT)
    stopped = train(dataset, tmp_path, config, progress=InterruptAt(step))
    assert stopped.stopped == "interrupted"
    assert stopped.epochs == (step - 1) // 2 == load(tmp_path / "last.pt")["epoch"]
    assert train(dataset, tmp_path, config, resume=True).stopped == "finished"
    assert_same_run(plain, tmp_path)


def test_a_run_interrupted_twice_and_with_a_running_mean_is_resumed_to_the_same_end(dataset, tmp_path):
    config = tiny_config(optim={"ema_decay": 0.6}, network={"norm": "batch"})
    train(dataset, tmp_path / "whole", config)
    train(dataset, tmp_path / "parts", config, progress=InterruptAt(4))
    train(dataset, tmp_path / "parts", config, resume=True, progress=InterruptAt(5))
    train(dataset, tmp_path / "parts", config, resume=True)
    assert_same_run(tmp_path / "whole", tmp_path / "parts")


def test_a_run_interrupted_during_a_validation_says_what_is_on_disk_and_is_resumed(
    dataset, tmp_path, plain, monkeypatch
):
    config = tiny_config(**DROPOUT)
    validate, calls = handlers.validate, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return validate(*arguments)

    monkeypatch.setattr(handlers, "validate", interrupted)
    stopped = train(dataset, tmp_path / "parts", config)
    assert (stopped.stopped, stopped.epochs) == ("interrupted", 2)
    train(dataset, tmp_path / "parts", config, resume=True)
    assert_same_run(plain, tmp_path / "parts")


def test_every_epoch_draws_other_patches_and_a_resumed_one_those_that_were_due(dataset, tmp_path, monkeypatch):
    drawn = []

    def step(learner, batch, network):
        drawn.append(batch["image"].sum().item())
        return training_step(learner, batch, network)

    monkeypatch.setattr(launch, "training_step", step)
    train(dataset, tmp_path / "whole", UNVALIDATED)
    whole = list(drawn)
    assert len(set(whole)) == 8
    drawn.clear()
    train(dataset, tmp_path / "parts", UNVALIDATED, max_epochs=3)
    train(dataset, tmp_path / "parts", UNVALIDATED, resume=True)
    assert drawn == whole


def test_tensorboard_shows_an_interrupted_and_resumed_run_as_one(dataset, tmp_path):
    train(dataset, tmp_path, progress=InterruptAt(2))
    train(dataset, tmp_path, resume=True, progress=InterruptAt(5))
    train(dataset, tmp_path, resume=True)
    events = EventAccumulator(str(tmp_path / "tensorboard"), {"scalars": 0})
    events.Reload()
    assert [event.step for event in events.Scalars("train/loss")] == list(range(1, 9))
    assert [event.step for event in events.Scalars("validation/dice_mean")] == [2, 4, 6, 8]


def test_event_files_of_one_process_are_read_in_the_order_in_which_they_were_written(tmp_path):
    """TensorBoard numbers them by a counter: 10 would come before 9 if both had the same second in their names."""
    for step in range(1, 4):
        with Monitor(tmp_path, step - 1):
            pass
    seconds = [int(path.name.split(".")[3]) for path in tmp_path.iterdir()]
    assert len(set(seconds)) == len(seconds) == 3


def test_a_finished_run_is_resumed_by_doing_nothing_and_goes_on_if_its_epochs_grow(dataset, tmp_path):
    short, long = (tiny_config(optim={"epochs": epochs}) for epochs in (2, 3))
    train(dataset, tmp_path, short)
    assert train(dataset, tmp_path, short, resume=True).epochs == 2
    assert train(dataset, tmp_path, short, resume=True, max_epochs=1).epochs == 2
    assert train(dataset, tmp_path, long, resume=True).epochs == 3
    assert load_config(tmp_path / "config.yaml") == long
    assert len(rows(tmp_path)) == 3


def test_resuming_up_to_an_epoch_that_is_done_trains_nothing(dataset, tmp_path):
    train(dataset, tmp_path, UNVALIDATED, max_epochs=2)
    again = train(dataset, tmp_path, UNVALIDATED, resume=True, max_epochs=2)
    assert (again.stopped, again.epochs, len(rows(tmp_path))) == ("epochs", 2, 2)


@pytest.mark.parametrize(
    "change", [{"optim": {"lr": 0.5}}, {"grid": {"spacing_mm": [3, 3, 3]}}, {"runtime": {"seed": 4}}]
)
def test_resuming_with_other_settings_is_refused_and_they_are_named(dataset, plain, change):
    [(section, values)] = change.items()
    sections = {**DROPOUT, section: {**DROPOUT.get(section, {}), **values}}
    with pytest.raises(ConfigError, match=rf"{section}\.{next(iter(values))}"):
        train(dataset, plain, tiny_config(**sections), resume=True)


def test_resuming_with_other_cases_is_refused(dataset, plain, tmp_path):
    other = [replace(case, case=case.case + "x") if case.split == "train" else case for case in dataset]
    with pytest.raises(DataError, match="other train cases"):
        train(CaseIndex(tuple(other)), plain, tiny_config(**DROPOUT), resume=True)
    without = CaseIndex(dataset.in_split("train"))
    with pytest.raises(DataError, match="other validation cases"):
        train(without, plain, tiny_config(**DROPOUT), resume=True)


def test_resuming_where_there_is_no_run_is_refused(dataset, tmp_path):
    with pytest.raises(DataError, match="no run to resume"):
        train(dataset, tmp_path / "nothing", resume=True)
    assert not (tmp_path / "nothing").exists()


def test_resuming_from_a_model_that_was_made_to_predict_is_refused(dataset, tmp_path, plain):
    out = shutil.copytree(plain, tmp_path / "run")
    (out / "best.pt").replace(out / "last.pt")
    with pytest.raises(CheckpointError, match=r"last\.pt"):
        train(dataset, out, tiny_config(**DROPOUT), resume=True)


def test_overwriting_a_run_leaves_nothing_of_it(dataset, tmp_path):
    train(dataset, tmp_path, tiny_config(optim={"epochs": 3}))
    (tmp_path / "my notes.txt").write_text("keep me")
    (tmp_path / "best.openvino").mkdir()
    train(dataset, tmp_path, tiny_config(optim={"epochs": 1, "lr": 0.001}), overwrite=True)
    assert len(rows(tmp_path)) == 1
    assert "epoch 3" not in (tmp_path / "log.txt").read_text()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert len(events.Scalars("train/loss")) == 2
    assert (tmp_path / "my notes.txt").read_text() == "keep me"
    assert not (tmp_path / "best.openvino").exists(), "made from the model that is gone"


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


def test_much_waiting_for_data_is_told_once_with_advice(dataset, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(feed.CpuWaiting, "take", lambda _: 1000.0)
    with caplog.at_level(logging.WARNING):
        train(dataset, tmp_path, UNVALIDATED)
    told = [record.getMessage() for record in caplog.records if "waiting for data" in record.getMessage()]
    assert len(told) == 1 and "runtime.workers" in told[0]
    assert all(float(row["waiting_share"]) > 1 for row in rows(tmp_path))


def test_validations_that_take_too_long_are_left_out_but_never_the_last_one(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(handlers, "validation_fits", lambda *_: False)
    result = train(dataset, tmp_path)
    assert [bool(row["validation_dice"]) for row in rows(tmp_path)] == [False, False, False, True]
    assert (result.best_epoch, result.stopped) == (4, "finished")


def test_a_run_begun_by_an_older_version_goes_on_and_says_that_patches_are_drawn_anew(dataset, tmp_path, caplog):
    config = tiny_config(optim={"ema_decay": 0.5})
    train(dataset, tmp_path, config, max_epochs=2)
    content = load(tmp_path / "last.pt")
    del content["training"]["draws"]
    for name in ("validation_minutes", "last_validation_minutes"):
        del content["training"]["standing"][name]
    for row in content["training"]["standing"]["history"]:
        del row["waiting_share"]
    scans.save_sealed(content, tmp_path / "last.pt")
    stored = yaml.safe_load((tmp_path / "config.yaml").read_text())
    for section, names in {"runtime": ("compile", "cuda_graph", "deterministic"), "augment": ("elastic",)}.items():
        for name in names:
            del stored[section][name]
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(stored))
    with caplog.at_level(logging.WARNING):
        assert train(dataset, tmp_path, config, resume=True).epochs == 4
    assert "begun by an older verse3d" in caplog.text
    assert [row["waiting_share"] != "" for row in rows(tmp_path)] == [False, False, True, True]


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


def test_the_26_levels_are_trained_validated_and_predicted(dataset, tmp_path):
    config = tiny_config(labels={"scheme": "vertebrae"}, loss={"name": "dice_ce"}, optim={"epochs": 2})
    train(dataset, tmp_path / "run", config)
    best = load(tmp_path / "run" / "best.pt")
    assert (len(best["labels"]), best["labels"]["T13"]) == (26, 28)
    case = dataset.in_split("validation")
    predictor = open_predictor([tmp_path / "run" / "best.pt"], CPU, backend="torch")
    predict_cases(case, predictor, tmp_path / "masks", about=lambda: {"scheme": "vertebrae"})
    scored = evaluate_folder(tmp_path / "masks", CaseIndex(case), tmp_path / "scores.json")
    assert scored.scheme == "vertebrae"
    of_truth = [scored.cases[0].labels[name].dice for name in ("T12", "L1", "L2")]
    assert best["scores"]["validation_dice"] == pytest.approx(np.mean(of_truth), abs=1e-12)


class TestTheApi:
    """What ``verse3d.train`` adds to ``fit``."""

    @pytest.fixture
    def undivided(self, tmp_path):
        scans.write_dataset(tmp_path / "data")
        return tmp_path / "data"

    def test_resumes_with_the_settings_of_the_run(self, undivided, tmp_path, tiny_yaml):
        out = tmp_path / "run"
        overrides = ["runtime.seed=5", "optim.epochs=2"]
        verse3d.train(data=undivided, out=out, config=tiny_yaml, overrides=overrides, max_epochs=1, device="cpu")
        assert verse3d.train(data=undivided, out=out, resume=True, device="cpu").epochs == 2

    def test_resumes_with_more_epochs_by_an_override_alone(self, undivided, tmp_path, tiny_yaml):
        out = tmp_path / "run"
        verse3d.train(data=undivided, out=out, config=tiny_yaml, overrides=["optim.epochs=1"], device="cpu")
        grown = {"overrides": ["optim.epochs=2"], "resume": True, "device": "cpu"}
        assert verse3d.train(data=undivided, out=out, **grown).epochs == 2
        with pytest.raises(ConfigError, match=r"optim\.lr"):
            verse3d.train(data=undivided, out=out, overrides=["optim.lr=0.5"], resume=True, device="cpu")

    def test_resumes_from_the_index_in_the_run_folder(self, undivided, tmp_path, tiny_yaml):
        out = tmp_path / "run"
        verse3d.train(data=undivided, out=out, config=tiny_yaml, max_epochs=1, device="cpu")
        assert verse3d.train(data=out / "cases.jsonl", out=out, resume=True, device="cpu").epochs == 4

    def test_draws_validation_cases_from_a_folder_but_takes_an_index_as_it_is(self, undivided, tmp_path, tiny_yaml):
        settings = {"config": tiny_yaml, "overrides": ["optim.epochs=1"], "device": "cpu"}
        assert not math.isnan(verse3d.train(data=undivided, out=tmp_path / "a", **settings).best_dice)
        verse3d.index(undivided, out=tmp_path / "all.jsonl", validation=0.0)
        assert math.isnan(verse3d.train(data=tmp_path / "all.jsonl", out=tmp_path / "b", **settings).best_dice)

    def test_a_fold_is_validated_on_and_the_others_are_trained_on(self, undivided, tmp_path, tiny_yaml):
        listed = tmp_path / "all.jsonl"
        report = verse3d.index(undivided, out=listed, folds=2)
        settings = {"config": tiny_yaml, "overrides": ["optim.epochs=1"], "device": "cpu"}
        verse3d.train(data=listed, out=tmp_path / "run", fold=1, **settings)
        used = {case.case: case.split for case in read_index(tmp_path / "run" / "cases.jsonl")}
        assert used == {case.case: "validation" if case.fold == 1 else "train" for case in report.cases}
        with pytest.raises(DataError, match="no fold 2"):
            verse3d.train(data=listed, out=tmp_path / "other", fold=2, **settings)

    def test_refuses_contradictions(self, undivided, tmp_path, tiny_yaml):
        with pytest.raises(ConfigError, match="cannot be combined"):
            verse3d.train(data=undivided, out=tmp_path / "run", resume=True, overwrite=True)
        with pytest.raises(ConfigError, match="overrides"):
            verse3d.train(data=undivided, out=tmp_path / "run", config=Config(), overrides=["optim.lr=1"])
        with pytest.raises(ConfigError, match="mode"):
            verse3d.train(data=undivided, out=tmp_path / "run", mode="4d")


def test_progress_tells_every_batch_of_the_whole_schedule(dataset, tmp_path):
    heard = []
    train(dataset, tmp_path, UNVALIDATED, progress=lambda *call: heard.append(call))
    batches = [(done, total) for what, done, total in heard if what.startswith("epoch")]
    assert batches == [(done, 8) for done in range(1, 9)]
    assert no_progress("nothing", 0, 0) is None


def test_the_log_of_a_run_ends_with_the_run(dataset, tmp_path):
    train(dataset, tmp_path, tiny_config(optim={"epochs": 1}))
    before = Path(tmp_path / "log.txt").read_text()
    logging.getLogger("verse3d").error("later")
    assert (tmp_path / "log.txt").read_text() == before


@pytest.mark.parametrize("resume", [False, True])
def test_what_killed_trainings_left_in_the_run_folder_is_removed_by_the_next(tmp_path, resume):
    out = tmp_path / "run"
    if resume:
        start_folder(out, tiny_config(), overwrite=False).last.write_bytes(b"some run")
    out.mkdir(exist_ok=True)
    dead, living = out / ".verse3d-4194303-last.pt", out / f".verse3d-{os.getppid()}-last.pt"
    for path in (dead, living):
        path.write_bytes(b"half")
    resume_folder(out, tiny_config()) if resume else start_folder(out, tiny_config(), overwrite=False)
    assert scans.leftovers(out) == [living]


def test_beside_the_start_and_the_end_a_run_says_one_line_per_epoch(dataset, tmp_path, plain, caplog, monkeypatch):
    caplog.set_level(logging.INFO, logger="verse3d")
    monkeypatch.setattr(handlers, "_MUCH_WAITING", 1.1)  # so tiny a run waits, and would be told so once
    train(dataset, tmp_path, store=Path((plain / "store.txt").read_text().strip()))
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.INFO]
    epochs = [number for number, words in enumerate(said) if words.startswith("epoch ")]
    assert [said[number].split(":")[0] for number in epochs] == ["epoch 1", "epoch 2", "epoch 3", "epoch 4"]
    assert epochs == list(range(epochs[0], epochs[0] + 4)), said  # nothing between them
    assert all("\n" not in words for words in said)


def test_two_trainings_at_once_share_one_store_and_prepare_each_case_once(dataset, tmp_path, monkeypatch):
    def counted(case, *arguments, **options):
        made.append(case.case)
        return write_entry(case, *arguments, **options)

    made, write_entry = [], prepare.write_entry
    monkeypatch.setattr(prepare, "write_entry", counted)
    config = tiny_config(optim={"epochs": 1})
    open_store(tmp_path / "store")
    runs = [tmp_path / "one", tmp_path / "other"]
    with ThreadPoolExecutor(2) as threads:
        results = list(threads.map(lambda out: train(dataset, out, config, store=tmp_path / "store"), runs))
    assert [result.stopped for result in results] == ["finished", "finished"]
    assert sorted(made) == sorted(case.case for case in dataset if case.split in ("train", "validation"))
    assert not any(result.failures for result in results)
    assert {Path((out / "store.txt").read_text().strip()) for out in runs} == {tmp_path / "store"}
