"""What becomes of boxes on the training device: as MONAI does it, in batches, and the same whatever the batch is."""

from threading import get_ident

import numpy as np
import pytest
import torch
from monai.transforms import AdjustContrast, Affine, GaussianSmooth

from tests.data.samples.cases import as_todays_monai
from tests.data.samples.test_cut import STILL, blocks, cutter
from verse3d.core import single_threaded, threads
from verse3d.core.config import AugmentConfig
from verse3d.core.geometry import Geometry
from verse3d.data.samples import augment
from verse3d.data.samples.augment import Augment, change_grey_values
from verse3d.data.samples.cut import Box
from verse3d.data.samples.draws import UNCHANGED, ChangeDraws, Changes, Warp
from verse3d.data.samples.filters import axis_filter, filter_axis
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.transforms import PreparedCase

CPU = torch.device("cpu")
DEVICES = [
    "cpu",
    pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")),
]
on_each_device = pytest.mark.parametrize("device", DEVICES)
PATCH = (12, 14, 16)


def box_of(changes=UNCHANGED, size=PATCH, margin=0, seed=3) -> Box:
    """Random grey values and blocks of labels; the patch lies in the middle."""
    shape = tuple(length + 2 * margin for length in size)
    image = np.random.default_rng(seed).random((1, *shape)).astype(np.float16)
    label = blocks((*shape, 1)[:3]).reshape(1, *shape)
    return Box(image, label, tuple((length - 1) / 2 for length in shape), changes)


def augmented(*boxes, size=PATCH, device="cpu"):
    return Augment(size)(PackedBatch.of(boxes).on(torch.device(device)))


def drawn(seed, dims=3, **augment) -> Changes:
    settings = AugmentConfig(**{**STILL, **augment})
    return ChangeDraws(settings, (1.5,) * dims, mirrors=dims == 3).draw(np.random.RandomState(seed))


@pytest.fixture
def two_cores(monkeypatch):
    """Two threads to use, whatever this machine and the call of the tests allow."""
    for module in (threads, single_threaded):
        monkeypatch.setattr(module, "thread_count", lambda: 2)
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


# --- boxes


def test_boxes_of_different_sizes_and_types_arrive_as_they_were_packed():
    boxes = [box_of(), box_of(margin=3), box_of(size=(5, 1, 7))]
    boxes.append(Box(np.arange(3 * 5 * 7, dtype=np.uint8).reshape(3, 5, 7), np.ones((1, 5, 7), np.uint8), (2.0, 3.0)))
    for packed in (PackedBatch.of(boxes), PackedBatch.of(boxes[::-1])):
        assert len(packed) == 4
    for one, other in zip(boxes, PackedBatch.of(boxes).on(CPU), strict=True):
        assert (other.middle, other.changes) == (one.middle, one.changes)
        for key in ("image", "label"):
            array, tensor = getattr(one, key), getattr(other, key).numpy()
            assert array.dtype == tensor.dtype
            np.testing.assert_array_equal(array, tensor)


@on_each_device
def test_an_unchanged_box_becomes_the_sample_itself(device):
    box = box_of()
    batch = augmented(box, box_of(seed=4), device=device)
    assert (batch["image"].dtype, batch["label"].dtype) == (torch.float32, torch.uint8)
    assert batch["image"].shape == batch["label"].shape == (2, 1, *PATCH)
    assert batch["image"].device.type == device
    np.testing.assert_array_equal(batch["image"][0].cpu().numpy(), box.image.astype(np.float32))
    np.testing.assert_array_equal(batch["label"][0].cpu().numpy(), box.label)


@on_each_device
def test_a_sample_does_not_depend_on_its_neighbours_in_the_batch(device):
    strong = {"affine": 1, "elastic": 0.5, "noise": 1, "blur": 0.5, "contrast": 0.5, "thick_slices": 0.5, "gain": 0.5}
    boxes = [box_of(drawn(seed, mirror_left_right=0.5, **strong), margin=8, seed=seed) for seed in range(5)]
    together = augmented(*boxes, device=device)
    for number, box in enumerate(boxes):
        alone = augmented(box, device=device)
        assert all(torch.equal(alone[key][0], together[key][number]) for key in alone)


