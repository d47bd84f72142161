"""From files to the network grid and to patches: equal to MONAI and to banal oracles, and refused where it must be."""

import numpy as np
import pytest
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd
from scipy.ndimage import map_coordinates

from tests.core.grids import affine, hounsfield, save_scan
from verse3d.core.config import Config, GridConfig, parse_config
from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_linear
from verse3d.core.volume import read_image, read_labels
from verse3d.data.cases import Case
from verse3d.data.samples import transforms
from verse3d.data.samples.grid import network_geometry, prepare_image, prepare_image_float16
from verse3d.data.samples.transforms import (
    preparation,
    prepare_case,
    require_same_grid,
)

GEOMETRIES = [  # axes, shape, spacing, tilt in degrees, network spacing
    pytest.param(("PIR", (31, 44, 9), (0.6, 0.4, 3.3), (12.0, -9.0, 17.0), (1.5, 1.5, 1.5)), id="thick, oblique"),
    pytest.param(("LPS", (17, 12, 23), (1.2, 0.9, 0.7), (0.0, 0.0, 0.0), (0.8, 1.1, 0.5)), id="flipped, finer"),
    pytest.param(("ASR", (13, 30, 11), (2.0, 0.5, 1.0), (-5.0, 3.0, 8.0), (1.0, 1.0, 1.0)), id="permuted"),
    pytest.param(("RAS", (10, 11, 12), (1.5, 1.5, 1.5), (0.0, 0.0, 0.0), (1.5, 1.5, 1.5)), id="already there"),
    pytest.param(("ILA", (5, 1, 14), (3.0, 2.0, 0.5), (0.0, 10.0, 0.0), (1.0, 1.0, 1.0)), id="one slice"),
]
LABELS = (1, 7, 19, 28, 20)
GRID = GridConfig(spacing_mm=(1.0, 1.0, 1.0))


