"""Boxes of patches: voxel by voxel where they belong, and as large as a turned patch needs."""

import itertools

import numpy as np
import pytest

from verse3d.core.config import parse_config
from verse3d.core.geometry import Geometry
from verse3d.data.samples.cut import PatchCut
from verse3d.data.samples.transforms import PreparedCase

STILL = dict.fromkeys(("mirror_left_right", "affine", "noise", "blur", "contrast"), 0.0)
LABELS = (1, 7, 19, 26, 20)


def blocks(shape, ids=LABELS) -> np.ndarray:
    """Label slabs of uneven thickness along every axis, with background between them."""
    index = np.indices(shape)
    return np.array([0, *ids], dtype=np.uint8)[(index[0] // 3 + index[1] // 4 + index[2] // 5) % (len(ids) + 1)]


def prepared(shape, label=None) -> PreparedCase:
    """Every voxel has a grey value of its own, from 1 upwards (exact in float16 up to 2048)."""
    image = np.arange(1, np.prod(shape) + 1, dtype=np.float16).reshape(1, *shape)
    mask = blocks(shape)[None] if label is None else label[None]
    grid = Geometry(shape, np.eye(4))
    return PreparedCase.of("a", image, mask, grid, grid)


def cutter(patch, fraction=0.5, margin=0, **augment) -> PatchCut:
    sampling = {"patch_voxels": list(patch), "foreground_fraction": fraction, "margin_voxels": margin}
    network = {"name": "classic", "channels": [2, 2]}
    config = parse_config({"network": network, "sampling": sampling, "augment": {**STILL, **augment}})
    return PatchCut(config.sampling, config.augment, config.grid.spacing_mm)


def centre_of(case, cut, seed) -> tuple[int, ...]:
    """The centre is the first thing that is drawn."""
    return tuple(case.draw_centre(cut.foreground_fraction, np.random.RandomState(seed)).tolist())


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
        pytest.param((1, 11, 8), (2, 4, 2), id="one slice"),
    ],
)
def test_the_box_of_an_unchanged_patch_equals_a_banal_crop_and_holds_its_centre(shape, patch):
    case, cut = prepared(shape), cutter(patch)
    seen = set()
    for seed in range(12):
        box = cut(case, np.random.RandomState(seed))
        centre = centre_of(case, cut, seed)
        seen.add(centre)
        assert (box.image.dtype, box.label.dtype) == (np.float16, np.uint8)
        np.testing.assert_array_equal(box.image[0], banal_crop(case.image[0], centre, patch))
        np.testing.assert_array_equal(box.label[0], banal_crop(case.label[0], centre, patch))
        assert (box.image == case.image[(0, *centre)]).sum() == 1
        assert box.middle == tuple((length - 1) / 2 for length in patch)
    assert len(seen) > 1


def test_cutting_changes_nothing_in_the_case():
    case, cut = prepared((9, 11, 14)), cutter((9, 11, 14))
    before = case.image.copy(), case.label.copy()
    box = cut(case, np.random.RandomState(0))
    box.image[:] = 0
    box.label[:] = 9
    np.testing.assert_array_equal(case.image, before[0])
    np.testing.assert_array_equal(case.label, before[1])


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("value", [0, 3])
def test_a_case_without_any_foreground_or_without_any_background_gives_patches_all_the_same(value, fraction):
    case, cut = prepared((5, 6, 7), np.full((5, 6, 7), value, np.uint8)), cutter((4, 4, 4), fraction)
    for seed in range(5):
        assert (cut(case, np.random.RandomState(seed)).label == value).all()


def test_a_patch_may_reach_beyond_the_scan_by_the_margin_and_no_further():
    shape, patch, margin = (20, 21, 30), (16, 16, 16), (0, 0, 5)
    numbers = np.arange(1, np.prod(shape) + 1, dtype=np.float32).reshape(shape)
    framed = np.pad(numbers, [(size, size) for size in margin])
    grid = Geometry(shape, np.eye(4))  # numbers above 2048 do not fit into float16
    case = PreparedCase.of("x", numbers[None], np.ones((1, *shape), np.uint8), grid, grid)
    cut, reached = cutter(patch, margin=list(margin)), set()
    for seed in range(300):
        image = cut(case, np.random.RandomState(seed)).image[0]
        filled = np.argwhere(image)
        i, j, k = np.array(np.unravel_index(int(image[tuple(filled[0])]) - 1, shape)) + margin - filled[0]
        assert np.array_equal(image, framed[i : i + 16, j : j + 16, k : k + 16])
        reached.add(int(k))
    assert (min(reached), max(reached)) == (0, 30 + 2 * 5 - 16)


@pytest.mark.parametrize("augment", [{"affine": 1.0}, {"elastic": 1.0}, {"affine": 1.0, "elastic": 1.0, "shear": 0.2}])
def test_the_box_of_a_changed_patch_holds_every_voxel_that_the_patch_is_made_of(augment):
    """Its corners, and all its other voxels, come from inside the box."""
    patch = (8, 10, 6)
    case, cut = prepared((30, 31, 32)), cutter(patch, **augment, scale_fraction=0.3, rotate_degrees=40.0)
    offsets = np.stack(np.meshgrid(*[np.arange(n) - (n - 1) / 2 for n in patch], indexing="ij")).reshape(3, -1)
    for seed in range(20):
        box = cut(case, np.random.RandomState(seed))
        warp = box.changes.warp
        bend = 0 if warp.shifts is None else np.abs(warp.shifts).reshape(3, -1).max(axis=1)[:, None]
        for sign in (-1, 1):
            places = warp.matrix @ (offsets + sign * bend) + np.array(box.middle)[:, None]
            assert (places >= -1e-9).all()
            assert (places <= np.array(box.image.shape[1:])[:, None] - 1 + 1e-9).all()
        assert box.image.shape[1:] == box.label.shape[1:]


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [0, 3])
def test_a_box_that_is_read_to_its_place_later_is_the_box_that_is_read_at_once(seed, margin):
    case, cut = prepared((9, 11, 14)), cutter((4, 5, 6), margin=margin, affine=0.5, elastic=0.5, noise=0.5)
    now, later = cut(case, np.random.RandomState(seed)), cut.plan(case, np.random.RandomState(seed))
    assert later.layout == now.layout
    image, label = (np.full(shape, 9, dtype) for shape, dtype in later.layout)
    later.write(image, label)
    np.testing.assert_array_equal(image, now.image)
    np.testing.assert_array_equal(label, now.label)
    assert later.middle == now.middle
    assert later.changes.noise_seed == now.changes.noise_seed
