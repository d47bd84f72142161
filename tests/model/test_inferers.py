"""Slice by slice through a volume: every plane goes there and back, stretched or not, and little is held."""

import numpy as np
import pytest
import torch

from tests.scans import orientation, tiny_config
from verse3d.core.geometry import Geometry
from verse3d.model.inferers import SliceBySlice

SHAPE = (9, 14, 23)
GRID = Geometry(SHAPE, np.eye(4))
PLANES = {"sagittal": (0, (23, 14)), "coronal": (1, (23, 9)), "axial": (2, (14, 9))}
"""Axis across the slices, and rows and columns of a slice."""


def inferer(plane, size, source=GRID, **changes) -> SliceBySlice:
    slices = {"plane": plane, "size_pixels": size, "neighbours": changes.pop("neighbours", 0)}
    return SliceBySlice.of(tiny_config("2d", slices=slices, inference=changes), source)


def middle(pieces):
    return pieces[:, pieces.shape[1] // 2][:, None]


@pytest.mark.parametrize("neighbours", [0, 2])
@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_comes_back_to_its_place(plane, neighbours):
    volume = torch.randint(0, 256, (1, 1, *SHAPE)) / 255
    logits = inferer(plane, PLANES[plane][1], neighbours=neighbours, windows_per_batch=4)(volume, middle)
    torch.testing.assert_close(logits, volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize("plane", PLANES)
def test_stretching_there_and_back_keeps_smooth_values_where_they_were(plane):
    i, j, k = np.meshgrid(*(np.linspace(0, 1, size) for size in SHAPE), indexing="ij")
    volume = torch.from_numpy((0.2 + 0.1 * i + 0.3 * j + 0.4 * k).astype(np.float32))[None, None]
    logits = inferer(plane, (61, 40))(volume, middle)
    off = (logits - volume).abs()
    axis = PLANES[plane][0]
    inner = off[0, 0][tuple(slice(None) if one == axis else slice(1, -1) for one in range(3))]
    assert inner.max() < 0.004, "8 bit, and nothing else"
    assert off.max() < 0.02


@pytest.mark.parametrize(
    ("axes", "signs"), [((0, 1, 2), (1, 1, 1)), ((1, 2, 0), (-1, -1, 1)), ((2, 0, 1), (1, -1, -1))]
)
def test_stored_slices_follow_the_third_axis_of_the_file(axes, signs):
    source = orientation(axes, signs, (1.0, 1.0, 1.0), (5, 6, 7))
    plane = next(name for name, (axis, _) in PLANES.items() if axis == axes[2])
    stored = inferer("as-stored", PLANES[plane][1], source)
    assert stored.axis == axes[2]
    assert stored.pieces(SHAPE) == SHAPE[axes[2]]
    volume = torch.randint(0, 256, (1, 1, *SHAPE)) / 255
    torch.testing.assert_close(stored(volume, middle), volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize(("per_batch", "expected"), [(1, [1] * 9), (4, [4, 4, 1]), (50, [9])])
def test_no_more_slices_than_wanted_are_shown_at_a_time(per_batch, expected):
    seen = []

    def look(pieces):
        seen.append(tuple(pieces.shape))
        return pieces[:, :1].repeat(1, 3, 1, 1)

    logits = inferer("sagittal", (20, 16), neighbours=1, windows_per_batch=per_batch)(torch.zeros(1, 1, *SHAPE), look)
    assert seen == [(count, 3, 20, 16) for count in expected]
    assert tuple(logits.shape) == (1, 3, *SHAPE)
