"""Label maps that look like a spine: blocks for bodies along the head-to-tail axis of any grid."""

import numpy as np

from verse3d.core.geometry import Geometry

ALL_IDS = (*range(1, 20), 28, *range(20, 26))


def spine_labels(shape, matrix, ids=(19, 28, 20), *, block=2, gap=1, margin=1) -> np.ndarray:
    """Blocks ``block`` voxels high with ``gap`` voxels between them, from head to tail, clear of all borders."""
    geometry = Geometry(shape, matrix)
    axis = next(number for number, code in enumerate(geometry.axis_codes) if code in "SI")
    mask = np.zeros(shape, np.uint8)
    body = np.moveaxis(mask, axis, 0)
    if geometry.axis_codes[axis] == "S":
        body = body[::-1]
    start = margin
    for label in ids:
        body[start : start + block, 2:-2, 2:-2] = label
        start += block + gap
    assert start - gap < shape[axis], "the spine is longer than the grid"
    return mask