def test_slices_come_as_pictures_of_8_bit_with_all_their_channels():
    picture = np.random.default_rng(0).integers(0, 256, (3, 9, 11)).astype(np.uint8)
    batch = augmented(Box(picture, np.ones((1, 9, 11), np.uint8), (4.0, 5.0)), size=(9, 11))
    np.testing.assert_allclose(batch["image"][0].numpy(), picture / 255, atol=1e-7)
    assert batch["label"].shape == (1, 1, 9, 11)


# --- mirror, rotation, scale, shear


@on_each_device
def test_the_mirror_turns_scan_and_mask_around_left_right_and_around_nothing_else(device):
    box = box_of(Changes(mirror=True))
    batch = augmented(box, device=device)
    np.testing.assert_array_equal(batch["image"][0].cpu().numpy(), box.image[:, ::-1].astype(np.float32))
    np.testing.assert_array_equal(batch["label"][0].cpu().numpy(), box.label[:, ::-1])


@on_each_device
@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("mirror", [False, True])
def test_rotation_shear_and_scale_equal_monai_s(device, dims, mirror):
    size = PATCH[:dims]
    mirror = mirror and dims == 3
    for seed in range(6):
        changes = drawn(seed, dims, affine=1, shear=0.15, rotate_degrees=35, mirror_left_right=float(mirror))
        assert changes.mirror == mirror
        box = box_of(changes, size)
        batch = augmented(box, size=size, device=device)
        matrix = np.eye(dims + 1)
        matrix[:dims, :dims] = changes.warp.matrix
        for key, array, mode in (("image", box.image, "bilinear"), ("label", box.label, "nearest")):
            change = Affine(affine=torch.from_numpy(matrix), mode=mode, padding_mode="zeros", image_only=True)
            expected = change(torch.from_numpy(array.astype(np.float32)), spatial_size=size).numpy()
            found = batch[key][0].cpu().float().numpy()
            if key == "image":
                np.testing.assert_allclose(found, expected, atol=2e-4)
            else:  # a place half-way between two voxels may go to either
                assert (found != expected).mean() < 2e-3
        assert 0.02 < np.mean(batch["image"].cpu().numpy()) < 0.98


@as_todays_monai
@pytest.mark.parametrize(("dims", "angles"), [(2, 1), (3, 3)])
def test_what_is_drawn_is_put_together_as_monai_puts_it_together(dims, angles):
    """The same angles, shears and scales given to MONAI by name."""
    draws = ChangeDraws(
        AugmentConfig(**{**STILL, "affine": 1, "shear": 0.2, "rotate_degrees": 30, "scale_fraction": 0.2}),
        (1.5,) * dims,
        mirrors=False,
    )
    matrix = draws._affine(np.random.RandomState(5))
    random = np.random.RandomState(5)
    turn = random.uniform(-np.pi / 6, np.pi / 6, angles)
    shear, scale = random.uniform(-0.2, 0.2, dims * (dims - 1)), 1 + random.uniform(-0.2, 0.2, dims)
    image = torch.rand(1, *PATCH[:dims])
    named = {"rotate_params": turn.tolist(), "shear_params": shear.tolist(), "scale_params": scale.tolist()}
    theirs = Affine(**named, padding_mode="zeros", image_only=True)
    affine = np.eye(dims + 1)
    affine[:dims, :dims] = matrix
    ours = Affine(affine=torch.from_numpy(affine).float(), padding_mode="zeros", image_only=True)
    torch.testing.assert_close(theirs(image), ours(image), atol=1e-5, rtol=0)


def test_a_turned_patch_shows_the_scan_in_its_corners_and_not_nothing():
    grid = Geometry((60, 60, 60), np.eye(4))
    full = PreparedCase.of("a", np.ones((1, 60, 60, 60), np.float16), np.ones((1, 60, 60, 60), np.uint8), grid, grid)
    cut = cutter((16, 16, 16), affine=1.0, rotate_degrees=45.0)
    whole = 0
    for seed in range(40):
        box = cut(full, np.random.RandomState(seed))
        near_the_edge = np.any(box.image == 0)
        batch = augmented(box, size=(16, 16, 16))
        if not near_the_edge:
            whole += 1
            assert batch["image"].min() > 0.999 and (batch["label"] == 1).all()
    assert whole > 5


