"""What a network says about a scan: collected plane by plane on its own grid, and carried to the grid of the scan.

Classes x volume exists on neither grid. One label is kept as a probability and carried when it is complete. Of several
labels only the most probable is kept; near a border between labels, where the finer grid can hold any of several, the
probabilities of all are interpolated while the planes that hold them are open.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.axismaps import Box, axis_maps
from verse3d.core.geometry import Geometry
from verse3d.core.memory import background, give_back_freed_memory
from verse3d.core.resample import resample_above
from verse3d.core.scripted import scripted
from verse3d.inference.best_channel import best_channel, channels_first
from verse3d.inference.label_interpolation import LabelInterpolation
from verse3d.inference.open_sums import FinishedPlanes

_VOXELS_AT_ONCE = 2**15
"""Whose scores become probabilities at once."""
_VOXELS_IN_CACHE = 2**12
"""Of a box, likewise: with their scores of 27 channels they fit a core's cache."""


class Aggregator(Protocol):
    """Takes planes in their order; gives the mask when all have been taken."""

    seconds_resample: float
    """What it took so far to resample to the grid of the scan."""

    def take(self, planes: FinishedPlanes) -> None:
        """Keep what is needed of planes whose memory will be used again. What is never given is background."""
        ...

    def mask(self) -> NDArray[np.uint8]:
        """The labels on the grid of the scan (I, J, K), in memory as in a NIfTI file. Once, at the end."""
        ...


class BinaryAggregator:
    """Where the probability, interpolated linearly, exceeds 0.5.

    Args:
        grid: of the network.
        source: of the scan.
        label: the id that is written there.
    """

    def __init__(self, grid: Geometry, source: Geometry, label: int) -> None:
        self._grid, self._source, self._label = grid, source, label
        self.probability: NDArray[np.float32] | None = np.zeros(grid.shape, np.float32)
        self.seconds_resample = 0.0

    def take(self, planes: FinishedPlanes) -> None:
        """Keep the probabilities of these planes, float32; where no window spoke it is 0."""
        probability = torch.from_numpy(_once(self.probability))
        # In memory of its own, so it is changed in place: copies of large volumes take longer than the arithmetic.
        mean = planes.scores[0].float() / planes.weights
        if planes.are_logits:
            mean.sigmoid_()
        # 0 / 0 is NaN where no window was looked at, so that is background and not a guess.
        if float(planes.weights.min()) <= 0:
            mean.masked_fill_(planes.weights <= 0, 0.0)
        probability[planes.place] = mean.cpu()

    def mask(self) -> NDArray[np.uint8]:
        """The label where the probability exceeds 0.5, uint8 (I, J, K) on the grid of the scan. Once, at the end."""
        probability, self.probability = _once(self.probability), None
        start = time.perf_counter()
        # Interpolated first and compared afterwards: so a surface may lie anywhere between two voxels.
        mask = resample_above(probability, self._grid, self._source, 0.5)
        if self._label != 1:
            mask *= np.uint8(self._label)
        self.seconds_resample += time.perf_counter() - start
        return mask


