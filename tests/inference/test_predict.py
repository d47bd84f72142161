"""From CT to mask: never move a patient, keep the header, keep or replace what exists, go on after a bad scan."""

import gc
import gzip
import hashlib
import json
import os
import struct
import subprocess
import threading
import weakref
from dataclasses import replace
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from tests import scans
from tests.scans import PIR, ThresholdNet, orientation, spine, tiny_config, turned
from verse3d.core import read_ahead, single_threaded, threads
from verse3d.core.errors import DataError, MemoryLimitError, OutputError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.core.logs import no_progress
from verse3d.core.memory import give_back_freed_memory
from verse3d.core.runtime import choose_precision, peak_rss_mb, rss_mb
from verse3d.core.volume import Volume, read_image, read_labels
from verse3d.data.cases import Case
from verse3d.data.predictions import mask_path, read_predictions
from verse3d.inference import predict, scan_stages
from verse3d.inference.aggregator import BinaryAggregator
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.guards import Maker, require_maker
from verse3d.inference.loading import described, models_sha256
from verse3d.inference.pipeline import overlapped
from verse3d.inference.predict import PredictOptions, predict_cases
from verse3d.inference.predictor import Predictor
from verse3d.inference.scan_stages import ScanStages
from verse3d.model.modes import Method

CPU = torch.device("cpu")
WINDOW = {"window_hu": [0, 1000]}
FINE = tiny_config(grid={"spacing_mm": [2.0, 2.5, 2.2], **WINDOW})
LEVELS = tiny_config(grid={"spacing_mm": [2.0, 2.0, 2.0], **WINDOW}, labels={"scheme": "vertebrae"})


def predictor(config=FINE, cut=0.5) -> Predictor:
    channels = 27 if config.labels.scheme == "vertebrae" else 1
    return Predictor.of_network(ThresholdNet(channels, cut).eval(), Method(config), CPU, choose_precision("off", CPU))


def predicted(cases, by, out, *, model=Path("best.pt"), progress=no_progress, ahead=None, **options):
    """``predict_cases`` as the api calls it."""
    sha256 = models_sha256([model]) if model.is_file() else ""
    chosen = PredictOptions(**options)
    about = partial(described, by, [model])
    return predict_cases(
        cases, by, out, about=about, model_sha256=sha256, options=chosen, progress=progress, ahead=ahead
    )


def hills(geometry: Geometry) -> np.ndarray:
    """Three smooth hills of different size at different places of the *world*, in HU 0 ... 1000."""
    index = np.stack(np.indices(geometry.shape), axis=-1).reshape(-1, 3)
    world = geometry.world_from_index(index)
    corners = geometry.corners_mm()
    low, extent = corners.min(axis=0), np.ptp(corners, axis=0)
    hu = np.zeros(len(world))
    for place, radius_mm in (((0.35, 0.4, 0.3), 16.0), ((0.65, 0.3, 0.6), 11.0), ((0.4, 0.7, 0.72), 13.0)):
        distance = np.linalg.norm(world - (low + np.array(place) * extent), axis=1)
        hu = np.maximum(hu, 1000 * np.clip(1 - distance / (2 * radius_mm), 0, 1))
    return hu.reshape(geometry.shape).astype(np.float32)


def volume_of(array, geometry) -> Volume:
    return Volume(array, geometry, nib.Nifti1Image(array, geometry.affine).header, Path("scan.nii.gz"))


def assert_within_one_voxel(found, expected):
    touching = np.ones((3, 3, 3))
    assert expected.any()
    np.testing.assert_array_equal(ndimage.binary_erosion(expected, touching, border_value=1) & ~found, False)
    np.testing.assert_array_equal(found & ~ndimage.binary_dilation(expected, touching), False)
    assert 2 * (found & expected).sum() / (found.sum() + expected.sum()) > 0.97