def test_up_stays_up_and_front_stays_front_whatever_happens():
    marked = np.zeros((1, *PATCH), np.uint8)
    marked[:, 4:8, 9:12, 10:14] = 1  # in the middle of left and right, in front and on top
    strong = {"mirror_left_right": 1, "affine": 1, "noise": 1, "blur": 1, "contrast": 1}
    middle = tuple((length - 1) / 2 for length in PATCH)
    for seed in range(40):
        batch = augmented(Box(marked.astype(np.float16), marked, middle, drawn(seed, **strong)))
        for volume in (batch["label"][0].float(), batch["image"][0].clamp(0.2)):
            assert volume[0, :, :, 8:].sum() > volume[0, :, :, :8].sum()
            assert volume[0, :, 7:].sum() > volume[0, :, :7].sum()


@pytest.mark.parametrize("elastic", [0.0, 1.0])
def test_scan_and_mask_are_moved_alike(elastic):
    block = np.zeros((1, *PATCH), np.uint8)
    block[:, 3:8, 4:9, 5:12] = 1
    middle, moved = tuple((length - 1) / 2 for length in PATCH), 0
    for seed in range(15):
        changes = drawn(seed, affine=1.0 - elastic, elastic=elastic, elastic_mm=3)
        batch = augmented(Box(block.astype(np.float16), block, middle, changes))
        image, label = batch["image"][0], batch["label"][0] > 0
        clear = (image < 0.01) | (image > 0.99)
        assert torch.equal(image[clear] > 0.5, label[clear])
        moved += not np.array_equal(label.numpy(), block > 0)
    assert moved > 10


@on_each_device
def test_an_elastic_shift_that_is_the_same_everywhere_moves_the_patch_by_so_many_voxels(device):
    shifts = np.zeros((3, 4, 4, 4), np.float32)
    shifts[0], shifts[2] = 2, -1
    box = box_of(Changes(warp=Warp(np.eye(3), shifts)), margin=3)
    batch = augmented(box, device=device)
    inside = np.s_[:, 5 : 5 + PATCH[0], 3 : 3 + PATCH[1], 2 : 2 + PATCH[2]]
    np.testing.assert_allclose(batch["image"][0].cpu().numpy(), box.image[inside].astype(np.float32), atol=1e-4)
    np.testing.assert_array_equal(batch["label"][0].cpu().numpy(), box.label[inside])


def test_elastic_shifts_stay_below_the_configured_length():
    for seed in range(20):
        shifts = drawn(seed, elastic=1, elastic_mm=6, elastic_points=3).warp.shifts
        assert shifts.shape == (3, 3, 3, 3)
        assert 0.5 < np.abs(shifts).max() <= 6 / 1.5


# --- grey values


@on_each_device
def test_the_contrast_is_monai_s(device):
    image = torch.rand(1, *PATCH) * 0.7 + 0.1
    expected = AdjustContrast(1.3)(image)
    found = image.to(device)
    change_grey_values(found, Changes(gamma=1.3))
    torch.testing.assert_close(found.cpu(), torch.as_tensor(expected), atol=1e-5, rtol=0)


def test_a_gain_spreads_the_grey_values_about_their_mean():
    image = torch.rand(1, *PATCH)
    found = image.clone()
    change_grey_values(found, Changes(gain=1.25))
    torch.testing.assert_close(found, image.mean() + 1.25 * (image - image.mean()))


@on_each_device
@pytest.mark.parametrize("sigma", [(0.3, 0.6, 1.0), (1.0, 0.3, 0.8)])
def test_the_blur_is_monai_s_except_at_the_border_which_it_does_not_darken(device, sigma):
    image = torch.rand(1, *PATCH)
    found = image.clone().to(device)
    change_grey_values(found, Changes(blur_voxels=sigma))
    expected = torch.as_tensor(GaussianSmooth(sigma)(image))
    inner = np.s_[:, 4:-4, 4:-4, 4:-4]
    torch.testing.assert_close(found.cpu()[inner], expected[inner], atol=1e-4, rtol=0)
    flat = torch.full((1, *PATCH), 0.7)
    change_grey_values(flat, Changes(blur_voxels=sigma))
    torch.testing.assert_close(flat, torch.full_like(flat, 0.7), atol=1e-5, rtol=0)


