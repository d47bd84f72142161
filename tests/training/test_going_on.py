"""Every way to stop a run and to go on changes nothing, and what is no such run is refused."""

import logging
import shutil
from dataclasses import replace

import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import verse3d
from tests import scans
from tests.scans import save_sealed, tiny_config
from tests.training.runs import (
    DROPOUT,
    UNVALIDATED,
    UNVALIDATED_2D,
    InterruptAt,
    assert_same,
    assert_same_run,
    load,
    rows,
    train,
)
from verse3d.core.config import load_config
from verse3d.core.errors import CheckpointError, ConfigError, DataError
from verse3d.data.cases import CaseIndex
from verse3d.training import handlers, launch
from verse3d.training.monitor import Monitor
from verse3d.training.step import training_step


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


@pytest.mark.parametrize("mode", ["2d", pytest.param("2.5d", marks=pytest.mark.slow)])
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


def test_two_and_two_epochs_equal_four_with_patches_from_other_processes(dataset, tmp_path, plain):
    config = tiny_config(**DROPOUT, runtime={"workers": 2})
    train(dataset, tmp_path, config, max_epochs=2)
    train(dataset, tmp_path, config, resume=True)
    one, other = load(plain / "last.pt")["training"], load(tmp_path / "last.pt")["training"]
    assert_same(one["learner"]["network"], other["learner"]["network"])


def test_a_run_interrupted_twice_and_with_a_running_mean_is_resumed_to_the_same_end(dataset, tmp_path):
    seldom = {"every_epochs": 100, "loss_batches": 0}
    config = tiny_config(optim={"ema_decay": 0.6}, network={"norm": "batch"}, validation=seldom)
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
