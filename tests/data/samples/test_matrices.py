"""Rotations and shears are those of MONAI."""

import numpy as np
import pytest
from monai.transforms.utils import create_rotate, create_shear

from tests.data.samples.cases import as_todays_monai
from verse3d.data.samples.matrices import rotation, shear


@pytest.mark.parametrize("angles", [(0.3,), (-1.2,), (0.3, -0.2, 0.7), (0.0, 1.0, 0.0), (1.4, -0.9, 2.2)])
def test_rotations_are_those_of_monai(angles):
    dims = 2 if len(angles) == 1 else 3
    expected = np.asarray(create_rotate(dims, angles), float)[:dims, :dims]
    np.testing.assert_allclose(rotation(np.array(angles)), expected, atol=1e-12)


@pytest.mark.parametrize("coefficients", [(0.1, -0.3), (0.1, 0.2, -0.3, 0.4, -0.5, 0.6)])
def test_shears_keep_the_volume_and_small_ones_are_their_coefficients(coefficients):
    dims = 2 if len(coefficients) == 2 else 3
    assert np.linalg.det(shear(dims, np.array(coefficients))) == pytest.approx(1)
    small = 1e-6 * np.array(coefficients)
    beside = (shear(dims, small) - np.eye(dims))[~np.eye(dims, dtype=bool)]
    np.testing.assert_allclose(beside, small, atol=1e-11)


@as_todays_monai
@pytest.mark.parametrize("coefficients", [(0.1, -0.3), (0.1, 0.2, -0.3, 0.4, -0.5, 0.6)])
def test_shears_are_those_of_monai(coefficients):
    dims = 2 if len(coefficients) == 2 else 3
    expected = np.asarray(create_shear(dims, coefficients), float)[:dims, :dims]
    np.testing.assert_allclose(shear(dims, np.array(coefficients)), expected, atol=1e-12)