@pytest.mark.parametrize("thickness", [1.3, 2.0, 3.7, 6.0])
@pytest.mark.parametrize("phase", [0.0, 0.4, 0.99])
def test_thick_slices_do_not_shift_the_image_against_its_label(thickness, phase):
    """Grey values that rise evenly stay as they are, and a point keeps its place on average over the phase."""
    length = 40
    matrix = axis_filter(length, CPU, thickness_voxels=thickness, phase=phase)
    torch.testing.assert_close(matrix.sum(dim=1), torch.ones(length))
    ramp = torch.arange(length, dtype=torch.float32)
    inner = np.s_[7:-7]
    torch.testing.assert_close((matrix @ ramp)[inner], ramp[inner], atol=2e-4, rtol=0)
    places = []
    for part in torch.arange(0, 1, 0.02):
        response = axis_filter(length, CPU, thickness_voxels=thickness, phase=float(part))[:, 20]
        places.append(float((response * ramp).sum() / response.sum()))
    assert np.mean(places) == pytest.approx(20, abs=0.06)


def test_thick_slices_are_as_thick_as_they_say():
    """The response to a point is a slice's mean and the two lines beside it: as wide as two slices."""
    matrix = axis_filter(60, CPU, thickness_voxels=5.0, phase=0.0)
    touched = int((matrix[:, 32] > 1e-6).sum())
    assert 8 <= touched <= 10
    assert float(matrix[:, 32].max()) == pytest.approx(0.2, abs=1e-6)
    assert axis_filter(60, CPU, thickness_voxels=1.0) is None


@pytest.mark.parametrize("shape", [(1, 7, 9, 11), (3, 8, 6), (2, 1, 5, 4)])
def test_an_axis_is_filtered_as_written_out_by_hand(shape):
    image = torch.rand(shape)
    for axis in range(len(shape) - 1):
        matrix = torch.rand(shape[axis + 1], shape[axis + 1])
        expected = torch.tensordot(matrix, image, dims=([1], [axis + 1])).movedim(0, axis + 1)
        torch.testing.assert_close(filter_axis(image, matrix, axis), expected)


@on_each_device
def test_noise_has_the_drawn_deviation_and_is_the_same_from_the_same_seed(device):
    def noise(seed):
        image = torch.zeros((1, 40, 40, 40), device=device)
        change_grey_values(image, Changes(noise_std=0.02, noise_seed=seed))
        return image

    assert float(noise(5).std()) == pytest.approx(0.02, rel=0.02)
    assert abs(float(noise(5).mean())) < 3e-4
    torch.manual_seed(1)
    assert torch.equal(noise(5), noise(5))
    assert not torch.equal(noise(5), noise(6))


@pytest.mark.parametrize("name", ["noise", "blur", "contrast", "gain", "low_resolution", "thick_slices"])
def test_changes_of_grey_values_leave_the_mask_alone(name):
    box = box_of()
    batch = augmented(Box(box.image, box.label, box.middle, drawn(1, **{name: 1.0})))
    np.testing.assert_array_equal(batch["label"][0].numpy(), box.label)
    assert not np.array_equal(batch["image"][0].numpy(), box.image)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_patch_of_one_grey_value_survives_every_change(value):
    flat, middle = np.full((1, *PATCH), value, np.float16), tuple((length - 1) / 2 for length in PATCH)
    everything = dict.fromkeys(STILL, 1.0) | {"gain": 1, "elastic": 1, "low_resolution": 1, "thick_slices": 1}
    for seed in range(5):
        batch = augmented(Box(flat, np.zeros((1, *PATCH), np.uint8), middle, drawn(seed, **everything)))
        assert torch.isfinite(batch["image"]).all()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
