"""A run's endless sequence of samples. Each is a function of (seed, epoch, position), so that runs can be resumed and
any number of worker processes and ranks draws the same.
"""

import threading
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch.utils.data import Dataset, Sampler

from verse3d.data.samples.cut import Box, Cut, PlannedBox
from verse3d.data.samples.source import PatchSource, PatchSources


class Place(NamedTuple):
    """Of a sample in a run: the position counts the samples of an epoch, from 0."""

    epoch: int
    position: int


class PatchDataset(Dataset[Box]):
    """Boxes of the samples of a run; every case is drawn equally often, in an order that changes with the epoch.

    Args:
        cases: at least one.
        cut: of the mode.
        length: samples per epoch.
        seed: the run's seed.
    """

    def __init__(self, cases: PatchSources, cut: Cut, *, length: int, seed: int) -> None:
        self.cases = cases
        self._cut = cut
        self._length = length
        self._seed = seed

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: Place) -> Box:
        return self._cut(self.source_of(place), self._random(place))

    def planned(self, place: Place) -> Box | PlannedBox:
        """The same sample, to be read when it is known where to."""
        return self._cut.plan(self.source_of(place), self._random(place))

    def _random(self, place: Place) -> np.random.RandomState:
        # Four words, not one: runs of a million samples would meet a 32-bit seed twice.
        random = _generator(threading.get_ident())
        random.seed(np.random.SeedSequence((self._seed, *place)).generate_state(4))
        return random

    def source_of(self, place: Place) -> PatchSource:
        """The case that a sample is cut from."""
        epoch, position = place
        if not 0 <= position < self._length:
            raise IndexError(position)
        order = _order(self._seed, epoch, self._length, len(self.cases))
        number = int(order[position])
        return self.cases[number]

    def case_order(self, epoch: int) -> list[int]:
        """All cases by when the epoch first wants them; those that it does not want come last."""
        # `dict.fromkeys` keeps each case where it is wanted first.
        wanted = _order(self._seed, epoch, self._length, len(self.cases)).tolist()
        return list(dict.fromkeys([*wanted[: self._length], *range(len(self.cases))]))

    def epoch(self, number: int) -> Iterator[Box]:
        """All boxes of an epoch, in order."""
        return (self[Place(number, position)] for position in range(self._length))


@lru_cache(maxsize=64)
def _generator(_thread: int) -> np.random.RandomState:
    """One of each thread, seeded anew for each sample: a new one would first ask the system for 624 numbers."""
    return np.random.RandomState(0)


@lru_cache(maxsize=4)
def _order(seed: int, epoch: int, length: int, cases: int) -> NDArray[np.int_]:
    """The case of every position: permutation after permutation of all cases."""
    # 3 cases, 8 samples:    2 0 1 | 1 2 0 | 0 2          every case as often as any other, to within one
    draw = np.random.default_rng((seed, epoch))
    return np.concatenate([draw.permutation(cases) for _ in range(-(-length // cases))])


class BatchStream(Sampler[list[Place]]):
    """The places of one batch after the other, epoch after epoch, without end: workers need not be started again.

    Args:
        length: samples per epoch, a multiple of ``batch_size``.
        batch_size: of all ranks together.
        epoch: where to begin, counted from 1 ...
        step: ... after so many batches of it.
        rank: takes each ``ranks``-th sample of a batch, from this one on.
        ranks: that share a batch.
    """

    def __init__(
        self, *, length: int, batch_size: int, epoch: int = 1, step: int = 0, rank: int = 0, ranks: int = 1
    ) -> None:
        self._length, self._batch_size = length, batch_size
        self._epoch, self._step = epoch, step
        self._rank, self._ranks = rank, ranks

    def __iter__(self) -> Iterator[list[Place]]:
        epoch, first = self._epoch, self._step * self._batch_size
        while True:
            while first < self._length:
                # rank 0 of 2:  0 2 4 6,   rank 1:  1 3 5 7
                positions = range(first + self._rank, first + self._batch_size, self._ranks)
                yield [Place(epoch, position) for position in positions]
                first += self._batch_size
            epoch, first = epoch + 1, 0