OBLIQUE = {
    "oblique RAS": turned(orientation((0, 1, 2), (1, 1, 1), (1.5, 2.0, 2.5), (37, 31, 29))),
    "oblique PIR": turned(orientation((1, 2, 0), (-1, -1, 1), (1.5, 1.5, 3.0), (37, 41, 21))),
    "strongly oblique LIP": turned(orientation((0, 2, 1), (-1, -1, -1), (2.0, 1.4, 2.6), (33, 41, 25)), (25, 20, -31)),
    "coarser than the network": orientation((2, 0, 1), (-1, 1, -1), (5.0, 3.5, 4.0), (15, 21, 19)),
    "thick slices": orientation((1, 0, 2), (-1, -1, 1), (0.9, 0.9, 6.0), (61, 63, 13)),
}


@pytest.mark.parametrize("name", OBLIQUE)
def test_what_is_bright_in_an_oblique_or_anisotropic_scan_is_labelled_where_it_is(name):
    geometry = OBLIQUE[name]
    hu = hills(geometry)
    found = predictor().label(volume_of(hu, geometry))
    assert found.dtype == np.uint8 and found.shape == geometry.shape
    assert_within_one_voxel(found == 1, hu > 500)


def test_what_is_bright_is_labelled_where_it_is_for_all_48_orders_and_flips_of_the_axes():
    predict = predictor()
    for geometry in scans.all_orientations((2.6, 3.0, 2.3), (25, 21, 27)):
        hu = hills(geometry)
        assert_within_one_voxel(predict.label(volume_of(hu, geometry)) == 1, hu > 500)


def test_on_the_network_grid_itself_the_mask_is_exactly_the_bright_region():
    geometry = orientation((0, 1, 2), (1, 1, 1), (2.0, 2.5, 2.2), (20, 19, 23))
    hu = np.random.default_rng(0).choice([100.0, 900.0], geometry.shape).astype(np.float32)
    np.testing.assert_array_equal(predictor().label(volume_of(hu, geometry)), hu > 500)
    flipped = orientation((2, 0, 1), (-1, 1, -1), (2.2, 2.0, 2.5), (20, 19, 23))
    np.testing.assert_array_equal(predictor().label(volume_of(hu, flipped)), hu > 500)


@pytest.mark.parametrize("name", ["oblique PIR", "strongly oblique LIP"])
def test_all_26_levels_come_home_with_their_verse_ids(name):
    geometry = OBLIQUE[name]
    truth = np.zeros(geometry.shape, dtype=np.uint8)
    for number, label in enumerate(VERTEBRAE):
        i, j, k = np.unravel_index(number, (3, 3, 3))
        truth[2 + 10 * i : 11 + 10 * i, 2 + 12 * j : 13 + 12 * j, 1 + 6 * k : 7 + 6 * k] = label.id
    network_id = np.where(truth == 28, 26, truth).astype(float)
    found = predictor(LEVELS).label(volume_of((network_id * 1000.0 / 26).astype(np.float32), geometry))
    inside = ndimage.minimum_filter(truth, 3) == ndimage.maximum_filter(truth, 3)
    assert set(np.unique(truth[inside])) == {0, *range(1, 26), 28}
    np.testing.assert_array_equal(found[inside], truth[inside])


def header_bytes(path: Path) -> dict[str, bytes]:
    """The bytes of a NIfTI-1 header that place voxels in the world."""
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    assert struct.unpack("<i", raw[:4]) == (348,)
    places = {"dim_info": (39, 40), "dim": (40, 56), "pixdim": (76, 108), "units": (123, 124), "forms": (252, 328)}
    return {name: raw[start:stop] for name, (start, stop) in places.items()}


HEADERS = {
    "both forms": (PIR, {}),
    "oblique": (turned(PIR), {"sform": 2, "qform": 1}),
    "qform only": (turned(PIR), {"sform": 0, "qform": 1}),
    "sform only": (turned(PIR), {"sform": 2, "qform": 0}),
    "flipped": (orientation((0, 1, 2), (-1, 1, 1), (0.7, 2.5, 3.1), (31, 13, 11)), {"sform": 1, "qform": 1}),
    "left-handed qform": (orientation((0, 1, 2), (1, 1, -1), (3, 2.5, 3.1), (11, 13, 12)), {"sform": 0, "qform": 2}),
}