def test_a_gpu_makes_the_same_samples_as_a_cpu_but_for_the_noise():
    everything = dict.fromkeys(STILL, 0.5) | {"noise": 0, "gain": 0.5, "elastic": 0.5, "thick_slices": 0.5}
    changes = [drawn(seed, **everything) for seed in range(8)]
    # A box is larger than the patch only where it is turned or bent.
    boxes = [box_of(one, margin=8 * (one.warp is not None), seed=seed) for seed, one in enumerate(changes)]
    one, other = augmented(*boxes), augmented(*boxes, device="cuda")
    torch.testing.assert_close(one["image"], other["image"].cpu(), atol=2e-4, rtol=0)
    assert (one["label"] != other["label"].cpu()).float().mean() < 1e-3


# --- draws


@pytest.mark.parametrize(
    ("name", "changed"),
    [
        ("mirror_left_right", lambda changes: changes.mirror),
        ("affine", lambda changes: changes.warp is not None),
        ("elastic", lambda changes: changes.warp is not None and changes.warp.shifts is not None),
        ("contrast", lambda changes: changes.gamma is not None),
        ("gain", lambda changes: changes.gain is not None),
        ("blur", lambda changes: bool(changes.blur_voxels)),
        ("low_resolution", lambda changes: bool(changes.thickness_voxels)),
        ("thick_slices", lambda changes: bool(changes.thickness_voxels)),
        ("noise", lambda changes: changes.noise_std > 0),
    ],
)
def test_a_change_happens_as_often_as_configured_and_alone(name, changed):
    draws = ChangeDraws(AugmentConfig(**{**STILL, name: 0.3}), (1.5, 1.5, 1.5))
    random = np.random.RandomState(0)
    changes = [draws.draw(random) for _ in range(1000)]
    assert np.mean([changed(one) for one in changes]) == pytest.approx(0.3, abs=0.05)
    still = ChangeDraws(AugmentConfig(**STILL), (1.5,) * 3).draw(random)
    assert (still.mirror, still.warp, still.gamma, still.gain, still.blur_voxels) == (False, None, None, None, ())
    assert (still.thickness_voxels, still.noise_std) == ((), 0)


def test_the_largest_changes_are_the_configured_ones():
    settings = {"affine": 1, "rotate_degrees": 10, "scale_fraction": 0.2, "contrast": 1, "gamma": (0.5, 2.0)}
    settings |= {"noise": 1, "noise_std": 0.1, "thick_slices": 1, "thick_slices_mm": 6, "blur": 1}
    draws = ChangeDraws(AugmentConfig(**{**STILL, **settings, "blur_voxels": (0.2, 0.9)}), (1.5, 1.5, 1.5))
    random = np.random.RandomState(0)
    changes = [draws.draw(random) for _ in range(300)]
    assert 0.5 <= min(one.gamma for one in changes) < 0.55 and 1.9 < max(one.gamma for one in changes) <= 2
    assert 0.09 < max(one.noise_std for one in changes) <= 0.1
    assert 3.8 < max(max(one.thickness_voxels) for one in changes) <= 4
    assert all(0.2 <= sigma <= 0.9 for one in changes for sigma in one.blur_voxels)
    volumes = [np.linalg.det(one.warp.matrix) for one in changes]
    assert 0.8**3 <= min(volumes) < 0.9 and 1.1 < max(volumes) <= 1.2**3


# --- cores


def test_each_core_makes_a_sample_and_it_is_the_same_as_when_one_core_makes_them_all(two_cores, monkeypatch):
    everything = dict.fromkeys(("mirror_left_right", "affine", "elastic", "noise", "blur", "contrast", "gain"), 1.0)
    boxes = [box_of(drawn(seed, **everything), margin=4, seed=seed) for seed in range(5)]
    seen = set()
    change = change_grey_values
    monkeypatch.setattr(
        augment, "change_grey_values", lambda *args: (seen.add((get_ident(), torch.get_num_threads())), change(*args))
    )
    side_by_side = augmented(*boxes)
    assert 1 <= len(seen) <= 2
    assert {count for _, count in seen} == {1}
    assert get_ident() not in {thread for thread, _ in seen}
    torch.set_num_threads(1)
    one_by_one = augmented(*boxes)
    for key in ("image", "label"):
        assert torch.equal(side_by_side[key], one_by_one[key])
    # A network can learn from what other threads have filled.
    weight = torch.ones(1, requires_grad=True)
    (side_by_side["image"] * weight).sum().backward()
    assert weight.grad is not None
