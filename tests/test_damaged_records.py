"""A damaged record is an error that names it, a damaged cache is made again: never a traceback, never half a truth."""

import json
from copy import deepcopy
from dataclasses import asdict

import pytest
import torch

from tests.mutants import NASTY, json_mutants
from tests.scans import tiny_config
from verse3d.core.errors import DataError
from verse3d.data.centroids import parse_centroids
from verse3d.data.converted import _origins
from verse3d.data.index.overrides import read_overrides
from verse3d.data.nnunet_labels import _corrections
from verse3d.data.predictions import read_predictions
from verse3d.downloads.lock import LOCK_FILE, Locked, read_lock
from verse3d.downloads.parts import Origin, _read_note
from verse3d.inference.backends.cache import MANIFEST, ModelCache
from verse3d.inference.backends.parity import Parity
from verse3d.model.modes import Method
from verse3d.training.learner import build_learner, learner_state, restore_learner
from verse3d.training.runfolder import read_history, write_history
from verse3d.training.session import Standing

BOMB = b"[" * 100_000
PREDICTIONS = {
    "scheme": "binary",
    "model": "runs/a/best.pt",
    "cases": [
        {"case": "a", "status": "written", "mask": "a.nii.gz", "seconds": 1.5, "plan": {"peak_mb": 3}, "windows": 8},
        {"case": "b", "status": "failed", "mask": "b.nii.gz", "error": "damaged", "seconds_of": {"read": 0.1}},
    ],
}


def each_mutant(value, count=120):
    return [BOMB, b"", b"\xff\xfe", *json_mutants(value, count, seed=11)]


def test_a_list_of_predictions_is_read_as_it_was_written_or_refused_by_name(tmp_path):
    path = tmp_path / "predictions.json"
    path.write_text(json.dumps(PREDICTIONS))
    read = read_predictions(tmp_path)
    assert list(read.records.values()) == PREDICTIONS["cases"]
    assert dict(read.about) == {"scheme": "binary", "model": "runs/a/best.pt"}
    for mutant in each_mutant(PREDICTIONS):
        path.write_bytes(mutant)
        try:
            records = read_predictions(tmp_path).records
        except DataError as error:
            assert "predictions.json" in error.message and len(error.message) < 1000
            continue
        assert all(record["status"] in ("written", "skipped", "failed") for record in records.values())
        assert all(isinstance(name, str) and isinstance(records[name].get("mask", ""), str) for name in records)


def test_a_stray_dataset_file_is_passed_over_with_a_warning(tmp_path, caplog):
    labels = {"labels": {"background": 0, "L1": 20, "L2": 21, "T13": 26}}
    for number, mutant in enumerate(each_mutant(labels)):
        path = tmp_path / f"dataset{number}.json"
        path.write_bytes(mutant)
        assert all(isinstance(one, int) and isinstance(two, int) for one, two in _corrections(path))
    assert "dataset0.json: the labels cannot be read" in caplog.text
    path = tmp_path / "whole.json"
    path.write_text(json.dumps(labels))
    assert _corrections(path) == ((26, 28),)


def test_a_manifest_that_is_damaged_says_nothing_about_its_files(tmp_path, caplog):
    content = {
        "to": "nnunet",
        "cases": [{"case": "a", "subject": "s", "split": "train", "fold": 1, "files": [{"path": "x/a.nii.gz"}]}],
    }
    whole = tmp_path / "whole.json"
    whole.write_text(json.dumps(content))
    assert _origins(whole)["x/a.nii.gz"].subject == "s"
    for number, mutant in enumerate(each_mutant(content)):
        path = tmp_path / f"{number}.json"
        path.write_bytes(mutant)
        assert all(isinstance(name, str) for name in _origins(path))
    assert "0.json" in caplog.text and "names and folders" in caplog.text


def test_a_list_of_downloads_is_whole_or_refused_with_what_to_do(tmp_path):
    row = asdict(Locked("a.zip", 5, "0" * 64, "", "", "2024-01-01T00:00:00", 7))
    content = {"version": 1, "files": [row, row | {"file": "b.zip"}]}
    path = tmp_path / LOCK_FILE
    path.write_text(json.dumps(content))
    assert read_lock(path) == {"a.zip": Locked(**row), "b.zip": Locked(**row | {"file": "b.zip"})}
    for mutant in each_mutant(content):
        path.write_bytes(mutant)
        try:
            locked = read_lock(path)
        except DataError as error:
            assert LOCK_FILE in error.message and "move it away" in error.hint
            continue
        assert all(isinstance(each.bytes, int) and len(each.sha256) == 64 for each in locked.values())


def test_a_part_whose_note_is_damaged_is_not_gone_on_with(tmp_path):
    origin = Origin("http://here/a.zip", "tag", "", 5)
    path = tmp_path / "a.json"
    path.write_text(json.dumps(asdict(origin)))
    assert _read_note(path) == origin
    for mutant in each_mutant(asdict(origin)):
        path.write_bytes(mutant)
        read = _read_note(path)
        assert read is None or isinstance(read.url, str)


def test_centroids_are_points_within_reach_or_an_error_that_names_the_element(tmp_path):
    content = [{"direction": ["P", "I", "R"]}, {"label": 20, "X": 1.5, "Y": 2, "Z": float("nan")}]
    path = tmp_path / "ctd.json"
    path.write_text(json.dumps(content))
    assert parse_centroids(path).skipped == (20,)
    for mutant in each_mutant(content):
        path.write_bytes(mutant)
        try:
            stored = parse_centroids(path)
        except DataError as error:
            assert "ctd.json" in error.message and len(error.message) < 1000
            continue
        assert all(abs(value) <= 1e6 for point in stored.points for value in point)
    path.write_text('[{"label": 20, "X": 1e300, "Y": 0, "Z": 0}]')
    with pytest.raises(DataError, match="element 0 is damaged: X: lies more than"):
        parse_centroids(path)


