import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from scipy.spatial.distance import cdist

from tests.metrics.conftest import SHAPE, blobs
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.metrics.surface import assd_mm, hd95_mm, surface_distances, surface_points_mm

SPACING = (0.8, 3.0, 1.3)


def one_hot(mask: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(mask[None, None]).float()


def banal_surface(mask: np.ndarray) -> np.ndarray:
    """Indices of mask voxels of which one of the six neighbours is outside the mask or the array."""
    padded = np.pad(mask, 1)
    neighbours = [np.roll(padded, step, axis)[1:-1, 1:-1, 1:-1] for axis in range(3) for step in (1, -1)]
    return np.argwhere(mask & ~np.logical_and.reduce(neighbours))


def pairs() -> list:
    bar, far, dot = np.zeros((3, *SHAPE), dtype=bool)
    bar[3:20, 4:9, :] = True  # touches two borders
    far[0, 0, 30] = True
    dot[12, 8, 15] = True
    full = np.ones(SHAPE, dtype=bool)
    random = [(blobs(seed, ids=(1,)) > 0, blobs(seed + 50, ids=(1, 2)) > 0) for seed in range(4)]
    return [*random, (bar, far), (far, dot), (dot, bar), (full, dot), (bar, bar)]


@pytest.mark.parametrize("case", range(9))
def test_anisotropic_distances_equal_monai(case):
    a, b = pairs()[case]
    grid = Geometry(SHAPE, np.diag([*SPACING, 1.0]))
    distances = surface_distances(a, b, grid)
    hd95 = compute_hausdorff_distance(one_hot(a), one_hot(b), include_background=True, percentile=95, spacing=SPACING)
    mean = compute_average_surface_distance(
        one_hot(a), one_hot(b), include_background=True, symmetric=True, spacing=SPACING
    )
    assert hd95_mm(distances) == pytest.approx(hd95.item(), abs=1e-4)
    assert assd_mm(distances) == pytest.approx(mean.item(), abs=1e-4)


@pytest.mark.parametrize("case", range(4))
def test_the_largest_distance_equals_simpleitk(case):
    a, b = pairs()[case]
    grid = Geometry(SHAPE, np.diag([*SPACING, 1.0]))
    distances = surface_distances(a, b, grid)
    images = []
    for mask in (a, b):  # ITK measures between point sets, so it gets the surfaces
        surface = np.zeros(SHAPE, dtype=np.uint8)
        surface[tuple(banal_surface(mask).T)] = 1
        images.append(sitk.GetImageFromArray(surface.T))
        images[-1].SetSpacing(SPACING)
    oracle = sitk.HausdorffDistanceImageFilter()
    oracle.Execute(*images)
    largest = max(distances.a_to_b_mm.max(), distances.b_to_a_mm.max())
    assert largest == pytest.approx(oracle.GetHausdorffDistance(), rel=1e-5)


@pytest.mark.parametrize("grid_name", ["oblique", "sheared"])
@pytest.mark.parametrize("case", range(9))
def test_distances_equal_brute_force_in_the_world(case, grid_name, request):
    grid = request.getfixturevalue(grid_name)
    a, b = pairs()[case]
    table = cdist(*(grid.world_from_index(banal_surface(mask)) for mask in (a, b)))
    distances = surface_distances(a, b, grid)
    np.testing.assert_allclose(np.sort(distances.a_to_b_mm), np.sort(table.min(axis=1)), atol=1e-9)
    np.testing.assert_allclose(np.sort(distances.b_to_a_mm), np.sort(table.min(axis=0)), atol=1e-9)
    expected = max(np.percentile(table.min(axis=1), 95), np.percentile(table.min(axis=0), 95))
    assert hd95_mm(distances) == pytest.approx(expected)
    assert assd_mm(distances) == pytest.approx(np.concatenate([table.min(axis=0), table.min(axis=1)]).mean())


def test_permuted_and_flipped_arrays_give_the_same_distances(oblique):
    a, b = pairs()[0]
    before = surface_distances(a, b, oblique)
    move = np.array([[0, 0, -1, SHAPE[0] - 1], [1, 0, 0, 0], [0, -1, 0, SHAPE[2] - 1], [0, 0, 0, 1.0]])
    turned_a, turned_b = (mask.transpose(1, 2, 0)[:, ::-1, ::-1] for mask in (a, b))  # index (j, K-1-k, I-1-i)
    after = surface_distances(turned_a, turned_b, Geometry(turned_a.shape, oblique.affine @ move))
    assert hd95_mm(after) == pytest.approx(hd95_mm(before))
    assert assd_mm(after) == pytest.approx(assd_mm(before))
    np.testing.assert_allclose(np.sort(after.a_to_b_mm), np.sort(before.a_to_b_mm), atol=1e-9)


def test_a_shift_of_one_slice_is_measured_in_mm(oblique):
    one, other = np.zeros((2, *SHAPE), dtype=bool)
    one[5, 5, 5], other[5, 6, 5] = True, True
    assert hd95_mm(surface_distances(one, other, oblique)) == pytest.approx(2.5)


def test_distances_to_nothing_are_undefined(oblique):
    some, none = np.zeros((2, *SHAPE), dtype=bool)
    some[3:6, 2:4, 9] = True
    for a, b in [(some, none), (none, some), (none, none)]:
        distances = surface_distances(a, b, oblique)
        assert not distances.defined
        assert math.isnan(hd95_mm(distances))
        assert math.isnan(assd_mm(distances))


def test_the_hollow_inside_is_a_surface_too():
    shell = np.ones((7, 7, 7), dtype=np.uint8)
    shell[3, 3, 3] = 0
    points = surface_points_mm(shell, Geometry((7, 7, 7), np.eye(4)))
    assert len(points) == 7**3 - 1 - (5**3 - 1 - 6)


def test_a_mask_off_the_grid_is_refused(oblique):
    with pytest.raises(GeometryError, match="does not lie on a grid"):
        surface_distances(np.zeros(SHAPE, bool), np.zeros((3, 4, 5), bool), oblique)
