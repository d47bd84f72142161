"""Predictions by a program of their own: what is missing is made, what is there is kept, what kills it is named."""

import json
from pathlib import Path

import pytest

from tests import scans
from tests.scans import spine, tiny_config
from verse3d.api import programs
from verse3d.cli import main
from verse3d.core.errors import DataError, Verse3dError
from verse3d.core.files import sha256_of
from verse3d.data.cases import Case
from verse3d.data.predictions import mask_path
from verse3d.evaluation.isolated_predict import TODO_FILE, predict_missing


@pytest.fixture
def calls(monkeypatch):
    """Runs the command line in this process, which is quicker; remembers with what."""
    made = []

    def run(arguments, watch):
        made.append([json.loads(line)["case"] for line in Path(arguments[2]).read_text().splitlines()])
        watch()
        return main(list(arguments)), "last words"

    monkeypatch.setattr(programs, "run_verse3d", run)
    return made


@pytest.fixture
def cases(tmp_path):
    return scans.write_cases(tmp_path / "scans", 3)


@pytest.fixture
def model(tmp_path, monkeypatch):
    scans.use_threshold_network(monkeypatch)
    return scans.save_model(tmp_path / "best.pt", tiny_config())


def predict(cases, model, out, **options):
    return predict_missing(cases, model, out, run=programs.run_predict, device="cpu", **options)


def test_what_is_missing_is_made_and_what_is_there_is_kept(tmp_path, cases, model, calls):
    out, seen = tmp_path / "masks", []
    first = predict(cases[:1], model, out)
    assert first.failures == () and first.device == "cpu"
    assert first.records["case0"]["seconds"] > 0 and first.records["case0"]["peak_rss_mb"] > 50
    written = mask_path(out, "case0").stat().st_mtime_ns
    everything = predict(cases, model, out, progress=lambda *told: seen.append(told))
    assert list(everything.records) == ["case0", "case1", "case2"]
    assert calls == [["case0"], ["case1", "case2"]]
    assert mask_path(out, "case0").stat().st_mtime_ns == written
    assert everything.records["case0"] == first.records["case0"]
    assert seen[-1] == ("predicting", 3, 3)
    predict(cases, model, out)
    assert len(calls) == 2
    assert not (out / TODO_FILE).exists() and scans.leftovers(tmp_path) == []


def test_masks_of_another_model_are_made_again_even_if_it_has_the_same_name(tmp_path, cases, model, calls):
    out = tmp_path / "masks"
    predict(cases[:2], model, out)
    scans.save_model(model, tiny_config(runtime={"seed": 7}))
    found = predict(cases[:2], model, out)
    assert calls == [["case0", "case1"]] * 2
    assert {record["model_sha256"] for record in found.records.values()} == {sha256_of(model)}


def test_a_mask_of_another_scan_of_the_same_name_is_made_again(tmp_path, cases, model, calls):
    predict(cases[:1], model, tmp_path / "masks")
    spine(9).write(tmp_path / "elsewhere" / "case0_ct.nii.gz")
    moved = Case("case0", "case0", tmp_path / "elsewhere" / "case0_ct.nii.gz")
    found = predict([moved], model, tmp_path / "masks")
    assert found.records["case0"]["image"] == str(moved.image) and len(calls) == 2


@pytest.mark.parametrize("lost", ["mask", "list"])
def test_a_mask_without_its_record_or_a_record_without_its_mask_is_made_again(tmp_path, cases, model, calls, lost):
    out = tmp_path / "masks"
    predict(cases[:1], model, out)
    (mask_path(out, "case0") if lost == "mask" else out / "predictions.json").unlink()
    assert predict(cases[:1], model, out).failures == ()
    assert len(calls) == 2 and mask_path(out, "case0").exists()


def test_a_bad_scan_is_a_failure_with_its_reason_and_is_tried_again_next_time(tmp_path, cases, model, calls):
    cases[1].image.write_text("no scan")
    found = predict(cases, model, tmp_path / "masks")
    ((case, reason),) = found.failures
    assert case == "case1" and "case1_ct.nii.gz" in reason
    assert list(found.records) == ["case0", "case2"]
    spine(1).write(cases[1].image)
    assert predict(cases, model, tmp_path / "masks").failures == ()
    assert calls == [["case0", "case1", "case2"], ["case1"]]


def test_a_mask_that_verse3d_did_not_write_is_never_replaced(tmp_path, cases, model, calls):
    foreign = scans.write_nifti(mask_path(tmp_path / "masks", "case0"), spine(0).mask, scans.PIR.affine)
    before = foreign.read_bytes()
    ((case, reason),) = predict(cases[:1], model, tmp_path / "masks").failures
    assert case == "case0" and "not written by verse3d" in reason and foreign.read_bytes() == before


def dying(monkeypatch, at, code):
    """A program that does its work until it comes to the scan ``at``."""

    def run(arguments, watch):
        todo = Path(arguments[2])
        lines = todo.read_text().splitlines()
        names = [json.loads(line)["case"] for line in lines]
        reached = names.index(at) if at in names else len(names)
        if reached:
            todo.write_text("".join(f"{line}\n" for line in lines[:reached]))
            main(list(arguments))
        return (code if at in names else 0), "Traceback\nsome error"

    monkeypatch.setattr(programs, "run_verse3d", run)


@pytest.mark.parametrize("at", ["case0", "case1", "case2"])
def test_a_scan_that_gets_the_program_killed_is_named_and_the_others_are_made(tmp_path, cases, model, monkeypatch, at):
    dying(monkeypatch, at, -9)
    found = predict(cases, model, tmp_path / "masks")
    ((case, reason),) = found.failures
    assert case == at and "killed by signal 9 (out of memory?)" in reason
    assert sorted(found.records) == sorted({"case0", "case1", "case2"} - {at})


def test_an_earlier_mask_of_a_scan_that_now_gets_the_program_killed_does_not_count(
    tmp_path, cases, model, calls, monkeypatch
):
    predict(cases, model, tmp_path / "masks")
    scans.save_model(model, tiny_config(runtime={"seed": 7}))
    dying(monkeypatch, "case1", -9)
    found = predict(cases, model, tmp_path / "masks")
    assert [case for case, _ in found.failures] == ["case1"] and sorted(found.records) == ["case0", "case2"]


def test_a_program_that_crashes_after_some_scans_is_quoted(tmp_path, cases, model, monkeypatch):
    dying(monkeypatch, "case1", 1)
    ((case, reason),) = predict(cases, model, tmp_path / "masks").failures
    assert case == "case1" and reason.endswith("ended with code 1: some error")


def test_a_program_that_ends_before_any_scan_is_an_error_of_all(tmp_path, cases, model, monkeypatch):
    dying(monkeypatch, "case0", 4)
    with pytest.raises(Verse3dError, match="code 4: Traceback\nsome error"):
        predict(cases, model, tmp_path / "masks")
    assert not (tmp_path / "masks" / TODO_FILE).exists()


def test_a_missing_model_is_refused_before_anything_is_started(tmp_path, cases, calls):
    with pytest.raises(DataError, match="missing"):
        predict(cases, tmp_path / "missing.pt", tmp_path / "masks")
    assert calls == []
