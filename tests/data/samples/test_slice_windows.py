"""Windows of slices whose pixels have a size: cut out of the volume as it is, wherever they lie, never stretched."""

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.data.samples.test_slices import STILL, plane_by_hand
from tests.scans import orientation, tiny_config, turned
from verse3d.core.geometry import Geometry
from verse3d.core.volume import Volume
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.grid import prepare_image
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.slice_windows import SliceWindowCut
from verse3d.data.samples.transforms import PreparedCase
from verse3d.model.modes import Method

PLANES = {"sagittal": 0, "coronal": 1, "axial": 2}
SHAPE = (7, 11, 13)


def cut_of(plane="sagittal", size=(6, 5), neighbours=0, augment=STILL, foreground=0.5):
    config = tiny_config(
        "2.5d" if neighbours else "2d",
        slices={"plane": plane, "size_pixels": size, "neighbours": neighbours, "spacing_mm": 2.0},
        augment=augment,
        sampling={"foreground_fraction": foreground},
    )
    return SliceWindowCut(config.slices, config.augment, config.sampling.foreground_fraction)


def prepared(seed=0, shape=SHAPE) -> PreparedCase:
    random = np.random.default_rng(seed)
    image = random.random((1, *shape)).astype(np.float16)
    label = (random.random((1, *shape)) < 0.1).astype(np.uint8)
    grid = Geometry(shape, np.diag([2.0, 2, 2, 1]))
    return PreparedCase.of("a", image, label, grid, grid)


def places(volume, axis, picture):
    """Every (index, row, column) at which a picture lies in the slices of a volume with air around them."""
    rows, columns = picture.shape
    found = []
    for index in range(volume.shape[axis]):
        plane = np.pad(plane_by_hand(volume, axis, index), ((rows, rows), (columns, columns)))
        views = np.lib.stride_tricks.sliding_window_view(plane, (rows, columns))
        where = np.argwhere((views == picture).all((2, 3))) - (rows, columns)
        found += [(index, int(row), int(column)) for row, column in where]
    return found


def in_8_bit(image):
    return np.rint(image[0].astype(np.float64) * 255)


