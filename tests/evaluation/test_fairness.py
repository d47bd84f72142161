"""Who may be compared with whom: names, seeds, folds, everything that must be equal, and leaks."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from tests import scans
from tests.scans import spine, tiny_config
from verse3d.core.errors import CheckpointError, ConfigError
from verse3d.data.cases import Case, CaseIndex
from verse3d.evaluation.comparison import check_fairness
from verse3d.evaluation.fairness import cases_of, chosen_by, differences, leaks, load_contestants

SPLITS = ("train", "train", "validation", "test", "test")


@pytest.fixture
def index(tmp_path):
    return scans.write_dataset(tmp_path / "data", SPLITS)


@pytest.fixture
def run(tmp_path, index):
    """Makes the folder of a run; another split or config if asked for."""

    def make(name, split=index, **sections):
        return str(scans.write_run(tmp_path / name, tiny_config(**sections), split))

    return make


def placed(index, **splits):
    """The same cases, some in other splits."""
    return CaseIndex(tuple(replace(case, split=splits.get(case.case, case.split)) for case in index))


def unseen(index):
    return index.in_split("test")


def test_names_are_those_of_the_run_folders_unless_they_are_given(run):
    one, two = run("3d"), run("2d")
    found = load_contestants([one, f"{two}/best.pt", f"third={one}"])
    assert [contestant.name for contestant in found] == ["3d", "2d", "third"]
    assert [contestant.members[0].model.path for contestant in found] == [
        Path(one, "best.pt"),
        Path(two, "best.pt"),
        Path(one, "best.pt"),
    ]
    shutil.copy(f"{one}/best.pt", f"{one}/mine.pt")
    assert load_contestants([f"{one}/mine.pt", two])[0].name == "mine"


def test_several_paths_under_one_name_are_its_members_with_unique_names(run, tmp_path):
    found, _ = load_contestants([f"3d={run('x/a')},{run('x/b')},{run('y/a')}", run("2d")])
    assert [member.name for member in found.members] == ["1-a", "b", "3-a"]
    assert [found.full_name(member) for member in found.members] == ["3d/1-a", "3d/b", "3d/3-a"]


def test_a_path_with_an_equals_sign_is_a_path(run):
    assert load_contestants([run("lr=3"), run("lr=4")])[0].name == "lr=3"


@pytest.mark.parametrize("wrong", ["=a", "a=", "a/b=c", "..=c", "x=,"])
def test_what_is_no_name_with_paths_is_refused(run, wrong):
    with pytest.raises(ConfigError, match="NAME=PATH"):
        load_contestants([run("3d"), wrong])


def test_one_run_is_no_comparison_and_two_of_one_name_are_confusing(run):
    with pytest.raises(ConfigError, match="at least two"):
        load_contestants([run("3d")])
    with pytest.raises(ConfigError, match="several runs would be called model"):
        load_contestants([run("a/model"), run("b/model")])


def test_a_path_without_a_model_is_refused(run, tmp_path):
    with pytest.raises(CheckpointError, match="no model file"):
        load_contestants([run("3d"), str(tmp_path / "missing")])


def test_equal_runs_differ_in_nothing_and_may_be_compared(run, index):
    found = load_contestants([run("3d"), run("2d", network={"channels": [8, 16]}, optim={"lr": 0.1})])
    assert differences(found, folds=False) == [] == leaks(found, unseen(index), folds=False)
    assert check_fairness(found, unseen(index)) == []


DIFFERENT = {
    "network grid": ({"grid": {"spacing_mm": 3}}, "3d: spacing [4.0, 4.0, 4.0] mm; 2d: spacing [3.0, 3.0, 3.0] mm"),
    "grey values": ({"grid": {"window_hu": [-100, 900]}}, "2d: window [-100.0, 900.0] HU"),
    "labels": ({"labels": {"scheme": "vertebrae"}}, "3d: binary; 2d: vertebrae"),
    "smallest component": ({"inference": {"min_component_ml": 0.5}}, "3d: 0 ml; 2d: 0.5 ml"),
    "components": ({"inference": {"largest_component_only": True}}, "3d: all; 2d: the largest only"),
}


@pytest.mark.parametrize("what", DIFFERENT)
def test_every_setting_that_must_be_equal_is_told_if_it_is_not(run, index, what):
    sections, words = DIFFERENT[what]
    found = load_contestants([run("3d"), run("2d", **sections)])
    (difference,) = differences(found, folds=False)
    assert difference.startswith(f"{what}: ") and words in difference
    with pytest.raises(ConfigError, match="differ in more than their approach") as refusal:
        check_fairness(found, unseen(index))
    assert difference in refusal.value.message and refusal.value.option == "allow_different"
    assert check_fairness(found, unseen(index), allow_different=True) == [difference]


def test_other_splits_are_told_case_by_case_and_all_differences_at_once(run, index):
    other = placed(index, case1="validation", case4="train")
    found = load_contestants([run("3d"), run("2d", other, grid={"spacing_mm": 3})])
    assert differences(found, folds=False)[:-1] == [
        "train cases: only 3d: case1; only 2d: case4",
        "validation cases: only 2d: case1",
        "test cases: only 3d: case4",
    ]
    with pytest.raises(ConfigError) as refusal:
        check_fairness(found, unseen(index)[:1])
    assert refusal.value.message.count("\n  - ") == 4 and refusal.value.exit_code == 2


def test_long_lists_of_cases_that_differ_late_are_still_different(run, index):
    def many(last):
        names = [f"x{number:02}" for number in (*range(12), last)]
        return CaseIndex((*index, *(replace(index.cases[0], case=name, subject=name) for name in names)))

    found = load_contestants([run("3d", many(20)), run("2d", many(21))])
    assert differences(found, folds=False) == ["train cases: only 3d: x20; only 2d: x21"]


def test_of_a_model_without_its_run_folder_the_split_is_unknown(run, index, tmp_path):
    shutil.copy(f"{run('2d')}/best.pt", tmp_path / "lonely.pt")
    found = load_contestants([run("3d"), str(tmp_path / "lonely.pt")])
    (difference,) = differences(found, folds=False)
    assert "split: unknown for lonely" in difference
    with pytest.raises(ConfigError, match="unknown for lonely"):
        check_fairness(found, unseen(index))


def test_seeds_may_differ_in_the_seed_only(run, index):
    seeds = [run(f"seed{seed}", runtime={"seed": seed, "workers": seed}) for seed in (0, 1)]
    assert differences(load_contestants([f"3d={','.join(seeds)}", run("2d")]), folds=False) == []
    other = run("other", optim={"lr": 0.5}, network={"norm": "batch"})
    (difference,) = differences(load_contestants([f"3d={seeds[0]},{other}", run("2d")]), folds=False)
    assert difference == "3d: seed0 and other differ in network.norm, optim.lr"


@pytest.mark.parametrize("allowed", [False, True])
def test_a_case_that_a_run_was_trained_on_is_always_refused(run, index, allowed):
    other = placed(index, case3="train")
    found = load_contestants([run("3d"), run("2d", other)])
    with pytest.raises(ConfigError, match="must not be scored on what it was trained on") as refusal:
        check_fairness(found, unseen(index), allow_different=allowed)
    assert "2d was trained on case3" in refusal.value.message and "cannot be overridden" in refusal.value.hint


def test_another_scan_of_the_same_subject_is_a_leak_too(run, index):
    cases = [replace(case, subject="somebody") if case.case in ("case0", "case3") else case for case in index]
    other = CaseIndex(tuple(cases[:3]))
    found = load_contestants([run("3d"), run("2d", other)])
    assert leaks(found, cases[3:], folds=False) == ["2d was trained on case3"]


def test_the_same_file_under_another_name_is_a_leak(run, index):
    renamed = replace(index.cases[0], case="new", subject="new", split="test")
    assert leaks(load_contestants([run("3d"), run("2d")]), [renamed], folds=False) == [
        "3d was trained on new",
        "2d was trained on new",
    ]


def test_a_copied_data_set_is_still_the_same_and_a_lost_one_may_be(run, index, tmp_path):
    found = load_contestants([run("3d"), run("2d")])
    shutil.copytree(tmp_path / "data", tmp_path / "copy")
    copied = replace(index.cases[0], image=tmp_path / "copy" / index.cases[0].image.name)
    assert len(leaks(found, [copied], folds=False)) == 2
    shutil.rmtree(tmp_path / "data")
    assert len(leaks(found, [copied], folds=False)) == 2


def test_the_same_names_in_another_data_set_are_other_people(run, tmp_path):
    found = load_contestants([run("3d"), run("2d")])
    spine(99).write(tmp_path / "new" / "case0_ct.nii.gz", tmp_path / "new" / "case0_msk.nii.gz")
    other = Case("case0", "case0", tmp_path / "new" / "case0_ct.nii.gz", tmp_path / "new" / "case0_msk.nii.gz")
    assert leaks(found, [other], folds=False) == []


def test_cases_that_chose_the_epoch_are_told(run, index):
    found = load_contestants([run("3d"), run("2d")])
    validation = index.in_split("validation")
    assert leaks(found, validation, folds=False) == []
    assert chosen_by(found, validation, folds=False) == [
        f"the epoch of {name} was chosen by cases it is scored on: case2" for name in ("3d", "2d")
    ]
    assert chosen_by(found, unseen(index), folds=False) == []


@pytest.fixture
def folds(run, index):
    """Three folds of the four cases beside the validation case; the runs of both names have the same ones."""

    def paths(name):
        made = []
        for kept in ("case0", "case1", "case3"):
            split = {case.case: "train" for case in index if case.split != "validation"} | {kept: "test"}
            made.append(run(f"{name}/{kept}", placed(index, **split)))
        return f"{name}={','.join(made)}"

    return paths


def test_each_fold_is_scored_on_what_it_kept(folds, index):
    found = load_contestants([folds("3d"), folds("2d")])
    assert differences(found, folds=True) == [] == leaks(found, list(index), folds=True)
    scored = [[case.case for case in cases_of(member, list(index), folds=True)] for member in found[0].members]
    assert scored == [["case0"], ["case1"], ["case3"]]
    assert len(leaks(found, list(index), folds=False)) == 6
    assert len(differences(found, folds=False)) > 0


def test_folds_that_are_not_the_same_are_told(folds, run, index):
    third = folds("2d").rsplit(",", 1)[0] + "," + run("2d/case4", placed(index, case3="train"))
    found = load_contestants([folds("3d"), third])
    assert differences(found, folds=True) == ["split: the folds of 3d, 2d are not the same"]


def test_the_starter_weights_are_called_so_and_are_not_scored_on_what_they_have_seen(tmp_path, run, monkeypatch):
    monkeypatch.chdir(tmp_path)
    contestants = load_contestants(["starter", f"mine={run('a')}"])
    assert [contestant.name for contestant in contestants] == ["starter", "mine"]
    seen = [Case(name, name, spine().write(tmp_path / f"{name}.nii.gz")) for name in ("sub-verse005", "sub-verse010")]
    assert leaks(contestants[:1], seen, folds=False) == ["starter was trained on sub-verse005"]
