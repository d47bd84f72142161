"""The command line as a terminal shows it: order, help, tables, JSON, old flags, and what is said when it ends."""

import inspect
import io
import json
import math
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import requests
import typer
from rich.console import Console

import verse3d
from tests import scans
from tests.scans import spine, tiny_config, write_nifti
from verse3d import api
from verse3d.api import progress
from verse3d.api.folds import FoldsResult, train_folds
from verse3d.api.journey import DemoResult
from verse3d.api.statistics import StatsResult
from verse3d.cli import app, main, program, score_tables, tables, terminal
from verse3d.cli.json_output import print_json
from verse3d.cli.program import PANELS, as_typed_today
from verse3d.core.errors import ConfigError
from verse3d.core.paths import TEMPORARY_PREFIX
from verse3d.data.cases import Case, CaseIndex
from verse3d.downloads import job
from verse3d.downloads.transfer import NO_NETWORK, Patience
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.inference.records import PredictionRecord, PredictionReport
from verse3d.report.dataset_stats import SplitSummary
from verse3d.training.fit import FitResult

COMMANDS = typer.main.get_command(app).commands


@pytest.fixture
def model(tmp_path, monkeypatch):
    """A network that labels what is bright."""
    scans.use_threshold_network(monkeypatch)
    return scans.save_model(tmp_path / "best.pt", tiny_config())


