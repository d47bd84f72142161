"""The planes of a volume that windows still touch: weighted sums of scores that move along it.

    along the axis of the tiling:    finished   |==== open ====|   not reached
                                                first

Only the open planes have memory. Finished ones are given away; the others move to the front, and new ones open behind.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch

from verse3d.core.logs import logger
from verse3d.inference.oom_fallback import Placement
from verse3d.model.tilings import Region, Tiling

_SAFE_IN_FLOAT16 = 250.0
"""float16 ends at 65,504, and up to 262 windows may overlap at a voxel. Logits of trained networks stay below 50."""
_log = logger(__name__)


@dataclass(frozen=True)
class FinishedPlanes:
    """Planes of the network grid that no later window touches. Their memory is used again afterwards.

    Attributes:
        axis: that they are stacked along.
        first: index of the first one.
        scores: (channels, I, J, K) weighted sums, with ``count`` planes along ``axis``; float32 or float16.
        weights: (I, J, K) what to divide them by, float32; 0 where no window spoke.
        are_logits: whether the scores are logits, not probabilities.
    """

    axis: int
    first: int
    scores: torch.Tensor
    weights: torch.Tensor
    are_logits: bool

    @property
    def count(self) -> int:
        """How many planes there are."""
        return self.weights.shape[self.axis]

    @property
    def place(self) -> Region:
        """Where they are in the volume."""
        sides = [slice(0, size) for size in self.weights.shape]
        count = self.weights.shape[self.axis]
        # All of two axes, some planes of the third
        sides[self.axis] = slice(self.first, self.first + count)
        i, j, k = sides
        return i, j, k

    def on_cpu(self) -> "FinishedPlanes":
        """The same planes in the CPU's memory."""
        return replace(self, scores=self.scores.cpu(), weights=self.weights.cpu())


class OpenSums:
    """Weighted sums of scores (channels, ...) in the planes that are open, laid out in memory as the scores are."""

    def __init__(
        self, tiling: Tiling, planes: slice, dtype: torch.dtype, placement: Placement, *, like: torch.Tensor
    ) -> None:
        self._axis, self._first, self._size = tiling.axis, planes.start, tiling.shape[tiling.axis]
        self._logits = not placement.ensemble.give_probabilities
        # As the volume, but along the axis with only as many planes as are open at once.
        #     volume  |  finished  |==== planes ====|  not reached  |   -> axis
        opened = planes.stop - planes.start
        i, j, k = (opened if axis == tiling.axis else size for axis, size in enumerate(tiling.shape))
        shape = (i, j, k)
        channels, device = like.shape[1], placement.sums_device
        if channels > 1 and like.stride(1) == 1:
            self._sums = torch.zeros((*shape, channels), dtype=dtype, device=device).movedim(-1, 0)
        else:
            self._sums = torch.zeros((channels, *shape), dtype=dtype, device=device)
        self._weights = torch.zeros(shape, device=device)

    def move(self, device: torch.device) -> None:
        """Go on with the sums on another device."""
        self._sums = self._sums.to(device)
        self._weights = self._weights.to(device)

    def widen_for(self, scores: torch.Tensor) -> None:
        """Go on in float32 if sums of scores like these (B, channels, ...) might be too large for float16."""
        # Finite scores must not become infinite sums: their softmax is NaN, and NaN is taken for background.
        if self._sums.dtype is not torch.float16:
            return
        # In the order in which they lie in memory, or it takes ten times as long
        low, high = torch.aminmax(scores.movedim(1, -1) if scores.stride(1) == 1 else scores)
        if max(abs(float(low)), abs(float(high))) > _SAFE_IN_FLOAT16:
            _log.debug("scores beyond %g are summed in float32, which takes twice the memory", _SAFE_IN_FLOAT16)
            self._sums = self._sums.float()

    def taken(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores as they can be added: on the device of the sums; on a GPU also in their format."""
        if self._sums.device.type == "cpu":
            return scores.to(self._sums.device)
        return scores.to(self._sums.device, self._sums.dtype)

    def add(self, region: Region, scores: torch.Tensor, weights: torch.Tensor | None) -> None:
        """Count the scores (channels, *region) of a window."""
        # Along the axis of the tiling indices count from the first open plane.
        i, j, k = (
            slice(along.start - self._first, along.stop - self._first) if axis == self._axis else along
            for axis, along in enumerate(region)
        )
        sums = self._sums[:, i, j, k]
        if weights is None:
            sums.add_(scores)
        else:
            weights = weights.to(self._sums.device)
            _add_weighted(sums, scores, weights)
        self._weights[i, j, k] += 1 if weights is None else weights

    def finish(self, until: int) -> Iterator[FinishedPlanes]:
        """Give the planes before ``until`` and open as many behind the others."""
        count = min(until - self._first, self._weights.shape[self._axis], self._size - self._first)
        if count > 0:
            scores = self._sums.narrow(1 + self._axis, 0, count)
            weights = self._weights.narrow(self._axis, 0, count)
            yield FinishedPlanes(self._axis, self._first, scores, weights, self._logits)
            _drop(self._sums, 1 + self._axis, count)
            _drop(self._weights, self._axis, count)
        self._first = max(self._first, until)


def _add_weighted(sums: torch.Tensor, scores: torch.Tensor, weights: torch.Tensor) -> None:
    """``sums += scores * weights``. Scores in another format are converted in pieces that fit the processor's cache."""
    short = weights.to(sums.dtype)
    if scores.dtype is sums.dtype or len(sums) == 1:  # a single channel fits the cache as a whole
        sums.addcmul_(scores.to(sums.dtype), short)
        return
    slowest = max(range(scores.dim()), key=scores.stride)
    # Where the channels of a voxel lie together, a weight counts for a whole run of numbers. PyTorch multiplies float16
    # one by one then, and takes less time to convert the sums of a plane, add in float32, and convert them back.
    in_float32 = slowest > 0 and sums.dtype is torch.float16 and sums.stride(0) == scores.stride(0) == 1
    for number, (into, part) in enumerate(zip(sums.unbind(slowest), scores.unbind(slowest), strict=True)):
        if in_float32:
            into.copy_(into.float().addcmul_(part.float(), weights.select(slowest - 1, number)))
        else:
            into.addcmul_(part.to(sums.dtype), short if slowest == 0 else short.select(slowest - 1, number))


def _drop(planes: torch.Tensor, axis: int, count: int) -> None:
    """Move all planes ``count`` to the front; those that come in at the end are 0. Within the same memory."""
    size = planes.shape[axis]
    for start in range(0, size - count, count):
        length = min(count, size - count - start)
        later = planes.narrow(axis, start + count, length)
        planes.narrow(axis, start, length).copy_(later)
    planes.narrow(axis, size - count, count).zero_()
