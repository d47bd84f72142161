"""Rotation and shear as matrices, put together as MONAI's ``RandAffined`` does. Loads nothing but NumPy.

MONAI has the same functions, but importing them takes each worker 180 MB and some seconds.
"""

import numpy as np
from numpy.typing import NDArray


def rotation(angles: NDArray[np.float64]) -> NDArray[np.float64]:
    """(2, 2) for one angle in radians; (3, 3) for three: about the first axis, after the second, after the third."""
    if len(angles) == 1:
        return _turn(2, 0, 1, angles[0])
    about_first, about_second, about_third = (
        _turn(3, *plane, angle) for plane, angle in zip(_PLANES, angles, strict=True)
    )
    # Read from the right: points are turned about the third axis first.
    return about_first @ about_second @ about_third


_PLANES = ((1, 2), (2, 0), (0, 1))
"""The axes that turn into each other when the first, second or third one stands still."""


def shear(dims: int, coefficients: NDArray[np.float64]) -> NDArray[np.float64]:
    """(d, d): along the first axis by the others, after it along the second, after it along the third."""
    matrix = np.eye(dims)
    for axis, along in enumerate(coefficients.reshape(dims, dims - 1)):
        row = np.eye(dims)
        # The diagonal stays 1: volumes do not change.
        row[axis] = np.insert(along, axis, 1.0)
        matrix = row @ matrix
    return matrix


def _turn(dims: int, one: int, other: int, angle: float) -> NDArray[np.float64]:
    matrix = np.eye(dims)
    matrix[[one, other], [one, other]] = np.cos(angle)
    matrix[other, one], matrix[one, other] = np.sin(angle), -np.sin(angle)
    return matrix