@pytest.mark.parametrize("suffix", [".nii.gz", ".nii"])
@pytest.mark.parametrize("name", HEADERS)
def test_the_mask_places_its_voxels_with_the_very_bytes_of_the_scan(tmp_path, name, suffix):
    geometry, codes = HEADERS[name]
    scan = scans.write_nifti(tmp_path / f"a{suffix}", spine(0, geometry).hu, geometry.affine, **codes)
    report = predicted([Case("a", "a", scan)], predictor(), tmp_path / "out")
    assert not report.failures
    mask = mask_path(tmp_path / "out", "a")
    assert header_bytes(mask) == header_bytes(scan)
    np.testing.assert_array_equal(nib.load(mask).affine, nib.load(scan).affine)
    assert nib.load(mask).get_data_dtype() == np.uint8
    assert read_labels(mask).array.any()


def test_a_scan_with_scaled_voxels_and_one_without_any_form_are_predicted_too(tmp_path):
    image = nib.Nifti1Image((spine(0).hu + 1024).astype(np.uint16), PIR.affine)
    image.header.set_slope_inter(1.0, -1024.0)
    nib.save(image, tmp_path / "scaled.nii.gz")
    scans.write_nifti(tmp_path / "formless.nii.gz", spine(0).hu, PIR.affine, sform=0, qform=0)
    cases = [Case(name, name, tmp_path / f"{name}.nii.gz") for name in ("scaled", "formless")]
    report = predicted(cases, predictor(cut=0.35), tmp_path / "out")
    assert [record.status for record in report.records] == ["written", "written"]
    mask = nib.load(mask_path(tmp_path / "out", "scaled"))
    assert (mask.dataobj.slope, mask.dataobj.inter) == (1.0, 0.0)
    assert_within_one_voxel(np.asarray(mask.dataobj) == 1, spine(0).mask > 0)


def test_a_scan_smaller_than_a_patch_in_every_axis_is_labelled_where_it_is_bright():
    geometry = orientation((1, 2, 0), (-1, -1, 1), (2.5, 3.0, 4.0), (9, 7, 5))
    hu = np.zeros(geometry.shape, dtype=np.float32)
    hu[3:7, 2:6, 1:4] = 1000
    found = predictor().label(volume_of(hu, geometry))
    assert_within_one_voxel(found == 1, hu > 500)


def test_a_margin_around_the_scan_moves_nothing():
    config = tiny_config(grid={"spacing_mm": [2.0, 2.5, 2.2], **WINDOW}, sampling={"margin_voxels": [1, 0, 7]})
    for name in ("oblique PIR", "coarser than the network"):
        geometry = OBLIQUE[name]
        scan = volume_of(hills(geometry), geometry)
        np.testing.assert_array_equal(predictor(config).label(scan), predictor().label(scan))


def test_progress_counts_every_window_up_to_the_last():
    calls = []
    geometry = OBLIQUE["oblique RAS"]
    predictor().label(volume_of(hills(geometry), geometry), lambda *call: calls.append(call))
    totals = {total for _, _, total in calls}
    assert len(totals) == 1
    assert [done for _, done, _ in calls] == list(range(totals.pop() + 1))


@pytest.fixture
def batch(tmp_path):
    """Three scans, the second of which is no scan."""
    cases = []
    for number in range(3):
        path = tmp_path / "scans" / f"case{number}_ct.nii.gz"
        spine(number).write(path)
        cases.append(Case(f"case{number}", f"case{number}", path))
    (tmp_path / "scans" / "case1_ct.nii.gz").write_text("no scan")
    return cases


def run(cases, out, **options):
    return predicted(cases, predictor(cut=0.35), out, **options)


def manifest(out):
    return json.loads((out / "predictions.json").read_text())


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


