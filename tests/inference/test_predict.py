"""Predicting many scans: go on after a bad one, leave nothing half-written, and list what was done."""

import hashlib
import os
import subprocess
from dataclasses import replace

import numpy as np
import pytest

from tests import scans
from tests.inference.predicting import manifest, masks_in, predicted, predictor, run
from tests.scans import orientation, tiny_config
from verse3d.core.errors import DataError, OutputError
from verse3d.core.volume import read_labels
from verse3d.data.cases import Case
from verse3d.data.predictions import mask_path
from verse3d.inference.predictor import Predictor


def test_a_bad_scan_is_listed_and_does_not_stop_the_rest(tmp_path, batch):
    report = run(batch, tmp_path / "out")
    assert [record.status for record in report.records] == ["written", "failed", "written"]
    assert [record.case for record in report.failures] == ["case1"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "case0_seg-vert_msk.nii.gz",
        "case2_seg-vert_msk.nii.gz",
        "predictions.json",
    ]


def test_the_list_of_predictions_tells_time_memory_voxels_levels_and_warnings(tmp_path, batch):
    run(batch, tmp_path / "out")
    content = manifest(tmp_path / "out")
    assert (content["scheme"], content["model"], content["device"]) == ("binary", "best.pt", "cpu")
    good, bad, _ = content["cases"]
    mask = read_labels(mask_path(tmp_path / "out", "case0")).array
    assert good["voxels"] == mask.size
    assert good["labelled_voxels"] == np.count_nonzero(mask)
    assert good["levels"] == ["vertebrae"]
    assert good["warnings"] == []
    assert good["seconds"] > 0 and 50 < good["peak_rss_mb"] <= good["process_peak_rss_mb"]
    assert bad["status"] == "failed" and "case1_ct.nii.gz" in bad["error"]


def test_the_list_of_predictions_tells_which_model_file_made_each_mask(tmp_path, batch):
    for model, case in (("one.pt", batch[0]), ("two.pt", batch[2])):
        (tmp_path / model).write_bytes(model.encode())
        predicted([case], predictor(cut=0.35), tmp_path / "out", model=tmp_path / model)
    first, second = manifest(tmp_path / "out")["cases"]
    assert first["model_sha256"] == hashlib.sha256(b"one.pt").hexdigest()
    assert second["model_sha256"] == hashlib.sha256(b"two.pt").hexdigest()
    assert second["models"] == [str(tmp_path / "two.pt")]


def test_an_unexpected_runtime_error_in_one_scan_does_not_stop_the_rest(tmp_path, batch, monkeypatch):
    def prepare(self, volume, ready):
        raise MemoryError if "case0" in str(volume.path) else RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Predictor, "prepare", prepare)
    report = run(batch, tmp_path / "out")
    assert [record.error.splitlines()[0] for record in report.records][::2] == [
        "not enough memory",
        "RuntimeError: CUDA out of memory",
    ]


def test_a_full_disk_leaves_no_half_mask_and_the_rest_is_predicted(tmp_path, batch, monkeypatch):
    scans.fill_disk(monkeypatch, "case0")
    report = run(batch, tmp_path / "out")
    assert [record.status for record in report.records] == ["failed", "failed", "written"]
    assert "disk is full" in report.records[0].error
    assert not mask_path(tmp_path / "out", "case0").exists()
    assert not scans.leftovers(tmp_path)


def test_ctrl_c_keeps_the_masks_so_far_and_their_list(tmp_path, batch):
    def interrupt(what, done, total):
        if (what, done) == ("scans", 2):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(batch, tmp_path / "out", progress=interrupt)
    assert [case["case"] for case in manifest(tmp_path / "out")["cases"]] == ["case0", "case1"]
    assert not scans.leftovers(tmp_path)


def test_an_output_folder_below_a_file_is_refused(tmp_path, batch):
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="file"):
        run(batch, tmp_path / "file" / "out")


def test_a_damaged_list_of_predictions_is_reported(tmp_path, batch):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "predictions.json").write_text("{half")
    with pytest.raises(DataError, match=r"predictions\.json"):
        run(batch, tmp_path / "out")


def test_what_a_killed_program_left_beside_a_mask_is_removed(tmp_path, many):
    out = tmp_path / "out"
    out.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    for name in ("case0_seg-vert_msk.nii.gz", "predictions.json"):
        (out / f".verse3d-{gone.pid}-{name}").write_bytes(b"half")
    running = out / f".verse3d-{os.getppid()}-case1_seg-vert_msk.nii.gz"
    running.write_bytes(b"somebody is at it")
    run(many[:2], out)
    assert scans.leftovers(out) == [running]


def test_every_record_tells_its_plan_its_stages_and_its_windows(tmp_path, many):
    run(many[:1], tmp_path / "out")
    content = manifest(tmp_path / "out")
    (record,) = content["cases"]
    assert set(record["seconds_of"]) == {"read", "prepare", "network", "stitch", "resample", "clean", "write"}
    assert record["seconds"] == pytest.approx(sum(record["seconds_of"].values()), abs=0.01)
    assert record["windows"] > 0 and record["windows_left_out"] == 0
    assert 0 < record["plan"]["peak_mb"] <= record["plan"]["limit_mb"] == pytest.approx(content["limit_mb"], abs=0.2)
    assert (
        [one["name"] for one in content["backends"]] == ["torch"]
        and content["threads"] >= 1
        and content["versions"]["numpy"]
    )


def test_windows_in_the_air_are_left_out_unless_they_are_asked_for(tmp_path):
    config = tiny_config(grid={"spacing_mm": [2.0, 2.0, 2.0]})
    geometry = orientation((0, 1, 2), (1, 1, 1), (2.0, 2.0, 2.0), (80, 60, 40))
    hu = np.full(geometry.shape, -1000, np.int16)
    hu[:36] = 40
    hu[10:20, 10:30, 5:30] = 900
    scan = scans.write_nifti(tmp_path / "a_ct.nii.gz", hu, geometry.affine)
    by = predictor(config)
    (skipping,) = predicted([Case("a", "a", scan)], by, tmp_path / "some").records
    (looking,) = predicted([Case("a", "a", scan)], replace(by, skip_air=False), tmp_path / "all").records
    assert skipping.windows + skipping.windows_left_out == looking.windows and looking.windows_left_out == 0
    assert skipping.windows_left_out > looking.windows / 4
    assert masks_in(tmp_path / "some") == masks_in(tmp_path / "all")
