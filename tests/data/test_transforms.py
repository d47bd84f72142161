"""From files to the network grid and to patches: equal to MONAI and to banal oracles, and refused where it must be."""

import itertools

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import Compose, EnsureChannelFirstd, LoadImaged, Orientationd, ScaleIntensityRanged, Spacingd
from scipy.ndimage import map_coordinates

from tests.core.grids import affine, hounsfield, save_scan
from verse3d.core.config import AugmentConfig, Config, GridConfig, SamplingConfig, parse_config
from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_linear
from verse3d.core.volume import read_image, read_labels
from verse3d.data import transforms
from verse3d.data.cases import Case
from verse3d.data.samples.grid import network_geometry
from verse3d.data.transforms import (
    PreparedCase,
    RandPatch,
    augmentation,
    patch_sampler,
    preparation,
    prepare_case,
    prepare_image,
    prepare_image_float16,
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
    monkeypatch.setattr(transforms, "resample_linear", lambda *arguments: 1 / 0)
    with pytest.raises(RuntimeError) as caught:
        prepare_case(pair(), config())
    assert isinstance(caught.value.__cause__, ZeroDivisionError)


# --- prepared cases


def test_a_prepared_case_is_float16_with_network_ids(pair):
    ready = prepare_case(pair(), config((1.5, 1.5, 1.5)))
    assert (ready.image.dtype, ready.label.dtype) == (np.float16, np.uint8)
    assert ready.image.shape == ready.label.shape == (1, *ready.geometry.shape)
    assert ready.megabytes == pytest.approx(ready.label.size * 3 / 1e6)


# --- patches


def prepared(shape, label=None) -> PreparedCase:
    """Every voxel has a grey value of its own, from 1 upwards (exact in float16 up to 2048)."""
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float16).reshape(1, *shape)
    mask = blocks(shape)[None] if label is None else label[None]
    grid = Geometry(shape, np.eye(4))
    return PreparedCase.of("a", image, mask, grid, grid)


def cutter(patch, fraction=0.5) -> RandPatch:
    return RandPatch(SamplingConfig(patch_voxels=patch, foreground_fraction=fraction))


