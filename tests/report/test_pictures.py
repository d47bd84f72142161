"""Pictures of cases and of trainings, from a folder of masks and the model that made them."""

import json

import numpy as np
import pytest
from PIL import Image

from tests import scans
from tests.scans import PIR, spine, tiny_config
from verse3d import api
from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import write_json
from verse3d.data.cases import Case, write_index
from verse3d.data.predictions import mask_path
from verse3d.report import pictures
from verse3d.report.pictures import draw_case


@pytest.fixture
def listed(tmp_path):
    """An index of two cases whose predicted masks lie in ``masks``."""
    for number in range(2):
        scans.write_nifti(mask_path(tmp_path / "masks", f"c{number}"), spine(number).mask, PIR.affine)
    write_index(tmp_path / "cases.jsonl", scans.write_truth(tmp_path / "data", 2))
    return tmp_path / "cases.jsonl"


def evaluate(tmp_path, listed, **options):
    arguments = {"pred": tmp_path / "masks", "truth": listed, "out": tmp_path / "scores.json"}
    return api.evaluate(**arguments, pictures=tmp_path / "pictures", **options)


@pytest.fixture
def undrawn(monkeypatch):
    """An empty file in place of each case's picture, which takes half a second."""
    monkeypatch.setattr(pictures, "draw_case", lambda case, mask, picture, **_: picture.touch() or picture)


def drawn(tmp_path):
    return sorted(path.name for path in (tmp_path / "pictures").iterdir())


def test_every_scored_case_is_drawn_and_the_loss_if_the_run_is_known(tmp_path, listed):
    run = scans.write_run(tmp_path / "run", tiny_config(), None)
    manifest = {"scheme": "binary", "model": str(run / "best.pt"), "cases": []}
    write_json(tmp_path / "masks" / "predictions.json", manifest)
    evaluate(tmp_path, listed)
    assert drawn(tmp_path) == ["c0.png", "c1.png", "loss.png"]
    for name in drawn(tmp_path):
        Image.open(tmp_path / "pictures" / name).verify()


def test_a_run_without_a_history_is_drawn_without_a_loss(tmp_path, listed, undrawn):
    run = scans.write_run(tmp_path / "run", tiny_config(), None)
    (run / "history.csv").unlink()
    manifest = {"scheme": "binary", "model": str(run / "best.pt"), "cases": []}
    write_json(tmp_path / "masks" / "predictions.json", manifest)
    evaluate(tmp_path, listed)
    assert drawn(tmp_path) == ["c0.png", "c1.png"]


def test_masks_of_unknown_origin_are_drawn_without_a_loss(tmp_path, listed, undrawn):
    evaluate(tmp_path, listed)
    assert drawn(tmp_path) == ["c0.png", "c1.png"]


def test_without_the_option_nothing_is_drawn(tmp_path, listed):
    api.evaluate(pred=tmp_path / "masks", truth=listed, out=tmp_path / "scores.json")
    assert not list(tmp_path.rglob("*.png"))


def test_a_case_whose_scan_is_missing_is_scored_and_not_drawn(tmp_path, listed):
    (tmp_path / "data" / "c0_ct.nii.gz").unlink()
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert len(evaluate(tmp_path, listed).cases) == len(rows) == 2
    assert drawn(tmp_path) == ["c1.png"]


def test_a_picture_shows_truth_and_prediction_in_three_planes_with_their_levels(tmp_path, listed):
    case = api.evaluate(pred=tmp_path / "masks", truth=listed, out=tmp_path / "s.json").cases[0]
    assert {"T12", "L1", "L2"} <= case.labels.keys()
    both = {}
    first = Case("c0", "c0", tmp_path / "data" / "c0_ct.nii.gz", tmp_path / "data" / "c0_msk.nii.gz")
    for scheme in ("binary", "vertebrae"):
        mask, picture = mask_path(tmp_path / "masks", "c0"), tmp_path / f"{scheme}.png"
        draw_case(first, mask, picture, title="x", scheme=scheme)
        both[scheme] = np.asarray(Image.open(picture).convert("RGB")).astype(int)
    colours = {name: len(np.unique(rgb[np.ptp(rgb, axis=-1) > 60] // 32, axis=0)) for name, rgb in both.items()}
    assert colours["vertebrae"] > colours["binary"] > 0  # three levels have three colours


def test_a_mask_that_is_missing_is_an_error_and_a_folder_that_cannot_be_written_ends_it(tmp_path, listed):
    first = Case("c0", "c0", tmp_path / "data" / "c0_ct.nii.gz", tmp_path / "data" / "c0_msk.nii.gz")
    with pytest.raises(DataError, match="does not exist"):
        draw_case(first, tmp_path / "none.nii.gz", tmp_path / "x.png", title="")
    (tmp_path / "pictures").write_text("a file")
    with pytest.raises(OutputError):
        evaluate(tmp_path, listed)
