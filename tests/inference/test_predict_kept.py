"""What lies in the output folder is kept, made again or refused, and never lost or taken for another's."""

from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest

from tests import scans
from tests.inference.predicting import WINDOW, manifest, masks_in, models, predicted, predictor, run
from tests.scans import PIR, orientation, spine, tiny_config, turned
from verse3d.core.errors import DataError
from verse3d.data.cases import Case
from verse3d.data.predictions import mask_path
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.guards import Maker, require_maker
from verse3d.inference.predictor import Predictor


def test_masks_of_another_model_are_neither_kept_in_silence_nor_lost(tmp_path, batch):
    out, (one, two) = tmp_path / "out", models(tmp_path, "one.pt", "two.pt")
    predicted(batch[:1], predictor(cut=0.35), out, model=one)
    made, record = masks_in(out), manifest(out)["cases"][0]
    for _ in range(2):
        (refused,) = predicted(batch[:1], predictor(cut=0.35), out, model=two).records
        assert refused.status == "failed" and "one.pt" in refused.error and "two.pt" in refused.error
        assert "`overwrite`" in refused.error
    assert masks_in(out) == made
    assert manifest(out)["cases"][0]["status"] == "failed", "whoever scores the folder now is told"
    (kept,) = predicted(batch[:1], predictor(cut=0.35), out, model=one).records
    assert kept.status == "skipped" and not kept.warnings
    assert (kept.levels, kept.labelled_ml) == (("vertebrae",), record["labelled_ml"]), "told again of a kept mask"
    assert {**manifest(out)["cases"][0], "finished": 0} == {**record, "finished": 0}
    (replaced,) = predicted(batch[:1], predictor(cut=0.35), out, model=two, overwrite=True).records
    assert replaced.status == "written"


@pytest.mark.parametrize("change", ["mirror image", "all windows", "cleaning"])
def test_masks_made_with_other_settings_are_not_kept_in_silence(tmp_path, batch, change):
    out, (model,) = tmp_path / "out", models(tmp_path, "one.pt")
    by = predictor(cut=0.35)
    ensemble = Ensemble(by.placement.ensemble.backends, ask_mirrored=True)
    others = {
        "mirror image": Predictor.of_ensemble(ensemble, by.method),
        "all windows": replace(by, skip_air=False),
        "cleaning": predictor(
            tiny_config(grid={"spacing_mm": [2.0, 2.5, 2.2], **WINDOW}, inference={"min_component_ml": 1.0}), 0.35
        ),
    }
    predicted(batch[:1], by, out, model=model)
    (refused,) = predicted(batch[:1], others[change], out, model=model).records
    told = {
        "mirror image": "tta False and not True",
        "all windows": "skip_air True and not False",
        "cleaning": "min_component_ml 0.0 and not 1.0",
    }
    assert refused.status == "failed" and told[change] in refused.error
    assert predicted(batch[:1], by, out, model=model).records[0].status == "skipped"


def test_the_order_in_which_averaged_models_are_named_makes_no_other_mask(tmp_path, batch):
    one_two, two_one = Maker("a" * 64 + "+" + "b" * 64), Maker("b" * 64 + "+" + "a" * 64)
    require_maker(tmp_path / "m.nii.gz", one_two, two_one)
    with pytest.raises(DataError, match="aaaaaaaaaaaa"):
        require_maker(tmp_path / "m.nii.gz", one_two, Maker("a" * 64))


def test_a_kept_mask_of_unknown_origin_is_said_to_be_one(tmp_path, batch):
    out, (one, two) = tmp_path / "out", models(tmp_path, "one.pt", "two.pt")
    predicted(batch[:1], predictor(cut=0.35), out, model=one)
    (out / "predictions.json").unlink()
    (kept,) = predicted(batch[:1], predictor(cut=0.35), out, model=two).records
    assert kept.status == "skipped" and "no record tells which model" in kept.warnings[0]


def test_a_kept_mask_of_unknown_origin_is_not_said_to_be_this_models(tmp_path, batch):
    (tmp_path / "one.pt").write_bytes(b"one")
    predicted(batch[:1], predictor(cut=0.35), tmp_path / "out", model=tmp_path / "one.pt")
    (tmp_path / "out" / "predictions.json").unlink()
    predicted(batch[:1], predictor(cut=0.35), tmp_path / "out", model=tmp_path / "one.pt")
    (record,) = manifest(tmp_path / "out")["cases"]
    assert (record["status"], record["model_sha256"]) == ("skipped", "")


def test_what_exists_is_kept_unless_it_shall_be_overwritten(tmp_path, batch):
    out = tmp_path / "out"
    run(batch[:1], out)
    before = mask_path(out, "case0").stat().st_mtime_ns
    record = manifest(out)["cases"][0]
    assert run(batch[:1], out).records[0].status == "skipped"
    assert mask_path(out, "case0").stat().st_mtime_ns == before
    assert manifest(out)["cases"][0] == record, "the record of the call that wrote the mask is kept"
    assert run(batch[:1], out, overwrite=True).records[0].status == "written"
    assert mask_path(out, "case0").stat().st_mtime_ns != before


def test_a_mask_made_from_another_scan_is_not_kept_not_even_at_the_second_try(tmp_path, batch):
    out = tmp_path / "out"
    run(batch[:1], out)
    other = [Case("case0", "case0", batch[2].image)]
    for _ in range(2):
        assert run(other, out).records[0].status == "failed"
    assert run(other, out, overwrite=True).records[0].status == "written"


def test_the_same_scan_under_another_path_is_the_same_scan(tmp_path, batch):
    run(batch[:1], tmp_path / "out")
    (tmp_path / "link").symlink_to(tmp_path / "scans")
    linked = [Case("case0", "case0", tmp_path / "link" / "case0_ct.nii.gz")]
    assert run(linked, tmp_path / "out").records[0].status == "skipped"


def test_an_existing_mask_on_another_grid_is_not_kept(tmp_path, batch):
    mask = mask_path(tmp_path / "out", "case0")
    for geometry in (turned(PIR), orientation((0, 1, 2), (1, 1, 1), (1, 1, 1), (5, 5, 5))):
        scans.write_nifti(mask, np.zeros(geometry.shape, np.uint8), geometry.affine)
        record = run(batch[:1], tmp_path / "out").records[0]
        assert record.status == "failed"
        assert "overwrite" in record.error
        (tmp_path / "out" / "predictions.json").unlink()


def test_a_file_of_the_data_set_is_never_overwritten(tmp_path):
    data = spine(0)
    ct, truth = tmp_path / "case0_ct.nii.gz", tmp_path / "case0_seg-vert_msk.nii.gz"
    data.write(ct, truth)
    before = truth.read_bytes()
    for overwrite in (False, True):
        record = run([Case("case0", "case0", ct, truth)], tmp_path, overwrite=overwrite).records[0]
        assert record.status == "failed" and "data set" in record.error
    assert truth.read_bytes() == before


def test_a_foreign_mask_is_not_replaced_even_with_overwrite(tmp_path):
    scan, out = tmp_path / "x_ct.nii.gz", tmp_path / "out"
    spine(0).write(scan)
    case = Case("x", "x", scan)
    (truth := mask_path(out, "x")).parent.mkdir()
    nib.save(nib.Nifti1Image(np.ones((5, 6, 7), np.uint8), np.eye(4)), truth)
    before = truth.read_bytes()
    report = predicted([case], predictor(), out, overwrite=True)
    assert "not written by verse3d" in report.failures[0].error
    assert truth.read_bytes() == before
