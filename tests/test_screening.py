"""Recipes are screened with settings that exist, one budget, and scores of subjects that were not learnt from."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import pytest

from verse3d.core.config import load_config

FOLDER = Path(__file__).parents[1] / "scripts"
SUBJECTS = ["sub-verse005", "sub-verse006", "sub-verse007", "sub-verse008"]


CONFIGS = ["unet3d-cpu", "unet3d"]


@pytest.fixture
def part(monkeypatch):
    """Imports one of the scripts."""
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module


@pytest.fixture
def screening(part):
    return part("screen_recipe")


@pytest.fixture
def trial(screening, tmp_path):
    def make(name, fold="1", seed=0, config="unet3d-cpu"):
        return screening.Trial(name, fold, seed, screening.Screening(config, tmp_path))

    return make


def options_of(command):
    """What follows each option of a command; of ``--set`` all of them."""
    given = {}
    for word, value in itertools.pairwise(command):
        if word.startswith("--"):
            given.setdefault(word, []).append(value)
    return given


def steps_of(command):
    config = load_config("unet3d-cpu", options_of(command)["--set"])
    return config.optim.epochs * config.optim.steps_per_epoch


def is_training(command):
    return "train" in command


def save_scores(trial, dice, hd95=3.0):
    cases = [{"case": case, "labels": {"vertebrae": {"dice": of, "hd95_mm": hd95}}} for case, of in dice.items()]
    trial.scores.parent.mkdir(exist_ok=True)
    trial.scores.write_text(json.dumps({"cases": cases}), encoding="utf-8")


@pytest.mark.parametrize("config", CONFIGS)
def test_every_row_but_base_changes_something_that_can_be_set(screening, trial, config):
    rows = screening.rows_of(config)
    trainings = {
        name: [word for command in trial(name, config=config).trainings(440) for word in command[1:]] for name in rows
    }
    for name, row in rows.items():
        changed = load_config(row.config or config, row.settings) != load_config(config)
        assert changed or row.also or row.first or name == "base"
    unlike_base = {" ".join(words).replace(f"{name}-fold1", "base-fold1") for name, words in trainings.items()}
    assert len(unlike_base) == len(rows)


@pytest.mark.parametrize("steps", [440, 333])
def test_a_row_that_begins_with_synthetic_scans_has_no_more_steps_than_the_others(screening, trial, steps):
    for name, row in screening.rows_of("unet3d-cpu").items():
        commands = trial(name, "2", 1).trainings(steps)
        assert len(commands) == (2 if row.first else 1)
        assert steps - 20 < sum(map(steps_of, commands)) <= steps


def test_a_training_after_a_first_one_starts_from_its_weights(trial, tmp_path):
    first, second = filter(is_training, trial("first-drawn", "2", 1).commands(90))
    assert options_of(second)["--from"] == options_of(first)["--out"]
    assert options_of(first)["--data"] == [str(tmp_path / "drawn.jsonl")]
    assert options_of(second)["--data"] == [str(tmp_path / "fold2.jsonl")]
    assert "--from" not in options_of(first)


def test_joined_rows_change_what_each_of_them_changes(screening, trial):
    (command,) = trial("spacing-1.5+also-drawn+no-margin").trainings(440)
    assert {"grid.spacing_mm=1.5", "sampling.margin_voxels=0"} <= {*options_of(command)["--set"]}
    assert options_of(command)["--data"][0].endswith("fold1-drawn.jsonl")
    with pytest.raises(ValueError, match="both rows say also"):
        screening.row_of("chest+also-drawn", "unet3d")
    with pytest.raises(SystemExit, match="unet3d has no row batch-2 or nonsense; known: base, "):
        screening.row_of("batch-2+no-margin+nonsense", "unet3d")


def test_a_row_may_be_another_mode(trial):
    (command,) = trial("slices-mm", config="unet3d").trainings(440)
    assert options_of(command)["--mode"] == ["2d"] and options_of(command)["--config"] == ["slices2d-mm"]


def test_no_subject_is_learnt_from_and_scored_and_each_is_scored_in_two_ways(part):
    scans = part("recipe_scans")
    real = [{"case": case, "subject": case, "split": "train"} for case in [*SUBJECTS, "chest_ct", "example_ct"]]
    scored = []
    for fold in scans.FOLDS:
        cases = scans.experts_of(fold, real)
        assert [case["case"] for case in cases] == SUBJECTS
        held_out = {case["case"] for case in cases if case["split"] == "test"}
        assert {case["subject"] for case in scans.again(cases)} == {*SUBJECTS} - held_out
        scored += held_out
    # In one of the two folds, and by itself.
    assert sorted(scored) == sorted(SUBJECTS * 2)


def test_a_budget_of_seconds_is_as_many_steps_as_take_that_long(screening, tmp_path):
    (tmp_path / "pace.json").write_text(json.dumps({"base": 0.5, "batch-2": 0.25}), encoding="utf-8")
    of = screening.Screening("unet3d-cpu", tmp_path)
    names = ("base", "chest", "batch-2")
    assert [of.budget_of(name, None, 100.0) for name in names] == [200, 200, 400]
    assert [of.budget_of(name, 300, None) for name in names] == [300, 300, 600]


def test_what_a_step_takes_is_the_slope_between_two_trainings_and_measured_once(screening, part, tmp_path, monkeypatch):
    called = []

    def take(command):
        called.append(steps_of(command))
        return 7.0 + 0.25 * called[-1] + (5.0 if len(called) == 1 else 0.0)  # 5 s to prepare the cases

    monkeypatch.setattr(part("recipe_pace"), "timed", take)
    of = screening.Screening("unet3d-cpu", tmp_path)
    assert [of.pace(name) for name in ("no-margin", "base", "chest")] == pytest.approx([0.25] * 3)
    assert len(called) == 3


def test_on_a_gpu_augmentation_is_not_in_the_pace(screening, tmp_path):
    same = {device: screening.Screening("unet3d", tmp_path, device).same_step("noise") for device in ("cpu", "cuda")}
    assert same == {"cpu": False, "cuda": True}


@pytest.mark.parametrize(
    ("config", "device", "steps"), [("unet3d", "cpu", 440), ("unet3d-cpu", "cuda", 440), ("unet3d-cpu", "cpu", 441)]
)
def test_scores_of_another_screening_do_not_stand_beside_these(screening, tmp_path, config, device, steps):
    for _ in range(2):
        screening.Screening("unet3d-cpu", tmp_path).require_same(440, None)
    with pytest.raises(SystemExit, match=r"is for .*'unet3d-cpu', 'device': 'cpu', 'steps': 440.* name another"):
        screening.Screening(config, tmp_path, device).require_same(steps, None)


def test_a_folder_of_an_older_script_is_refused(screening, tmp_path):
    (tmp_path / "fold1.jsonl").touch()
    with pytest.raises(SystemExit, match="an older screening"):
        screening.Screening("unet3d-cpu", tmp_path).require_same(440, None)


def test_the_commands_of_the_recipe_name_rows_and_folds_that_there_are(screening, part):
    text = (FOLDER.parent / "docs" / "recipe.md").read_text(encoding="utf-8").replace("\\\n", " ")
    commands = [line.partition("#")[0].split() for line in text.splitlines() if "screen_recipe.py DATA" in line]
    assert len(commands) >= 5
    for command in commands:
        option, given = "", {}
        for word in command[2:]:
            option = word if word.startswith("--") else option
            given.setdefault(option, []).append(word)
        config = given.get("--config", ["", "unet3d-cpu"])[1]
        for name in given.get("--rows", [])[1:]:
            assert name == "..." or screening.row_of(name, config)
        assert {*given.get("--folds", [])[1:]} <= {*part("recipe_scans").FOLDS}


def test_a_training_that_fails_is_told_and_ends_no_other(screening, trial, monkeypatch):
    monkeypatch.setenv("VERSE3D", f"{sys.executable} -c 'import sys; sys.exit(sys.argv[1])'")
    assert trial("base").failure(40) == "base-fold1-seed0 failed:\ntrain\n"
    save_scores(trial("base"), {"sub-verse006": 0.5})
    assert trial("base").failure(40) == ""


def test_the_table_has_means_over_seeds_and_how_far_the_seeds_differ(screening, trial, part):
    trials = [trial("base", fold, seed) for seed in (0, 1) for fold in ("1", "2")]
    for one in trials:
        dice = 0.7 + 0.1 * one.seed + 0.02 * int(one.fold)
        save_scores(one, dict.fromkeys(part("recipe_scans").FOLDS[one.fold], dice))
    row = screening.table(trials, {"base": 440}).splitlines()[-1]
    # Means of the seeds: 0.73 and 0.83.
    assert row == "| base | 440 | 0.770 (3.0) | 0.770 (3.0) | 0.790 (3.0) | 0.790 (3.0) | 0.780 | 0.071 |"


def test_what_was_not_scored_is_left_empty_in_the_table(screening, trial):
    trials = [trial("base", "sub-verse005"), trial("chest", "sub-verse007")]
    save_scores(trials[0], {"sub-verse005": 0.9})
    save_scores(trials[1], {"sub-verse007": 0.8})
    assert screening.table(trials, {"base": 90, "chest": 90}).splitlines()[-2:] == [
        "| base | 90 | 0.900 (3.0) |  | 0.900 |  |",
        "| chest | 90 |  | 0.800 (3.0) | 0.800 |  |",
    ]


def test_an_empty_mask_is_in_the_table(screening, trial, part):
    one = trial("chest")
    save_scores(one, dict.fromkeys(part("recipe_scans").FOLDS["1"], 0.0), hd95=None)
    assert (
        screening.table([one], {"chest": 9}).splitlines()[-1] == "| chest | 9 | 0.000 (nan) | 0.000 (nan) | 0.000 |  |"
    )
