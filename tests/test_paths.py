"""Paths as people have them: spaces, umlauts in both codings of Unicode, drive letters of Windows."""

import json
import unicodedata

import pytest

from tests import scans
from tests.scans import spine, tiny_config, write_nifti
from verse3d import api
from verse3d.cli import main
from verse3d.data.cases import Case, CaseIndex, read_index, write_index
from verse3d.data.index.overrides import apply_overrides, read_overrides
from verse3d.data.splits import assign_splits
from verse3d.evaluation.foreign import find_mask

NAMES = {
    "spaces": "my scans (2)",
    "composed": unicodedata.normalize("NFC", "Größe Ä"),
    "decomposed": unicodedata.normalize("NFD", "Größe Ä"),  # as macOS writes it
}


@pytest.fixture
def model(tmp_path, monkeypatch):
    scans.use_threshold_network(monkeypatch)
    return str(scans.save_model(tmp_path / "best.pt", tiny_config()))


@pytest.mark.parametrize("name", [NAMES["spaces"], NAMES["decomposed"]], ids=["spaces", "decomposed"])
def test_every_job_works_in_folders_and_on_files_of_such_names(tmp_path, name, model, capsys):
    folder = tmp_path / name
    spine().write(folder / "in" / f"{name}_ct.nii.gz", folder / "in" / f"{name}_seg-vert_msk.nii.gz")
    listed, masks = str(folder / "cases.jsonl"), str(folder / "out")
    jobs = [
        ["index", str(folder / "in"), "-o", listed],
        ["check", listed],
        ["look", name, "--data", listed, "-o", str(folder / "look.png")],
        ["predict", listed, "--model", model, "--out", masks, "--device", "cpu"],
        ["evaluate", "--pred", masks, "--truth", listed, "--out", str(folder / "scores.json")],
        ["convert", listed, "--to", "verse", "--out", str(folder / "verse")],
        ["prepare", listed, "--set", "grid.spacing_mm=4"],
    ]
    assert {job[0]: main(job) for job in jobs} == dict.fromkeys([job[0] for job in jobs], 0), capsys.readouterr().err
    assert json.loads((folder / "scores.json").read_text())["cases"][0]["case"] == name
    assert len(list((folder / "out").glob("*.nii.gz"))) == 1


@pytest.mark.parametrize("typed", ["composed", "decomposed"])
def test_a_case_is_found_however_its_umlauts_are_coded(tmp_path, typed, model):
    """A list that was made on a Mac is decomposed, a keyboard types composed letters."""
    other = NAMES["decomposed" if typed == "composed" else "composed"]
    data = spine()
    image = data.write(tmp_path / f"{other}_ct.nii.gz", tmp_path / f"{other}_msk.nii.gz")
    case = Case(other, other, image, tmp_path / f"{other}_msk.nii.gz")
    write_index(tmp_path / "cases.jsonl", CaseIndex((case,)))
    assert api.look(NAMES[typed], data=tmp_path / "cases.jsonl", out=tmp_path / "a.png").picture.is_file()
    write_nifti(tmp_path / "out" / f"{NAMES[typed]}.nii.gz", data.mask, data.geometry.affine)
    assert find_mask(tmp_path / "out", other, "_seg-vert_msk.nii.gz") is not None
    done = api.evaluate(pred=tmp_path / "out", truth=tmp_path / "cases.jsonl", out=tmp_path / "s.json")
    assert [scored.case for scored in done.cases] == [other]
    assert assign_splits(CaseIndex((case,)), {NAMES[typed]: "test"}).cases[0].split == "test"
    (tmp_path / "fixes.csv").write_text(f"case,action,value,note\n{NAMES[typed]},exclude,,cut\n", encoding="utf-8")
    assert apply_overrides([case], read_overrides(tmp_path / "fixes.csv")).excluded == (other,)


WINDOWS = r"C:\data\x.nii.gz"


def test_an_index_keeps_the_drive_letters_of_windows_and_says_when_they_lead_nowhere(tmp_path, capsys):
    row = {"case": "x", "image": WINDOWS, "mask": r"\\server\share\m.nii.gz"}
    (tmp_path / "cases.jsonl").write_text(json.dumps(row) + "\n")
    [case] = read_index(tmp_path / "cases.jsonl")
    assert [str(path) for path in (case.image, case.mask)] == [row["image"], row["mask"]]
    assert main(["check", str(tmp_path / "cases.jsonl")]) == 3
    assert f"{WINDOWS} does not exist" in capsys.readouterr().out


def test_an_argument_with_a_drive_letter_is_named_whole_in_the_error(tmp_path, monkeypatch, capsys, model):
    monkeypatch.chdir(tmp_path)
    assert main(["predict", WINDOWS, "--model", model, "--out", "out", "--device", "cpu"]) == 3
    assert WINDOWS in capsys.readouterr().err
    assert main(["look", WINDOWS, "-o", "a.png"]) == 3
    assert WINDOWS in capsys.readouterr().err
    assert not (tmp_path / "out").exists() and not (tmp_path / "a.png").exists()
