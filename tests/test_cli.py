"""The command line: a thin, quick door; results on stdout, the rest on stderr, and exit codes that mean something."""

import json
import os
import re
import resource
import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

import verse3d
from tests import scans
from tests.scans import spine, tiny_config
from verse3d import api
from verse3d.cli import app, main
from verse3d.cli.terminal import Mode, Plane, SchemeName, SplitName
from verse3d.core.config import PlaneName
from verse3d.core.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError
from verse3d.core.labels import label_scheme
from verse3d.data.cases import SPLITS, write_index
from verse3d.model.modes import MODES

COMMANDS = ("phantom", "index", "check", "train", "predict", "evaluate", "compare", "demo", "slices")
ROOT = Path(verse3d.__file__).parents[1]


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *code, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=60
    )


HEAVY = "{'torch', 'monai', 'ignite', 'numpy', 'nibabel', 'scipy', 'matplotlib', 'yaml', 'tensorboard'}"


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["train", "--help"], ["predict", "--help"]])
def test_help_and_version_load_neither_torch_nor_any_other_heavy_library(arguments):
    code = (
        "import sys\nfrom verse3d.cli import main\n"
        f"code = main({arguments!r})\n"
        f"print(sorted({HEAVY} & set(sys.modules)), code, file=sys.stderr)"
    )
    result = python(["-c", code])
    assert result.stderr.strip().splitlines()[-1] == "[] 0"
    assert "verse3d" in result.stdout


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_at_once():
    def seconds():
        start = cpu_seconds()
        result = python(["-m", "verse3d", "--help"])
        assert result.returncode == 0 and all(command in result.stdout for command in COMMANDS)
        return cpu_seconds() - start

    # The time of the processor, so that a busy machine does not count.
    assert min(seconds() for _ in range(3)) < 0.7


def test_completion_is_offered():
    result = python(["-m", "verse3d", "--help"])
    assert "--install-completion" in result.stdout


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_of_its_own(command, capsys):
    assert main([command, "--help"]) == 0
    assert getattr(api, command).__name__ in capsys.readouterr().out


def test_every_command_is_a_function_of_the_api_and_every_choice_is_known_there():
    assert sorted(command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)
    assert {mode.value for mode in Mode} == set(MODES)
    assert tuple(split.value for split in SplitName) == SPLITS
    assert tuple(plane.value for plane in Plane) == get_args(PlaneName)
    assert [label_scheme(name.value).name for name in SchemeName] == ["binary", "vertebrae"]


def test_the_version_is_that_of_the_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"verse3d {verse3d.__version__}\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong", hint="do this"), 2),
        (DataError("wrong", hint="do this"), 3),
        (OutputError("wrong", hint="do this"), 3),
        (CheckpointError("wrong", hint="do this"), 4),
        (TrainingError("wrong", hint="do this"), 1),
    ],
)
def test_every_kind_of_error_has_its_exit_code_and_is_told_on_stderr(monkeypatch, capsys, error, code):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(api, "check", fail)
    assert main(["-q", "check", "somewhere"]) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err == "error: wrong\n  hint: do this\n"


@pytest.mark.parametrize("command", ["check", "predict"])
def test_ctrl_c_exits_with_130(monkeypatch, command):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(api, command, interrupted)
    arguments = {"check": ["somewhere"], "predict": ["a.nii.gz", "--model", "m", "--out", "o"]}
    assert main([command, *arguments[command]]) == 130


@pytest.mark.parametrize(
    "arguments",
    [
        ["segment"],
        ["train", "--data", "a"],
        ["train", "--data", "a", "--out", "b", "--mode", "5d"],
        ["train", "--data", "a", "--out", "b", "--max-epochs", "0"],
        ["predict", "--out", "b"],
        ["evaluate", "--pred", "a", "--truth", "b", "--out", "c", "--split", "some"],
        ["phantom", "a", "--cases", "many"],
        ["-v", "-q", "check", "a"],
        ["index", "a", "-o", "b", "--assign", "case=somewhere"],
    ],
)
def test_wrong_usage_exits_with_2(arguments, capsys):
    assert main(arguments) == 2
    shown = capsys.readouterr()
    assert shown.out == "" and shown.err


@pytest.fixture
def data(tmp_path):
    """An index of four cases."""
    path = tmp_path / "cases.jsonl"
    write_index(path, scans.write_dataset(tmp_path / "data"))
    return str(path)


