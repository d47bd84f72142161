"""All folds of a cross-validation in one call, stopped and gone on with, and compared as they are."""

import shlex

import pytest

import verse3d
from tests import scans
from tests.scans import tiny_config
from tests.training.runs import load
from verse3d.api import folds
from verse3d.cli import main
from verse3d.core.errors import DataError
from verse3d.data.cases import CaseIndex, read_index
from verse3d.data.splits import held_out, hold_out_fold, known_folds
from verse3d.evaluation.fairness import cases_of, load_contestants
from verse3d.training.runfolder import fold_folders


@pytest.fixture(scope="module")
def listed(tmp_path_factory):
    """An index of four cases in two folds; read only."""
    folder = tmp_path_factory.mktemp("folds")
    scans.write_dataset(folder / "data")
    verse3d.index(folder / "data", out=folder / "cases.jsonl", folds=2)
    return folder / "cases.jsonl"


class Finished:
    stopped = "finished"


SHORT = {"overrides": ["optim.epochs=1"], "device": "cpu"}


def test_all_folds_are_trained_stopped_gone_on_with_and_compared(listed, tmp_path, tiny_yaml):
    out, settings = tmp_path / "cv", {"config": tiny_yaml, **SHORT}

    def interrupt(what, done, total):
        if what.startswith("fold 1 (2 in all): epoch"):
            raise KeyboardInterrupt

    stopped = verse3d.train_folds(data=listed, out=out, progress=interrupt, **settings)
    assert (stopped.stopped, list(stopped.folds)) == ("interrupted", [0, 1])
    assert load(out / "fold1" / "last.pt")["training"]["standing"]["step"] == 1
    first = (out / "fold0" / "last.pt").read_bytes()

    with pytest.raises(DataError, match=r"fold0, .*fold1 already hold runs"):
        verse3d.train_folds(data=listed, out=out, **settings)
    result = verse3d.train_folds(data=listed, out=out, resume=True, device="cpu")
    assert (result.stopped, result.count, result.folder) == ("finished", 2, out)
    assert [one.stopped for one in result.folds.values()] == ["finished"] * 2
    assert (out / "fold0" / "last.pt").read_bytes() == first, "what was finished is left alone"
    assert not (out / "fold0" / "cases.store").exists() and (listed.parent / "cases.store").is_dir()

    # Each case is scored by the one fold that has not been trained on it.
    (contestant, _) = load_contestants([f"a={out}", f"b={out}"], folds=True)
    assert [member.name for member in contestant.members] == ["fold0", "fold1"]
    cases = read_index(listed).cases
    scored = [cases_of(member, cases, folds=True) for member in contestant.members]
    assert sorted(case.case for part in scored for case in part) == sorted(case.case for case in cases)
    for member, part in zip(contestant.members, scored, strict=True):
        trained_on = {case.subject for case in member.model.cases.in_split("train")}
        assert part and not trained_on & {case.subject for case in part}


def test_a_fold_that_was_never_begun_is_begun_when_the_whole_is_gone_on_with(listed, tmp_path, tiny_yaml):
    out = tmp_path / "cv"
    verse3d.train(data=listed, out=out / "fold0", fold=0, config=tiny_yaml, **SHORT)
    result = verse3d.train_folds(data=listed, out=out, resume=True, device="cpu")
    assert [one.epochs for one in result.folds.values()] == [1, 1]
    assert fold_folders(out) == (out / "fold0", out / "fold1")


def test_every_fold_begins_with_the_model_that_is_named_and_takes_its_settings(listed, tmp_path, monkeypatch):
    model = scans.save_model(tmp_path / "m.pt", tiny_config(optim={"lr": 0.25}))
    calls = []
    monkeypatch.setattr(folds, "train", lambda **options: calls.append(options) or Finished())
    verse3d.train_folds(data=listed, out=tmp_path / "cv", from_model=model)
    assert [call["config"].optim.lr for call in calls] == [0.25, 0.25]
    assert [(call["from_model"], call["resume"]) for call in calls] == [(model, False)] * 2
    calls.clear()
    (tmp_path / "cv" / "fold0").mkdir(parents=True)
    (tmp_path / "cv" / "fold0" / "last.pt").touch()
    (tmp_path / "cv" / "fold0" / "config.yaml").write_text("optim: {lr: 0.125}")
    verse3d.train_folds(data=listed, out=tmp_path / "cv", from_model=model, resume=True)
    assert [call["config"].optim.lr for call in calls] == [0.125, 0.125]
    assert [(call["from_model"], call["resume"]) for call in calls] == [(None, True), (model, False)]


def test_folds_that_are_not_there_are_refused(listed, tmp_path, tiny_yaml):
    scans.write_dataset(tmp_path / "data")
    verse3d.index(tmp_path / "data", out=tmp_path / "plain.jsonl")
    with pytest.raises(DataError, match=r"plain\.jsonl has no folds") as caught:
        verse3d.train_folds(data=tmp_path / "plain.jsonl", out=tmp_path / "cv", config=tiny_yaml)
    assert "`folds`" in caught.value.hint
    with pytest.raises(DataError, match="holds no fold to resume"):
        verse3d.train_folds(data=listed, out=tmp_path / "cv", resume=True)
    assert not (tmp_path / "cv").exists()


def test_the_command_of_every_fold_is_named_as_it_was_asked_for(listed, tmp_path, capsys):
    out = tmp_path / "a b"
    options = ["--max-epochs", "3", "--overwrite", "--set", "optim.lr=0.1", "runtime.seed=2", "--mode", "2d"]
    assert main(["train", "--data", str(listed), "--out", str(out), "--folds", "--print", *options]) == 0
    shown = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    wanted = ["--mode", "2d", "--set", "optim.lr=0.1", "--set", "runtime.seed=2", "--overwrite", "--max-epochs", "3"]
    for fold, command in enumerate(shown):
        start = ["verse3d", "train", "--data", str(listed), "--out", str(out / f"fold{fold}"), "--fold", str(fold)]
        assert command == [*start, *wanted]
    assert len(shown) == 2 and not out.exists()


@pytest.mark.parametrize("options", [["--folds", "--fold", "1"], ["--print"]])
def test_options_of_folds_that_contradict_each_other_are_refused(listed, tmp_path, options, capsys):
    assert main(["train", "--data", str(listed), "--out", str(tmp_path / "cv"), *options]) == 2
    assert "--fold" in capsys.readouterr().err


def test_folders_are_folds_by_their_exact_names_and_in_the_order_of_numbers(tmp_path):
    for name in ("fold10", "fold2", "fold02", "folds", "fold-1", "fold1x", "old fold1"):
        (tmp_path / name).mkdir()
    assert [path.name for path in fold_folders(tmp_path)] == ["fold2", "fold10"]


def test_without_a_fold_held_out_the_test_cases_of_a_run_are_its_own(listed):
    index = read_index(listed)
    assert known_folds(index) == (0, 1) and held_out(index) == ()
    one = hold_out_fold(index, 1)
    assert {case.fold for case in held_out(one)} == {1}
    assert held_out(CaseIndex(())) == ()