def models(folder, *names):
    """Files that stand for models of these names."""
    for name in names:
        (folder / name).write_bytes(name.encode())
    return [folder / name for name in names]


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


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is held now")
def test_the_peak_memory_of_a_scan_is_not_that_of_the_scan_before(tmp_path, batch, monkeypatch):
    prepare = Predictor.prepare

    def hungry(self, volume):
        if "case0" in str(volume.path):
            np.ones(80_000_000).sum()  # 640 MB
        return prepare(self, volume)

    monkeypatch.setattr(Predictor, "prepare", hungry)
    first, _, last = run(batch, tmp_path / "out", overlap=False).records
    assert first.peak_rss_mb > last.peak_rss_mb + 350
    assert last.process_peak_rss_mb >= first.peak_rss_mb, "what the system says of the process stays true"
    assert peak_rss_mb() >= first.peak_rss_mb - 0.1, "rounded"


def test_an_unexpected_runtime_error_in_one_scan_does_not_stop_the_rest(tmp_path, batch, monkeypatch):
    def prepare(self, volume):
        raise MemoryError if "case0" in str(volume.path) else RuntimeError("CUDA out of memory")

    monkeypatch.setattr(Predictor, "prepare", prepare)
    report = run(batch, tmp_path / "out")
    assert [record.error.splitlines()[0] for record in report.records][::2] == [
        "not enough memory",
        "RuntimeError: CUDA out of memory",
    ]


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


@pytest.fixture
def many(tmp_path):
    """Five good scans of different shapes and one that is none, in the middle."""
    cases = []
    for number in range(6):
        path = tmp_path / "scans" / f"case{number}_ct.nii.gz"
        grid = PIR if number % 2 else orientation((0, 1, 2), (-1, 1, 1), (2.0, 2.5, 3.1), (31, 33, 20 + number))
        spine(number, grid).write(path)
        cases.append(Case(f"case{number}", f"case{number}", path))
    cases[3].image.write_text("no scan")
    return cases


def masks_in(out) -> dict[str, bytes]:
    return {path.name: gzip.decompress(path.read_bytes()) for path in sorted(out.glob("*_msk.nii.gz"))}


def test_reading_ahead_and_writing_behind_on_several_cores_changes_no_mask_and_no_order(tmp_path, many, monkeypatch):
    heard = []
    for module in (threads, single_threaded):
        monkeypatch.setattr(module, "thread_count", lambda: 3)
    ahead = run(many, tmp_path / "ahead", progress=lambda *told: heard.append(told))
    for module in (threads, single_threaded):
        monkeypatch.setattr(module, "thread_count", lambda: 1)
    alone = run(many, tmp_path / "alone", overlap=False)
    assert [record.status for record in ahead.records] == [record.status for record in alone.records]
    assert [record.case for record in ahead.records] == [case.case for case in many]
    assert len(masks_in(tmp_path / "ahead")) == 5
    assert masks_in(tmp_path / "ahead") == masks_in(tmp_path / "alone")
    assert [done for what, done, _ in heard if what == "scans"] == list(range(7))


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_parts_of_a_job_do_every_scan_once_and_keep_lists_of_their_own(tmp_path, many, parts):
    out, together = tmp_path / "out", tmp_path / "together"
    run(many, together)
    seen = []
    for part in range(parts):
        seen += [record.case for record in run(many, out, part=part, parts=parts).records]
    assert sorted(seen) == [case.case for case in many]
    assert masks_in(out) == masks_in(together)
    found = read_predictions(out)
    assert sorted(found.records) == [case.case for case in many]
    assert {case for case, record in found.records.items() if record["status"] == "failed"} == {"case3"}
    assert found.about["scheme"] == "binary"
    assert not (out / "predictions.json").exists()


def test_a_job_knows_what_another_part_or_an_undivided_job_made(tmp_path, many):
    out = tmp_path / "out"
    run(many[:2], out)
    (again,) = run(many[:2], out, part=1, parts=2).records
    assert (again.case, again.status) == ("case1", "skipped")
    moved = [many[0], replace(many[1], image=many[2].image)]
    (wrong,) = run(moved, out, part=1, parts=2).records
    assert wrong.status == "failed" and "made from another scan" in wrong.error


