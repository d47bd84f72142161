"""Recipes are screened with settings that exist, one budget, and scores of subjects that were not learnt from."""

import importlib
import itertools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from verse3d.core.config import load_config

FOLDER = Path(__file__).parents[1] / "scripts"
SUBJECTS = ["sub-verse005", "sub-verse006", "sub-verse007", "sub-verse008"]


@pytest.fixture
def screening(monkeypatch):
    monkeypatch.syspath_prepend(FOLDER)
    return importlib.import_module("screen_recipe")


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


def test_every_row_but_base_changes_something_that_can_be_set(screening, tmp_path):
    trainings = {
        name: [word for command in screening.Trial(name, 1, 0, tmp_path).trainings(440) for word in command[1:]]
        for name in screening.ROWS
    }
    for name, row in screening.ROWS.items():
        changed = load_config("unet3d-cpu", row.settings) != load_config("unet3d-cpu")
        assert changed or row.also or row.first or name == "base"
    unlike_base = {" ".join(words).replace(f"{name}-fold1", "base-fold1") for name, words in trainings.items()}
    assert len(unlike_base) == len(screening.ROWS)


@pytest.mark.parametrize("steps", [440, 333])
def test_a_row_that_begins_with_synthetic_scans_has_no_more_steps_than_the_others(screening, tmp_path, steps):
    for name in screening.ROWS:
        commands = screening.Trial(name, 2, 1, tmp_path).trainings(steps)
        assert len(commands) == (2 if screening.ROWS[name].first else 1)
        assert steps - 20 < sum(map(steps_of, commands)) <= steps


def test_a_training_after_a_first_one_starts_from_its_weights(screening, tmp_path):
    first, second = filter(is_training, screening.Trial("first-drawn", 2, 1, tmp_path).commands(90))
    assert options_of(second)["--from"] == options_of(first)["--out"]
    assert options_of(first)["--data"] == [str(tmp_path / "drawn.jsonl")]
    assert options_of(second)["--data"] == [str(tmp_path / "fold2.jsonl")]
    assert "--from" not in options_of(first)


def test_no_subject_is_learnt_from_and_scored_and_each_is_scored_once(screening):
    real = [{"case": case, "subject": case, "split": "train"} for case in [*SUBJECTS, "chest_ct", "example_ct"]]
    scored = []
    for fold in screening.FOLDS:
        cases = screening.experts_of(fold, real)
        assert [case["case"] for case in cases] == SUBJECTS
        held_out = {case["case"] for case in cases if case["split"] == "test"}
        assert {case["subject"] for case in screening.again(cases)} == {*SUBJECTS} - held_out
        scored += held_out
    assert sorted(scored) == SUBJECTS


def test_a_budget_of_seconds_is_as_many_steps_as_take_that_long(screening, tmp_path):
    (tmp_path / "pace.json").write_text(json.dumps({"base": 0.5, "batch-2": 0.25}), encoding="utf-8")
    of_seconds = SimpleNamespace(steps=None, seconds=100.0, work=tmp_path)
    of_steps = SimpleNamespace(steps=300, seconds=None, work=tmp_path)
    assert [screening.budget_of(name, of_seconds) for name in ("base", "chest", "batch-2")] == [200, 200, 400]
    assert [screening.budget_of(name, of_steps) for name in ("base", "chest", "batch-2")] == [300, 300, 600]


def test_what_a_step_takes_is_the_slope_between_two_trainings_and_measured_once(screening, tmp_path, monkeypatch):
    called = []

    def take(command):
        called.append(steps_of(command))
        return 7.0 + 0.25 * called[-1] + (5.0 if len(called) == 1 else 0.0)  # 5 s to prepare the cases

    monkeypatch.setattr(screening, "timed", take)
    assert [screening.pace(name, tmp_path) for name in ("no-margin", "base", "chest")] == pytest.approx([0.25] * 3)
    assert len(called) == 3


def test_the_table_has_means_over_seeds_and_how_far_the_seeds_differ(screening, tmp_path):
    trials = [screening.Trial("base", fold, seed, tmp_path) for seed in (0, 1) for fold in (1, 2)]
    for trial in trials:
        save_scores(trial, dict.fromkeys(screening.FOLDS[trial.fold], 0.7 + 0.1 * trial.seed + 0.02 * trial.fold))
    row = screening.table(trials, {"base": 440}).splitlines()[-1]
    # Means of the seeds: 0.73 and 0.83.
    assert row == "| base | 440 | 0.770 (3.0) | 0.770 (3.0) | 0.790 (3.0) | 0.790 (3.0) | 0.780 | 0.071 |"


def test_an_empty_mask_is_in_the_table(screening, tmp_path):
    trial = screening.Trial("chest", 1, 0, tmp_path)
    save_scores(trial, dict.fromkeys(screening.FOLDS[1], 0.0), hd95=None)
    assert (
        screening.table([trial], {"chest": 9}).splitlines()[-1]
        == "| chest | 9 | 0.000 (nan) | 0.000 (nan) | 0.000 |  |"
    )