@pytest.mark.parametrize("size", [(6, 5), (16, 17), (16, 4), (3, 15), (1, 2)], ids=str)
@pytest.mark.parametrize(("plane", "axis"), PLANES.items())
def test_a_window_is_a_part_of_one_slice_with_air_around_it_where_the_slice_is_smaller(plane, axis, size):
    case, reached = prepared(), set()
    whole = plane_by_hand(case.image[0], axis, 0).shape
    for seed in range(8):
        box = cut_of(plane, size)(case, np.random.RandomState(seed))
        assert box.image.shape == box.label.shape == (1, *size) and box.image.dtype == box.label.dtype == np.uint8
        found = places(in_8_bit(case.image), axis, box.image[0])
        for first, length, along in zip(found[0][1:], whole, size, strict=True):
            # Pushed inside, or in the middle (of an odd number of pixels of air one more is in front).
            assert 0 <= first <= length - along or first == -((along - length + 1) // 2)
        assert any(place in places(case.label[0], axis, box.label[0]) for place in found)
        reached.update(found)
    assert len(reached) > 1


@pytest.mark.parametrize(("plane", "axis"), PLANES.items())
def test_a_window_never_reaches_beyond_a_slice_that_could_fill_it(plane, axis):
    case = prepared()
    rows, columns = plane_by_hand(case.image[0], axis, 0).shape
    for seed in range(20):
        box = cut_of(plane, (6, 5))(case, np.random.RandomState(seed))
        ((_, row, column),) = places(in_8_bit(case.image), axis, box.image[0])
        assert 0 <= row <= rows - 6 and 0 <= column <= columns - 5


def test_the_wanted_share_of_windows_shows_a_vertebra():
    case = prepared()
    label = np.zeros_like(case.label)
    label[0, 3, 10, 0] = 1
    case = PreparedCase.of("a", case.image, label, case.geometry, case.source)
    shown = [cut_of(size=(3, 3), foreground=1.0)(case, np.random.RandomState(seed)).label.sum() for seed in range(9)]
    assert shown == [1] * 9
    assert not all(
        cut_of(size=(3, 3), foreground=0.0)(case, np.random.RandomState(seed)).label.any() for seed in range(9)
    )


def test_neighbours_show_the_same_window_and_the_last_slice_is_repeated():
    case, cut = prepared(), cut_of(size=(6, 5), neighbours=2)
    for seed in range(12):
        box = cut(case, np.random.RandomState(seed))
        seen = [places(in_8_bit(case.image), 0, picture)[0] for picture in box.image]
        assert len({place[1:] for place in seen}) == 1
        middle = seen[2][0]
        assert [place[0] for place in seen] == np.clip(np.arange(middle - 2, middle + 3), 0, 6).tolist()


@pytest.mark.parametrize(("plane", "axis"), PLANES.items())
def test_left_and_right_change_places_wherever_they_are(plane, axis):
    case = prepared()
    mirrored = case.image[0, ::-1]
    cut = cut_of(plane, (6, 5), neighbours=1, augment={**STILL, "mirror_left_right": 1.0})
    for seed in range(4):
        box = cut(case, np.random.RandomState(seed))
        found = [places(in_8_bit(mirrored[None]), axis, picture) for picture in box.image]
        assert all(found), "every channel is a window of the mirrored patient"
        assert places(case.label[0, ::-1], axis, box.label[0])


@pytest.mark.parametrize(("plane", "axis"), PLANES.items())
def test_a_turned_window_shows_the_scan_in_its_corners_and_stays_where_it_was_in_the_mirror(plane, axis):
    """Grey values grow evenly away from the mirror's axis, so the value in the middle says where the middle lies."""
    shape = (60, 62, 64)
    image = np.broadcast_to(0.2 + np.arange(60)[:, None, None] / 100, shape)[None].astype(np.float16)
    grid = Geometry(shape, np.eye(4))
    case = PreparedCase.of("a", image, np.ones((1, *shape), np.uint8), grid, grid)
    still = {**STILL, "affine": 1.0, "elastic": 1.0}
    middles = []
    for mirror in (0.0, 1.0):
        cut = cut_of(plane, (8, 9), augment={**still, "mirror_left_right": mirror})
        box = cut(case, np.random.RandomState(11))
        sample = Augment(cut.size)(PackedBatch.of([box, box]).on(torch.device("cpu")))
        assert sample["image"].shape == (2, 1, 8, 9) and torch.equal(sample["image"][0], sample["image"][1])
        assert sample["label"].min() == 1 and sample["image"].min() > 0.15
        row, column = box.middle
        rows, columns = np.arange(box.image.shape[1]), np.arange(box.image.shape[2])
        along = [np.interp(column, columns, line) for line in box.image[0].astype(float)]
        middles.append(np.interp(row, rows, along))
    assert middles[0] == pytest.approx(middles[1], abs=1.0), "8-bit grey; a pixel is 2.55"


def scan_of_a_ball(grid: Geometry, radius_mm=15.0) -> Volume:
    """A ball of bone in the middle of a scan."""
    places_mm = grid.world_from_index(np.indices(grid.shape).reshape(3, -1).T.astype(float))
    centre = grid.world_from_index((np.array(grid.shape)[None] - 1) / 2)
    inside = np.linalg.norm(places_mm - centre, axis=1).reshape(grid.shape) < radius_mm
    return Volume(np.where(inside, 1200, -200).astype(np.int16), grid, nib.Nifti1Header(), Path("ball"))


@pytest.mark.parametrize(
    "scan",
    [
        orientation((0, 1, 2), (1, 1, 1), (3.0, 1.0, 1.0), (11, 60, 70)),
        orientation((0, 1, 2), (-1, -1, 1), (3.0, 2.0, 2.5), (13, 120, 61)),
        turned(orientation((1, 2, 0), (-1, -1, 1), (1.7, 2.3, 3.1), (41, 43, 15))),
    ],
    ids=["small field of view", "large and anisotropic", "oblique and odd"],
)
def test_a_vertebra_has_one_size_in_pixels_whatever_the_field_of_view_is(scan):
    config = tiny_config("2d", slices={"size_pixels": [64, 64], "spacing_mm": 2.0}, augment=STILL)
    image, grid = prepare_image(scan_of_a_ball(scan), config.grid)
    label = (image > 0.5).astype(np.uint8)
    case = PreparedCase.of("a", image.astype(np.float16)[None], label[None], grid, scan)
    cut = Method(config).cut()
    assert isinstance(cut, SliceWindowCut)
    boxes = [cut(case, np.random.RandomState(seed)) for seed in range(30)]
    widest = max((box.label[0] for box in boxes), key=np.sum)
    heights, widths = (int(widest.any(axis).sum()) for axis in (1, 0))
    assert (heights, widths) == (pytest.approx(15, abs=1), pytest.approx(15, abs=1)), "30 mm in pixels of 2 mm"
