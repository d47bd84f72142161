"""The voxels of label maps that hold anything, a slab at a time: most of a scan is background."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

_SLAB_VOXELS = 1 << 21


def occupied(*maps: NDArray[np.uint8]) -> Iterator[tuple[NDArray[np.intp], tuple[NDArray[np.uint8], ...]]]:
    """Indices and values of the voxels that are not 0 in every map.

    Args:
        maps: label maps of one shape (I, J, K), in any memory order.

    Yields:
        Indices (n, 3) and the values (n,) of each map there, by slabs of about two million voxels.
    """
    first = maps[0]
    # slabs along the axis that is slowest in memory are contiguous
    axis = int(np.argmax(np.abs(first.strides)))
    step = max(1, _SLAB_VOXELS * first.shape[axis] // max(1, first.size))
    for start in range(0, first.shape[axis], step):
        part = tuple(slice(start, start + step) if number == axis else slice(None) for number in range(first.ndim))
        slabs = [each[part] for each in maps]
        filled = np.nonzero(np.logical_or.reduce([slab != 0 for slab in slabs]))
        indices = np.column_stack(filled)
        # Found within the slab, told within the volume.
        indices[:, axis] += start
        yield indices, tuple(slab[filled] for slab in slabs)