class MulticlassAggregator:
    """The label with the largest probability, where all of them are interpolated linearly.

    That is what inverting the resampling of the probabilities and ``argmax`` give, without their volume.

    Args:
        grid: of the network.
        source: of the scan.
        axis: of the network grid, along which planes come.
        ids: the id that is written for each channel, uint8 (channels,): first 0, none of them 255.
    """

    def __init__(self, grid: Geometry, source: Geometry, axis: int, ids: NDArray[np.uint8]) -> None:
        turn, maps = axis_maps(grid, source)
        # The mask is filled as it lies in memory: its last axis is the slowest.
        self._turn, self._maps = turn[::-1], maps[::-1]
        self._axis, self._along, self._shape = axis, self._turn.index(axis), grid.shape
        self._ids = ids
        self._mask: NDArray[np.uint8] | None = background(source.shape[::-1])
        self._edge = self._air(0)
        self._reached = 0
        self.seconds_resample = 0.0

    def take(self, planes: FinishedPlanes) -> None:
        """Label the voxels of the scan up to the last of these planes, all of which need no later one."""
        if planes.first < self._reached:
            raise ValueError(f"plane {planes.first} comes after plane {self._reached - 1}")
        known = _Planes.of(planes, self._turn, self._along)
        start = time.perf_counter()
        self._pass_over(planes.first)
        self._fill(known)
        self._edge = known.last()
        # Boxes of probabilities split up the room that the last window left, and the next does not fit into it any
        # more: lot after lot the process would hold more free memory.
        give_back_freed_memory()
        self.seconds_resample += time.perf_counter() - start

    def mask(self) -> NDArray[np.uint8]:
        """The ids, uint8 (I, J, K) on the grid of the scan; behind the last plane is background. Once, at the end."""
        start = time.perf_counter()
        self._pass_over(self._shape[self._axis])
        mask, self._mask = _once(self._mask), None
        self.seconds_resample += time.perf_counter() - start
        return mask.T

    def _pass_over(self, until: int) -> None:
        """Take the planes before ``until`` that were not given as background."""
        if self._reached < until:
            between = until - self._reached
            self._fill(self._air(1))
            self._edge = self._air(1)
            self._reached += between - 1

    def _air(self, count: int) -> "_Planes":
        """Planes that no network has spoken about."""
        shape = [count if axis == self._axis else self._shape[axis] for axis in self._turn]
        scores = torch.zeros(()).expand(self._ids.size, *shape)
        return _Planes(np.zeros(shape, np.uint8), scores, torch.zeros(()).expand(shape), False, self._along)

    def _fill(self, planes: "_Planes") -> None:
        """Fill what lies between the plane before and these planes, which follow."""
        first = self._reached - self._edge.count
        maps = [axis.moved(-first) if number == self._along else axis for number, axis in enumerate(self._maps)]
        labels = np.concatenate([self._edge.labels, planes.labels], axis=self._along)
        LabelInterpolation(
            labels,
            partial(planes.at_points, self._edge),
            partial(planes.in_box, self._edge),
            self._ids,
            on_cpu=planes.scores.device.type == "cpu",
        ).fill(_once(self._mask), maps)
        self._reached += planes.count  # last of all: who runs out of memory before may try again