def train(data, out, tiny_yaml, *more):
    return main(["train", "--data", data, "--out", str(out), "--config", tiny_yaml, "--device", "cpu", *more])


def test_train_predict_and_evaluate_work_hand_in_hand(data, tmp_path, tiny_yaml, capsys):
    run, masks, scores = tmp_path / "run", tmp_path / "masks", tmp_path / "scores.json"
    assert train(data, run, tiny_yaml, "--set", "optim.epochs=1") == 0
    shown = capsys.readouterr()
    assert re.search(rf"finished after epoch 1: best validation Dice 0\.\d+ at epoch 1, {run}/best\.pt\n", shown.out)
    assert "epoch 1: loss" in shown.err

    best = str(run / "best.pt")
    assert main(["predict", data, "--model", best, "--out", str(masks), "--device", "cpu"]) == 0
    shown = capsys.readouterr()
    assert all(str(masks / f"case{number}_seg-vert_msk.nii.gz") in shown.out for number in range(4))
    assert "case0" in shown.err

    assert main(["evaluate", "--pred", str(masks), "--truth", data, "--out", str(scores)]) == 0
    shown = capsys.readouterr()
    assert "mean ± sd" in shown.out and str(scores) in shown.out
    assert len(json.loads(scores.read_text())["cases"]) == 4

    assert train(data, run, tiny_yaml) == 3
    assert "--resume" in capsys.readouterr().err
    assert train(data, run, tiny_yaml, "--resume", "--overwrite") == 2
    assert train(data, run, tiny_yaml, "--resume", "--max-epochs", "2") == 0
    assert "epochs after epoch 2" in capsys.readouterr().out
    assert train(data, run, tiny_yaml, "--overwrite", "--max-epochs", "1") == 0


