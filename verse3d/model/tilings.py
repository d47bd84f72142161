"""How a volume on the network grid is cut into windows that a network can look at, and where its scores belong.

A window is what the network sees at once: a box of the volume (3D), or a slice or a part of one between its neighbours
(2D). A window may reach beyond the volume; its region is the part of the volume that its scores are about.
"""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.config import InferenceConfig, SamplingConfig, SlicesConfig
from verse3d.core.geometry import Geometry, Shape
from verse3d.data.samples.slices import slice_axis, slice_stack
from verse3d.model.windows import Computed, window_starts, window_weights

Region = tuple[slice, slice, slice]
_LEFT_RIGHT = 0  # the first axis of the network grid


class Tiling(Protocol):
    """The windows of one volume (I, J, K), in the order of ``axis``, along which the volume is finished bit by bit."""

    @property
    def shape(self) -> Shape:
        """Of the volume."""
        ...

    @property
    def axis(self) -> int:
        """The windows are sorted by where their regions start along it."""
        ...

    @property
    def regions(self) -> Sequence[Region]:
        """For every window the voxels of the volume that it covers, computed when asked for."""
        ...

    @property
    def thickness(self) -> int:
        """How many planes across ``axis`` a window covers at most."""
        ...

    @property
    def window_shape(self) -> tuple[int, ...]:
        """(n, *spatial) of what the network sees."""
        ...

    @property
    def mirror_differs(self) -> bool:
        """Whether the network sees something else in a patient whose left and right are exchanged."""
        ...

    def cut(self, volume: NDArray[np.floating], number: int) -> NDArray[np.float32]:
        """What the network sees of window ``number``: (n, *spatial), grey values 0 ... 1."""
        ...

    def spread(self, scores: torch.Tensor, number: int) -> torch.Tensor:
        """The network's scores of a window (channels, *spatial) as (channels, *region); a view if possible."""
        ...

    def weights(self, number: int) -> torch.Tensor | None:
        """How much each voxel of the region counts where regions overlap, float32; None where all count 1."""
        ...

    def mirrored(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows (B, n, *spatial) as they would be if left and right of the patient were exchanged."""
        ...

    def mirrored_back(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores (B, channels, *spatial) of mirrored windows, as scores of the windows themselves."""
        ...


@dataclass(frozen=True, eq=False)
class WindowTiling:
    """Overlapping windows of ``sampling.patch_voxels``, placed as MONAI's sliding window does, along the longest axis.

    Beyond the volume (in the margin, and where it is smaller than a window) is air: 0 on the network grid.

    Attributes:
        starts: first voxel of every window, which may lie outside of the volume. Computed, not held: a header can
            promise a volume of any size, and the windows are counted before anybody knows whether it fits.
        window: its shape.
        blending: see ``window_weights``.
    """

    shape: Shape
    axis: int
    starts: Sequence[Shape]
    window: Shape
    blending: str

    @classmethod
    def of(cls, sampling: SamplingConfig, inference: InferenceConfig, shape: Shape) -> "WindowTiling":
        """Windows as large as the patches of the training, which overlap as the inference asks."""
        # Windows come in the order of the longest axis, so that planes are finished, and given away, early.
        axis = max(range(3), key=lambda number: (shape[number], number))
        return cls.along(axis, sampling.patch_voxels, sampling.margin_voxels, inference, shape)

    @classmethod
    def along(cls, axis: int, window: Shape, margin: Shape, inference: InferenceConfig, shape: Shape) -> "WindowTiling":
        """Windows of any shape, in the order of an axis, which reach beyond the volume by the margin at most."""
        sizes = zip(shape, window, margin, strict=True)
        starts = [_starts_along(size, length, beyond, inference.overlap) for size, length, beyond in sizes]
        return cls(shape, axis, _starts(starts, axis), window, inference.blending)

    @property
    def mirror_differs(self) -> bool:
        """True: what lies left and right of the spine is in every window."""
        return True

    @property
    def window_shape(self) -> tuple[int, ...]:
        """One channel."""
        return (1, *self.window)

    @property
    def regions(self) -> Sequence[Region]:
        """The part of every window that lies in the volume."""
        return Computed(len(self.starts), lambda number: self._inside(self.starts[number]))

    @property
    def thickness(self) -> int:
        """That of a window, or of a volume that is thinner."""
        return min(self.window[self.axis], self.shape[self.axis])

    def cut(self, volume: NDArray[np.floating], number: int) -> NDArray[np.float32]:
        """The window with that number, (1, *window) float32; where it reaches beyond the volume it is 0, air."""
        return self.cut_at(volume, self.starts[number])

    def cut_at(self, volume: NDArray[np.floating], start: Shape) -> NDArray[np.float32]:
        """The window that begins at a voxel, likewise."""
        inside = self._inside(start)
        window = torch.zeros(self.window_shape)
        window[(0, *_moved(inside, start))] = torch.from_numpy(volume)[inside]  # NumPy converts float16 one by one
        cut: NDArray[np.float32] = window.numpy()
        return cut

    def spread(self, scores: torch.Tensor, number: int) -> torch.Tensor:
        """The part of the scores (channels, *window) that lies in the volume."""
        start = self.starts[number]
        # A view: nothing is copied where a window lies within the volume.
        return scores[(slice(None), *_moved(self._inside(start), start))]

    def weights(self, number: int) -> torch.Tensor | None:
        """How much each voxel of the window counts, cut like the scores: least at its edges, where it sees least."""
        start = self.starts[number]
        return window_weights(self.window, self.blending)[_moved(self._inside(start), start)]

    def mirrored(self, windows: torch.Tensor) -> torch.Tensor:
        """Windows (B, 1, *window) with left and right exchanged."""
        return windows.flip(2 + _LEFT_RIGHT)

    def mirrored_back(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (B, channels, *window) of mirrored windows, turned back."""
        return scores.flip(2 + _LEFT_RIGHT)

    def _inside(self, start: Shape) -> Region:
        sides = []
        for first, size, length in zip(start, self.shape, self.window, strict=True):
            # |-- margin --|----- size -----|      what of the window lies between 0 and size
            #      [--- window ---]
            sides.append(slice(max(0, first), min(size, first + length)))
        i, j, k = sides
        return i, j, k


def _starts_along(size: int, window: int, margin: int, overlap: float) -> Computed[int]:
    """First voxels of the windows over an axis with its margins, without those that would see nothing but margin.

    The starts grow, so what sees only margin stands at the two ends::

        |-- margin --|---- size ----|-- margin --|
        [ 0 ] [ 1  ][ 2 ]  ...  [ n ] [ n+1 ]          1 ... n are kept
    """
    # As MONAI places them over the framed axis, so that both find the same windows.
    framed = size + 2 * margin
    before = margin + max(0, window - framed) // 2
    starts = window_starts(framed, window, overlap)
    first = bisect_right(starts, before - window)
    stop = bisect_left(starts, before + size)
    return Computed(stop - first, lambda number: starts[first + number] - before)


def _starts(along: Sequence[Sequence[int]], axis: int) -> Computed[Shape]:
    """All combinations of the starts along the three axes; those along ``axis`` change last, the others as counted.

    With ``axis`` 2 and counts (2, 3, 5), number 17 is layer 2 (17 = 2 * 6 + 5), row 1, column 2.
    """
    row, column = (other for other in range(3) if other != axis)
    # Counted, not listed: a header may promise more windows than memory could hold.
    columns, layer_size = len(along[column]), len(along[row]) * len(along[column])

    def start(number: int) -> Shape:
        layer, within = divmod(number, layer_size)
        place = {axis: layer, row: within // columns, column: within % columns}
        return along[0][place[0]], along[1][place[1]], along[2][place[2]]

    return Computed(len(along[axis]) * layer_size, start)


def _moved(region: Region, start: Shape) -> Region:
    """A region of the volume as seen from a window that begins at ``start``."""
    i, j, k = (slice(along.start - first, along.stop - first) for along, first in zip(region, start, strict=True))
    return i, j, k


@dataclass(frozen=True, eq=False)
class SliceTiling:
    """Every slice, between its neighbours, stretched as in training; the scores are stretched back.

    Attributes:
        axis: of the network grid, across the slices.
        size: rows and columns that the network sees.
        neighbours: slices on each side that are shown with it.
    """

    shape: Shape
    axis: int
    size: tuple[int, int]
    neighbours: int

    @classmethod
    def of(cls, slices: SlicesConfig, source: Geometry, shape: Shape) -> "SliceTiling":
        """Slices in the plane that is asked for, which may depend on how the file of the scan is stored."""
        return cls(shape, slice_axis(slices.plane, source), slices.size_pixels, slices.neighbours)

    @property
    def window_shape(self) -> tuple[int, ...]:
        """A channel per slice."""
        return (2 * self.neighbours + 1, *self.size)

    @property
    def mirror_differs(self) -> bool:
        """A sagittal slice by itself is the same in the mirror."""
        return self.axis != _LEFT_RIGHT or self.neighbours > 0

    @property
    def regions(self) -> Sequence[Region]:
        """The slices."""
        return Computed(self.shape[self.axis], self._region)

    @property
    def thickness(self) -> int:
        """One plane."""
        return 1

    def cut(self, volume: NDArray[np.floating], number: int) -> NDArray[np.float32]:
        """The slice with that number between its neighbours, (2 x neighbours + 1, rows, columns) float32 0 ... 1."""
        return slice_stack(volume, self.axis, number, neighbours=self.neighbours, size=self.size)

    def spread(self, scores: torch.Tensor, number: int) -> torch.Tensor:
        """The scores (channels, rows, columns) stretched back linearly, as one plane of the volume."""
        rows, columns = (size for axis, size in reversed(list(enumerate(self.shape))) if axis != self.axis)
        batch = scores[None].float()
        stretched = torch.nn.functional.interpolate(batch, (rows, columns), mode="bilinear", align_corners=False)[0]
        return self._turned_back(stretched)

    def weights(self, number: int) -> torch.Tensor | None:
        """None: slices do not overlap, so each voxel is seen once."""
        return None

    def mirrored(self, windows: torch.Tensor) -> torch.Tensor:
        """Slices with left and right exchanged: across sagittal slices these are neighbours, else columns."""
        return windows.flip(1 if self.axis == _LEFT_RIGHT else 3)

    def mirrored_back(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores of mirrored slices, turned back. A sagittal slice itself has no left and right to exchange."""
        return scores if self.axis == _LEFT_RIGHT else scores.flip(3)

    def _turned_back(self, scores: torch.Tensor) -> torch.Tensor:
        """Scores (channels, rows, columns) as a plane along the volume's axes, (channels, ...); a view if possible."""
        # Rows and columns run against the volume's axes: (channels, rows, columns) -> (channels, columns, rows)
        return scores.flip(1, 2).transpose(1, 2).unsqueeze(1 + self.axis)

    def _region(self, number: int) -> Region:
        i, j, k = (
            slice(number, number + 1) if axis == self.axis else slice(0, size) for axis, size in enumerate(self.shape)
        )
        return i, j, k
