"""An epoch of random patches whose every draw is a function of (seed, epoch, position), so that runs can be resumed."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import Compose
from torch.utils.data import Dataset

from verse3d.data.transforms import PreparedCase


class PatchDataset(Dataset[dict[str, torch.Tensor]]):
    """Patches of prepared cases; every case is drawn equally often, in an order that changes with the epoch.

    Args:
        cases: at least one.
        sampler: ``PreparedCase`` -> ``{"image": (1, ...), "label": (1, ...)}``, with ``set_random_state``.
        length: patches per epoch.
        seed: the run's seed.
    """

    def __init__(self, cases: Sequence[PreparedCase], sampler: Compose, *, length: int, seed: int) -> None:
        self._cases = cases
        self._sampler = sampler
        self._length = length
        self._seed = seed
        self.set_epoch(0)

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch that is drawn from now on."""
        self._epoch = epoch
        draw = np.random.default_rng((self._seed, epoch))
        rounds = -(-self._length // len(self._cases))
        self._order = np.concatenate([draw.permutation(len(self._cases)) for _ in range(rounds)])

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        if not 0 <= position < self._length:
            raise IndexError(position)
        entropy = np.random.SeedSequence((self._seed, self._epoch, position)).generate_state(1)
        self._sampler.set_random_state(seed=int(entropy[0]))
        return {key: _plain(value) for key, value in self._sampler(self._cases[self._order[position]]).items()}


def _plain(value: Any) -> torch.Tensor:  # noqa: ANN401 - MONAI's transforms are untyped
    return value.as_tensor() if isinstance(value, MetaTensor) else torch.as_tensor(value)
