"""Slices of physical size: every slice of a volume is covered by windows, as a volume is by boxes."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.config import InferenceConfig, SlicesConfig
from verse3d.core.geometry import Geometry, Shape
from verse3d.data.samples.slices import grey_picture, grey_values, neighbour_indices, slice_axis, turned
from verse3d.model.tilings import Region, SliceTiling, WindowTiling


@dataclass(frozen=True, eq=False)
class SliceWindowTiling(SliceTiling):
    """Overlapping windows of every slice, between the same windows of its neighbours. Nothing is stretched.

    Where a slice is smaller than a window it lies in the middle of it, and around it is air.

    Attributes:
        windows: the same windows as boxes of the volume, one voxel thick.
    """

    windows: WindowTiling

    @classmethod
    def covering(cls, slices: SlicesConfig, inference: InferenceConfig, source: Geometry, shape: Shape) -> Self:
        """Windows of ``slices.size_pixels``, which overlap as the inference asks."""
        axis, (rows, columns) = slice_axis(slices.plane, source), slices.size_pixels
        # sagittal (1, columns, rows)     coronal (columns, 1, rows)     axial (columns, rows, 1)
        sides = [columns, rows]
        sides.insert(axis, 1)
        i, j, k = sides
        # One slice after the other: so only one plane of scores is open.
        windows = WindowTiling.along(axis, (i, j, k), (0, 0, 0), inference, shape)
        return cls(shape, axis, slices.size_pixels, slices.neighbours, windows)

    @property
    def regions(self) -> Sequence[Region]:
        """The part of every window that lies in the volume."""
        return self.windows.regions

    def cut(self, volume: NDArray[np.floating], number: int) -> NDArray[np.float32]:
        """The window with that number and the same of the neighbours, (2 x neighbours + 1, rows, columns), 0 ... 1."""
        start = self.windows.starts[number]
        planes = {}
        indices = neighbour_indices(start[self.axis], self.neighbours, self.shape[self.axis])
        for index in set(indices):
            i, j, k = (index if axis == self.axis else first for axis, first in enumerate(start))
            planes[index] = turned(self.windows.cut_at(volume, (i, j, k))[0], self.axis)[0]
        return grey_values(grey_picture(np.stack([planes[index] for index in indices])))

    def spread(self, scores: torch.Tensor, number: int) -> torch.Tensor:
        """The part of the scores (channels, rows, columns) that lies in the volume, as a part of one of its planes."""
        return self.windows.spread(self._turned_back(scores), number)

    def weights(self, number: int) -> torch.Tensor | None:
        """How much each voxel of the window counts: least at its edges, where it sees least."""
        return self.windows.weights(number)
