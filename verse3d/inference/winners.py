"""Which of several labels wins: at the voxels of the network grid, and between them, on the grid of the scan."""

from collections.abc import Callable, Sequence
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.axismaps import AxisMap
from verse3d.core.threads import in_ranges

_VOXELS_AT_ONCE = 2**19
_POINTS_AT_ONCE = 2**17
_UNDECIDED = 255
"""Stands for a voxel near a border until its label is known; no label has this id."""
_ROUNDING = 1e-5
_Slices = tuple[slice, ...]
_ROWS_AT_ONCE = 2**18
"""Voxels decided at once, so that their scores stay in the processor's cache."""


def best_channel(scores: torch.Tensor) -> torch.Tensor:
    """The channel with the largest score, uint8 (I, J, K) of (channels, I, J, K); of equal ones the first."""
    result = torch.empty(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    rows = max(1, _ROWS_AT_ONCE // max(1, scores.shape[2] * scores.shape[3]))
    for start in range(0, scores.shape[1], rows):
        part = scores[:, start : start + rows]
        if scores.stride(0) == 1:
            result[start : start + rows] = part.max(0).indices
        else:
            _keep_best(part, result[start : start + rows])
    return result


def _keep_best(scores: torch.Tensor, result: torch.Tensor) -> None:
    """``scores.argmax(0)`` channel by channel: three times as fast where a channel lies in one piece."""
    best = scores[0].clone()
    result.zero_()
    for channel in range(1, scores.shape[0]):
        result.masked_fill_(scores[channel] > best, channel)
        torch.maximum(best, scores[channel], out=best)


class Winners:
    """The winners in a box of voxels and between them.

    Between eight voxels that agree nothing can change their winner, because an interpolated lead is a mean of leads. So
    probabilities are needed only where neighbours differ.

    Args:
        labels: the winner at each voxel, a channel number, uint8 (I, J, K).
        probabilities: float32 (n, channels) of n voxels, on the CPU, given their indices along the three axes.
        ids: what is written for each channel, uint8 (channels,), none of them 255.
    """

    def __init__(
        self,
        labels: NDArray[np.uint8],
        probabilities: Callable[[Sequence[NDArray[np.intp]]], torch.Tensor],
        ids: NDArray[np.uint8],
    ) -> None:
        cells = mixed_cells(labels)
        self._codes = ids[labels]
        self._codes[cells] = _UNDECIDED
        places = np.nonzero(_corners(cells))
        self._row = np.zeros(labels.shape, np.int32)
        self._row[places] = np.arange(len(places[0]), dtype=np.int32)
        known = probabilities(places)
        # Of n probabilities that add up to 1 the largest is at least 1/n, and so it is of their means.
        able = torch.ones(ids.size, dtype=torch.bool)
        if len(known):
            able = known.amax(0) >= 1 / ids.size - _ROUNDING
        self._ids = ids[able.numpy()]
        self._known = known[:, able].contiguous()

    def fill(self, target: NDArray[np.uint8], maps: Sequence[AxisMap]) -> None:
        """Write the ids of the winners, where probabilities are interpolated linearly.

        Args:
            target: uint8 (I', J', K'); filled on all cores.
            maps: from each of its axes into the box.
        """
        deep, rows, columns = maps
        planes = max(1, _VOXELS_AT_ONCE // (rows.size * columns.size))

        def slab(start: int, stop: int) -> None:
            part = (deep.part(slice(start, stop)), rows, columns)
            codes = self._codes
            for axis, along in enumerate(part):
                codes = codes.take(along.lower, axis)
            places = np.nonzero(codes == _UNDECIDED)
            for first in range(0, len(places[0]), _POINTS_AT_ONCE):
                some = tuple(place[first : first + _POINTS_AT_ONCE] for place in places)
                codes[some] = self._decided(some, part)
            target[start:stop] = codes

        in_ranges(slab, deep.size, planes)

    def _decided(self, places: Sequence[NDArray[np.intp]], maps: Sequence[AxisMap]) -> NDArray[np.uint8]:
        """The ids at places of the target."""
        rows, shares = _eight_around(self._row, places, maps)
        carried = torch.nn.functional.embedding_bag(
            torch.from_numpy(rows), self._known, per_sample_weights=torch.from_numpy(shares), mode="sum"
        )
        ids: NDArray[np.uint8] = self._ids[carried.argmax(1).numpy()]
        return ids


def mixed_cells(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether a voxel and its (up to seven) neighbours towards higher indices have different labels."""
    low = _with_next(np.minimum, _with_next(np.minimum, _with_next(np.minimum, labels, 0), 1), 2)
    high = _with_next(np.maximum, _with_next(np.maximum, _with_next(np.maximum, labels, 0), 1), 2)
    mixed: NDArray[np.bool_] = low != high
    return mixed


def _with_next(choose: Callable[..., object], values: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    here, following = _pairs(axis)
    chosen = values.copy()
    choose(values[here], values[following], out=chosen[here])
    return chosen


def _corners(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels at the corners of cells."""
    corners = cells.copy()
    for axis in range(3):
        here, following = _pairs(axis)
        corners[following] |= corners[here]
    return corners


def _pairs(axis: int) -> tuple[_Slices, _Slices]:
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


def _eight_around(
    values: NDArray[np.int32], places: Sequence[NDArray[np.intp]], maps: Sequence[AxisMap]
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """For n places of the target the values (n, 8) of the source voxels around them, and the share (n, 8) of each."""
    strides = [stride // values.itemsize for stride in values.strides]
    first = np.zeros(len(places[0]), np.intp)
    steps, shares = [], []
    for place, axis, stride in zip(places, maps, strides, strict=True):
        first += axis.lower[place] * stride
        steps.append(((axis.upper - axis.lower) * stride)[place])
        weight = axis.weight[place]
        shares.append((1 - weight, weight))
    around = np.empty((first.size, 8), np.int32)
    share = np.empty((first.size, 8), np.float32)
    flat = values.reshape(-1)
    for number, (deep, row, column) in enumerate(product((0, 1), repeat=3)):
        around[:, number] = flat.take(first + (deep * steps[0] + row * steps[1] + column * steps[2]))
        share[:, number] = shares[0][deep] * shares[1][row] * shares[2][column]
    return around, share
