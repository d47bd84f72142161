"""What teaches nothing: bone that the scan may cut, and borders in masks of a program.

A program and an expert differ first at the borders of what they label::

    0 0 1 1 1 2 2 0        0 - - 1 - - - -        - is ``IGNORED``: a voxel with another label beside it
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Shape
from verse3d.core.labels import IGNORED


@dataclass(frozen=True)
class Ignored:
    """Which network ids are ``IGNORED``, so that they teach nothing.

    Attributes:
        cut: those where a vertebra may be that the scan cuts (``cut_ends``).
        automatic_borders: those at the borders of a mask that a program made (``ignore_borders``).
    """

    cut: bool = False
    automatic_borders: bool = False


NOTHING = Ignored()


def ignore_borders(ids: NDArray[np.uint8]) -> None:
    """Put ``IGNORED`` in place of every voxel (I, J, K) beside which another id lies along an axis, in place.

    What lies beyond the array is not known: at its faces a border may stay.
    """
    border = np.zeros(ids.shape, bool)
    for axis in range(ids.ndim):
        along, marked = np.moveaxis(ids, axis, 0), np.moveaxis(border, axis, 0)
        differs = along[1:] != along[:-1]
        marked[1:] |= differs
        marked[:-1] |= differs
    ids[border] = IGNORED


def read_without_borders(
    read: Callable[[Shape, NDArray[np.uint8]], None], start: Shape, ids: NDArray[np.uint8]
) -> None:
    """Read a box of network ids and ``ignore_borders`` in it; those at its faces and in a single slice, too.

    Args:
        read: fills an array with the ids of the box that begins at a voxel.
        start: the first voxel of the box.
        ids: contiguous (I, J, K), to be filled.
    """
    i, j, k = ids.shape
    around = np.empty((i + 2, j + 2, k + 2), np.uint8)
    read((start[0] - 1, start[1] - 1, start[2] - 1), around)
    ignore_borders(around)
    ids[...] = around[1:-1, 1:-1, 1:-1]
