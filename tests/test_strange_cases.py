"""A case with a strange name, path or correction fails by itself: every command does the others and lists it."""

import json
import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

import verse3d
from tests.scans import save_model, tiny_config, write_dataset
from verse3d.cli import main
from verse3d.data.cases import CaseIndex, read_index, write_index
from verse3d.data.quality.checks import check_cases

LONG = "n" * 300
STRANGE = {
    "a path with NUL": lambda case: replace(case, image=Path("a\0b_ct.nii.gz"), mask=Path("a\0b_msk.nii.gz")),
    "a path with half a surrogate pair": lambda case: replace(case, image=Path("a\ud800_ct.nii.gz")),
    "a path that is too long": lambda case: replace(
        case, image=Path(f"/{LONG}_ct.nii.gz"), mask=Path(f"/{LONG}.nii.gz")
    ),
    "a folder that is too long": lambda case: replace(case, mask=Path(f"/{LONG}/a_msk.nii.gz")),
    "a path that leads in a circle": lambda case: replace(case, mask=case.mask.with_name("circle.nii.gz")),
    "a negative correction": lambda case: replace(case, relabel=((20, -1),)),
    "a correction to a large id": lambda case: replace(case, relabel=((20, 300),)),
    "a correction of a huge id": lambda case: replace(case, relabel=((2**63, 20),)),
}


GOOD = ("case1", "case2", "case3")


@pytest.fixture
def data(tmp_path):
    """A training case for every way to be strange, named after it, two good ones, and one to validate."""
    first, *good = write_dataset(tmp_path / "data")
    (tmp_path / "data" / "circle.nii.gz").symlink_to("circle.nii.gz")
    strange = [make(replace(first, case=name, subject=name)) for name, make in STRANGE.items()]
    write_index(tmp_path / "cases.jsonl", CaseIndex((*strange, *good)))
    return tmp_path / "cases.jsonl"


@pytest.fixture
def tiny(tmp_path):
    (tmp_path / "tiny.yaml").write_text(tiny_config(optim={"epochs": 1}).to_yaml())
    return str(tmp_path / "tiny.yaml")


def test_the_index_of_strange_cases_is_read_as_it_was_written(data):
    before = read_index(data)
    write_index(data, before)
    assert read_index(data) == before
    assert before.cases[0].image.name == "a\0b_ct.nii.gz"


def test_check_lists_them_and_reads_the_others(data, capsys):
    report = check_cases(read_index(data))
    assert [fact.case for fact in report.facts] == [*STRANGE, *GOOD]
    assert {finding.case for finding in report.findings if finding.severity == "error"} == set(STRANGE)
    assert not [finding for finding in report.findings if finding.code == "case-failed"]
    assert main(["-q", "check", str(data)]) == 3


def test_stats_counts_the_others(data, tmp_path):
    assert main(["-q", "stats", str(data), "--out", str(tmp_path / "stats")]) in (0, 3)
    assert (tmp_path / "stats" / "stats.csv").is_file()


def test_training_leaves_them_out(data, tmp_path, tiny):
    code = main(["-q", "train", "--data", str(data), "--config", tiny, "--out", str(tmp_path / "run")])
    assert code == 3  # done, but not with all that was asked for
    assert (tmp_path / "run" / "best.pt").is_file()
    log = (tmp_path / "run" / "log.txt").read_text()
    assert [name for name in STRANGE if f"{name} is left out: " not in log] == []
    # Three corrections turn out to be impossible when the masks are read, by another process or this one.
    assert re.search(r"cases: [2-5] for training", log)


def test_training_on_nothing_else_is_an_error_that_lists_them(data, tmp_path, tiny, capsys):
    write_index(data, CaseIndex(read_index(data).cases[: len(STRANGE)]))
    assert main(["-q", "train", "--data", str(data), "--config", tiny, "--out", str(tmp_path / "run")]) == 3
    told = capsys.readouterr().err
    assert "no training case can be used" in told and all(name in told for name in STRANGE)


def test_predicting_writes_the_masks_of_the_others(data, tmp_path):
    save_model(tmp_path / "best.pt", tiny_config())
    long = replace(read_index(data).cases[-1], case=LONG, subject=LONG)
    write_index(data, CaseIndex((*read_index(data), long)))
    options = ["--model", str(tmp_path / "best.pt"), "--out", str(tmp_path / "pred"), "--no-preview"]
    assert main(["-q", "predict", str(data), *options]) == 3
    without_scan = {
        name for name in STRANGE if "correction" not in name and "folder" not in name and "circle" not in name
    }
    records = json.loads((tmp_path / "pred" / "predictions.json").read_text())["cases"]
    assert {each["case"] for each in records if each["status"] == "failed"} == without_scan | {LONG}
    assert {each["case"] for each in records if each["status"] == "written"} == {*STRANGE, *GOOD} - without_scan


def test_scoring_lists_them(data, tmp_path):
    index = read_index(data)
    (tmp_path / "pred").mkdir()
    for case in index:
        true = case.mask if case.case in GOOD else tmp_path / "data" / "case0_seg-vert_msk.nii.gz"
        (tmp_path / "pred" / f"{case.case}_seg-vert_msk.nii.gz").write_bytes(true.read_bytes())
    write_index(data, CaseIndex((*index, replace(index.cases[-1], case=LONG, subject=LONG))))
    arguments = ["--pred", str(tmp_path / "pred"), "--truth", str(data), "--out", str(tmp_path / "scores.json")]
    assert main(["-q", "evaluate", *arguments]) == 3
    scores = json.loads((tmp_path / "scores.json").read_text())
    with_a_mask = {"a path with half a surrogate pair"}
    assert {each["case"] for each in scores["cases"]} == {*GOOD, *with_a_mask}
    assert {each["case"] for each in scores["failures"]} == set(STRANGE) - with_a_mask


@pytest.mark.parametrize("to", ["nnunet", "verse"])
def test_converting_leaves_them_out(data, tmp_path, to):
    assert main(["-q", "convert", str(data), "--to", to, "--out", str(tmp_path / "out")]) == 3
    manifest = next((tmp_path / "out").rglob("conversion.json"))
    status = {each["case"]: each["status"] for each in json.loads(manifest.read_text())["cases"]}
    assert {name for name, how in status.items() if how == "left out"} == set(STRANGE)


def test_slices_of_the_others_are_cut(data, tmp_path):
    (tmp_path / "tiny.yaml").write_text(tiny_config("2d").to_yaml())
    arguments = ["--config", str(tmp_path / "tiny.yaml"), "--out", str(tmp_path / "slices"), "--workers", "1"]
    assert main(["-q", "slices", str(data), *arguments]) == 3
    assert {path.parent.name for path in (tmp_path / "slices").rglob("slices.json")} == set(GOOD)


def test_a_terminal_that_knows_ascii_only_gets_other_names_escaped(tmp_path):
    first, *_ = write_dataset(tmp_path / "data")
    write_index(tmp_path / "cases.jsonl", CaseIndex((replace(first, case="gr\u00fcn\udcff", subject="s"),)))
    root = Path(verse3d.__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": str(root), "LANG": "C", "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = ["look", "grün\udcff", "--data", "cases.jsonl", "-o", "look.png"]
    done = subprocess.run(
        [sys.executable, "-m", "verse3d", *command], cwd=tmp_path, env=environment, capture_output=True, check=False
    )
    assert b"Traceback" not in done.stdout + done.stderr, done.stderr.decode(errors="replace")
    assert done.returncode in (0, 3)