def test_a_training_interrupted_before_its_first_model_says_so_and_exits_with_130(
    data, tmp_path, tiny_yaml, capsys, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("verse3d.training.engines.training_step", interrupted)
    assert train(data, tmp_path / "run", tiny_yaml) == 130
    assert "interrupted after epoch 0: no best.pt yet" in capsys.readouterr().out
    monkeypatch.undo()
    assert main(["train", "--data", data, "--out", str(tmp_path / "run"), "--resume", "--device", "cpu"]) == 0


def test_without_validation_no_dice_is_shown(data, tmp_path, tiny_yaml, capsys):
    rows = [json.loads(line) for line in Path(data).read_text().splitlines()]
    Path(data).write_text("".join(json.dumps({**row, "split": "train"}) + "\n" for row in rows))
    assert train(data, tmp_path / "run", tiny_yaml, "--set", "optim.epochs=1") == 0
    assert f"finished after epoch 1: {tmp_path / 'run' / 'best.pt'}\n" in capsys.readouterr().out


def test_quiet_shows_only_results_and_verbose_more_than_usual(data, tmp_path, capsys):
    model = str(scans.save_model(tmp_path / "best.pt", tiny_config()))
    errors = {}
    for flag in ("-q", None, "-v"):
        arguments = ["predict", data, "--model", model, "--out", str(tmp_path / f"out{flag}"), "--device", "cpu"]
        assert main([flag, *arguments] if flag else arguments) == 0
        shown = capsys.readouterr()
        assert "case0_seg-vert_msk.nii.gz" in shown.out
        errors[flag] = shown.err
    assert "INFO" not in errors["-q"] and "WARNING" in errors["-q"]
    assert "INFO" in errors[None]


def test_names_with_brackets_and_colons_are_shown_as_they_are(tmp_path, capsys):
    model = str(scans.save_model(tmp_path / "best.pt", tiny_config()))
    name = "CT [bold]spine :bone:"
    spine().write(tmp_path / f"{name}.nii.gz")
    (tmp_path / "[red]bad.nii.gz").write_text("no scan")
    sources = [str(tmp_path / f"{name}.nii.gz"), str(tmp_path / "[red]bad.nii.gz")]
    assert main(["predict", *sources, "--model", model, "--out", str(tmp_path / "[red]out"), "--device", "cpu"]) == 3
    shown = capsys.readouterr()
    assert f"{tmp_path}/[red]out/{name}_seg-vert_msk.nii.gz" in shown.out
    assert "[red]bad" in shown.out and "[red]bad" in shown.err


def test_index_and_check_show_what_was_found(tmp_path, capsys):
    scans.write_dataset(tmp_path / "data")
    listed = tmp_path / "cases.jsonl"
    assert main(["index", str(tmp_path / "data"), "-o", str(listed), "--assign", "case2=test", "--seed", "1"]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"test\W+1\W+1\W+1", shown) and listed.is_file()
    assert main(["check", str(listed)]) == 0
    shown = capsys.readouterr().out
    assert "T12-L2" in shown and "PIR" in shown and "4 cases: 0 errors" in shown
    (tmp_path / "data" / "case0_ct.nii.gz").write_text("no scan")
    assert main(["check", str(listed)]) == 3
    assert "[scan-unreadable]" in capsys.readouterr().out


def test_phantom_prints_the_paths_of_its_scans(tmp_path, capsys, monkeypatch):
    def write(out, *, cases, on_case, **_):
        on_case("sub-verse900")
        return tuple(out / f"{number}_ct.nii.gz" for number in range(cases))

    monkeypatch.setattr("verse3d.api.data.write_phantom", write)
    assert main(["phantom", str(tmp_path), "--cases", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"{number}_ct.nii.gz") for number in range(2)]


def test_slices_are_written_kept_and_counted_and_a_bad_case_is_listed(dataset, tmp_path, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    arguments = ["slices", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "out"), "--workers", "1"]
    small = [
        "--plane",
        "axial",
        "--size",
        "24",
        "--only-labelled",
        "--set",
        "grid.spacing_mm=6",
        "labels.scheme=binary",
    ]
    assert main([*arguments, *small]) == 0
    printed = capsys.readouterr().out
    assert printed.count("│ written") == 4
    found = len(list((tmp_path / "out").rglob("axial_*_mask.png")))
    assert f"{found} slices in" in printed and found > 4
    assert main([*arguments, *small]) == 0
    assert capsys.readouterr().out.count("│ kept") == 4

    (tmp_path / "cases.jsonl").write_text((tmp_path / "cases.jsonl").read_text().replace("case1_ct", "case9_ct"))
    assert main([*arguments, *small]) == 3
    printed = capsys.readouterr().out
    assert "case1 has no slices:" in printed and "case9_ct.nii.gz does not exist" in printed
    assert printed.count("│ kept") == 3


def test_slices_with_settings_that_do_not_exist_are_refused(dataset, tmp_path, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    arguments = ["slices", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "out")]
    assert main([*arguments, "--plane", "oblique"]) == 2
    assert main([*arguments, "--set", "slices.plan=axial"]) == 2
    assert "did you mean 'plane'?" in capsys.readouterr().err
    assert main([*arguments, "--split", "test"]) == 3
    assert "no case of the test split" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_config_says_which_mode_is_meant_and_a_wrong_mode_is_refused(dataset, tmp_path, capsys):
    write_index(tmp_path / "cases.jsonl", dataset)
    (tmp_path / "tiny2d.yaml").write_text(tiny_config("2d", optim={"epochs": 1}).to_yaml())
    arguments = ["train", "--data", str(tmp_path / "cases.jsonl"), "--config", str(tmp_path / "tiny2d.yaml")]
    out = ["--out", str(tmp_path / "run"), "--device", "cpu"]
    assert main([*arguments, *out, "--mode", "3d"]) == 2
    assert "the config is for --mode 2d, not 3d" in capsys.readouterr().err
    assert main([*arguments, *out]) == 0
    again = ["train", "--data", str(tmp_path / "cases.jsonl"), *out, "--resume"]
    assert main([*again, "--mode", "3d"]) == 2
    assert "run is a run of --mode 2d, not 3d" in capsys.readouterr().err
    assert main(again) == 0


def test_an_index_whose_cases_moved_is_refused_with_the_paths_and_what_to_do(tmp_path, capsys):
    index = scans.write_dataset(tmp_path / "data")
    write_index(tmp_path / "cases.jsonl", index)
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    for command in (["train", "--data"], ["slices"]):
        arguments = [*command, str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / command[0])]
        assert main([*arguments, *(["--device", "cpu"] if command[0] == "train" else ["--workers", "1"])]) == 3
        printed = "".join(capsys.readouterr())
        assert "case0_ct.nii.gz does not exist" in printed and "make the index again" in printed
    assert not (tmp_path / "train" / "last.pt").exists()
