"""What predict says about scans that are none or unlike the training's, and about masks that cannot be right."""

import nibabel as nib
import numpy as np
import pytest

import verse3d
from tests import scans
from tests.scans import PIR, orientation, spine, tiny_config, turned, write_nifti
from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.phantom_sidecar import is_phantom
from verse3d.core.volume import read_image
from verse3d.data.cases import write_index
from verse3d.data.samples.measures import grid_measures, tissue_measures
from verse3d.inference.mask_warnings import mask_warnings
from verse3d.inference.scan_warnings import scan_warnings, tissue_warnings
from verse3d.model.checkpoint import load_checkpoint
from verse3d.model.trained_on import TrainedOn

BODY = orientation((1, 2, 0), (-1, -1, 1), (2.0, 3.0, 2.5), (90, 80, 70))
"""180 mm deep, 240 mm high, 175 mm wide."""
LEARNT = {"finest": [1.0, 2.0], "coarsest": [3.0, 3.5], "width": [150.0, 200.0], "depth": [160.0, 190.0]}
LEARNT |= {"height": [200.0, 300.0], "median": [20.0, 60.0], "bright": [500.0, 900.0]}
SEEN = TrainedOn(cases=5, ranges=LEARNT)


def body(geometry=BODY, low=-1000, high=1200) -> np.ndarray:
    hu = np.random.default_rng(0).normal(40, 30, geometry.shape)
    hu[:9] = low
    hu[30:50, :, 20:40] = high
    return hu.astype(np.int16)


def saved(path, array, geometry=BODY, **codes):
    return read_image(write_nifti(path, array, geometry.affine, **codes))


def test_nothing_is_said_about_a_scan_like_those_of_the_training(tmp_path):
    volume = saved(tmp_path / "a.nii.gz", body())
    assert scan_warnings(volume, SEEN) == scan_warnings(volume, None) == ()


def test_one_voxel_that_differs_is_no_constant_scan(tmp_path):
    """A few voxels are looked at first, and this is none of them."""
    hu = np.full((16, 15, 14), 40, np.int16)
    hu[5, 5, 5] = 41
    assert scan_warnings(saved(tmp_path / "a.nii.gz", hu), None) == ("almost all voxels have the value 40",)


NO_CT = {
    "8 bit": (lambda hu: np.clip((hu + 200) / 6, 0, 255), {}, "an MR image or an 8-bit picture"),
    "HU + 1024": (lambda hu: hu + 1024, {}, r"looks like HU \+ 1024"),
    "0 to 1": (lambda hu: (hu + 1024.0) / 4000, {}, r"scaled to 0 \.\.\. 1"),
    "MR": (lambda hu: (hu + 1024.0) / 5, {}, "looks like an MR image$"),
    "MR-like": (lambda hu: hu / 10 - 90, {}, "does not look like a CT with bone"),
    "one value": (lambda hu: hu * 0 + 7, {}, "all voxels of the scan have the value 7"),
    "no orientation": (lambda hu: hu, {"sform": 0, "qform": 0}, "left and right are a guess"),
}


@pytest.mark.parametrize("name", NO_CT)
def test_a_scan_that_is_no_ct_is_told(tmp_path, name):
    change, codes, words = NO_CT[name]
    volume = saved(tmp_path / "a.nii.gz", change(body()).astype(np.float32), **codes)
    [warning] = scan_warnings(volume, None)
    assert str(tmp_path) not in warning
    with pytest.raises(AssertionError, match=words):
        raise AssertionError(warning)


UNLIKE = {
    "thick slices": (orientation((1, 2, 0), (-1, -1, 1), (2.0, 3.0, 6.0), (90, 80, 30)), ["coarsest spacing is 6 mm"]),
    "a micro-CT": (orientation((1, 2, 0), (-1, -1, 1), (0.5, 3.0, 2.5), (360, 80, 70)), ["finest spacing is 0.5 mm"]),
    "a whole trunk": (
        orientation((0, 1, 2), (1, 1, -1), (2.0, 2.0, 3.0), (220, 180, 200)),
        ["440 mm wide, in the training's scans 150 to 200", "360 mm deep", "600 mm high"],
    ),
    "one vertebra, oblique": (
        turned(orientation((2, 0, 1), (1, -1, 1), (2.0, 2.0, 3.0), (20, 30, 20))),
        ["60 mm wide", "60 mm deep", "40 mm high"],
    ),
}


@pytest.mark.parametrize("name", UNLIKE)
def test_spacing_and_field_of_view_unlike_the_trainings_are_told(tmp_path, name):
    geometry, words = UNLIKE[name]
    hu = body(geometry)
    hu[:, :10] = 1000
    told = scan_warnings(saved(tmp_path / "a.nii.gz", hu, geometry), SEEN)
    assert len(told) == len(words)
    assert all(word in warning for word, warning in zip(words, told, strict=True))