def test_a_scan_that_does_not_fit_is_refused_before_it_is_read_and_the_others_are_done(tmp_path, many, monkeypatch):
    big = tmp_path / "scans" / "big_ct.nii.gz"
    scans.write_nifti(big, np.zeros((420, 420, 420), np.int16), np.eye(4))
    read = []
    monkeypatch.setattr(read_ahead, "read_image", lambda path: read.append(path) or read_image(path))
    cases = [many[0], Case("big", "big", big), many[1]]
    gc.collect()
    give_back_freed_memory()  # of the tests before, or it would be free for the scan
    # Right between the 60 MB that the small ones are planned with and the 240 MB of the big one.
    first, refused, last = run(cases, tmp_path / "out", max_ram_gb=(rss_mb() + 150) / 1000).records
    assert (first.status, refused.status, last.status) == ("written", "failed", "written")
    assert "this needs at least" in refused.error and "`max_ram_gb=" in refused.error
    assert big not in read and not mask_path(tmp_path / "out", "big").exists()


def test_a_limit_below_what_the_program_holds_is_refused_at_once(tmp_path, many):
    with pytest.raises(MemoryLimitError, match="the program and the model alone hold"):
        run(many, tmp_path / "out", max_ram_gb=0.01)


def test_a_model_whose_single_window_cannot_fit_is_refused_before_it_is_tried(tmp_path, many, monkeypatch):
    """An empty window of 640^3 voxels would take a gigabyte for itself, and the network several."""
    monkeypatch.setattr(Predictor, "piece_mb", lambda _: pytest.fail("tried"))
    by = predictor(tiny_config(sampling={"patch_voxels": [640, 640, 640]}))
    with pytest.raises(MemoryLimitError, match="the program and the model with one of its windows hold"):
        predicted(many, by, tmp_path / "out", max_ram_gb=rss_mb() / 1000 + 1)


def test_one_scan_that_cannot_fit_does_not_keep_the_others_from_being_overlapped(tmp_path, many, monkeypatch):
    coarse = np.diag([60.0, 60.0, 60.0, 1.0])
    big = scans.write_nifti(tmp_path / "scans" / "big_ct.nii.gz", np.zeros((30, 30, 30), np.int16), coarse)
    used = []
    monkeypatch.setattr(predict, "overlapped", lambda *way: used.append("overlapped") or overlapped(*way))
    cases = [many[0], Case("big", "big", big), many[1]]
    report = run(cases, tmp_path / "out", max_ram_gb=(rss_mb() + 600) / 1000)
    assert [record.status for record in report.records] == ["written", "failed", "written"]
    assert used == ["overlapped"]


def test_the_first_scan_is_read_while_the_network_is_opened_and_only_once(tmp_path, many, monkeypatch):
    read, opened, threads = [], threading.Event(), set()

    def waiting(path):
        """Reading the first scan waits until the network is being opened, and the network waits for the scan."""
        read.append(path)
        threads.add(threading.current_thread().name.split("_")[0])
        assert opened.wait(300)
        return read_image(path)

    monkeypatch.setattr(read_ahead, "read_image", waiting)
    monkeypatch.setattr(Predictor, "make_ready", lambda _: opened.set())
    report = run(many[:3], tmp_path / "out")
    assert [record.status for record in report.records] == ["written"] * 3
    assert read == [case.image for case in many[:3]] and "read" in threads


@pytest.mark.parametrize("channels_of", [FINE, LEVELS], ids=["one label", "26 levels"])
def test_what_a_piece_takes_includes_room_for_three_more_logits(channels_of, monkeypatch):
    """Freed memory comes in pieces, into which the next window does not fit."""
    by = predictor(channels_of)
    channels, voxels = by.method.network_scheme.output_channels, np.prod(channels_of.sampling.patch_voxels)
    monkeypatch.setattr("verse3d.inference.predictor.rss_mb", lambda: 1e9)  # so that nothing seems to be taken
    assert by.piece_mb() == pytest.approx(3 * channels * voxels * 4 / 1e6)


