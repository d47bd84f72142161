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
from verse3d.core.scripted import scripted
from verse3d.inference.best_channel import best_of


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
    between = (planes.lower.tolist(), planes.upper.tolist(), planes.weight.tolist())
    fill = scripted(_fill, device)
    fill(torch.from_numpy(target), probabilities, across, down, *between, torch.from_numpy(ids).to(device))


def _fill(  # noqa: PLR0917 - as TorchScript takes them
    target: torch.Tensor,
    probabilities: torch.Tensor,
    across: torch.Tensor,
    down: torch.Tensor,
    lower: list[int],
    upper: list[int],
    weights: list[float],
    ids: torch.Tensor,
) -> None:
    """Plane by plane of the target, each of which lies between two of the voxels."""
    rows, columns = target.shape[1], target.shape[2]
    carried = torch.empty([len(ids), rows, columns], device=probabilities.device)
    # The two planes around, and which they are; one of them is usually there already.
    below, above, at_below, at_above = carried, carried, -1, -1
    for number in range(len(lower)):
        # A scan may run along the network's axis or against it.
        if at_above == lower[number] or at_below == upper[number]:
            below, above, at_below, at_above = above, below, at_above, at_below
        if at_below != lower[number]:
            at_below = lower[number]
            below = _plane(probabilities, at_below, across, down)
        if at_above != upper[number]:
            at_above = upper[number]
            above = below if at_above == at_below else _plane(probabilities, at_above, across, down)
        torch.lerp(below, above, weights[number], out=carried)
        target[number].copy_(ids[best_of(carried.view(len(ids), -1))].view(rows, columns))


def _plane(probabilities: torch.Tensor, number: int, across: torch.Tensor, down: torch.Tensor) -> torch.Tensor:
    """(J, b) @ ((C, b, c) @ (c, K)) -> (C, J, K)."""
    return torch.bmm(down, probabilities[number] @ across)


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