def test_corrections_are_refused_with_their_line_whatever_they_hold(tmp_path):
    path = tmp_path / "fixes.csv"
    for value in (*(word for word in NASTY if isinstance(word, str)), "9" * 5000 + ">1", "x" * 100_000, "1>2>3"):
        for action in ("relabel", "mask", "regrid", "split"):
            path.write_bytes(f'case,action,value\na,{action},"{value}"\n'.encode("utf-8", "surrogatepass"))
            with pytest.raises(DataError, match=r"fixes\.csv") as caught:
                read_overrides(path)
            assert len(caught.value.message) < 1200


def test_a_history_is_numbers_or_an_error_with_its_line(tmp_path):
    path = tmp_path / "history.csv"
    write_history(path, [{"epoch": 1, "loss": 0.5, "dice": float("nan")}, {"epoch": 2, "loss": 0.25, "dice": 0.5}])
    assert read_history(path)[1] == {"epoch": 2.0, "loss": 0.25, "dice": 0.5}
    for content, reason in (
        ("epoch,loss\n1,x\n", r"line 2: 'x' is no number"),
        ("epoch,loss\n1,2\n1,2,3\n", "line 3 has 1 cells too many"),
        ("loss\n1\n", "lacks the columns epoch"),
        ("epoch,epoch\n1,2\n", "two columns of the same name"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=reason):
            read_history(path)


def test_a_measured_parity_that_is_damaged_is_measured_again(tmp_path):
    cache = ModelCache(tmp_path / "best.openvino", "0" * 64, (1, 8, 8, 8), {"cpu": "x", "openvino": "1"})
    parity = Parity("float32", 3.0, float("nan"), 0.01, 0.0, 0.0, 2)
    path = cache.entry / "parity-float32.json"
    path.parent.mkdir(parents=True)
    content = {"cpu": "x", "parity": parity.to_dict()}
    path.write_text(json.dumps(content))
    assert cache.parity("float32").windows == 2 and not cache.parity("float32").passed
    for mutant in each_mutant(content):
        path.write_bytes(mutant)
        read = cache.parity("float32")
        assert read is None or (isinstance(read.passed, bool) and read.figures)


def test_a_converted_model_whose_manifest_is_damaged_is_converted_again(tmp_path, caplog):
    cache = ModelCache(tmp_path / "best.openvino", "0" * 64, (1, 8, 8, 8), {"cpu": "x", "openvino": "1"})
    cache.entry.mkdir(parents=True)
    (cache.entry / MANIFEST).write_bytes(BOMB)
    assert cache.load() is None
    assert "nests 100000 brackets deep" in caplog.text and not cache.entry.exists()


# --- last.pt


def test_how_far_a_run_is_is_taken_whole_or_not_at_all():
    standing = Standing(epoch=3, step=9, minutes=1.5, history=[{"epoch": 3, "loss": 0.5, "dice": float("nan")}])
    again = Standing()
    again.restore(standing.to_dict())
    assert str(again) == str(standing)
    for name in standing.to_dict():
        for value in ("3", None, [1], {"a": 1}, True):
            lists = {"history": [{"loss": "0.5"}], "losses": ["0.5"], "grad_norms": [-1.0]}
            wrong = lists.get(name, value) if value == [1] else value
            fresh = Standing()
            with pytest.raises(DataError, match=f"the progress of the run is damaged: {name}"):
                fresh.restore(standing.to_dict() | {name: wrong})
            assert str(fresh) == str(Standing())


def a_learner():
    config = tiny_config(optim={"ema_decay": 0.9})
    return build_learner(Method(config), config.optim, config.runtime, torch.device("cpu"))


@pytest.fixture
def learner():
    return a_learner()


def stepped(learner):
    """The state after a step, when the optimizer remembers something of every parameter."""
    loss = learner.network(torch.rand(1, 1, 16, 16, 16)).mean()
    loss.backward()
    learner.optimizer.step()
    learner.schedule.after_step()
    return learner_state(learner)


def test_the_state_of_a_learner_goes_into_a_fresh_one(learner):
    state = deepcopy(stepped(learner))
    fresh = a_learner()
    restore_learner(fresh, state)
    assert str(learner_state(fresh)) == str(state)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda state: state["optimizer"]["param_groups"][0].update(lr="fast"),
        lambda state: state["optimizer"]["param_groups"][0].update(lr=float("nan")),
        lambda state: state["optimizer"]["param_groups"][0].update(betas=[0.9]),
        lambda state: state["optimizer"]["param_groups"].append({}),
        lambda state: state["optimizer"]["state"][0].update(exp_avg=torch.zeros(2, 2)),
        lambda state: state["optimizer"]["state"][0].update(exp_avg="none"),
        lambda state: state["schedule"].update(step="7"),
        lambda state: state["schedule"].update(step=None),
        lambda state: state["network"].update({next(iter(state["network"])): torch.zeros(3)}),
        lambda state: state.update(average=[1]),
        lambda state: state.update(network=None),
    ],
)
def test_a_state_of_another_kind_is_refused_before_a_step_is_taken(learner, spoil):
    state = deepcopy(stepped(learner))
    spoil(state)
    fresh = a_learner()
    before = str(learner_state(fresh))
    with pytest.raises(DataError):
        restore_learner(fresh, state)
    assert str(learner_state(fresh)) == before