@pytest.mark.parametrize(("hu", "told"), [((40, 700), 0), ((-110, 700), 0), ((240, 700), 1), ((40, 1240), 1)])
def test_grey_values_of_the_tissue_unlike_the_trainings_are_told(hu, told):
    window = (-250.0, 1250.0)
    image = np.zeros(BODY.shape, np.float16)
    image[10:] = (hu[0] - window[0]) / 1500
    image[-9:] = (hu[1] - window[0]) / 1500
    assert len(tissue_warnings(image, BODY, window, SEEN)) == told
    assert tissue_warnings(image, BODY, window, None) == ()
    assert tissue_warnings(image * 0, BODY, window, SEEN) == (), "of air nothing is known"


def test_measures_follow_the_world_whatever_the_order_of_the_axes():
    for geometry in scans.all_orientations((1.0, 2.0, 4.0), (50, 30, 20)):
        measures = grid_measures(geometry)
        extents = {measures[name] for name in ("width", "depth", "height")}
        assert extents == {50.0, 60.0, 80.0} and (measures["finest"], measures["coarsest"]) == (1.0, 4.0)
    found = grid_measures(PIR)  # 26 x 30 x 18 voxels of 2.5 x 3 x 4 mm along P, I, R
    assert (found["depth"], found["height"], found["width"]) == (65.0, 90.0, 72.0)
    image = np.array([0, 0, 0.25, 0.5, 0.75], np.float16)
    assert tissue_measures(image, (-200.0, 200.0))["median"] == pytest.approx(0.0)


def box(*places, shape=BODY.shape):
    labels = np.zeros(shape, np.uint8)
    for place in places:
        labels[tuple(slice(*along) for along in place)] = 1
    return labels


SPINE = ((40, 60), (10, 70), (30, 45))


def test_nothing_is_said_about_a_spine_inside_the_scan():
    assert mask_warnings(box(SPINE), BODY) == ()
    assert mask_warnings(box(), BODY) == ()


@pytest.mark.parametrize(
    ("place", "words"),
    [
        (((40, 60), (0, 70), (30, 45)), "the upper end"),
        (((40, 60), (10, 80), (30, 45)), "the lower end"),
        (((40, 60), (0, 80), (30, 45)), "the lower and upper ends of"),
        (((0, 60), (0, 80), (30, 45)), "the front, lower and upper ends of"),
        (((40, 60), (10, 70), (30, 70)), "the right end"),
        (((0, 60), (10, 70), (30, 45)), "the front end"),
    ],
)
def test_a_mask_that_touches_an_end_of_the_scan_is_told_by_its_direction(place, words):
    [warning] = mask_warnings(box(place), BODY)
    assert words in warning and "cut off there" in warning


def test_pieces_that_are_too_small_or_far_beside_the_spine_are_told_with_their_place():
    crumb, rib = ((40, 44), (74, 77), (30, 35)), ((40, 60), (30, 40), (3, 12))
    [warning] = mask_warnings(box(SPINE, crumb, rib), BODY)
    x, y, z = BODY.world_from_index([[49.5, 34.5, 7.5]])[0]
    place = warning.partition("ml at ")[2].partition(" mm")[0].split(",")
    np.testing.assert_allclose([float(value) for value in place], [x, y, z], atol=3)
    assert warning.startswith("2 pieces do not look like a vertebra: ")


def test_a_speck_is_not_told_to_have_no_volume():
    fine = Geometry((90, 80, 70), np.diag([0.4, 0.4, 0.4, 1.0]))
    [warning] = mask_warnings(box(SPINE, ((50, 58), (70, 74), (14, 18))), fine)
    assert "not look like a vertebra: " in warning and "less than 0.1 ml at" in warning


def test_folders_of_masks_alone_are_told_from_empty_ones(tmp_path):
    write_nifti(tmp_path / "masks" / "a_seg.nii.gz", box(SPINE), BODY.affine)
    with pytest.raises(DataError, match="no scan was found") as refused:
        verse3d.predict(tmp_path / "masks", out=tmp_path / "out")
    assert refused.value.hint == "what is there has a name like that of a mask (1 case)"


def test_a_spine_in_several_pieces_is_no_finding():
    pieces = [((40, 60), (start, start + 8), (30, 45)) for start in (5, 20, 35, 50, 65)]
    assert mask_warnings(box(*pieces), BODY) == ()
    curved = [((40, 60), (start, start + 8), (10 + 8 * n, 25 + 8 * n)) for n, start in enumerate((5, 20, 35, 50, 65))]
    assert mask_warnings(box(*curved), BODY) == ()