def test_commands_stand_in_the_order_of_use_and_in_groups(capsys):
    assert main(["-h"]) == 0
    shown = capsys.readouterr().out
    listed = [name for names in PANELS.values() for name in names if name in COMMANDS]
    assert set(listed) == set(COMMANDS), "every command belongs to a group"
    assert re.findall(r"^│ ([a-z]+) ", shown, flags=re.MULTILINE) == listed
    assert [panel for panel in PANELS if f"─ {panel} ─" in shown] == list(PANELS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_short_help_without_types_of_flags(command, capsys):
    assert main([command, "-h"]) == 0
    shown = capsys.readouterr().out
    assert "<bool>" not in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_flags_are_named_like_the_arguments_of_the_function():
    for name, command in COMMANDS.items():
        theirs = set(inspect.signature(getattr(api, name)).parameters)
        for parameter in command.params:
            flag = next((text for text in parameter.opts if text.startswith("--")), "")
            argument = flag.removeprefix("--").replace("-", "_") if flag else parameter.name
            known = {argument, argument.removeprefix("no_"), f"{argument}_model"} & theirs
            only_here = {"set", "help", "folds", "print", "json", "facts", "strict", "missing", "list", "prune", "copy"}
            assert known or argument in only_here, f"{name} {flag or argument}"


@pytest.mark.parametrize(
    ("typed", "today"),
    [
        (["predict", "a", "-v"], ["-v", "predict", "a"]),
        (["-q", "check", "x", "--verbose"], ["-q", "--verbose", "check", "x"]),
        (["predict", "--num-parts=2", "--no-skip"], ["predict", "--parts=2", "--no-skip-air"]),
        (["index", "d", "--output", "c.jsonl"], ["index", "d", "--out", "c.jsonl"]),
        (["look", "--", "-v", "--output"], ["look", "--", "-v", "--output"]),
        (["look", "-o", "a.png", "--level=-v"], ["look", "-o", "a.png", "--level=-v"]),
        ([], []),
    ],
)
def test_loudness_may_stand_anywhere_and_old_flags_go_on_working(typed, today):
    assert as_typed_today(typed) == today


def test_loudness_behind_the_command_counts(monkeypatch, tmp_path, capsys):
    spine().write(tmp_path / "in" / "a.nii.gz")
    assert main(["check", str(tmp_path / "in"), "-q"]) == 0
    assert capsys.readouterr().err == ""
    assert main(["check", str(tmp_path / "in"), "-q", "-v"]) == 2


def test_every_old_flag_stands_for_one_that_exists():
    known = {text for command in COMMANDS.values() for parameter in command.params for text in parameter.opts}
    assert set(program.OLD_FLAGS.values()) <= known
    assert not set(program.OLD_FLAGS) & known


class TestPredict:
    def test_shows_what_was_found_and_a_picture_and_keeps_memory_for_verbose(self, tmp_path, model, capsys):
        spine().write(tmp_path / "a.nii.gz")
        words = ["predict", str(tmp_path / "a.nii.gz"), "--model", str(model), "--device", "cpu"]
        assert main([*words, "--out", str(tmp_path / "out")]) == 0
        shown = capsys.readouterr().out
        assert re.search(r"^case +status +vertebrae +volume ml +warnings *$", shown, re.MULTILINE)
        assert re.search(r"^a +written +not told apart +[1-9]\d* *$", shown, re.MULTILINE)
        assert "MB" not in shown and shown.endswith(f"1 written: {tmp_path / 'out'}\n")
        picture = tmp_path / "out" / "previews" / "a.png"
        assert picture.read_bytes().startswith(b"\x89PNG")
        assert main([*words, "--out", str(tmp_path / "b"), "-v", "--no-preview"]) == 0
        assert "peak MB" in capsys.readouterr().out
        assert not (tmp_path / "b" / "previews").exists()

    def test_says_what_failed_once_and_what_is_doubtful_once(self, tmp_path, model, capsys):
        hu = spine()
        write_nifti(tmp_path / "in" / "a.nii.gz", hu.hu + 1024, hu.geometry.affine)
        (tmp_path / "in" / "b.nii.gz").write_bytes(b"no scan")
        words = ["predict", str(tmp_path / "in"), "--model", str(model), "--out", str(tmp_path / "out")]
        assert main([*words, "--device", "cpu", "--no-preview"]) == 3
        shown = capsys.readouterr()
        both = shown.out + shown.err
        assert both.count("cannot read") == 1 and both.count("looks like HU + 1024") == 1
        assert "1 written, 1 failed" in shown.out

    def test_prints_records_as_json(self, tmp_path, model, capsys):
        spine().write(tmp_path / "a.nii.gz")
        words = ["predict", str(tmp_path / "a.nii.gz"), "--model", str(model), "--out", str(tmp_path / "out"), "--json"]
        assert main([*words, "--no-preview", "--device", "cpu"]) == 0
        [record] = json.loads(capsys.readouterr().out)
        assert record["status"] == "written" and record["labelled_ml"] > 0

    def test_says_of_kept_masks_what_is_in_them(self, tmp_path, model, capsys):
        spine().write(tmp_path / "a.nii.gz")
        words = ["predict", str(tmp_path / "a.nii.gz"), "--model", str(model), "--out", str(tmp_path / "out")]
        rows = []
        for _ in range(2):
            assert main([*words, "--no-preview", "--device", "cpu"]) == 0
            rows.append(capsys.readouterr().out.splitlines()[1].split())
        assert [row[1] for row in rows] == ["written", "skipped"]
        assert rows[1][2:6] == rows[0][2:6] and float(rows[1][5]) > 0

    def test_a_mask_without_a_preview_is_no_failure(self, tmp_path, model, monkeypatch):
        spine().write(tmp_path / "a.nii.gz")

        def refuse(*_, **__):
            raise ConfigError("no")

        monkeypatch.setattr(api, "look", refuse)
        report = verse3d.predict(tmp_path / "a.nii.gz", model=model, out=tmp_path / "out", preview=True, device="cpu")
        assert not report.failures

    def test_what_a_killed_call_left_among_the_previews_is_removed_by_the_next(self, tmp_path, model):
        spine().write(tmp_path / "a.nii.gz")
        left = tmp_path / "out" / "previews" / f"{TEMPORARY_PREFIX}{2**22 + 1}-a.png"  # no process has such a number
        left.parent.mkdir(parents=True)
        left.write_bytes(b"half a picture")
        verse3d.predict(tmp_path / "a.nii.gz", model=model, out=tmp_path / "out", device="cpu")
        assert not left.exists()

    def test_counts_and_names_vertebrae(self, tmp_path, capsys):
        def record(case, *levels):
            return PredictionRecord(case, "", f"{case}.nii.gz", "written", levels=levels, labelled_ml=12.6)

        records = (record("a", "T12", "L1", "L2"), record("b", "L5"), record("c"), record("d", "vertebrae"))
        tables.print_predictions(terminal.out_console, PredictionReport(tmp_path, records))
        rows = [line.split("written") for line in capsys.readouterr().out.splitlines()[1:5]]
        assert [found.split("13")[0].strip() for _, found in rows] == ["3: T12 to L2", "L5", "none", "not told apart"]


def test_other_results_are_json_on_request(tmp_path, capsys):
    spine().write(tmp_path / "in" / "a.nii.gz", tmp_path / "in" / "a_seg.nii.gz")
    index = str(tmp_path / "cases.jsonl")
    assert main(["index", str(tmp_path / "in"), "-o", index, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"]["cases"][0]["case"] == "a"
    assert main(["check", index, "--json", "-"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"] == 1
    assert main(["convert", index, "--to", "verse", "--out", str(tmp_path / "v"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["cases"][0]["status"] == "written"
    assert main(["prepare", index, "--set", "grid.spacing_mm=4", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["made"] == ["a"]
    assert main(["prepare", index, "--list", "--json"]) == 0
    [entry] = json.loads(capsys.readouterr().out)
    assert (entry["case"], entry["state"], entry["spacing_mm"]) == ("a", "current", [4.0, 4.0, 4.0])


def test_a_training_tells_as_json_how_it_stands(monkeypatch, capsys):
    run = FitResult(Path("r"), Path("r/best.pt"), 2, 0.5, 1, "finished", (("a", "torn"),))
    monkeypatch.setattr(api, "train", lambda **_: run)
    assert main(["train", "--data", "d", "--out", "r", "--json"]) == 3
    told = json.loads(capsys.readouterr().out)
    assert (told["best"], told["best_dice"], told["failures"]) == ("r/best.pt", 0.5, [["a", "torn"]])
    asked = []
    folds = FoldsResult(Path("r"), {0: run, 1: run}, 2)
    monkeypatch.setattr(api, "train_folds", lambda **options: asked.append(options) or folds)
    assert main(["train", "--data", "d", "--out", "r", "--folds", "--from", "starter", "--json"]) == 3
    assert list(json.loads(capsys.readouterr().out)["folds"]) == ["0", "1"]
    # What the command passes on, the function knows.
    assert asked[0].keys() <= inspect.signature(train_folds).parameters.keys()


def test_the_demo_tells_as_json_where_everything_lies(monkeypatch, capsys):
    result = DemoResult(None, None, None, None, None, Path("o.png"), Path("index.html"), Path("l.txt"), "snap", "board")
    monkeypatch.setattr(api, "demo", lambda **_: result)
    assert main(["demo", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["page"] == "index.html"


def test_what_is_undefined_is_null_and_what_is_no_json_is_text(capsys):
    print_json(terminal.out_console, {"a": float("nan"), "b": (np.float64(2), {3}), 4: None})
    assert json.loads(capsys.readouterr().out) == {"a": None, "b": [2.0, [3]], "4": None}


def test_a_mistake_in_set_is_blamed_on_the_command_line(tmp_path, capsys, tiny_yaml):
    words = ["train", "--data", str(tmp_path), "--out", str(tmp_path / "r"), "--config", tiny_yaml]
    assert main([*words, "--set", "optim.lrr=3"]) == 2
    assert capsys.readouterr().err.strip().startswith("error: --set has 1 problem")


@pytest.mark.parametrize(("command", "words"), [("predict", "masks that are written"), ("evaluate", "half-written")])
def test_ctrl_c_says_what_is_done_and_how_to_go_on(monkeypatch, capsys, command, words):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, command, interrupted)
    arguments = {"predict": ["a.nii"], "evaluate": ["--pred", "p", "--truth", "t"]}[command]
    assert main([command, *arguments, "--out", "o"]) == 130
    told = capsys.readouterr().err.strip()
    assert told.startswith("interrupted: ") and words in told


def test_a_download_without_a_network_fails_in_two_lines(tmp_path, monkeypatch, capsys):
    def refuse(*_, **__):
        raise requests.exceptions.ConnectionError("Failed to resolve 'somewhere'")

    monkeypatch.setattr(requests.Session, "request", refuse)
    monkeypatch.setattr(requests.Session, "get", refuse)
    monkeypatch.setattr(job, "Patience", lambda: Patience(sleep=lambda _: None))
    assert main(["download", "--out", str(tmp_path), "--years", "19", "--splits", "training", "-q"]) == 3
    told = capsys.readouterr()
    assert len(told.err.splitlines()) == 2 and "without a network" in told.err and not told.out
    assert NO_NETWORK not in told.err


@pytest.fixture
def narrow(monkeypatch):
    """A terminal of 80 characters that keeps what is shown."""
    shown = Console(file=io.StringIO(), force_terminal=True, color_system=None, width=80)
    monkeypatch.setattr(tables, "out_console", shown)
    return shown


def words_of(shown):
    """What stands in the cells, line by line: a word that was cut in two is no word of it."""
    return set(re.findall(r"[^\s│┃]+", shown.file.getvalue()))


def test_the_summary_of_a_data_set_fits_a_terminal_of_80_characters(narrow):
    splits = ("train", "validation", "test", "no split", "all")
    summary = tuple(SplitSummary(split, 141, 120, 141, 1500, "C1-L6", 0.98, 2.5, 358.0, math.nan) for split in splits)
    tables.print_stats(narrow, StatsResult(Path("stats.csv"), (), summary, ()))
    assert {"through-plane", "validation", "vertebrae", "subjects", "C1-L6", "358"} <= words_of(narrow)


def test_scores_fit_a_terminal_of_80_characters_and_tell_undefined_ones_by_count(narrow, tmp_path):
    index = []
    for number in range(2):
        ct, mask = tmp_path / f"sub-verse50{number}_ct.nii.gz", tmp_path / f"sub-verse50{number}_msk.nii.gz"
        spine(number).write(ct, mask)
        index.append(Case(f"sub-verse50{number}", f"s{number}", ct, mask))
        found = spine(number).mask * (number == 0)  # of the second nothing was found
        write_nifti(tmp_path / f"sub-verse50{number}_seg-vert_msk.nii.gz", found, scans.PIR.affine)
    result = evaluate_folder(tmp_path, CaseIndex(tuple(index)), tmp_path / "s.json", scheme="binary")
    score_tables.print_scores(narrow, replace(result, notes=("best.pt was trained on sub-verse500",)))
    assert {"sub-verse500", "vertebrae", "undefined", "difference", "mean", "sd", "0.707"} <= words_of(narrow)
    shown = narrow.file.getvalue()
    assert re.search(r"undefined +│ vertebrae │ 0 +│ 1 +│ 1 +│ 0", shown)
    assert "note: best.pt was trained on sub-verse500" in shown


def test_bars_that_are_switched_off_draw_nothing_at_all(monkeypatch):
    """Some versions of Rich end even those with an empty line."""
    monkeypatch.setattr(progress, "Bars", None)
    console = Console(file=io.StringIO())
    with progress.progress_bars(console, enabled=False) as show:
        show("cases", 1, 2)
    assert console.file.getvalue() == ""