def test_no_image_is_held_while_its_mask_is_made(tmp_path, many, monkeypatch):
    """The plan counts mask and probabilities then, not the image as well."""
    segment, write, images, held = ScanStages.segment, ScanStages.write, [], []

    def noting(stages, scan):
        images.append(weakref.ref(scan.image))
        return segment(stages, scan)

    def looking(stages, scan):
        gc.collect()
        held.append(images[-1]() is not None)
        return write(stages, scan)

    monkeypatch.setattr(ScanStages, "segment", noting)
    monkeypatch.setattr(ScanStages, "write", looking)
    run(many[:1], tmp_path / "out")
    assert held == [False]


def test_freed_probabilities_are_given_back_before_the_mask_is_cleaned(tmp_path, many, monkeypatch):
    steps, mask, finish = [], BinaryAggregator.mask, Predictor.finish
    monkeypatch.setattr(BinaryAggregator, "mask", lambda own: (steps.append("mask"), mask(own))[1])
    monkeypatch.setattr(scan_stages, "give_back_freed_memory", lambda: steps.append("give back"))
    monkeypatch.setattr(Predictor, "finish", lambda *words: (steps.append("clean"), finish(*words))[1])
    run(many[:1], tmp_path / "out")
    assert steps == ["give back", "mask", "give back", "clean"]


def test_a_first_scan_that_cannot_be_read_fails_by_itself(tmp_path, many):
    many[0].image.write_bytes(b"no scan")
    first, *others = run(many[:3], tmp_path / "out").records
    assert first.status == "failed" and {record.status for record in others} == {"written"}


def test_a_first_scan_that_does_not_fit_beside_the_network_is_refused_after_it_was_read(tmp_path, many, monkeypatch):
    """Before the network was tried nobody knew that a window takes four gigabytes."""
    monkeypatch.setattr(Predictor, "piece_mb", lambda _: 4000.0)
    first, *_ = run(many[:1], tmp_path / "out", max_ram_gb=rss_mb() / 1000 + 2).records
    assert first.status == "failed" and "for network" in first.error and str(many[0].image) in first.error


def test_a_scan_that_is_replaced_while_it_is_read_fails_and_the_next_is_done(tmp_path, many, monkeypatch):
    def replaced(path):
        volume = read_image(path)
        if "case0" in path.name:
            other = spine(9).write(tmp_path / "new" / "ct.nii.gz")
            other.replace(path)
        return volume

    monkeypatch.setattr(read_ahead, "read_image", replaced)
    first, second = run(many[:2], tmp_path / "out").records
    assert first.status == "failed" and "was replaced while it was read" in first.error
    assert second.status == "written" and not mask_path(tmp_path / "out", "case0").exists()


def test_a_scan_that_is_read_already_is_not_read_again_and_gives_the_same_mask(tmp_path, many, monkeypatch):
    plain = run(many[:2], tmp_path / "plain")
    read = []
    monkeypatch.setattr(read_ahead, "read_image", lambda path: read.append(path) or read_image(path))
    given = run(many[:2], tmp_path / "given", ahead=read_ahead.ReadAhead(many[0].image))
    assert read == [many[0].image, many[1].image]
    for one, other in zip(plain.records, given.records, strict=True):
        assert one.status == other.status == "written"
        assert (plain.folder / one.mask).read_bytes() == (given.folder / other.mask).read_bytes()
        assert one.plan["stages_mb"]["reading"] == other.plan["stages_mb"]["reading"]
        assert other.seconds_of["read"] > 0


def test_a_scan_that_was_read_already_and_does_not_fit_is_refused(tmp_path, many, monkeypatch):
    monkeypatch.setattr("verse3d.inference.budget.network_geometry", lambda *_: Geometry((9999, 9999, 9999), np.eye(4)))
    report = run(many[:1], tmp_path / "out", ahead=read_ahead.ReadAhead(many[0].image))
    assert report.records[0].status == "failed" and str(many[0].image) in report.records[0].error


def test_a_scan_whose_mask_is_kept_is_not_held_though_it_was_read(tmp_path, many):
    run(many[:1], tmp_path / "out")
    ahead = read_ahead.ReadAhead(many[0].image)
    assert run(many[:1], tmp_path / "out", ahead=ahead).records[0].status == "skipped"
    assert ahead.take(many[0].image) is None


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