class TestTrainedOn:
    def test_ranges_span_all_cases_and_leave_out_what_is_not_known_of_all(self):
        seen = TrainedOn.of([{"a": 1.0, "b": 5.0}, {"a": 3.0}, {"a": -2.0}], phantoms=1)
        assert seen == TrainedOn(cases=3, phantoms=1, ranges={"a": [-2.0, 3.0]})

    def test_models_that_are_averaged_have_seen_what_each_has_seen(self):
        one, other = TrainedOn(cases=2, ranges={"a": [1.0, 2.0]}), TrainedOn(cases=3, ranges={"a": [0.0, 1.5]})
        assert TrainedOn.joined([one, other]) == TrainedOn(cases=5, ranges={"a": [0.0, 2.0]})
        assert TrainedOn.joined([one, None]) is None and TrainedOn.joined([]) is None

    @pytest.mark.parametrize(
        "values",
        [{"cases": 0}, {"cases": 1, "phantoms": 2}, {"cases": 1, "ranges": {"a": [2.0, 1.0]}}, {"cases": 1, "x": 2}],
    )
    def test_what_makes_no_sense_is_refused(self, values):
        with pytest.raises(ValueError, match="validation error"):
            TrainedOn.model_validate(values)


def test_training_notes_what_it_saw_and_predict_compares(tmp_path, dataset, tiny_yaml):
    write_index(tmp_path / "cases.jsonl", dataset)
    verse3d.train(data=tmp_path / "cases.jsonl", out=tmp_path / "run", config=tiny_yaml, max_epochs=1, device="cpu")
    seen = load_checkpoint(tmp_path / "run" / "last.pt").trained_on
    assert (seen.cases, seen.phantoms) == (3, 0)
    assert seen.ranges["finest"] == pytest.approx([2.5, 2.5]) and seen.ranges["coarsest"] == pytest.approx([3.5, 4.0])
    wide = Geometry((120, 30, 18), PIR.affine)
    scan = write_nifti(tmp_path / "a.nii.gz", np.zeros(wide.shape, np.int16) + 40, wide.affine)
    [record] = verse3d.predict(scan, model=tmp_path / "run", out=tmp_path / "out", device="cpu").records
    assert any("the field of view is 300 mm deep" in warning for warning in record.warnings)
    assert "all voxels of the scan have the value 40" in record.warnings


class TestPhantoms:
    @pytest.mark.slow  # seconds, and what is like it runs quickly
    def test_a_synthetic_scan_is_known_by_the_file_beside_it(self, tmp_path):
        [scan] = verse3d.phantom(tmp_path / "p", cases=1)
        assert is_phantom(scan)
        copy = tmp_path / "copy_ct.nii.gz"
        copy.write_bytes(scan.read_bytes())
        assert not is_phantom(copy)
        for content in ("{", "[]", '{"Manufacturer": "other"}', "x" * 20_000):
            (tmp_path / "copy_ct.json").write_text(content)
            assert not is_phantom(copy)

    def test_a_model_trained_on_them_alone_says_so_on_other_scans_only(self, tmp_path):
        scan = saved(tmp_path / "a.nii.gz", body())
        [warning] = scan_warnings(scan, TrainedOn(cases=3, phantoms=3))
        assert "synthetic scans only" in warning
        assert scan_warnings(scan, TrainedOn(cases=3, phantoms=2)) == ()
        (tmp_path / "a.json").write_text('{"KVP": 120, "Manufacturer": "verse3d", "ManufacturerModelName": "phantom"}')
        assert scan_warnings(scan, TrainedOn(cases=3, phantoms=3)) == ()


def test_the_same_is_said_in_memory_as_on_disk(tmp_path, monkeypatch):
    scans.use_threshold_network(monkeypatch)
    model = scans.save_model(tmp_path / "best.pt", tiny_config())
    scan = spine().write(tmp_path / "a.nii.gz")
    image = nib.load(scan)
    shifted = nib.Nifti1Image(np.asanyarray(image.dataobj) + 1024, image.affine)
    nib.save(shifted, scan)
    [record] = verse3d.predict(scan, model=model, out=tmp_path / "out", device="cpu").records
    assert any("HU + 1024" in warning for warning in record.warnings)
    found = verse3d.load_model(model, device="cpu")
    assert found.segment(scan).warnings == found.segment(nib.load(scan)).warnings == record.warnings


def test_a_mask_of_noise_is_told_of_at_once_whatever_the_number_of_its_pieces():
    noise = (np.random.default_rng(0).random((120, 120, 120)) > 0.97).astype(np.uint8)
    *_, told = mask_warnings(noise, Geometry(noise.shape, np.diag([3.0, 3.0, 3.0, 1.0])))
    assert int(told.split(maxsplit=1)[0]) > 5000 and "not look like a vertebra" in told and len(told) < 200
