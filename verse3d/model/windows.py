"""Where the windows of a sliding-window pass lie, and how much each of their voxels counts."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Generic, TypeVar, overload

import torch

from verse3d.core.geometry import Shape

_SIGMA_OF_WINDOW = 0.125
_LEAST_WEIGHT = 1e-3
_Item = TypeVar("_Item")


@dataclass(frozen=True, eq=False)
class Computed(Sequence[_Item], Generic[_Item]):
    """A sequence whose items are computed when they are asked for, so that its length costs no memory.

    Attributes:
        length: how many items there are.
        compute: gives the one at a position 0 ... length - 1.

    Example:
        >>> squares = Computed(10**12, lambda number: number**2)
        >>> len(squares), squares[3], squares[-1] == (10**12 - 1) ** 2
        (1000000000000, 9, True)
    """

    length: int
    compute: Callable[[int], _Item]

    def __len__(self) -> int:
        """The number of items."""
        return self.length

    @overload
    def __getitem__(self, index: int) -> _Item: ...

    @overload
    def __getitem__(self, index: slice) -> "Computed[_Item]": ...

    def __getitem__(self, index: int | slice) -> "_Item | Computed[_Item]":
        """One item, or some of them, computed later. Raises ``IndexError`` beyond the ends."""
        if isinstance(index, slice):
            chosen = range(self.length)[index]
            return Computed(len(chosen), lambda number: self.compute(chosen[number]))
        return self.compute(range(self.length)[index])


def window_starts(size: int, window: int, overlap: float) -> Computed[int]:
    """The first voxels of the windows along an axis of ``size`` voxels, as MONAI's sliding window places them.

    Neighbours lie ``int(window * (1 - overlap))`` voxels apart, the last one ends with the axis.

    Example:
        >>> list(window_starts(200, 96, 0.5))
        [0, 48, 96, 104]
    """
    if size <= window:
        return Computed(1, lambda _: 0)
    # |--------- size ---------|
    # [  0  ]
    #     [ step ]
    #         [ 2 step ]                  the last one is pushed back to end with the axis
    #            [ size - window ]
    step = max(1, int(window * (1 - overlap)))
    last = size - window
    # Whole numbers only: a float would lose the last windows of an axis of more than 2^53 voxels.
    count = -(-last // step) + 1
    return Computed(count, lambda number: min(number * step, last))


@lru_cache(maxsize=4)
def window_weights(window: Shape, blending: str) -> torch.Tensor:
    """How much the voxels of a window count where windows overlap, float32 of the window's shape. Not to be written to.

    Those of MONAI's ``SlidingWindowInferer``: "constant" is 1; "gaussian" has a deviation of an eighth of the window,
    counts (nearly) 1 in the centre, and nowhere less than 0.001.
    """
    weights = torch.ones(window)
    if blending == "constant":
        return weights
    for axis, size in enumerate(window):
        # A bell per axis, and their product:   1 |      .-.
        # voxel 0 is (size - 1) / 2 from the      |    /     \
        # middle, so even sizes have no voxel     | _.         ._
        # that counts exactly 1.                0 +--------------- voxel
        distance = torch.arange(size, dtype=torch.float32) - (size - 1) / 2
        bell = torch.exp(distance**2 / (-2 * (_SIGMA_OF_WINDOW * size) ** 2))
        weights = weights * bell.reshape([-1 if number == axis else 1 for number in range(len(window))])
    return weights.clamp_(min=max(float(weights.min()), _LEAST_WEIGHT))
