"""The boxes of a batch as one block of bytes: one piece of shared memory, one pinned copy, one transfer.

| header | image 0 | label 0 | image 1 | label 1 | ...        boxes differ in size, so they are not stacked
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from verse3d.core.errors import DataError
from verse3d.data.samples.cut import Box, PlannedBox
from verse3d.data.samples.draws import Changes
from verse3d.data.samples.shared_blocks import HEADER, SharedBlocks, give_back

_ALIGNED = 64
_TORCH_TYPE = {"float16": torch.float16, "uint8": torch.uint8}


class _Place(NamedTuple):
    """Where an array lies in the block."""

    first: int
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True, eq=False)
class BoxTensors:
    """A ``Box`` as tensors on one device: image (n, ...), label (1, ...), and what is to be done with them."""

    image: torch.Tensor
    label: torch.Tensor
    middle: tuple[float, ...]
    changes: Changes


@dataclass(frozen=True, eq=False)
class PackedBatch:
    """Boxes in a block of bytes.

    Attributes:
        block: (bytes,) uint8; the boxes begin after its header.
        places: of each box's image and label in the block.
        middles, changes: as in ``Box``.
    """

    block: torch.Tensor
    places: tuple[tuple[_Place, _Place], ...]
    middles: tuple[tuple[float, ...], ...]
    changes: tuple[Changes, ...]

    @classmethod
    def of(cls, boxes: Sequence[Box | PlannedBox], shared: SharedBlocks | None = None) -> Self:
        """Write boxes into a block: one of ``shared``, which has to be given back, or one of its own.

        Raises:
            DataError: a planned box cannot be read.
        """
        places, end = [], HEADER  # bytes
        for box in boxes:
            image, end = _place(*box.layout[0], end)
            label, end = _place(*box.layout[1], end)
            places.append((image, label))
        block = shared.take(end - HEADER) if shared is not None else torch.empty(end, dtype=torch.uint8)
        try:
            for box, (image, label) in zip(boxes, places, strict=True):
                # Bytes seen as the arrays they will be: a planned box is decompressed straight into them.
                box.write(_seen(block.numpy(), image), _seen(block.numpy(), label))
        except DataError:
            give_back(block)
            raise
        return cls(block, tuple(places), tuple(box.middle for box in boxes), tuple(box.changes for box in boxes))

    def __len__(self) -> int:
        return len(self.places)

    def pin_memory(self) -> Self:
        """A copy in pinned memory, from which a GPU fetches while it computes; the batch itself is given back.

        Called by PyTorch's loader.
        """
        copy = type(self)(self.block.pin_memory(), self.places, self.middles, self.changes)
        self.give_back()
        return copy

    def give_back(self) -> None:
        """Let a worker fill the block again: from now on neither this batch nor its boxes on a CPU may be read."""
        give_back(self.block)

    def on(self, device: torch.device) -> list[BoxTensors]:
        """The boxes on a device: one transfer, which does not wait if the block is pinned; else views of the block."""
        block = self.block.to(device, non_blocking=True)  # on a CPU the block itself
        boxes = []
        for (image, label), middle, changes in zip(self.places, self.middles, self.changes, strict=True):
            tensors = _view(block, image), _view(block, label)
            boxes.append(BoxTensors(*tensors, middle, changes))
        return boxes


class Packer:
    """Packs the boxes of a batch; in a worker process into shared memory that is used again."""

    def __init__(self) -> None:
        self._shared = SharedBlocks()

    def __call__(self, boxes: Sequence[Box | PlannedBox]) -> PackedBatch:
        """The batch; ``PackedBatch.give_back`` says when its memory may be used again.

        Raises:
            DataError: a planned box cannot be read.
        """
        return PackedBatch.of(boxes, None if get_worker_info() is None else self._shared)


def _place(shape: tuple[int, ...], dtype: str, end: int) -> tuple[_Place, int]:
    """Where an array goes that comes after ``end``, and where the next one may begin."""
    # Rounded up, because a view of bytes as float16 must begin at a multiple of its size, and copies like whole lines.
    size = math.prod(shape) * np.dtype(dtype).itemsize
    return _Place(end, shape, dtype), end + -(-size // _ALIGNED) * _ALIGNED


def _seen(block: NDArray[np.uint8], place: _Place) -> NDArray[Any]:
    size = math.prod(place.shape) * np.dtype(place.dtype).itemsize
    return block[place.first : place.first + size].view(place.dtype).reshape(place.shape)


def _view(block: torch.Tensor, place: _Place) -> torch.Tensor:
    dtype = _TORCH_TYPE[place.dtype]
    # The same arithmetic on the device: no bytes move, they are only seen as another type.
    count = int(np.prod(place.shape)) * dtype.itemsize
    return block[place.first : place.first + count].view(dtype).reshape(place.shape)
