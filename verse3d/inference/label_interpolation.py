"""Which of several labels wins: at the voxels of the network grid, and between them, on the grid of the scan.

Labels of the network's voxels (each four voxels make up a cell), and what becomes of the target voxels in these cells:

    1 --- 1 --- 2      left cell: its corners agree, so all of it is 1
    |     |  /  |      right cell: mixed; the probabilities of its corners are interpolated
    1 --- 1 --- 2

In a mask of bones few cells are mixed, and the points in them are done one by one. Where a network is unsure most cells
are, and then whole planes are done at once (see ``dense_interpolation``): each box takes what costs less.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.axismaps import AxisMap, Box
from verse3d.core.single_threaded import in_ranges_single_threaded
from verse3d.core.threads import thread_count
from verse3d.inference.dense_interpolation import fill_densely

_BOX_VOXELS = 2**21
_BOX_NUMBERS = 2**21
_TARGET_VOXELS = 2**20
_POINTS = 2**15
"""Voxels, probabilities, voxels of the target and points near borders that are worked on at once, on all cores."""
_MOSTLY_MIXED = 0.15
"""Share of mixed cells from which whole planes cost less than single points. Measured with 27 channels."""
_DENSE_NUMBERS = 2**21
"""Probabilities in a box that is done plane by plane; a plane of the target stays in the processor's cache."""
_SMALLEST_BOX = 8
"""Along its longest axis; what is smaller is not halved."""
_PARTS_PER_THREAD = 8
"""More than one, because a part that holds no bone is done at once."""
_UNDECIDED = 255
"""Stands for a voxel near a border until its label is known; no label has this id."""
_SURELY_LESS = 0.9
"""Times the least probability that the best label can have: weights in float16 are rounded."""


