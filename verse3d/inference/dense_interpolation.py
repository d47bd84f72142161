"""The label with the largest interpolated probability at every voxel of a target, for boxes that are mixed all over.

Where labels are noise every voxel lies near a border, and to gather eight corners for each of them, one by one, takes
many times as long as to interpolate whole planes along one axis after the other:

    probabilities          columns             rows                 planes, one target plane at a time
    (C, b, c) of a    ->   (C, b, K) of a   ->   (C, J, K) of a   ->   (C, J, K)   ->   the best of C, (J, K)

Columns and rows are matrix products with two weights in each column: a processor does these faster than it gathers.
They are made plane by plane, so that all of it stays in the processor's cache, and of them only the two planes are held
between which the target plane lies.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.axismaps import AxisMap
from verse3d.inference.best_channel import best_channel, first_best


def fill_densely(
    target: NDArray[np.uint8], probabilities: torch.Tensor, maps: Sequence[AxisMap], ids: NDArray[np.uint8]
) -> None:
    """Write the id with the largest probability, the first of equal ones.

    Args:
        target: uint8 (I, J, K).
        probabilities: float32 (a, C, b, c), no NaN; computed where they lie.
        maps: from each axis of the target to a, b and c.
        ids: what is written for each channel, uint8 (C,).
    """
    planes, rows, columns = maps
    device = probabilities.device
    across = _matrix(columns, probabilities.shape[3]).to(device)
    down = _matrix(rows, probabilities.shape[2]).T.contiguous().to(device).expand(len(ids), -1, -1)
    carried = torch.empty((len(ids), rows.size, columns.size), device=device)
    best = first_best if device.type == "cpu" else _best_on_gpu
    ready: dict[int, torch.Tensor] = {}
    for number, (lower, upper) in enumerate(zip(planes.lower.tolist(), planes.upper.tolist(), strict=True)):
        # (J, b) @ ((C, b, c) @ (c, K)) -> (C, J, K), for the two planes around; one of them is usually there already
        ready = {at: ready[at] if at in ready else torch.bmm(down, probabilities[at] @ across) for at in (lower, upper)}
        torch.lerp(ready[lower], ready[upper], float(planes.weight[number]), out=carried)
        target[number] = ids.take(best(carried.view(len(ids), -1)).cpu().numpy()).reshape(rows.size, columns.size)


def _best_on_gpu(scores: torch.Tensor) -> torch.Tensor:
    return best_channel(scores[:, None, None])[0, 0].long()


def _matrix(axis_map: AxisMap, size: int) -> torch.Tensor:
    """What carries values along an axis of ``size`` voxels, float32 (size, targets).

    0 for all voxels but the two around a target: target 1 at 0.25 of the way from voxel 0 to voxel 1 has the column
    (0.75, 0.25, 0, ...).
    """
    matrix = np.zeros((size, axis_map.size), np.float32)
    targets = np.arange(axis_map.size)
    matrix[axis_map.lower, targets] = 1 - axis_map.weight
    matrix[axis_map.upper, targets] += axis_map.weight  # at the last voxel both are the same one
    return torch.from_numpy(matrix)
