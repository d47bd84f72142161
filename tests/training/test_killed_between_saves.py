"""What a run loses that was stopped long after its last save, as one of short epochs is: no better model."""

import os
import shutil
import signal

import pytest

from tests.scans import tiny_config
from tests.training.runs import load, rows, train
from verse3d.training import handlers, loop
from verse3d.training.validate import ValidationResult

CONFIG = tiny_config(runtime={"deterministic": False}, validation={"loss_batches": 0})


def scored(monkeypatch, *scores):
    """Let validations find these Dice scores, one after the other."""
    to_come = iter(scores)

    def validate(predictor, cases, *_):
        dice = next(to_come)
        return ValidationResult({case.case: dice for case in cases}, {})

    monkeypatch.setattr(handlers, "validate", validate)


@pytest.fixture(scope="module")
def killed(dataset, tmp_path_factory):
    """A run that was saved after epoch 1 and had validated epochs 2 and 3 when it was killed; read only."""
    out = tmp_path_factory.mktemp("killed") / "run"

    def kill(what, done, total):
        if done == 7:
            raise RuntimeError("killed")

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(loop.Loop, "_saves_epoch", lambda _, epoch: epoch == 1)
        scored(patched, 0.2, 0.5, 0.9)
        with pytest.raises(RuntimeError, match="killed"):
            train(dataset, out, CONFIG, progress=kill)
    assert (load(out / "last.pt")["epoch"], load(out / "best.pt")["epoch"]) == (1, 3)
    return out


@pytest.mark.parametrize(("last", "best"), [(0.8, (0.9, 3)), (0.95, (0.95, 4))])
def test_a_best_model_that_the_last_save_does_not_know_gives_way_to_a_better_one_only(
    dataset, tmp_path, monkeypatch, killed, *, last, best
):
    out = shutil.copytree(killed, tmp_path / "run")
    before = (out / "best.pt").read_bytes()
    scored(monkeypatch, 0.3, 0.6, last)
    result = train(dataset, out, CONFIG, resume=True)
    assert (result.best_dice, result.best_epoch) == best
    assert load(out / "best.pt")["scores"] == {"validation_dice": best[0]}
    assert ((out / "best.pt").read_bytes() == before) == (best == (0.9, 3))
    # The table tells of the epochs that led to the network of last.pt, and of no others.
    assert [float(row["validation_dice"]) for row in rows(out)] == [0.2, 0.3, 0.6, last]
    assert "best.pt is newer than last.pt: that of epoch 3" in (out / "log.txt").read_text()


@pytest.mark.parametrize("content", [None, b"PK\x03\x04 half a model"], ids=["gone", "damaged"])
def test_a_best_model_that_is_lost_is_told_and_the_next_validation_makes_a_new_one(
    dataset, tmp_path, monkeypatch, killed, content
):
    out = shutil.copytree(killed, tmp_path / "run")
    (out / "best.pt").unlink()
    if content is not None:
        (out / "best.pt").write_bytes(content)
    scored(monkeypatch, 0.05, 0.1, 0.08)  # all of them worse than that of epoch 1
    result = train(dataset, out, CONFIG, resume=True)
    assert (result.best_dice, result.best_epoch) == (0.1, 3)
    assert load(out / "best.pt")["scores"] == {"validation_dice": 0.1}
    assert "the next validation makes a new one" in (out / "log.txt").read_text()


def test_a_signal_saves_every_step_however_long_ago_the_last_save_was(dataset, tmp_path, monkeypatch):
    monkeypatch.setattr(loop.Loop, "_saves_epoch", lambda *_: False)
    scored(monkeypatch, 0.2, 0.5)

    def wanted_back(what, done, total):
        if done == 5:
            os.kill(os.getpid(), signal.SIGTERM)

    assert train(dataset, tmp_path, CONFIG, progress=wanted_back).stopped == "terminated"
    standing = load(tmp_path / "last.pt")["training"]["standing"]
    assert (standing["epoch"], standing["step"], standing["best_dice"]) == (2, 5, 0.5)
