"""The boxes of a batch as one block of bytes: one piece of shared memory, one pinned copy, one transfer.

| image 0 | label 0 | image 1 | label 1 | ...        boxes differ in size, so they are not stacked
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import get_worker_info

from verse3d.data.samples.cut import Box
from verse3d.data.samples.draws import Changes

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
        block: (bytes,) uint8.
        places: of each box's image and label in the block.
        middles, changes: as in ``Box``.
    """

    block: torch.Tensor
    places: tuple[tuple[_Place, _Place], ...]
    middles: tuple[tuple[float, ...], ...]
    changes: tuple[Changes, ...]

    @classmethod
    def of(cls, boxes: Sequence[Box]) -> Self:
        """Copy boxes into a block."""
        places, end = [], 0  # bytes
        for box in boxes:
            image, end = _place(box.image, end)
            label, end = _place(box.label, end)
            places.append((image, label))
        block = _new_block(end)
        _fill(block.numpy(), boxes, places)
        return cls(block, tuple(places), tuple(box.middle for box in boxes), tuple(box.changes for box in boxes))

    def __len__(self) -> int:
        return len(self.places)

    def pin_memory(self) -> Self:
        """A copy in pinned memory, from which a GPU fetches while it computes. Called by PyTorch's loader."""
        return type(self)(self.block.pin_memory(), self.places, self.middles, self.changes)

    def on(self, device: torch.device) -> list[BoxTensors]:
        """The boxes on a device: one transfer, which does not wait if the block is pinned; else views of the block."""
        block = self.block.to(device, non_blocking=True)  # on a CPU the block itself
        boxes = []
        for (image, label), middle, changes in zip(self.places, self.middles, self.changes, strict=True):
            tensors = _view(block, image), _view(block, label)
            boxes.append(BoxTensors(*tensors, middle, changes))
        return boxes


def _new_block(size: int) -> torch.Tensor:
    """Bytes; in a worker process they lie in shared memory from the start, as PyTorch's own collating does it.

    Else they would be copied there by another thread, and what that thread frees piles up in the worker.
    """
    if get_worker_info() is None:
        return torch.empty(size, dtype=torch.uint8)
    new_shared: Callable[[int], torch.UntypedStorage] = torch.UntypedStorage._new_shared  # carries no types
    return torch.empty(0, dtype=torch.uint8).set_(new_shared(size))


def _place(array: NDArray[Any], end: int) -> tuple[_Place, int]:
    """Where an array goes that comes after ``end``, and where the next one may begin."""
    # Rounded up, because a view of bytes as float16 must begin at a multiple of its size, and copies like whole lines.
    return _Place(end, array.shape, array.dtype.name), end + -(-array.nbytes // _ALIGNED) * _ALIGNED


def _fill(block: NDArray[np.uint8], boxes: Sequence[Box], places: Sequence[tuple[_Place, _Place]]) -> None:
    for box, pair in zip(boxes, places, strict=True):
        for array, place in zip((box.image, box.label), pair, strict=True):
            # Bytes seen as the array they will be: copied once, from wherever the box came.
            target = block[place.first : place.first + array.nbytes].view(array.dtype).reshape(array.shape)
            target[...] = array


def _view(block: torch.Tensor, place: _Place) -> torch.Tensor:
    dtype = _TORCH_TYPE[place.dtype]
    # The same arithmetic on the device: no bytes move, they are only seen as another type.
    count = int(np.prod(place.shape)) * dtype.itemsize
    return block[place.first : place.first + count].view(dtype).reshape(place.shape)
