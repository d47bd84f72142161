"""Label maps and grids on which careless metrics go wrong."""

import numpy as np
import pytest

from verse3d.core.geometry import Geometry

SHAPE = (23, 17, 31)


def blobs(seed: int, shape=SHAPE, ids=(1, 2, 5, 28)) -> np.ndarray:
    """A few overlapping ellipsoids that reach over the border, single voxels beside them."""
    random = np.random.default_rng(seed)
    grid = np.stack(np.indices(shape), axis=-1)
    label_map = np.zeros(shape, dtype=np.uint8)
    for label in ids:
        centre = random.uniform(0, 1, 3) * shape
        radii = random.uniform(2, 9, 3)
        label_map[(((grid - centre) / radii) ** 2).sum(axis=-1) < 1] = label
    for label in ids:
        label_map[tuple(random.integers(0, shape))] = label
    return label_map


def turned(spacing_mm, degrees=(20.0, -13.0, 31.0), origin=(-120.5, 33.25, 801.0)) -> np.ndarray:
    """An oblique affine with exact spacing."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[one, one, two, two], [one, two, one, two]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = turn @ step
    affine = np.eye(4)
    affine[:3, :3] = turn * np.asarray(spacing_mm)
    affine[:3, 3] = origin
    return affine


@pytest.fixture
def oblique() -> Geometry:
    return Geometry(SHAPE, turned((0.7, 2.5, 1.1)))


@pytest.fixture
def sheared() -> Geometry:
    affine = turned((0.7, 2.5, 1.1))
    affine[:3, 1] += 0.6 * affine[:3, 0]
    return Geometry(SHAPE, affine)