@dataclass(frozen=True, eq=False)
class LabelInterpolation:
    """The most probable labels at voxels, and by way of probabilities between them.

    Between eight voxels of one label that label stays the most probable, because an interpolated lead is a mean of
    leads. So probabilities are needed only where neighbours differ; they are asked for in boxes of limited size.

    Attributes:
        labels: the most probable one at each voxel, a channel number, uint8 (I, J, K).
        at_points: gives float32 (n, channels) on the CPU for the indices (n,) of voxels along the three axes.
        in_box: gives float32 (a, channels, b, c) of a box (a, b, c) of voxels, on the device where it is at hand.
        ids: what is written for each channel, uint8 (channels,): first 0, none of them 255.
        on_cpu: whether that device is the CPU, whose cores then share the work; both functions are called by several
            threads.
    """

    labels: NDArray[np.uint8]
    at_points: Callable[[Sequence[NDArray[np.intp]]], torch.Tensor]
    in_box: Callable[[Box], torch.Tensor]
    ids: NDArray[np.uint8]
    on_cpu: bool = True

    @property
    def _threads(self) -> int:
        return thread_count() if self.on_cpu else 1

    def fill(self, target: NDArray[np.uint8], maps: Sequence[AxisMap]) -> None:
        """Write the id with the largest probability, where probabilities are interpolated linearly.

        Args:
            target: uint8 (I', J', K'), all 0; filled where it draws on nothing but these voxels.
            maps: from each of its axes to the voxels.
        """
        whole: Box = tuple(slice(0, size) for size in self.labels.shape)
        # Parts of the target are filled from boxes that have a plane in common at most, so no voxel is written twice.
        parts = [whole]
        while 1 < self._threads * _PARTS_PER_THREAD > len(parts) and self.labels.size > len(parts) * _SMALLEST_BOX**3:
            parts = [half for part in parts for half in _halves(part)]

        def fill(first: int, stop: int) -> None:
            for part in parts[first:stop]:
                self._fill(target, maps, part)

        in_ranges_single_threaded(fill, len(parts), 1)

    def _fill(self, target: NDArray[np.uint8], maps: Sequence[AxisMap], box: Box) -> None:
        spans = tuple(axis.within(used) for axis, used in zip(maps, box, strict=True))
        if any(span.start == span.stop for span in spans) or not self.labels[box].any():
            return
        # Indices into the scores are counted from the box that is looked at, not from the whole.
        into = [axis.part(span).moved(-used.start) for axis, span, used in zip(maps, spans, box, strict=True)]
        if self._filled(target[spans], into, box):
            return
        for half in _halves(box):
            self._fill(target, maps, half)

    def _filled(self, target: NDArray[np.uint8], maps: Sequence[AxisMap], box: Box) -> bool:
        """Fill what lies in a box, unless that is too much at once and the box can be halved."""
        labels = self.labels[box]
        # Few mixed cells: gather their corners. Many: interpolate whole planes. Too much for either: halve the box.
        may_halve = max(labels.shape) > _SMALLEST_BOX
        if labels.size * self._threads > _BOX_VOXELS and may_halve:
            return False
        cells = mixed_cells(labels)
        if np.count_nonzero(cells) > _MOSTLY_MIXED * cells.size:
            # The largest of what is held at once: the box, and then its columns and its planes on the target's grid.
            largest = max(labels.size, labels[..., 0].size * target.shape[2], target[0].size)
            if largest * self.ids.size * self._threads > _DENSE_NUMBERS and may_halve:
                return False
            known = self.in_box(box)
            able = _able(known.amax((0, 2, 3)), self.ids.size)
            known = known if bool(able.all()) else known[:, able]
            fill_densely(target, known, maps, self.ids[able.cpu().numpy()])
            return True
        corners = np.flatnonzero(_corners(cells))
        if corners.size * self.ids.size * self._threads > _BOX_NUMBERS and may_halve:
            return False
        places = np.unravel_index(corners, labels.shape)
        # (corners, channels): only these voxels' probabilities are ever needed
        known = self.at_points([place + used.start for place, used in zip(places, box, strict=True)])
        _Border(labels, cells, corners, known, self.ids).fill(target, maps, _TARGET_VOXELS // self._threads)
        return True


class _Border:
    """Voxels of a box, with the probabilities of those at the corners of mixed cells."""

    def __init__(
        self,
        labels: NDArray[np.uint8],
        cells: NDArray[np.bool_],
        corners: NDArray[np.intp],
        known: torch.Tensor,
        ids: NDArray[np.uint8],
    ) -> None:
        self._codes = ids[labels]
        self._codes[cells] = _UNDECIDED
        # Where a corner's probabilities stand in ``known``; 0 for all that is no corner, and is never asked.
        row_of = np.zeros(labels.shape, np.int32)
        row_of.reshape(-1)[corners] = np.arange(corners.size, dtype=np.int32)
        self._row_of = torch.from_numpy(row_of)
        # A channel that is small everywhere is the largest nowhere: fewer numbers for each point, the same label.
        able = _able(known.amax(0), ids.size) if len(known) else torch.ones(ids.size, dtype=torch.bool)
        self._ids = torch.from_numpy(ids)[able]
        self._known = known if bool(able.all()) else known[:, able]

    def fill(self, target: NDArray[np.uint8], maps: Sequence[AxisMap], at_once: int) -> None:
        """Fill the target, so many voxels at once, by way of the maps from its axes into the box."""
        deep, rows, columns = maps
        around = _Around(self._row_of, maps)
        planes = max(1, at_once // (rows.size * columns.size))
        for start in range(0, deep.size, planes):
            lower = deep.lower[start : start + planes]
            # The label of the cell that a target voxel lies in, or "undecided", plane by plane of the target.
            codes = self._codes.take(columns.lower, 2).take(rows.lower, 1).take(lower, 0)
            flat = torch.from_numpy(codes.reshape(-1))
            undecided = torch.from_numpy(np.flatnonzero(flat.numpy() == _UNDECIDED))
            for places in torch.split(undecided, _POINTS):
                # (points, 8) rows of known corners, each with its share in the point: summed to (points, channels) at
                # once, without the (points, 8, channels) in between; the largest wins.
                neighbours, shares = around(places, start)
                carried = torch.nn.functional.embedding_bag(
                    neighbours, self._known, per_sample_weights=shares, mode="sum"
                )
                flat[places] = self._ids[carried.argmax(1)]
            target[start : start + planes] = codes


class _Around:
    """The eight voxels around points of the target.

    Args:
        values: (I, J, K) of the voxels.
        maps: from each axis of the target to the voxels.
    """

    def __init__(self, values: torch.Tensor, maps: Sequence[AxisMap]) -> None:
        self._values = values
        self._rows, self._columns = maps[1].size, maps[2].size
        strides = values.stride()
        self._lower = [torch.from_numpy(axis.lower * step) for axis, step in zip(maps, strides, strict=True)]
        self._steps = [
            torch.from_numpy((axis.upper - axis.lower) * step) for axis, step in zip(maps, strides, strict=True)
        ]
        self._weights = [torch.from_numpy(axis.weight) for axis in maps]

    def __call__(self, places: torch.Tensor, first: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Values (n, 8) around n flat places in the planes of the target from ``first`` on, and the share of each."""
        plane = self._rows * self._columns
        along = (first + places // plane, places % plane // self._columns, places % self._columns)
        lower = sum((one[place] for one, place in zip(self._lower, along, strict=True)), torch.zeros_like(places))
        steps = [one[place] for one, place in zip(self._steps, along, strict=True)]
        weights = [one[place] for one, place in zip(self._weights, along, strict=True)]
        values = torch.empty(len(places), 8, dtype=self._values.dtype)
        shares = torch.empty(len(places), 8)
        for number, corner in enumerate(product((0, 1), repeat=3)):
            # corner (1, 0, 1): one step up along i and k; its share is w_i * (1 - w_j) * w_k
            at, share = lower, torch.ones(len(places))
            for upper, step, weight in zip(corner, steps, weights, strict=True):
                at = at + step if upper else at
                share = share * (weight if upper else 1 - weight)
            values[:, number] = self._values.view(-1)[at]
            shares[:, number] = share
        return values, shares


def _able(largest: torch.Tensor, channels: int) -> torch.Tensor:
    """Which channels, of which the largest probability anywhere is given, may win between voxels.

    Of n probabilities that add up to 1 the largest is at least 1/n, and so it is of their means.
    """
    return largest >= _SURELY_LESS / channels


def mixed_cells(labels: NDArray[np.uint8]) -> NDArray[np.bool_]:
    """Whether a voxel and its (up to seven) neighbours towards higher indices have different labels."""
    # Smallest and largest of 2 x 2 x 2, one axis after the other: they differ where a cell is mixed.
    #
    #     labels   1 1 1 2 2        mixed   0 0 1 0 0      (along one axis)
    low = high = labels
    for axis in range(3):
        low = _with_next(np.minimum, low, axis)
        high = _with_next(np.maximum, high, axis)
    mixed: NDArray[np.bool_] = low != high
    return mixed


def _with_next(choose: np.ufunc, values: NDArray[np.uint8], axis: int) -> NDArray[np.uint8]:
    here, following = _pairs(axis)
    chosen = values.copy()
    choose(values[here], values[following], out=chosen[here])
    return chosen


def _corners(cells: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """The voxels at the corners of cells."""
    # A cell is named after its lowest corner; its others lie one step on along each axis:
    #
    #     cells   0 0 1 0 0        corners   0 0 1 1 0
    corners = cells.copy()
    for axis in range(3):
        here, following = _pairs(axis)
        corners[following] |= corners[here]
    return corners


def _pairs(axis: int) -> tuple[Box, Box]:
    before = (slice(None),) * axis
    return (*before, slice(None, -1)), (*before, slice(1, None))


def _halves(box: Box) -> tuple[Box, Box]:
    """Two boxes that share a plane of voxels across the longest axis."""
    # They share the plane in the middle, or the cells between the two halves would belong to neither.
    axis = max(range(3), key=lambda number: box[number].stop - box[number].start)
    first, stop = box[axis].start, box[axis].stop
    middle = (first + stop) // 2
    return (
        (*box[:axis], slice(first, middle + 1), *box[axis + 1 :]),
        (*box[:axis], slice(middle, stop), *box[axis + 1 :]),
    )
