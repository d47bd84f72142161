"""Whole (tiny) trainings: what they leave behind, and that every way to stop and go on changes nothing."""

import logging
import math
import os
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import verse3d
from tests import scans
from tests.scans import tiny_config
from tests.training.runs import (
    CPU,
    DROPOUT,
    UNVALIDATED,
    assert_same,
    load,
    rows,
    train,
)
from verse3d.core.config import load_config
from verse3d.core.errors import DataError
from verse3d.core.logs import no_progress
from verse3d.data.cases import CaseIndex, read_index, write_index
from verse3d.data.samples import prepare
from verse3d.data.samples.store import open_store
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.inference.loading import open_predictor
from verse3d.inference.predict import predict_cases
from verse3d.training import feed, handlers
from verse3d.training.runfolder import resume_folder, start_folder

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


def test_the_validation_loss_is_that_of_the_same_patches_every_time(dataset, tmp_path):
    config = tiny_config(optim={"lr": 1e-30, "weight_decay": 0}, validation={"loss_batches": 3})
    train(dataset, tmp_path, config)
    losses = [float(row["validation_loss"]) for row in rows(tmp_path)]
    assert len(set(losses)) == 1 and 0 < losses[0] < 1


def test_measuring_the_validation_loss_does_not_change_the_training(dataset, tmp_path, plain):
    train(dataset, tmp_path, tiny_config(**DROPOUT, validation={"loss_batches": 0}))
    one, other = load(plain / "last.pt")["training"], load(tmp_path / "last.pt")["training"]
    assert_same(one["learner"], other["learner"])


def test_no_validation_loss_is_measured_where_none_is_wanted(dataset, tmp_path):
    train(dataset, tmp_path, tiny_config(validation={"loss_batches": 0}), max_epochs=1)
    assert [row["validation_loss"] for row in rows(tmp_path)] == [""]


def test_borders_of_automatic_masks_count_in_the_loss_of_neither_training_nor_validation(dataset, tmp_path):
    made = CaseIndex(tuple(replace(case, automatic=True) for case in dataset))

    def losses(index, borders):
        out = tmp_path / f"{borders}-{index is made}"
        train(index, out, tiny_config(labels={"automatic_borders": borders}), max_epochs=1)
        return [float(rows(out)[0][column]) for column in ("train_loss", "validation_loss")]

    known = losses(dataset, "learn")
    assert losses(made, "learn") == known
    assert losses(dataset, "ignore") == pytest.approx(known, rel=1e-6)
    # Most of so small a vertebra is border; of what is left Dice knows less.
    assert all(unsure > sure + 0.05 for unsure, sure in zip(losses(made, "ignore"), known, strict=True))


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
