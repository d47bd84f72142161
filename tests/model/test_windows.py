"""The number of windows is the number that MONAI really visits."""

import math

import numpy as np
import pytest
import torch
from monai.data.utils import compute_importance_map
from monai.inferers import SlidingWindowInferer

from tests.scans import tiny_config
from verse3d.core.geometry import Geometry
from verse3d.model.modes import get_mode
from verse3d.model.windows import window_starts, window_weights


def count_windows(shape, window, overlap):
    return math.prod(len(window_starts(size, length, overlap)) for size, length in zip(shape, window, strict=True))


class Counting:
    def __init__(self):
        self.windows = 0

    def __call__(self, windows):
        self.windows += windows.shape[0]
        return windows


@pytest.mark.parametrize("overlap", [0.0, 0.1, 0.25, 1 / 3, 0.5, 0.6, 0.75, 0.99])
def test_as_many_windows_are_counted_as_the_network_is_called_for(overlap):
    random = np.random.default_rng(int(overlap * 100))
    for _ in range(12):
        shape = tuple(int(size) for size in random.integers(1, 14, 3))
        window = tuple(int(size) for size in random.integers(3, 7, 3))
        network = Counting()
        SlidingWindowInferer(window, overlap=overlap, padding_mode="constant")(torch.zeros(1, 1, *shape), network)
        assert count_windows(shape, window, overlap) == network.windows, (shape, window)


def test_a_volume_of_exactly_one_window_or_less_is_one_window():
    assert count_windows((16, 16, 16), (16, 16, 16), 0.5) == 1
    assert count_windows((3, 16, 1), (16, 16, 16), 0.5) == 1
    assert count_windows((17, 16, 16), (16, 16, 16), 0.5) == 2


def test_the_3d_mode_visits_as_many_windows_as_are_counted():
    config = tiny_config(inference={"overlap": 0.6, "windows_per_batch": 3})
    shape = (33, 20, 41)
    tiling = get_mode("3d").tiling(config, Geometry(shape, np.eye(4)), shape)
    assert len(tiling.regions) == count_windows(shape, config.sampling.patch_voxels, 0.6)


@pytest.mark.parametrize("window", [(96, 64, 80), (7, 8, 9), (1, 5, 3), (12, 31)])
@pytest.mark.parametrize("blending", ["gaussian", "constant"])
def test_voxels_of_a_window_count_exactly_as_in_monai(window, blending):
    expected = compute_importance_map(window, mode=blending, sigma_scale=0.125).float()
    assert torch.equal(window_weights(window, blending), expected)
