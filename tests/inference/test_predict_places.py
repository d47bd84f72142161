"""From CT to mask: never move a patient, and keep the bytes of the header that place voxels."""

import gzip
import struct
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tests import scans
from tests.inference.predicting import LEVELS, WINDOW, predicted, predictor
from tests.scans import PIR, orientation, spine, tiny_config, turned
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.core.volume import Volume, read_labels
from verse3d.data.cases import Case
from verse3d.data.predictions import mask_path


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
