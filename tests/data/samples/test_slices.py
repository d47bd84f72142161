"""Slices of a prepared volume: turned as a radiologist looks at them, stretched, 8 bit, and the same wherever cut."""

import math

import numpy as np
import pytest
import torch

from tests.scans import all_orientations, spine, tiny_config, turned
from verse3d.core.geometry import Geometry
from verse3d.data.cases import Case
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import PatchDataset
from verse3d.data.samples.slices import (
    SliceCut,
    cut_slice,
    grey_slice,
    grey_stack,
    grey_values,
    label_slice,
    slice_axis,
    slice_stack,
)
from verse3d.data.samples.transforms import PreparedCase, prepare_case

SHAPE = (7, 11, 13)
STILL = dict.fromkeys(("mirror_left_right", "affine", "noise", "blur", "contrast"), 0.0)


def stretched_by_loops(plane, size):
    """Bilinear interpolation between pixel centres, the outermost pixels repeated: one pixel after the other."""
    rows, columns = plane.shape
    result = np.zeros(size)
    for row, column in np.ndindex(*size):
        y = min(max((row + 0.5) * rows / size[0] - 0.5, 0), rows - 1)
        x = min(max((column + 0.5) * columns / size[1] - 0.5, 0), columns - 1)
        top, left = math.floor(y), math.floor(x)
        bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
        upper = plane[top, left] * (1 - x + left) + plane[top, right] * (x - left)
        lower = plane[bottom, left] * (1 - x + left) + plane[bottom, right] * (x - left)
        result[row, column] = upper * (1 - y + top) + lower * (y - top)
    return result


def plane_by_hand(volume, axis, index):
    """Sagittal: head up, front left. Coronal: head up, right on the left. Axial: front up, right on the left."""
    i, j, k = volume.shape
    if axis == 0:
        return np.array([[volume[index, y, z] for y in range(j - 1, -1, -1)] for z in range(k - 1, -1, -1)])
    if axis == 1:
        return np.array([[volume[x, index, z] for x in range(i - 1, -1, -1)] for z in range(k - 1, -1, -1)])
    return np.array([[volume[x, y, index] for x in range(i - 1, -1, -1)] for y in range(j - 1, -1, -1)])


def prepared(seed=0, shape=SHAPE, source=None) -> PreparedCase:
    random = np.random.default_rng(seed)
    image = random.random((1, *shape)).astype(np.float16)
    label = (random.random((1, *shape)) < 0.2).astype(np.uint8)
    grid = Geometry(shape, np.eye(4))
    return PreparedCase.of("a", image, label, grid, source or grid)


@pytest.mark.parametrize("size", [(7, 9), (13, 11), (26, 5), (1, 1), (40, 31)], ids=str)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_is_turned_stretched_and_rounded_as_written_out_by_hand(axis, size):
    case = prepared()
    volume = case.image[0].astype(np.float64)
    for index in (0, 3, SHAPE[axis] - 1):
        expected = 255 * stretched_by_loops(plane_by_hand(volume, axis, index), size)
        picture = grey_slice(case.image[0], axis, index, size)
        assert picture.dtype == np.uint8 and picture.shape == size
        assert np.abs(picture - expected).max() <= 0.5 + 1e-3


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_slice_of_its_own_size_is_only_turned(axis):
    case = prepared()
    plane = plane_by_hand(case.label[0], axis, 2)
    np.testing.assert_array_equal(label_slice(case.label[0], axis, 2, plane.shape), plane)
    grey = plane_by_hand(case.image[0], axis, 2).astype(np.float32)
    np.testing.assert_array_equal(grey_slice(case.image[0], axis, 2, plane.shape), np.rint(grey * 255))


def test_labels_take_the_nearest_voxel_and_are_never_mixed():
    labels = np.zeros((3, 6, 8), np.uint8)
    labels[1, :3], labels[1, 3:] = 5, 26
    picture = label_slice(labels, 0, 1, (17, 30))
    assert set(np.unique(picture)) == {5, 26}
    np.testing.assert_array_equal(picture == 26, np.broadcast_to(np.arange(30) < 15, (17, 30)))


def test_labels_lie_where_the_grey_values_lie():
    """A bright block and its label stay together to within a pixel, whatever the stretching."""
    image, label = np.zeros((1, 9, 20, 31), np.float16), np.zeros((1, 9, 20, 31), np.uint8)
    image[0, 2:7, 4:13, 9:20] = label[0, 2:7, 4:13, 9:20] = 1
    for axis in range(3):
        for size in ((50, 50), (12, 70), (250, 250)):
            bright = grey_slice(image[0], axis, 5, size) > 127
            assert (bright == label_slice(label[0], axis, 5, size)).mean() > 0.99


def test_a_network_sees_whole_steps_of_8_bit():
    values = grey_values(np.arange(256, dtype=np.uint8))
    assert values.dtype == np.float32
    np.testing.assert_allclose(values, np.arange(256) / 255, atol=1e-7)
    assert values[-1] == 1


@pytest.mark.parametrize(
    "source", list(all_orientations((1.0, 2.0, 3.0), (8, 9, 10)))[::5], ids=lambda grid: "".join(grid.axis_codes)
)
def test_stored_slices_are_cut_across_the_third_axis_of_the_file(source):
    across = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}[source.axis_codes[2]]
    assert slice_axis("as-stored", source) == slice_axis("as-stored", turned(source)) == across
    assert [slice_axis(plane, source) for plane in ("sagittal", "coronal", "axial")] == [0, 1, 2]


