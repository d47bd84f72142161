"""The command line: a thin, quick door; results on stdout, the rest on stderr, and exit codes that mean something."""

import inspect
import io
import json
import os
import re
import resource
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import get_args

import pytest
from rich.console import Console

import verse3d
from tests import scans
from tests.releases import released_paths, write_subject_based
from tests.scans import spine, tiny_config
from verse3d import api
from verse3d.cli import app, main
from verse3d.cli.tables import print_check
from verse3d.cli.terminal import LayoutName, ModeName, Partial, SchemeName, SplitName
from verse3d.core.errors import CheckpointError, ConfigError, DataError, OutputError, TrainingError
from verse3d.core.labels import label_scheme
from verse3d.data.cases import SPLITS, Case, CaseIndex, read_index, write_index
from verse3d.data.quality.checks import CaseFacts, CheckReport
from verse3d.data.quality.findings import Finding
from verse3d.model.modes import MODES

COMMANDS = (
    "prepare",
    "phantom",
    "download",
    "index",
    "check",
    "look",
    "stats",
    "relabel",
    "slices",
    "convert",
    "train",
    "predict",
    "evaluate",
    "compare",
    "export",
    "demo",
    "doctor",
)
ROOT = Path(verse3d.__file__).parents[1]


def python(code, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.run(
        [sys.executable, *code, *arguments], capture_output=True, text=True, env=environment, check=False, timeout=600
    )


HEAVY = "{'torch', 'monai', 'ignite', 'numpy', 'nibabel', 'scipy', 'matplotlib', 'yaml', 'tensorboard'}"


def test_help_and_version_load_neither_torch_nor_any_other_heavy_library():
    code = (
        "import sys\nfrom verse3d.cli import main\n"
        "for words in (['--help'], ['--version'], ['train', '--help'], ['predict', '--help']):\n"
        "    code = main(words)\n"
        "    print('verse3d', 'ended', flush=True)\n"
        f"    print(sorted({HEAVY} & set(sys.modules)), code, file=sys.stderr)"
    )
    result = python(["-c", code])
    assert result.stderr.strip().splitlines() == ["[] 0"] * 4
    *pages, nothing = result.stdout.split("verse3d ended\n")
    assert len(pages) == 4 and all("verse3d" in page for page in pages) and not nothing


def cpu_seconds():
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_help_answers_at_once():
    def seconds():
        start = cpu_seconds()
        result = python(["-m", "verse3d", "--help"])
        assert result.returncode == 0 and all(command in result.stdout for command in COMMANDS)
        return cpu_seconds() - start

    # The time of the processor, so that a busy machine does not count; once in three times will do.
    assert any(seconds() < 0.7 for _ in range(3))


def ended(main, before=""):
    """The program with another ``main``, its output read by a pipe."""
    return python(
        [
            "-c",
            f"import atexit, logging, os, sys, threading, time\nfrom verse3d import cli\n{before}\n{main}\ncli.run()",
        ]
    )


@pytest.mark.parametrize("code", [0, 3, 75, 130])
def test_a_program_that_ends_at_once_has_said_all_and_done_what_libraries_wanted_done(code):
    main = (
        "def main():\n"
        "    atexit.register(print, 'handler')\n"
        "    threading.Thread(target=lambda: (time.sleep(0.1), print('thread'))).start()\n"
        "    print('result')\n"
        "    print('complaint', file=sys.stderr)\n"
        f"    return {code}\n"
        "cli.main = main"
    )
    result = ended(main)
    assert (result.returncode, result.stdout, result.stderr) == (code, "result\nthread\nhandler\n", "complaint\n")


def test_a_program_that_ends_at_once_takes_nothing_apart():
    # Whatever lies in a module is otherwise deleted when Python ends.
    last = "class Last:\n    def __del__(self):\n        os.write(1, b'taken apart')\nlast = Last()"
    assert ended("cli.main = lambda: 0", last).stdout == ""


def test_an_error_that_nobody_expected_is_told_as_python_does():
    result = ended("cli.main = lambda: 1 / 0")
    assert result.returncode == 1 and result.stderr.rstrip().endswith("ZeroDivisionError: division by zero")


def test_a_program_whose_output_was_closed_from_the_beginning_ends_in_silence():
    program = "from verse3d import cli\ncli.main = lambda: print('result') or 3\ncli.run()"
    closing = ["sh", "-c", 'exec "$0" -c "$1" >&-', sys.executable, program]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    result = subprocess.run(closing, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert (result.returncode, result.stderr) == (3, "")


def test_output_that_cannot_be_written_is_told_at_the_end_too():
    # The reader goes before anything is written: all of it is still in Python's buffer when the program ends.
    program = (
        "import sys; from verse3d import cli\ncli.main = lambda: print('result') or 0\nsys.stdin.read()\ncli.run()"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": ""}
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    with subprocess.Popen([sys.executable, "-c", program], env=environment, text=True, **pipes) as run:
        run.stdout.close()
        run.stdin.close()
        said = run.stderr.read()
    assert run.returncode == 120 and "BrokenPipeError" in said


def test_completion_is_offered(capsys):
    assert main(["--help"]) == 0
    assert "--install-completion" in capsys.readouterr().out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_a_help_of_its_own(command, capsys):
    assert main([command, "--help"]) == 0
    assert getattr(api, command).__name__ in capsys.readouterr().out


def test_every_command_is_a_function_of_the_api_and_every_choice_is_known_there():
    assert sorted(command.callback.__name__ for command in app.registered_commands) == sorted(COMMANDS)
    assert set(get_args(ModeName)) == set(MODES)
    assert get_args(inspect.signature(api.predict).parameters["partial"].annotation) == get_args(Partial)
    assert get_args(SplitName) == SPLITS
    assert get_args(inspect.signature(api.convert).parameters["to"].annotation) == get_args(LayoutName)
    assert [label_scheme(name).name for name in get_args(SchemeName)] == ["binary", "vertebrae"]


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


@pytest.mark.usefixtures("as_for_users")
def test_train_predict_and_evaluate_work_hand_in_hand(data, tmp_path, tiny_yaml, capsys):
    run, masks, scores = tmp_path / "run", tmp_path / "masks", tmp_path / "scores.json"
    assert train(data, run, tiny_yaml, "--set", "optim.epochs=1") == 0
    shown = capsys.readouterr()
    assert re.search(rf"finished after epoch 1: best validation Dice 0\.\d+ at epoch 1, {run}/best\.pt\n", shown.out)
    assert "epoch 1: loss" in shown.err

    best = str(run / "best.pt")
    assert main(["predict", data, "--model", best, "--out", str(masks), "--device", "cpu", "--no-preview"]) == 0
    shown = capsys.readouterr()
    assert all(re.search(rf"^case{number} +written ", shown.out, re.MULTILINE) for number in range(4))
    assert f"4 written: {masks}\n" in shown.out and "case0_seg-vert_msk.nii.gz" in shown.err

    assert main(["evaluate", "--pred", str(masks), "--truth", data, "--out", str(scores)]) == 0
    shown = capsys.readouterr()
    assert "mean ± sd" in shown.out and str(scores) in shown.out
    assert len(json.loads(scores.read_text())["cases"]) == 4

    assert train(data, run, tiny_yaml) == 3
    assert "--resume" in capsys.readouterr().err
    assert train(data, run, tiny_yaml, "--resume", "--overwrite") == 2
    assert train(data, run, tiny_yaml, "--resume", "--max-epochs", "2") == 0
    assert "stopped as asked after epoch 2" in capsys.readouterr().out
    assert train(data, run, tiny_yaml, "--overwrite", "--max-epochs", "1") == 0


def test_a_training_interrupted_before_its_first_model_says_so_and_exits_with_130(
    data, tmp_path, tiny_yaml, capsys, monkeypatch
):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("verse3d.training.launch.training_step", interrupted)
    assert train(data, tmp_path / "run", tiny_yaml) == 130
    assert "interrupted in the first epoch: no best.pt yet" in capsys.readouterr().out
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
        arguments.append("--no-preview")  # drawing takes longer than the rest
        assert main([flag, *arguments] if flag else arguments) == 0
        shown = capsys.readouterr()
        assert re.search(r"^case0 +written ", shown.out, re.MULTILINE)
        assert ("case0_seg-vert_msk.nii.gz" in shown.out) == (flag == "-v")
        errors[flag] = shown.err
    assert errors["-q"] == "", "what is doubtful stands in the results"
    assert "INFO" in errors[None]


def test_names_with_brackets_and_colons_are_shown_as_they_are(tmp_path, capsys):
    model = str(scans.save_model(tmp_path / "best.pt", tiny_config()))
    name = "CT [bold]spine :bone:"
    spine().write(tmp_path / f"{name}.nii.gz")
    (tmp_path / "[red]bad.nii.gz").write_text("no scan")
    sources = [str(tmp_path / f"{name}.nii.gz"), str(tmp_path / "[red]bad.nii.gz")]
    assert main(["predict", *sources, "--model", model, "--out", str(tmp_path / "[red]out"), "--device", "cpu"]) == 3
    shown = capsys.readouterr()
    assert f"{name}  written" in shown.out and f": {tmp_path}/[red]out\n" in shown.out
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


def test_index_tells_what_of_the_release_is_missing_copied_or_damaged(tmp_path, capsys):
    paths = [pair for pair in released_paths() if pair[0].startswith("dataset-03test")]
    root = write_subject_based(tmp_path / "data", paths[:-2])
    shutil.copy(root / paths[0][0], root / "copy.nii.gz")
    (root / paths[1][0]).write_bytes(b"not a scan")
    (root / paths[2][1]).unlink()
    assert main(["index", str(root), "-o", str(tmp_path / "cases.jsonl"), "--test", "0.1"]) == 3
    shown = capsys.readouterr().out
    assert re.search(r"verse20test +71 +73 +71 +73 +2 +1 ", shown)
    assert re.search(r"verse20training +0 +61 +0 +61 +not found", shown)
    stems = [Path(image).name.removesuffix("_ct.nii.gz") for image, _ in paths]
    assert f"missing from verse20test: {stems[-2]} {stems[-1]}\n" in shown
    assert f"without mask in verse20test: {stems[2]}\n" in shown
    assert f"copy left out: {root}/copy.nii.gz (same grey values; kept {stems[0]})" in shown
    assert f"damaged: {stems[1]}: " in shown
    assert "layouts: VerSe subject-based 71" in shown


def test_index_names_ten_copies_and_counts_the_rest(tmp_path, capsys):
    root = write_subject_based(tmp_path / "data", released_paths()[:1])
    for number in range(14):
        shutil.copy(root / released_paths()[0][0], root / f"copy{number}.nii.gz")
    assert main(["index", str(root), "-o", str(tmp_path / "cases.jsonl")]) == 0
    shown = capsys.readouterr().out
    assert shown.count("copy left out: ") == 10
    assert "... 14 copies left out in all: the notes of the index name each of them" in shown
    (case,) = read_index(tmp_path / "cases.jsonl")
    assert len(case.notes) == 14


def test_index_makes_folds_applies_corrections_and_unpacks(tmp_path, capsys):
    root = write_subject_based(tmp_path / "data", released_paths()[:8])
    packed = shutil.make_archive(str(tmp_path / "zips" / "dataset-verse19training"), "zip", root)
    (tmp_path / "fixes.csv").write_text("case,action,value,note\nsub-verse004,exclude,,metal\n")
    out = str(tmp_path / "cases.jsonl")
    options = ["--folds", "2", "--overrides", str(tmp_path / "fixes.csv"), "--exclude-gl"]
    assert main(["index", packed, "-o", out, *options]) == 0
    assert "7 cases still lie in zips: unpack them with --unpack FOLDER" in capsys.readouterr().out
    assert main(["index", packed, "-o", out, *options, "--unpack", str(tmp_path / "unpacked")]) == 0
    shown = capsys.readouterr().out
    assert "files written, 0 kept" in shown
    assert re.search(r"folds: 0: [34] cases, 1: [34] cases", shown)
    assert {case.fold for case in read_index(Path(out))} == {0, 1}
    assert main(["index", packed, "-o", out, "--folds", "1"]) == 3
    assert "cannot make 1 fold of" in capsys.readouterr().err


def test_convert_tells_what_was_written_repaired_and_left_out(tmp_path, capsys):
    index = scans.write_dataset(tmp_path / "data")
    scans.write_nifti(index.cases[1].image, spine(1).hu, spine(1).geometry.affine, sform=0, qform=0)
    scans.write_nifti(index.cases[1].mask, spine(1).mask, spine(1).geometry.affine, sform=0, qform=0)
    index.cases[2].mask.write_bytes(b"no mask")
    write_index(tmp_path / "cases.jsonl", index)
    command = ["convert", str(tmp_path / "cases.jsonl"), "--out", str(tmp_path / "raw"), "--to"]
    assert main([*command, "nnunet", "--dataset-id", "7", "--name", "Spine", "--scheme", "binary", "--copy"]) == 3
    shown = capsys.readouterr().out
    assert "repaired case1: sform_code and qform_code are both 0" in shown
    assert "left out case2: cannot read" in shown
    assert f"3 of 4 cases written: {tmp_path}/raw/Dataset007_Spine/conversion.json" in shown
    assert main([*command, "nnunet", "--dataset-id", "7", "--name", "Spine"]) == 3
    assert "--overwrite" in capsys.readouterr().err
    index.cases[2].mask.unlink()
    index = CaseIndex(tuple(replace(case, mask=None) if case.case == "case2" else case for case in index))
    write_index(tmp_path / "cases.jsonl", index)
    assert main([*command, "nnunet", "--dataset-id", "7", "--name", "Spine", "--overwrite"]) == 0
    assert main([*command, "verse", "--name", "Spine"]) == 2


def test_phantom_prints_the_paths_of_its_scans(tmp_path, capsys, monkeypatch):
    def write(out, *, cases, on_case, **_):
        on_case("sub-verse900")
        return tuple(out / f"{number}_ct.nii.gz" for number in range(cases))

    monkeypatch.setattr("verse3d.api.obtaining.write_phantom", write)
    assert main(["phantom", str(tmp_path), "--cases", "2"]) == 0
    assert capsys.readouterr().out.splitlines() == [str(tmp_path / f"{number}_ct.nii.gz") for number in range(2)]


@pytest.fixture
def warned(tmp_path):
    """An index of a clean case and one with an empty mask."""
    cases = []
    for number in range(2):
        spine = scans.spine(number)
        ct, mask = tmp_path / f"case{number}_ct.nii.gz", tmp_path / f"case{number}_seg.nii.gz"
        spine.mask[:] *= 1 - number
        spine.write(ct, mask)
        cases.append(Case(f"case{number}", f"case{number}", ct, mask))
    write_index(tmp_path / "cases.jsonl", CaseIndex(tuple(cases)))
    return tmp_path / "cases.jsonl"


def test_check_is_strict_about_warnings_only_if_told(warned, capsys):
    assert main(["-q", "check", str(warned)]) == 0
    assert main(["-q", "check", str(warned), "--strict"]) == 3
    assert "warning [mask-empty] 1 case\n  case1: " in capsys.readouterr().out


def test_check_writes_its_findings_as_json(warned, tmp_path, capsys):
    assert main(["-q", "check", str(warned), "--json", str(tmp_path / "out" / "found.json"), "--no-cache"]) == 0
    content = json.loads((tmp_path / "out" / "found.json").read_text())
    assert content["cases"] == 2
    assert content["counts"] == {"error": 0, "warning": 1, "note": 0}
    assert [finding["code"] for finding in content["findings"]] == ["mask-empty"]
    assert not warned.with_name("cases.survey.jsonl").exists()


def test_check_keeps_what_it_measured_beside_the_index(warned, capsys):
    assert main(["-q", "check", str(warned), "--workers", "1"]) == 0
    first = capsys.readouterr().out
    assert len(warned.with_name("cases.survey.jsonl").read_text().splitlines()) == 2
    assert main(["-q", "check", str(warned)]) == 0
    assert capsys.readouterr().out == first


def test_check_says_what_it_repaired_and_what_not(tmp_path, capsys):
    spine = scans.spine()
    flipped = spine.geometry.affine.copy()
    flipped[:3, 3] += flipped[:3, 0] * (spine.geometry.shape[0] - 1)
    flipped[:3, 0] *= -1
    scans.write_nifti(tmp_path / "data/a.nii.gz", spine.hu, spine.geometry.affine)
    scans.write_nifti(tmp_path / "data/a_seg.nii.gz", spine.mask[::-1], flipped)
    assert main(["-q", "check", str(tmp_path / "data"), "--fixes", str(tmp_path / "fixed")]) == 3
    shown = capsys.readouterr().out
    assert f"written {tmp_path}/fixed/a_seg-vert_msk.nii.gz: axes AIR turned to PIR, exact" in shown
    assert (tmp_path / "fixed" / "fixes.csv").is_file()
    assert main(["-q", "check", str(tmp_path / "data"), "--fixes", str(tmp_path / "fixed")]) == 3
    assert "fixes.csv exists already" in capsys.readouterr().err


def test_findings_of_many_cases_are_cut_short_and_facts_shown_on_request():
    names = [f"case{number}" for number in range(60)]
    findings = tuple(Finding(name, "note", "scan-without-mask", f"no mask of {name}", "do") for name in names)
    report = CheckReport(tuple(CaseFacts(name, axes="PIR") for name in names), findings)
    few = CheckReport(report.facts[:50], findings[:50])

    def shown(report, **options):
        out = Console(file=io.StringIO(), width=200, soft_wrap=True, markup=False)
        print_check(out, report, **options)
        return out.file.getvalue()

    assert "note [scan-without-mask] 60 cases" in shown(report)
    assert "of case9" in shown(report) and "of case10" not in shown(report)
    assert "and 50 more" in shown(report) and shown(report).count("-> do") == 1
    assert "PIR" not in shown(report) and "PIR" in shown(report, facts=True) and "PIR" in shown(few)
    assert "of case49" in shown(few) and "more" not in shown(few)
    assert shown(report).rstrip().endswith("60 cases: 0 errors, 0 warnings, 60 notes")
    few = replace(report, facts=report.facts[:1], findings=report.findings[:1])
    assert shown(few).rstrip().endswith("1 case: 0 errors, 0 warnings, 1 note")


def test_the_jobs_about_data_load_neither_torch_nor_monai():
    jobs = ("check", "convert", "download", "index", "look", "phantom", "stats")
    code = (
        f"import sys, verse3d\nfor job in {jobs}:\n    getattr(verse3d, job)\n"
        "    print(*(f'{job} loads {name}' for name in ('torch', 'monai', 'ignite') if name in sys.modules), end='')"
    )
    assert python(["-c", code]).stdout == ""


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device that is always full is Linux's")
@pytest.mark.parametrize("arguments", [["--version"], ["predict", "--help"]], ids=" ".join)
def test_an_output_that_is_full_is_an_error_without_a_traceback(arguments):
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "verse3d", *arguments], check=False, stdout=full, stderr=subprocess.PIPE, text=True
        )
    assert done.returncode == 3
    assert done.stderr.startswith("error: no space left on the device\n") and "Traceback" not in done.stderr