@dataclass(frozen=True, eq=False)
class _Planes:
    """Planes of the network grid, with their axes in the order of the mask.

    Attributes:
        labels: the most probable ones, channel numbers, uint8 (a, b, c).
        scores, weights, are_logits: as of ``FinishedPlanes``.
        along: the axis that they are stacked along.
    """

    labels: NDArray[np.uint8]
    scores: torch.Tensor
    weights: torch.Tensor
    are_logits: bool
    along: int

    @classmethod
    def of(cls, planes: FinishedPlanes, turn: Sequence[int], along: int) -> Self:
        """Take the most probable label of each voxel."""
        labels = best_channel(planes.scores).cpu().numpy().transpose(turn)
        # (channels, i, j, k): the first axis stays where it is
        channels_first = (0, *(1 + axis for axis in turn))
        scores = planes.scores.permute(*channels_first)
        weights = planes.weights.permute(*turn)
        return cls(labels, scores, weights, planes.are_logits, along)

    @property
    def count(self) -> int:
        """How many planes there are."""
        return int(self.labels.shape[self.along])

    def last(self) -> "_Planes":
        """The last plane, in memory of its own."""
        # Cloned: the planes' own memory is used again as soon as they are taken.
        at = self.count - 1
        labels = self.labels.take([at], self.along)
        scores = self.scores.narrow(1 + self.along, at, 1).clone()
        weights = self.weights.narrow(self.along, at, 1).clone()
        return _Planes(labels, scores, weights, self.are_logits, self.along)

    def in_box(self, before: "_Planes", box: Box) -> torch.Tensor:
        """Float32 (a, channels, b, c) of a box (a, b, c) on the device of the scores.

        The box is counted from the first plane of ``before``::

         before     these
        | e |  | 0 | 1 | 2 | ...
          ^------------^           a box may span both: planes 0 ... 2, counted from e
        """
        parts = []
        # The box, cut at the seam between ``before`` and these planes, each part in its own planes' numbers.
        for planes, moved in ((before, 0), (self, before.count)):
            start = max(0, box[self.along].start - moved)
            stop = min(planes.count, box[self.along].stop - moved)
            if start < stop:
                here = tuple(slice(start, stop) if axis == self.along else used for axis, used in enumerate(box))
                parts.append(planes._box(here).to(self.scores.device))
        # Joined along the stack: channels stand between its first and its second axis.
        return parts[0] if len(parts) == 1 else torch.cat(parts, self.along + (self.along > 0))

    def _box(self, box: Box) -> torch.Tensor:
        sides = [len(range(size)[used]) for size, used in zip(self.labels.shape, box, strict=True)]
        # Some planes at a time, which fit the processor's cache; a GPU has no use for small pieces.
        few = max(1, _VOXELS_IN_CACHE // max(1, sides[1] * sides[2]))
        at_once = few if self.scores.device.type == "cpu" else max(1, sides[0])
        probabilities = scripted(_probabilities, self.scores.device)
        return probabilities(self.scores[(slice(None), *box)], self.weights[box], self.are_logits, at_once)

    def at_points(self, before: "_Planes", places: Sequence[NDArray[np.intp]]) -> torch.Tensor:
        """Float32 (n, channels) on the CPU at places counted from the first plane of ``before``, which these follow."""
        found = torch.empty(len(places[0]), len(self.scores))
        # Points are in no order, so those of each lot of planes are picked, a bounded number at a time.
        behind = places[self.along] >= before.count
        for planes, here, moved in ((before, ~behind, 0), (self, behind, before.count)):
            for some in np.array_split(numbers := np.flatnonzero(here), 1 + numbers.size // _VOXELS_AT_ONCE):
                at = [place[some] - (moved if axis == self.along else 0) for axis, place in enumerate(places)]
                found[torch.from_numpy(some)] = planes._probabilities(at)
        return found

    def _probabilities(self, places: Sequence[NDArray[np.intp]]) -> torch.Tensor:
        i, j, k = (torch.from_numpy(place).to(self.scores.device) for place in places)
        weights = self.weights[i, j, k][:, None]
        scores = self.scores[:, i, j, k].T.float() / weights
        known = torch.softmax(scores, 1) if self.are_logits else scores
        silent = known.isnan().any(1)  # so are 0 / 0, and what a network spoils
        known[silent] = 0
        known[silent, 0] = 1
        return known.cpu()


def _probabilities(scores: torch.Tensor, weights: torch.Tensor, are_logits: bool, at_once: int) -> torch.Tensor:
    """Float32 (a, channels, b, c) of weighted sums (channels, a, b, c), so many planes at once.

    The weighted mean of what was said about each voxel, then probabilities: as MONAI blends logits.
    """
    channels, planes, rows, columns = scores.shape
    known = torch.empty([planes, channels, rows, columns], device=scores.device)
    for first in range(0, planes, at_once):
        mean = channels_first(scores[:, first : first + at_once]).float() / weights[first : first + at_once]
        known[first : first + at_once] = (torch.softmax(mean, 0) if are_logits else mean).movedim(1, 0)
    silent = known.sum(1).isnan()  # so are 0 / 0, and what a network spoils
    if bool(silent.any()):
        known.masked_fill_(silent.unsqueeze(1), 0)
        known[:, 0].masked_fill_(silent, 1)
    return known


def _once(kept: NDArray[Any] | None) -> NDArray[Any]:
    if kept is None:
        raise ValueError("the mask was made already")
    return kept
