"""Names of cases that are none for a file stop their own case only, and nothing is written outside of its folder."""

import json
from pathlib import Path

import pytest

from tests import scans
from tests.scans import spine, tiny_config
from verse3d.cli import main
from verse3d.core.errors import DataError
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.convert import convert_cases, nnunet_format, verse_format
from verse3d.data.predictions import has_mask, mask_path
from verse3d.data.quality.checks import Finding
from verse3d.data.quality.fixes import write_fixes
from verse3d.data.samples.slice_folder import SliceFolder
from verse3d.data.samples.slice_writer import write_slices
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.report.pictures import draw_folder

IMPOSSIBLE = ["../../outside", "a/b", "..", "a\0b", "\x1b[2Jbad", "\ud800", "n" * 300]


def everything(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*")}


@pytest.fixture
def cases(tmp_path) -> list[Case]:
    """Two good cases; tests put one with a bad name between them."""
    found = []
    for name in ("a", "z"):
        image, mask = tmp_path / "in" / f"{name}_ct.nii.gz", tmp_path / "in" / f"{name}_seg.nii.gz"
        spine().write(image, mask)
        found.append(Case(name, name, image, mask, split="train"))
    return found


def with_name(cases: list[Case], name: str) -> list[Case]:
    bad = Case(name, "s", cases[0].image, cases[0].mask, split="train")
    return [cases[0], bad, cases[1]]


@pytest.mark.parametrize("name", [name for name in IMPOSSIBLE if name != ".."])
def test_a_mask_is_never_named_outside_of_its_folder(tmp_path, name):
    with pytest.raises(DataError, match="cannot be the name of a file"):
        mask_path(tmp_path, name)
    assert not has_mask(tmp_path, name)


@pytest.mark.parametrize("name", ["a\x01b", "n" * 300])  # half a character is refused with its line of the index
def test_predict_goes_on_around_a_case_whose_name_is_impossible(tmp_path, monkeypatch, cases, name):
    scans.use_threshold_network(monkeypatch)
    model = scans.save_model(tmp_path / "best.pt", tiny_config(grid={"spacing_mm": [2.5, 2.5, 2.5]}))
    rows = [{"case": case.case, "image": str(case.image)} for case in with_name(cases, name)]
    (tmp_path / "cases.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "out"
    words = ["predict", str(tmp_path / "cases.jsonl"), "--model", str(model), "--out", str(out), "--no-preview"]
    assert main(["-q", *words]) == 3
    records = json.loads((out / "predictions.json").read_text())["cases"]
    assert [record["status"] for record in records] == ["written", "failed", "written"]
    assert "cannot be the name of a file" in records[1]["error"]
    assert {path.name for path in out.glob("*.nii.gz")} == {f"{case}_seg-vert_msk.nii.gz" for case in "az"}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_slices_go_on_around_a_case_whose_name_is_impossible(tmp_path, cases, name):
    before = everything(tmp_path)
    report = write_slices(with_name(cases, name), tiny_config("2d"), tmp_path / "slices")
    assert [record.status for record in report.records] == ["written", "failed", "written"]
    assert {path.split("/")[0] for path in everything(tmp_path) - before} == {"slices"}
    assert {path.name for path in (tmp_path / "slices" / "train").iterdir()} == {"a", "z"}


def test_slices_do_not_go_through_a_link_that_leads_out(tmp_path, cases):
    (tmp_path / "elsewhere").mkdir()
    write_slices(cases[:1], tiny_config("2d"), tmp_path / "slices")
    (tmp_path / "slices" / "train" / "z").symlink_to(tmp_path / "elsewhere")
    report = write_slices(cases, tiny_config("2d"), tmp_path / "slices")
    assert [record.status for record in report.records] == ["kept", "failed"]
    assert "leads out" in report.failures[0].error
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_manifest_of_slices_that_names_files_outside_is_refused(tmp_path, cases):
    write_slices(cases[:1], tiny_config("2d"), tmp_path / "slices")
    manifest = tmp_path / "slices" / "manifest.jsonl"
    row = json.loads(manifest.read_text().splitlines()[0])
    manifest.write_text(json.dumps({**row, "image": "../outside.png"}) + "\n")
    with pytest.raises(DataError, match="leads out of its folder"):
        SliceFolder(tmp_path / "slices", "train")


@pytest.mark.parametrize("name", IMPOSSIBLE)
@pytest.mark.parametrize("form", [nnunet_format, verse_format])
def test_conversions_give_a_plain_name_to_a_case_whose_name_is_impossible(tmp_path, cases, form, name):
    before = everything(tmp_path)
    index = CaseIndex(tuple(with_name(cases, name)))
    result = convert_cases(index, form(index, tmp_path / "converted"))
    assert {path.split("/")[0] for path in everything(tmp_path) - before} == {"converted"}
    long = len(name) > 255
    assert [record.status for record in result.cases] == ["written", "left out" if long else "written", "written"]


def test_a_mask_is_carried_over_to_no_other_folder(tmp_path, cases):
    bad = Case("../outside", "s", cases[0].image, cases[0].mask)
    report = write_fixes(CaseIndex((bad,)), [Finding(bad.case, "error", "mask-shape", "")], tmp_path / "fixes")
    assert "cannot be the name of a file" in report.left[0][1]
    assert everything(tmp_path / "fixes") <= {"fixes.csv"}


def test_evaluate_goes_on_around_a_case_whose_name_is_impossible(tmp_path, cases):
    masks = tmp_path / "masks"
    for case in cases:
        spine().write(tmp_path / "scan.nii.gz", masks / f"{case.case}_seg-vert_msk.nii.gz")
    index = CaseIndex(tuple(with_name(cases, "n" * 300)))
    result = evaluate_folder(masks, index, tmp_path / "scores.json")
    assert [case.case for case in result.cases] == ["a", "z"]
    listed = with_name(cases, "../outside")
    pictures = draw_folder(listed, masks, tmp_path / "pictures", titles={}, model=None, scheme="vertebrae")
    assert [path.name for path in pictures] == ["a.png", "z.png"]