def blocks(shape, ids=LABELS) -> np.ndarray:
    """Label slabs of uneven thickness along every axis, with background between them."""
    index = np.indices(shape)
    place = (index[0] // 3 + index[1] // 4 + index[2] // 5) % (len(ids) + 1)
    return np.array([0, *ids], dtype=np.uint8)[place]


def banal_vote(ids: np.ndarray, source: Geometry, target: Geometry) -> tuple[np.ndarray, np.ndarray]:
    """Winner of the interpolated masks at every target voxel, and how far the second was behind."""
    world = target.world_from_index(np.stack(np.indices(target.shape), axis=-1).reshape(-1, 3))
    places = np.round(source.index_from_world(world).T, 6)
    shares = [map_coordinates((ids == label).astype(float), places, order=1, mode="nearest") for label in range(27)]
    ranked = np.sort(shares, axis=0)
    return np.argmax(shares, axis=0).reshape(target.shape), (ranked[-1] - ranked[-2]).reshape(target.shape)


@pytest.fixture
def pair(tmp_path):
    """Write a scan and its mask and return the case."""

    def write(
        codes="PIR", shape=(9, 11, 14), spacing_mm=(1.3, 0.7, 2.5), degrees=(12.0, -9.0, 17.0), mask=None
    ) -> Case:
        matrix = affine(codes, spacing_mm, degrees)
        image = save_scan(tmp_path / "a.nii.gz", hounsfield(shape), matrix)
        labels = blocks(shape) if mask is None else mask
        return Case("a", "a", image, save_scan(tmp_path / "a_seg.nii.gz", labels, matrix))

    return write


def config(spacing_mm=(1.0, 1.0, 1.0), scheme="binary") -> Config:
    return parse_config({"grid": {"spacing_mm": list(spacing_mm)}, "labels": {"scheme": scheme}})


# --- to the network grid


def monai_journey(image, network_mm, window_hu) -> MetaTensor:
    low, high = window_hu
    chain = [
        LoadImaged("image"),
        EnsureChannelFirstd("image"),
        Orientationd("image", axcodes="RAS", labels=None),
        Spacingd("image", pixdim=network_mm, mode="bilinear"),
        ScaleIntensityRanged("image", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
    ]
    return Compose(chain)({"image": image})["image"]


@pytest.mark.parametrize("situation", [case for case in GEOMETRIES if not any(case.values[0][3])])
def test_a_straight_scan_reaches_the_network_grid_as_monai_brings_it_there(pair, situation):
    case, settings = pair(*situation[:4]), config(situation[4])
    ours = preparation(settings)({"image": case.image, "label": case.mask})
    theirs = monai_journey(case.image, situation[4], settings.grid.window_hu)
    assert tuple(ours["image"].shape) == tuple(theirs.shape) == (1, *ours["geometry"].shape)
    np.testing.assert_allclose(ours["geometry"].affine, theirs.affine.numpy(), atol=1e-4)
    np.testing.assert_allclose(np.asarray(ours["image"]), theirs.numpy(), atol=2e-4)


@pytest.mark.parametrize("situation", GEOMETRIES)
def test_a_scan_has_the_grey_values_that_monai_gives_it(pair, situation):
    """On MONAI's grid: for a tilted scan with a header of floats it aligns the centres instead of the first voxels."""
    case, settings = pair(*situation[:4]), config(situation[4])
    source, (low, high) = read_image(case.image), settings.grid.window_hu
    theirs = monai_journey(case.image, situation[4], settings.grid.window_hu)
    target = network_geometry(source.geometry, settings.grid)
    assert target.shape == tuple(theirs.shape[1:])
    on_their_grid = Geometry(target.shape, theirs.affine.numpy())
    assert target.distance_mm(on_their_grid) <= np.linalg.norm(situation[4]) / 2
    ours = np.clip((resample_linear(source.array, source.geometry, on_their_grid) - low) / (high - low), 0, 1)
    np.testing.assert_allclose(ours, theirs[0].numpy(), atol=1e-3)
    assert 0.05 < ours.mean() < 0.95


@pytest.mark.parametrize("situation", GEOMETRIES)
def test_labels_reach_the_network_grid_by_the_vote_of_the_interpolated_masks(pair, situation):
    case, settings = pair(*situation[:4]), config(situation[4], "vertebrae")
    ready = preparation(settings)({"image": case.image, "label": case.mask})
    network_ids = np.array([*range(26), 0, 0, 26], dtype=np.uint8)  # T13: VerSe 28 is network 26
    source = read_labels(case.mask)
    expected, margin = banal_vote(network_ids[source.array], source.geometry, ready["geometry"])
    clear = margin > 1e-4
    assert ready["label"].dtype == np.uint8
    assert clear.mean() > 0.5
    np.testing.assert_array_equal(np.asarray(ready["label"])[0][clear], expected[clear])


def test_the_binary_scheme_makes_one_label_of_all_vertebrae(pair):
    case = pair("RAS", (10, 11, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0))
    ready = preparation(config())({"image": case.image, "label": case.mask})
    np.testing.assert_array_equal(np.asarray(ready["label"])[0], blocks((10, 11, 12)) > 0)


@pytest.mark.parametrize("situation", GEOMETRIES)
def test_inference_prepares_a_scan_exactly_as_training_does(pair, situation):
    case, settings = pair(*situation[:4]), config(situation[4])
    ready = preparation(settings)({"image": case.image})
    image, geometry = prepare_image(read_image(case.image), settings.grid)
    assert geometry == ready["geometry"] == network_geometry(read_image(case.image).geometry, settings.grid)
    assert geometry.axis_codes == ("R", "A", "S")
    assert (image.dtype, image.shape) == (np.float32, geometry.shape)
    np.testing.assert_allclose(image, np.asarray(ready["image"])[0], atol=1e-6)


@pytest.mark.parametrize("situation", GEOMETRIES)
def test_the_image_in_float16_is_the_float32_one_rounded(pair, situation):
    case, settings = pair(*situation[:4]), config(situation[4])
    volume = read_image(case.image)
    image, geometry = prepare_image(volume, settings.grid)
    rounded, same = prepare_image_float16(volume, settings.grid)
    assert (rounded.dtype, same) == (np.float16, geometry)
    assert rounded.tobytes() == image.astype(np.float16).tobytes()


def test_the_window_becomes_zero_to_one_and_clips(tmp_path):
    scan = np.array([-2000, -250, 500, 1250, 3000], dtype=np.int16).reshape(1, 5, 1)
    path = save_scan(tmp_path / "a.nii", scan, np.eye(4))
    image, _ = prepare_image(read_image(path), GRID)
    np.testing.assert_allclose(image.ravel(), [0, 0, 0.5, 1, 1], atol=1e-6)


def test_preparing_changes_no_voxel_of_the_scan(pair):
    volume = read_image(pair("RAS", (10, 11, 12), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0)).image)
    before = volume.array.copy()
    prepare_image(volume, GRID)
    np.testing.assert_array_equal(volume.array, before)


# --- refusals


def grids_of(tmp_path, mask_shape, mask_affine):
    matrix = affine("PIR", degrees=(4, 5, 6))
    image = read_image(save_scan(tmp_path / "a.nii", hounsfield((5, 6, 7)), matrix))
    return image, read_labels(save_scan(tmp_path / "m.nii", blocks(mask_shape), mask_affine(matrix)))


def test_a_mask_of_another_shape_is_refused(tmp_path):
    with pytest.raises(GeometryError, match=r"m\.nii has shape \(5, 7, 6\), its scan .*a\.nii has \(5, 6, 7\)"):
        require_same_grid(*grids_of(tmp_path, (5, 7, 6), lambda matrix: matrix))


def test_a_mask_with_a_flipped_axis_is_refused(tmp_path):
    def flip(matrix):
        return matrix @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, -1, 6], [0, 0, 0, 1.0]])

    with pytest.raises(GeometryError, match=r"15\.0 mm away.*axes PIL against PIR"):
        require_same_grid(*grids_of(tmp_path, (5, 6, 7), flip))


