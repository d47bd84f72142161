"""What a picture of a predicted mask says about its names."""

import json

import numpy as np
import pytest

import verse3d
from tests.labelling.blocks import scan_of
from tests.scans import write_nifti
from verse3d.core.labels import vertebra
from verse3d.report.doubts import Doubts, doubts_about

L1, L2 = vertebra("L1").id, vertebra("L2").id
READINGS = [{"probability": 0.6, "names": ["L1", "L2"]}, {"probability": 0.4, "names": ["T12", "L1"]}]
RECORD = {
    "case": "a",
    "status": "written",
    "mask": "a_seg-vert_msk.nii.gz",
    "vertebrae": [
        {"name": "L1", "id": L1, "confidence": 0.6},
        {"name": "L2", "id": L2, "confidence": 0.6, "partial": True},
        {"name": "L3", "id": L2 + 1, "confidence": 0.6, "partial": True, "in_mask": False},
    ],
    "naming": {"ambiguous": True, "readings": READINGS},
    "corrections": [{"shift": 1, "ids": []}],
}


def listed(folder, **changes):
    (folder / "predictions.json").write_text(json.dumps({"cases": [{**RECORD, **changes}]}))
    return folder / RECORD["mask"]


def test_doubtful_and_partial_vertebrae_are_marked_and_explained(tmp_path):
    found = doubts_about(listed(tmp_path))
    assert found.marks == {L1: "?", L2: "? partial"}
    assert found.remarks == (
        "the names are ambiguous: L1-L2 (60 %) or T12-L1 (40 %)",
        "cut by the end of the scan and not in the mask: L3",
        "names were corrected by hand (1 time)",
    )


def test_names_that_are_sure_have_no_mark(tmp_path):
    sure = [{"name": "L1", "id": L1, "confidence": 0.99}]
    mask = listed(tmp_path, vertebrae=sure, naming={"ambiguous": False}, corrections=[])
    assert doubts_about(mask) == Doubts()


@pytest.mark.parametrize("changes", [{"vertebrae": []}, {"mask": "b.nii.gz"}, {"vertebrae": [{"id": "x"}]}])
def test_without_a_record_that_can_be_read_nothing_is_said(tmp_path, changes):
    assert doubts_about(listed(tmp_path, **changes)) == Doubts()
    (tmp_path / "predictions.json").write_text("{")
    assert doubts_about(tmp_path / RECORD["mask"]) == Doubts()


def test_the_picture_shows_the_marks(tmp_path, monkeypatch):
    scan = scan_of(["L1", "L2"])
    write_nifti(tmp_path / "a.nii.gz", np.where(scan.ids, 400, -900).astype(np.int16), scan.geometry.affine)
    mask = write_nifti(listed(tmp_path), scan.ids, scan.geometry.affine)
    drawn = []
    monkeypatch.setattr("verse3d.report.figures.save_figure", lambda figure, *_, **__: drawn.append(figure))
    result = verse3d.look(tmp_path / "a.nii.gz", mask=mask, out=tmp_path / "look.png")
    assert any("ambiguous" in note for note in result.notes)
    written = {text.get_text() for axes in drawn[0].axes for text in axes.texts}
    assert {"L1?", "L2? partial"} <= written
