"""Blocks of shared memory that a worker process fills again and again.

The system clears each page of new shared memory when it is first touched, which takes several times as long as copying
a batch into it. So a block is lent to whoever reads it, and filled anew once it has been given back.

    byte  0         1 ... 63    64 ...
          [ lent? |           | the batch ]
"""

from collections.abc import Callable

import torch
from torch import multiprocessing

HEADER = 64
"""Bytes before the batch; as many as keep it aligned to whole cache lines."""

_MOST_BLOCKS = 3
"""A loader asks each worker for two batches ahead, and a third one is being read."""


class SharedBlocks:
    """The blocks of one worker process."""

    def __init__(self) -> None:
        self._blocks: list[torch.Tensor] = []

    def take(self, size: int) -> torch.Tensor:
        """A block of shared memory for a batch of so many bytes: (HEADER + size,) uint8, lent from now on.

        It is one that was given back, if one is large enough; else a new one. Where all are lent, or the system shares
        memory by names of files (it then counts who holds one), the new one is used once.
        """
        for block in self._blocks:
            if block.numel() >= HEADER + size and not is_lent(block):
                lend(block)
                return block[: HEADER + size]
        # Shared from the start, as PyTorch's own collating does it: else another thread would copy it there, and what
        # that thread frees piles up in the worker.
        new_shared: Callable[[int], torch.UntypedStorage] = torch.UntypedStorage._new_shared  # carries no types
        block = torch.empty(0, dtype=torch.uint8).set_(new_shared(HEADER + size))
        # Boxes of turned patches are larger: in time the large blocks take the places of the small ones.
        self._blocks = [other for other in self._blocks if is_lent(other)]
        strategy: Callable[[], str] = multiprocessing.get_sharing_strategy  # carries no types
        if len(self._blocks) < _MOST_BLOCKS and strategy() == "file_descriptor":
            self._blocks.append(block)
        lend(block)
        return block


def lend(block: torch.Tensor) -> None:
    """Note that somebody may read the block."""
    block[0] = 1


def give_back(block: torch.Tensor) -> None:
    """Note that nobody reads the block any more; seen by all processes that share it."""
    block[0] = 0


def is_lent(block: torch.Tensor) -> bool:
    """Whether somebody may still read the block."""
    return bool(block[0])