def test_neighbours_stand_on_both_sides_and_the_last_slice_is_repeated_beyond_the_ends():
    volume = prepared().image[0]
    size = (13, 11)
    single = [grey_values(grey_slice(volume, 0, index, size)) for index in range(7)]
    for index, expected in {0: [0, 0, 0, 1, 2], 3: [1, 2, 3, 4, 5], 6: [4, 5, 6, 6, 6]}.items():
        stack = slice_stack(volume, 0, index, neighbours=2, size=size)
        np.testing.assert_array_equal(stack, np.stack([single[one] for one in expected]))


def cut_of(config) -> SliceCut:
    return SliceCut(config.slices, config.augment, config.sampling.foreground_fraction, config.grid.spacing_mm)


def cutter(**changes) -> SliceCut:
    slices = {"size_pixels": [14, 10]} | changes.pop("slices", {})
    return cut_of(tiny_config("2d", slices=slices, augment=changes.pop("augment", STILL), **changes))


def drawn(case, cut, count=40):
    return [cut(case, np.random.RandomState(seed)) for seed in range(count)]


def where(case, box, axis, neighbours=0):
    """The indices at which this very slice lies."""
    size = box.image.shape[1:]
    stacks = (cut_slice(case, axis, n, neighbours=neighbours, size=size)[0] for n in range(case.image.shape[axis + 1]))
    return [index for index, stack in enumerate(stacks) if np.array_equal(box.image, stack)]


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_without_augmentation_samples_are_slices_of_the_case_with_their_labels(plane, axis):
    case, reached = prepared(), set()
    for box in drawn(case, cutter(slices={"plane": plane})):
        for array in (box.image, box.label):
            assert (array.dtype, array.shape) == (np.uint8, (1, 14, 10))
        (index,) = where(case, box, axis)
        np.testing.assert_array_equal(box.label[0], label_slice(case.label[0], axis, index, (14, 10)))
        reached.add(index)
    assert len(reached) > SHAPE[axis] // 2


def test_the_wanted_share_of_slices_goes_through_a_vertebra():
    case = prepared()
    label = np.zeros_like(case.label)
    label[0, 3:5, 2:9, 2:9] = 1
    case = PreparedCase.of("a", case.image, label, case.geometry, case.source)
    on = {"sampling": {"foreground_fraction": 1.0}}
    assert {where(case, box, 0)[0] for box in drawn(case, cutter(**on))} == {3, 4}
    off = {"sampling": {"foreground_fraction": 0.0}}
    assert {where(case, box, 0)[0] for box in drawn(case, cutter(**off), 80)} == set(range(7))


@pytest.mark.parametrize(("plane", "axis"), [("sagittal", 0), ("coronal", 1), ("axial", 2)])
def test_left_and_right_change_places_wherever_they_are(plane, axis):
    """The same as cutting the mirrored volume."""
    mirror = {**STILL, "mirror_left_right": 1.0}
    cut = cut_of(tiny_config("2.5d", slices={"size_pixels": [14, 10], "plane": plane, "neighbours": 1}, augment=mirror))
    case = prepared()
    mirrored = PreparedCase.of("m", case.image[:, ::-1], case.label[:, ::-1], case.geometry, case.source)
    for box in drawn(case, cut, 10):
        (index,) = where(mirrored, box, axis, neighbours=1)
        np.testing.assert_array_equal(box.label[0], label_slice(mirrored.label[0], axis, index, (14, 10)))


def test_only_the_slices_that_are_shown_are_read():
    case, asked = prepared(), []

    class Recorded:
        geometry = case.geometry

        def read(self, start, size):
            asked.append((start, size))
            return case.read(start, size)

    for index in (0, 3, 6):
        image, _ = cut_slice(Recorded(), 0, index, neighbours=2, size=(14, 10))
        expected = grey_stack(case.image[0], 0, index, neighbours=2, size=(14, 10))
        np.testing.assert_array_equal(image, expected)
    assert asked == [((0, 0, 0), (3, 11, 13)), ((1, 0, 0), (5, 11, 13)), ((4, 0, 0), (3, 11, 13))]


@pytest.mark.parametrize("neighbours", [0, 1])
def test_augmentation_changes_grey_values_and_keeps_labels_whole(neighbours):
    strong = dict.fromkeys(("affine", "elastic", "noise", "blur", "contrast", "thick_slices", "gain"), 1.0)
    case, mode = prepared(), "2.5d" if neighbours else "2d"
    slices = {"size_pixels": [14, 10], "neighbours": neighbours}
    plain, changed = (cut_of(tiny_config(mode, slices=slices, augment=some)) for some in (STILL, STILL | strong))
    augment = Augment((14, 10))
    for one, other in zip(drawn(case, plain, 5), drawn(case, changed, 5), strict=True):
        before, after = (augment(PackedBatch.of([box]).on(torch.device("cpu"))) for box in (one, other))
        assert before["image"].shape == after["image"].shape == (1, 2 * neighbours + 1, 14, 10)
        assert not torch.equal(before["image"], after["image"]) and after["image"].isfinite().all()
        assert after["label"].dtype == torch.uint8 and set(after["label"].unique().tolist()) <= {0, 1}


def test_an_epoch_of_slices_is_a_function_of_seed_epoch_and_position():
    one, other = (PatchDataset([prepared()], cutter(augment={}), length=6, seed=3) for _ in range(2))
    boxes = list(one.epoch(4))
    for position in (5, 0, 3, 3):
        again = other[4, position]
        assert np.array_equal(again.image, boxes[position].image)
        assert np.array_equal(again.label, boxes[position].label)
        assert again.changes.noise_seed == boxes[position].changes.noise_seed


def test_a_prepared_case_remembers_how_its_file_was_stored(tmp_path):
    data = spine()
    data.write(tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz")
    case = prepare_case(Case("a", "a", tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz"), tiny_config())
    assert case.source == data.geometry
    assert case.geometry.axis_codes == ("R", "A", "S")
