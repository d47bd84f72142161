"""What a network says about a scan: collected plane by plane on its own grid, and carried to the grid of the scan.

Classes x volume exists on neither grid. One label is kept as a probability and carried when it is complete. Of several
labels only the winner is kept; near a border between labels, where the winner on the finer grid is not plain, the
probabilities of all are interpolated while the planes that hold them are open.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol, Self

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.axismaps import Box, axis_maps, box_of
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_above
from verse3d.inference.streaming import FinishedPlanes
from verse3d.inference.winners import Winners, best_channel

_NUMBERS_AT_ONCE = 2**23
"""Probabilities that are held at most while planes are carried, 32 MB."""


class Answer(Protocol):
    """Takes planes in their order; gives the mask when all have been taken."""

    seconds_home: float
    """What it took so far to carry voxels to the grid of the scan."""

    def take(self, planes: FinishedPlanes) -> None:
        """Keep what is needed of planes whose memory will be used again. What is never given is background."""
        ...

    def mask(self) -> NDArray[np.uint8]:
        """The labels on the grid of the scan (I, J, K), in memory as in a NIfTI file. Once, at the end."""
        ...


class OneLabel:
    """Where the probability, interpolated linearly, exceeds 0.5.

    Args:
        grid: of the network.
        source: of the scan.
        label: the id that is written there.
    """

    def __init__(self, grid: Geometry, source: Geometry, label: int) -> None:
        self._grid, self._source, self._label = grid, source, label
        self.probability: NDArray[np.float32] | None = np.zeros(grid.shape, np.float32)
        self.seconds_home = 0.0

    def take(self, planes: FinishedPlanes) -> None:
        """See ``Answer``."""
        if self.probability is None:
            raise ValueError("the mask was made already")
        mean = planes.scores[0].float() / planes.weights
        spoken = planes.weights > 0
        values = torch.where(spoken, torch.sigmoid(mean) if planes.are_logits else mean, 0.0)
        self.probability[planes.place] = values.cpu().numpy()

    def mask(self) -> NDArray[np.uint8]:
        """See ``Answer``."""
        probability, self.probability = self.probability, None
        if probability is None:
            raise ValueError("the mask was made already")
        start = time.perf_counter()
        mask = resample_above(probability, self._grid, self._source, 0.5)
        if self._label != 1:
            mask *= np.uint8(self._label)
        self.seconds_home += time.perf_counter() - start
        return mask


class SeveralLabels:
    """The label with the largest probability, where all of them are interpolated linearly.

    That is what inverting the resampling of the probabilities and ``argmax`` give, without their volume. Between voxels
    that agree about the winner nothing can change it, because an interpolated lead is a mean of leads; so only the
    others are computed. There a label whose probability stays below 1 / labels everywhere cannot win.

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
        self._axis, self._along, self._planes = axis, self._turn.index(axis), grid.shape[axis]
        self._ids = ids
        self._mask = np.zeros(source.shape[::-1], np.uint8)
        self._edge: _Planes = _Air([0 if number == axis else grid.shape[number] for number in self._turn], ids.size)
        self._reached = 0
        self.seconds_home = 0.0

    def take(self, planes: FinishedPlanes) -> None:
        """See ``Answer``."""
        start = time.perf_counter()
        self._silence(planes.first)
        known = _Known.of(planes, self._turn)
        lot = max(1, _NUMBERS_AT_ONCE // (self._ids.size * known.labels.size // planes.count))
        for first in range(0, planes.count, lot):
            some = known.part(self._along, first, min(lot, planes.count - first))
            self._reached = planes.first + first + some.labels.shape[self._along]
            self._paint([self._edge, some])
            edge = some.part(self._along, some.labels.shape[self._along] - 1, 1)
            self._edge = edge if first + lot < planes.count else edge.copy()
        self.seconds_home += time.perf_counter() - start

    def mask(self) -> NDArray[np.uint8]:
        """See ``Answer``."""
        start = time.perf_counter()
        self._silence(self._planes)
        self.seconds_home += time.perf_counter() - start
        return self._mask.T

    def _silence(self, until: int) -> None:
        """Count the planes before ``until`` that were not given as background."""
        if until == self._reached:
            return
        shape = [1 if axis == self._along else size for axis, size in enumerate(self._edge.labels.shape)]
        air = _Air(shape, self._ids.size)
        if self._reached:
            self._reached += 1
            self._paint([self._edge, air])
        self._edge, self._reached = air, until

    def _paint(self, parts: Sequence["_Planes"]) -> None:
        """Fill what lies between the planes of ``parts``, of which the last is the one before ``reached``."""
        labels = np.concatenate([part.labels for part in parts], axis=self._along)
        labelled = box_of(labels)
        if labelled is None:
            return
        # One voxel wider, there is nothing but background around the box, as in the mask so far.
        box = tuple(
            slice(max(0, one.start - 1), min(size, one.stop + 1))
            for one, size in zip(labelled, labels.shape, strict=True)
        )
        first = self._reached - labels.shape[self._along]
        maps = [axis.moved(-first) if number == self._along else axis for number, axis in enumerate(self._maps)]
        spans = tuple(axis.within(used) for axis, used in zip(maps, box, strict=True))
        if all(span.stop > span.start for span in spans):
            winners = Winners(labels[box], partial(_probabilities, parts, self._ids.size, self._along, box), self._ids)
            into = [axis.part(span).moved(-used.start) for axis, span, used in zip(maps, spans, box, strict=True)]
            winners.fill(self._mask[spans], into)


class _Planes(Protocol):
    """Labels of some planes (channel numbers, axes turned), and the probabilities behind them."""

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The winners."""
        ...

    def probabilities(self, places: Sequence[NDArray[np.intp]]) -> torch.Tensor:
        """(n, channels) float32 on the CPU at n places."""
        ...


class _Air:
    """Planes that no network has spoken about: background for certain."""

    def __init__(self, shape: Sequence[int], channels: int) -> None:
        self.labels = np.zeros(shape, np.uint8)
        self._channels = channels

    def probabilities(self, places: Sequence[NDArray[np.intp]]) -> torch.Tensor:
        """See ``_Planes``."""
        certain = torch.zeros(len(places[0]), self._channels)
        certain[:, 0] = 1
        return certain


@dataclass(frozen=True, eq=False)
class _Known:
    """Finished planes, axes turned."""

    labels: NDArray[np.uint8]
    scores: torch.Tensor
    weights: torch.Tensor
    are_logits: bool

    @classmethod
    def of(cls, planes: FinishedPlanes, turn: Sequence[int]) -> Self:
        """Decide the winners."""
        labels = best_channel(planes.scores).cpu().numpy().transpose(turn)
        scores = planes.scores.permute(0, *(1 + axis for axis in turn))
        return cls(labels, scores, planes.weights.permute(*turn), planes.are_logits)

    def part(self, axis: int, first: int, count: int) -> "_Known":
        """Some of the planes along ``axis``; no copy."""
        labels = self.labels.take(range(first, first + count), axis)
        scores, weights = self.scores.narrow(1 + axis, first, count), self.weights.narrow(axis, first, count)
        return replace(self, labels=labels, scores=scores, weights=weights)

    def copy(self) -> "_Known":
        """In memory of its own."""
        return replace(self, scores=self.scores.clone(), weights=self.weights.clone())

    def probabilities(self, places: Sequence[NDArray[np.intp]]) -> torch.Tensor:
        """See ``_Planes``."""
        i, j, k = (torch.from_numpy(place).to(self.scores.device) for place in places)
        weights = self.weights[i, j, k][:, None]
        scores = self.scores[:, i, j, k].T.float() / weights
        known = torch.softmax(scores, 1) if self.are_logits else scores
        silent = weights[:, 0] <= 0
        known[silent] = 0
        known[silent, 0] = 1
        return known.cpu()


def _probabilities(
    parts: Sequence[_Planes], channels: int, along: int, box: Box, places: Sequence[NDArray[np.intp]]
) -> torch.Tensor:
    """Those at places in a box of the planes of all parts, one behind the other."""
    places = [place + one.start for place, one in zip(places, box, strict=True)]
    found = torch.empty(len(places[0]), channels)
    first = 0
    for part in parts:
        stop = first + part.labels.shape[along]
        here = np.flatnonzero((places[along] >= first) & (places[along] < stop))
        at = [place[here] - (first if axis == along else 0) for axis, place in enumerate(places)]
        found[torch.from_numpy(here)] = part.probabilities(at)
        first = stop
    return found