@pytest.mark.parametrize(("shift_mm", "fits"), [(0.05, True), (0.2, False)])
def test_a_mask_may_lie_a_tenth_of_a_millimetre_off_but_not_more(tmp_path, shift_mm, fits):
    def shift(matrix):
        moved = matrix.copy()
        moved[2, 3] += shift_mm
        return moved

    image, mask = grids_of(tmp_path, (5, 6, 7), shift)
    if fits:
        require_same_grid(image, mask)
    else:
        with pytest.raises(GeometryError, match=r"up to 0\.2 mm away"):
            require_same_grid(image, mask)


def test_a_case_whose_scan_is_missing_fails_as_a_data_error(pair):
    case = pair()
    case.image.unlink()
    with pytest.raises(DataError, match=r"a\.nii\.gz does not exist"):
        prepare_case(case, config())


def test_a_case_whose_mask_is_damaged_fails_as_a_data_error(pair):
    case = pair()
    case.mask.write_bytes(case.mask.read_bytes()[:150])
    with pytest.raises(DataError, match=r"cannot read .*a_seg\.nii\.gz"):
        prepare_case(case, config())


def test_a_case_with_unknown_labels_fails_as_a_data_error(pair):
    with pytest.raises(DataError, match=r"unknown label ids \[26\]"):
        prepare_case(pair(mask=blocks((9, 11, 14), ids=(1, 26))), config())


def test_a_case_whose_mask_lies_elsewhere_fails_as_a_geometry_error(pair):
    case = pair()
    save_scan(case.mask, blocks((9, 11, 14)), affine("AIR"))
    with pytest.raises(GeometryError, match="mm away"):
        prepare_case(case, config())


def test_a_case_without_mask_fails_as_a_data_error(pair):
    with pytest.raises(DataError, match="has no mask"):
        prepare_case(Case("a", "a", pair().image), config())


def test_a_mistake_in_the_code_is_not_taken_for_bad_data(pair, monkeypatch):
    def mistaken(*arguments):
        raise AssertionError("a mistake")

    monkeypatch.setattr(transforms, "resample_linear", mistaken)
    with pytest.raises(RuntimeError) as caught:
        prepare_case(pair(), config())
    assert isinstance(caught.value.__cause__, AssertionError)


# --- prepared cases


def test_a_prepared_case_is_float16_with_network_ids(pair):
    ready = prepare_case(pair(), config((1.5, 1.5, 1.5)))
    assert (ready.image.dtype, ready.label.dtype) == (np.float16, np.uint8)
    assert ready.image.shape == ready.label.shape == (1, *ready.geometry.shape)
    assert ready.megabytes == pytest.approx(ready.label.size * 3 / 1e6)