def banal_crop(array: np.ndarray, centre, patch) -> np.ndarray:
    """Voxel by voxel: the patch around the centre, pushed inside; in the middle of zeros where the scan is smaller."""
    result = np.zeros(patch, dtype=array.dtype)
    for place in itertools.product(*(range(size) for size in patch)):
        source = []
        for position, middle, size, length in zip(place, centre, patch, array.shape, strict=True):
            if length >= size:
                source.append(position + min(max(middle - size // 2, 0), length - size))
            else:
                source.append(position - (size - length) // 2)
        if all(0 <= index < length for index, length in zip(source, array.shape, strict=True)):
            result[place] = array[tuple(source)]
    return result


@pytest.mark.parametrize(
    ("shape", "patch"),
    [
        pytest.param((9, 11, 14), (4, 5, 6), id="inside"),
        pytest.param((9, 11, 14), (9, 11, 14), id="the whole"),
        pytest.param((9, 11, 14), (4, 16, 5), id="smaller on one axis"),
        pytest.param((3, 4, 2), (7, 6, 5), id="smaller on every axis"),
        pytest.param((1, 11, 8), (2, 4, 1), id="one slice"),
    ],
)
def test_a_patch_equals_a_banal_crop_and_holds_its_centre(shape, patch):
    case, cut = prepared(shape), cutter(patch)
    seen = set()
    for seed in range(12):
        cut.set_random_state(seed=seed)
        out = cut(case)
        centre = tuple(int(index) for index in cut.centre)
        seen.add(centre)
        assert out["image"].shape == out["label"].shape == (1, *patch)
        assert (out["image"].dtype, out["label"].dtype) == (torch.float32, torch.uint8)
        np.testing.assert_array_equal(out["image"][0], banal_crop(case.image[0].astype(np.float32), centre, patch))
        np.testing.assert_array_equal(out["label"][0], banal_crop(case.label[0], centre, patch))
        assert (out["image"] == float(case.image[(0, *centre)])).sum() == 1
    assert len(seen) > 1


def test_cutting_changes_nothing_in_the_case():
    case, cut = prepared((9, 11, 14)), cutter((9, 11, 14))
    before = case.image.copy(), case.label.copy()
    out = cut(case)
    out["image"].zero_()
    out["label"].fill_(9)
    np.testing.assert_array_equal(case.image, before[0])
    np.testing.assert_array_equal(case.label, before[1])


@pytest.mark.parametrize("fraction", [0.0, 0.3, 0.67, 1.0])
def test_the_share_of_patches_centred_on_a_vertebra_is_the_configured_one(fraction):
    case, cut = prepared((9, 11, 14)), cutter((4, 4, 4), fraction)
    cut.set_random_state(seed=5)
    hits = []
    for _ in range(1500):
        cut.randomize(case)
        hits.append(case.label[(0, *cut.centre)] > 0)
    assert np.mean(hits) == pytest.approx(fraction, abs=0.05)


def test_every_labelled_voxel_is_a_centre_sooner_or_later():
    label = np.zeros((5, 6, 7), np.uint8)
    label[[0, 4, 2], [0, 5, 3], [0, 6, 1]] = 1
    case, cut = prepared((5, 6, 7), label), cutter((2, 2, 2), 1.0)
    cut.set_random_state(seed=0)
    centres = []
    for _ in range(60):
        cut.randomize(case)
        centres.append(tuple(cut.centre.tolist()))
    assert set(centres) == {(0, 0, 0), (4, 5, 6), (2, 3, 1)}


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("value", [0, 3])
def test_a_case_without_any_foreground_or_without_any_background_gives_patches_all_the_same(value, fraction):
    case, cut = prepared((5, 6, 7), np.full((5, 6, 7), value, np.uint8)), cutter((4, 4, 4), fraction)
    for seed in range(5):
        cut.set_random_state(seed=seed)
        assert (cut(case)["label"] == value).all()


# --- augmentation

PATCH = (12, 14, 16)
STILL = dict.fromkeys(("mirror_left_right", "affine", "noise", "blur", "contrast"), 0.0)


def augment(seed: int, patch: dict[str, torch.Tensor], **probabilities: float) -> dict[str, torch.Tensor]:
    change = augmentation(AugmentConfig(**(STILL | probabilities)))
    change.set_random_state(seed=seed)
    return change({key: value.clone() for key, value in patch.items()})


@pytest.fixture
def patch():
    random = np.random.default_rng(3)
    return {
        "image": torch.from_numpy(random.random((1, *PATCH), dtype=np.float32)),
        "label": torch.from_numpy(blocks(PATCH)[None]),
    }


def test_nothing_is_changed_when_every_probability_is_zero(patch):
    out = augment(0, patch)
    assert torch.equal(torch.as_tensor(out["image"]), patch["image"])
    assert torch.equal(torch.as_tensor(out["label"]), patch["label"])


def test_the_mirror_maps_scan_and_mask_alike_along_left_right_and_along_nothing_else(patch):
    mirrored = 0
    for seed in range(40):
        out = augment(seed, patch, mirror_left_right=0.5)
        is_mirrored = torch.equal(torch.as_tensor(out["image"]), patch["image"].flip(1))
        mirrored += is_mirrored
        for key in ("image", "label"):
            expected = patch[key].flip(1) if is_mirrored else patch[key]
            assert torch.equal(torch.as_tensor(out[key]), expected)
    assert 10 < mirrored < 30


def test_up_stays_up_and_front_stays_front_whatever_happens():
    marked = torch.zeros((1, *PATCH), dtype=torch.uint8)
    marked[:, 4:8, 9:12, 10:14] = 1  # in the middle of left and right, in front and on top
    patch = {"image": marked.float(), "label": marked}
    for seed in range(40):
        out = augment(seed, patch, mirror_left_right=1, affine=1, noise=1, blur=1, contrast=1)
        for volume in (torch.as_tensor(out["label"]).float(), torch.as_tensor(out["image"]).clamp(0.2)):
            assert volume[0, :, :, 8:].sum() > volume[0, :, :, :8].sum()
            assert volume[0, :, 7:].sum() > volume[0, :, :7].sum()


def test_scan_and_mask_are_turned_and_scaled_alike():
    block = torch.zeros((1, *PATCH), dtype=torch.uint8)
    block[:, 3:8, 4:9, 5:12] = 1
    moved = 0
    for seed in range(15):
        out = augment(seed, {"image": block.float(), "label": block}, affine=1)
        image, label = torch.as_tensor(out["image"]), torch.as_tensor(out["label"]) > 0
        clear = (image < 0.01) | (image > 0.99)
        assert torch.equal(image[clear] > 0.5, label[clear])
        moved += not torch.equal(label, block > 0)
    assert moved > 10


def test_all_augmentations_together_keep_shapes_types_and_label_values(patch):
    ids = set(patch["label"].unique().tolist())
    for seed in range(10):
        out = augment(seed, patch, mirror_left_right=0.5, affine=1, noise=1, blur=1, contrast=1)
        assert out["image"].shape == out["label"].shape == (1, *PATCH)
        assert (out["image"].dtype, out["label"].dtype) == (torch.float32, torch.uint8)
        assert set(torch.as_tensor(out["label"]).unique().tolist()) <= ids
        assert torch.isfinite(torch.as_tensor(out["image"])).all()


@pytest.mark.parametrize("name", ["noise", "blur", "contrast"])
def test_changes_of_grey_values_leave_the_mask_alone(patch, name):
    out = augment(1, patch, **{name: 1.0})
    assert torch.equal(torch.as_tensor(out["label"]), patch["label"])
    assert not torch.equal(torch.as_tensor(out["image"]), patch["image"])


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_patch_of_one_grey_value_survives_every_change(value):
    flat = {"image": torch.full((1, *PATCH), value), "label": torch.zeros((1, *PATCH), dtype=torch.uint8)}
    for seed in range(5):
        out = augment(seed, flat, affine=1, blur=1, contrast=1, noise=1)
        assert torch.isfinite(torch.as_tensor(out["image"])).all()


def test_the_sampler_repeats_itself_with_the_same_random_state():
    sampler = patch_sampler(parse_config({"network": {"channels": [4, 8]}, "sampling": {"patch_voxels": [8, 10, 12]}}))
    case = prepared((9, 11, 14))

    def drawn(seed):
        sampler.set_random_state(seed=seed)
        return torch.as_tensor(sampler(case)["image"])

    assert torch.equal(drawn(4), drawn(4))
    assert not torch.equal(drawn(4), drawn(5))


def test_a_patch_may_reach_beyond_the_scan_by_the_margin_and_no_further():
    shape, patch, margin = (20, 21, 30), (16, 16, 16), (0, 0, 5)
    sampling = SamplingConfig(patch_voxels=patch, margin_voxels=margin)
    numbers = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    framed = np.pad(numbers, [(size, size) for size in margin])
    # Every voxel of the scan can be the centre; numbers above 2048 do not fit into float16.
    grid = Geometry(shape, np.eye(4))
    case = PreparedCase.of("x", numbers[None], np.ones((1, *shape), np.uint8), grid, grid)
    rand_patch = RandPatch(sampling)
    reached = set()
    for seed in range(300):
        image = rand_patch.set_random_state(seed=seed)(case)["image"].numpy()[0]
        filled = np.argwhere(image)
        inside = image[tuple(filled[0])] - 1
        start = np.array(np.unravel_index(int(inside), shape)) + margin - filled[0]
        i, j, k = start
        assert np.array_equal(image, framed[i : i + 16, j : j + 16, k : k + 16])
        reached.add(int(k))
    assert min(reached) == 0
    assert max(reached) == 30 + 2 * 5 - 16
