"""How the logits of a whole volume on the network grid are put together from what a network can look at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from monai.inferers import SlidingWindowInferer
from numpy.typing import NDArray

from verse3d.core.config import Config
from verse3d.core.geometry import Geometry, Shape
from verse3d.data.slices import slice_axis, slice_stack
from verse3d.model.windows import count_windows

Network = Callable[[torch.Tensor], torch.Tensor]


class VolumeInferer(Protocol):
    """Looks at a volume piece by piece."""

    def __call__(self, volume: torch.Tensor, network: Network) -> torch.Tensor:
        """Logits (1, channels, I, J, K) of a volume (1, 1, I, J, K); ``network`` sees pieces (B, ...)."""
        ...

    def pieces(self, shape: Shape) -> int:
        """How many pieces of a volume (I, J, K) the network will see."""
        ...


@dataclass(frozen=True)
class SlidingWindows:
    """Overlapping 3D windows, blended with a Gaussian. Outside of the volume is air: 0 on the network grid."""

    config: Config

    def __call__(self, volume: torch.Tensor, network: Network) -> torch.Tensor:
        """See ``VolumeInferer``."""
        inference = self.config.inference
        slide = SlidingWindowInferer(
            roi_size=self.config.sampling.patch_voxels,
            sw_batch_size=inference.windows_per_batch,
            overlap=inference.overlap,
            mode="gaussian",
            padding_mode="constant",
            cval=0.0,
        )
        logits: torch.Tensor = slide(volume, network)
        return logits

    def pieces(self, shape: Shape) -> int:
        """The number of windows."""
        return count_windows(shape, self.config.sampling.patch_voxels, self.config.inference.overlap)


@dataclass(frozen=True)
class SliceBySlice:
    """Each slice, between its neighbours, is stretched as in training; its logits are stretched back.

    Beside volume and logits, ``inference.windows_per_batch`` slices are held.

    Attributes:
        config: its ``slices`` and ``inference`` sections.
        axis: of the network grid, across the slices.
    """

    config: Config
    axis: int

    @classmethod
    def of(cls, config: Config, source: Geometry) -> "SliceBySlice":
        """Slices in the plane of the config, which may depend on how the file of the scan is stored."""
        return cls(config, slice_axis(config.slices.plane, source))

    def __call__(self, volume: torch.Tensor, network: Network) -> torch.Tensor:
        """See ``VolumeInferer``."""
        array = volume[0, 0].numpy()
        rows, columns = (size for axis, size in reversed(list(enumerate(array.shape))) if axis != self.axis)
        logits = None
        for start, batch in self._batches(array):
            stretched = network(torch.from_numpy(batch))
            planes = torch.nn.functional.interpolate(stretched, (rows, columns), mode="bilinear", align_corners=False)
            if logits is None:
                logits = torch.empty((1, planes.shape[1], *array.shape))
            # From (slice, channel, row, column) to the volume's axes; rows and columns run against them.
            part = logits[0].movedim(self.axis + 1, 0)[start : start + len(batch)]
            part.copy_(planes.flip(2, 3).transpose(2, 3))
        if logits is None:
            raise ValueError("a volume has at least one slice")
        return logits

    def pieces(self, shape: Shape) -> int:
        """The number of slices."""
        return shape[self.axis]

    def _batches(self, array: NDArray[np.float32]) -> Iterator[tuple[int, NDArray[np.float32]]]:
        slices, size = self.config.slices, self.config.inference.windows_per_batch
        for start in range(0, array.shape[self.axis], size):
            indices = range(start, min(start + size, array.shape[self.axis]))
            yield (
                start,
                np.stack(
                    [
                        slice_stack(array, self.axis, index, neighbours=slices.neighbours, size=slices.size_pixels)
                        for index in indices
                    ]
                ),
            )
