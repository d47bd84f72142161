"""Slice by slice through a volume: every plane goes there and back, stretched or not; mirrors are mirrors."""

import itertools
import time
import tracemalloc

import numpy as np
import pytest
import torch

from tests.scans import orientation, tiny_config
from tests.tiles import whole_scores
from verse3d.core.geometry import Geometry
from verse3d.model.tilings import SliceTiling, WindowTiling

SHAPE = (9, 14, 23)
GRID = Geometry(SHAPE, np.eye(4))
PLANES = {"sagittal": (0, (23, 14)), "coronal": (1, (23, 9)), "axial": (2, (14, 9))}
"""Axis across the slices, and rows and columns of a slice."""


def tiling(plane, size, source=GRID, neighbours=0) -> SliceTiling:
    slices = {"plane": plane, "size_pixels": size, "neighbours": neighbours}
    return SliceTiling.of(tiny_config("2d", slices=slices).slices, source, SHAPE)


def middle(windows):
    return windows[:, windows.shape[1] // 2][:, None]


@pytest.mark.parametrize("neighbours", [0, 2])
@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_comes_back_to_its_place(plane, neighbours):
    volume = torch.randint(0, 256, SHAPE) / 255
    logits = whole_scores(tiling(plane, PLANES[plane][1], neighbours=neighbours), volume, middle)
    torch.testing.assert_close(logits[0].float(), volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize("plane", PLANES)
def test_stretching_there_and_back_keeps_smooth_values_where_they_were(plane):
    i, j, k = np.meshgrid(*(np.linspace(0, 1, size) for size in SHAPE), indexing="ij")
    volume = torch.from_numpy((0.2 + 0.1 * i + 0.3 * j + 0.4 * k).astype(np.float32))
    off = (whole_scores(tiling(plane, (61, 40)), volume, middle) - volume).abs()
    axis = PLANES[plane][0]
    inner = off[0][tuple(slice(None) if one == axis else slice(1, -1) for one in range(3))]
    assert inner.max() < 0.004, "8 bit, and nothing else"
    assert off.max() < 0.02


@pytest.mark.parametrize(
    ("axes", "signs"), [((0, 1, 2), (1, 1, 1)), ((1, 2, 0), (-1, -1, 1)), ((2, 0, 1), (1, -1, -1))]
)
def test_stored_slices_follow_the_third_axis_of_the_file(axes, signs):
    source = orientation(axes, signs, (1.0, 1.0, 1.0), (5, 6, 7))
    plane = next(name for name, (axis, _) in PLANES.items() if axis == axes[2])
    stored = tiling("as-stored", PLANES[plane][1], source)
    assert stored.axis == axes[2]
    assert len(stored.regions) == SHAPE[axes[2]]
    volume = torch.randint(0, 256, SHAPE) / 255
    torch.testing.assert_close(whole_scores(stored, volume, middle)[0].float(), volume, atol=1e-6, rtol=0)


def windows(shape=SHAPE, **sampling) -> WindowTiling:
    config = tiny_config(sampling={"patch_voxels": [8, 8, 12], **sampling})
    return WindowTiling.of(config.sampling, config.inference, shape)


TILINGS = {
    "windows": windows(),
    "windows larger than the volume": windows((4, 5, 7), patch_voxels=[8, 8, 8]),
    "windows with a margin": windows(margin_voxels=[1, 0, 5]),
    "sagittal, neighbours": tiling("sagittal", (20, 16), neighbours=2),
    "coronal": tiling("coronal", (20, 16)),
    "axial, neighbours": tiling("axial", (20, 16), neighbours=1),
}


@pytest.mark.parametrize("name", TILINGS)
def test_windows_come_in_the_order_of_the_axis_and_cover_the_volume(name):
    one = TILINGS[name]
    starts = [region[one.axis].start for region in one.regions]
    assert starts == sorted(starts)
    covered = np.zeros(one.shape, dtype=bool)
    for number, region in enumerate(one.regions):
        covered[region] = True
        assert all(0 <= span.start < span.stop <= size for span, size in zip(region, one.shape, strict=True))
        window = one.cut(np.zeros(one.shape, np.float16), number)
        assert window.shape == one.window_shape and window.dtype == np.float32
    assert covered.all()


@pytest.mark.parametrize("name", TILINGS)
def test_a_mirrored_window_is_that_of_the_mirrored_patient(name):
    """Shown the volume with left and right exchanged, the network sees the mirrored windows, and the answers fit."""
    one = TILINGS[name]
    volume = np.random.default_rng(0).random(one.shape).astype(np.float32)
    windows = [torch.from_numpy(one.cut(volume, number)) for number in range(len(one.regions))]
    seen = {window.numpy().tobytes() for window in one.mirrored(torch.stack(windows))}
    flipped = np.ascontiguousarray(volume[::-1])
    mirrors = [one.cut(flipped, number) for number in range(len(one.regions))]
    if symmetric(one):
        assert seen == {mirror.tobytes() for mirror in mirrors}
    for number, window in enumerate(windows):
        there = one.mirrored(window[None])
        middle_of = slice(window.shape[0] // 2, window.shape[0] // 2 + 1)
        back = one.mirrored_back(there[:, middle_of])
        assert torch.equal(back[0], window[middle_of]), number


def symmetric(one) -> bool:
    """Whether the windows of the mirrored volume lie where the mirrors of the windows lie."""
    lefts = {(region[0].start, region[0].stop) for region in one.regions}
    return lefts == {(one.shape[0] - stop, one.shape[0] - start) for start, stop in lefts}


def test_only_a_sagittal_slice_by_itself_looks_the_same_in_the_mirror():
    assert not tiling("sagittal", (20, 16)).mirror_differs
    assert all(one.mirror_differs for one in TILINGS.values())


def listed_starts(shape, window, margin, overlap) -> list:
    """All windows as a plain list, the way that needs memory for each of them."""
    along = []
    for size, length, beyond in zip(shape, window, margin, strict=True):
        framed, step = size + 2 * beyond, max(1, int(length * (1 - overlap)))
        before = beyond + max(0, length - framed) // 2
        starts = [0] if framed <= length else [*range(0, framed - length, step), framed - length]
        along.append([start - before for start in starts if start - before < size and start - before + length > 0])
    axis = max(range(3), key=lambda number: (shape[number], number))
    return sorted(itertools.product(*along), key=lambda start: start[axis])


@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("margin", [(0, 0, 0), (1, 0, 5), (9, 20, 31)])
@pytest.mark.parametrize("shape", [(9, 14, 23), (23, 9, 14), (14, 23, 9), (4, 5, 7), (1, 1, 1), (30, 30, 30)])
def test_windows_are_computed_in_the_order_in_which_they_would_be_listed(shape, margin, overlap):
    config = tiny_config(sampling={"patch_voxels": [8, 8, 12], "margin_voxels": margin}, inference={"overlap": overlap})
    found = WindowTiling.of(config.sampling, config.inference, shape)
    expected = listed_starts(shape, (8, 8, 12), margin, overlap)
    assert list(found.starts) == expected
    assert len(found.regions) == len(expected) and found.starts[-1] == expected[-1]
    assert list(found.starts[2:7]) == expected[2:7]
    with pytest.raises(IndexError):
        found.regions[len(expected)]


def test_the_windows_of_an_absurd_volume_are_counted_without_time_or_memory():
    tracemalloc.start()
    began = time.process_time()
    one = windows((10_000, 9_000, 11_000))
    assert len(one.regions) == 2499 * 2249 * 1833
    assert one.regions[len(one.regions) - 1][2].stop == 11_000
    assert one.thickness == 12
    assert tracemalloc.get_traced_memory()[1] < 100_000 and time.process_time() - began < 1
    tracemalloc.stop()


@pytest.mark.parametrize("name", TILINGS)
def test_no_window_is_thicker_than_the_tiling_says(name):
    one = TILINGS[name]
    assert one.thickness == max(region[one.axis].stop - region[one.axis].start for region in one.regions)
