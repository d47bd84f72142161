"""Slices of the network grid: a patch of thickness one, stretched to a fixed size, with 8-bit grey values.

The PNG files, the training samples and the slices shown at prediction all come from ``grey_slice`` and ``label_slice``.
"""

from functools import lru_cache
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate

from verse3d.core.augmenting import AugmentConfig
from verse3d.core.axes import AXIS_OF_PLANE, LEFT_RIGHT
from verse3d.core.config import SlicesConfig
from verse3d.core.geometry import Geometry
from verse3d.core.setting_types import SlicePlane
from verse3d.data.samples.cut import Box
from verse3d.data.samples.draws import ChangeDraws
from verse3d.data.samples.source import PatchSource

_NETWORK_AXIS = {"L": 0, "R": 0, "P": 1, "A": 1, "I": 2, "S": 2}


def slice_axis(plane: SlicePlane, source: Geometry) -> int:
    """The axis of the network grid across the slices; for ``as-stored`` the one along the third axis of the file."""
    return AXIS_OF_PLANE[plane] if plane in AXIS_OF_PLANE else _NETWORK_AXIS[source.axis_codes[2]]


def grey_slice(volume: NDArray[np.floating], axis: int, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """One slice as a picture: linearly interpolated to ``size`` whatever its own shape is, then rounded to 8 bit.

    Args:
        volume: (I, J, K) grey values 0 ... 1 on the network grid.
        axis: across the slice.
        index: along ``axis``.
        size: rows and columns of the result. The head, or the front, is on top; the front, or the right, is left.
    """
    plane = torch.from_numpy(np.ascontiguousarray(turned(volume, axis)[index], dtype=np.float32))
    # Between centres of pixels: both grids span one rectangle, and beyond the outermost centre nothing changes.
    stretched = interpolate(plane[None, None], size, mode="bilinear", align_corners=False)[0, 0]
    return grey_picture(stretched.numpy())


def label_slice(labels: NDArray[np.uint8], axis: int, index: int, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The network ids that belong to ``grey_slice``: each pixel takes the nearest voxel's."""
    plane = turned(labels, axis)[index]
    rows, columns = (_nearest(old, new) for old, new in zip(plane.shape, size, strict=True))
    ids: NDArray[np.uint8] = plane[np.ix_(rows, columns)]
    return ids


def grey_picture(values: NDArray[np.float32]) -> NDArray[np.uint8]:
    """Grey values 0 ... 1 as 8-bit grey; undone by ``grey_values`` but for the rounding."""
    scaled = values * np.float32(255)
    picture: NDArray[np.uint8] = np.rint(scaled, out=scaled).astype(np.uint8)
    return picture


def grey_values(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """8-bit grey as the network sees it: 0 ... 1."""
    return picture.astype(np.float32) * np.float32(1 / 255)


def turned(volume: NDArray[Any], axis: int) -> NDArray[Any]:
    """A view (slices, rows, columns) of (I, J, K), each slice turned as radiologists look at it."""
    return np.moveaxis(volume, axis, 0).transpose(0, 2, 1)[:, ::-1, ::-1]


def slice_stack(
    volume: NDArray[np.floating], axis: int, index: int, *, neighbours: int, size: tuple[int, int]
) -> NDArray[np.float32]:
    """``grey_stack`` as the network sees it: 0 ... 1."""
    return grey_values(grey_stack(volume, axis, index, neighbours=neighbours, size=size))


def grey_stack(
    volume: NDArray[np.floating], axis: int, index: int, *, neighbours: int, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """A slice between its neighbours, (2 x neighbours + 1, rows, columns); beyond the ends the last one is repeated."""
    indices = neighbour_indices(index, neighbours, volume.shape[axis])
    pictures = {one: grey_slice(volume, axis, one, size) for one in set(indices)}
    return np.stack([pictures[one] for one in indices])


def neighbour_indices(index: int, neighbours: int, count: int) -> list[int]:
    """The indices of a slice and its neighbours, in their order; beyond the ends of ``count`` the last one again.

    Example:
        >>> neighbour_indices(1, 2, 9)
        [0, 0, 1, 2, 3]
    """
    return [min(max(one, 0), count - 1) for one in range(index - neighbours, index + neighbours + 1)]


@lru_cache(maxsize=64)
def _nearest(old: int, new: int) -> NDArray[np.intp]:
    """For every new pixel the old one that its centre lies in.

    PyTorch's "nearest-exact" counts in float32, and so takes a neighbour for centres that lie on an edge.
    """
    return np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.intp), old - 1)


class SliceCut:
    """Random slices of a case, with their neighbours, as 8-bit pictures.

    Args:
        slices: plane, size and neighbours.
        augment: random changes; left and right are mirrored with ``mirror_left_right``.
        foreground_fraction: of the slices so many go through a random labelled voxel, the others through an unlabelled
            one: at 0 nearly all slices are drawn alike.
        spacing_mm: of the network grid.
    """

    def __init__(
        self,
        slices: SlicesConfig,
        augment: AugmentConfig,
        foreground_fraction: float,
        spacing_mm: tuple[float, float, float],
    ) -> None:
        self.slices = slices
        self.augment = augment
        self.foreground_fraction = foreground_fraction
        self.spacing_mm = spacing_mm

    @property
    def size(self) -> tuple[int, ...]:
        """Rows and columns of a slice."""
        return self.slices.size_pixels

    def __call__(self, source: PatchSource, random: np.random.RandomState) -> Box:
        """The box of one slice, which is all of it: image (2 x neighbours + 1, *size) uint8, label (1, *size) uint8."""
        axis = slice_axis(self.slices.plane, source.source)
        index = int(source.draw_centre(self.foreground_fraction, random)[axis])
        mirrored = random.random_sample() < self.augment.mirror_left_right
        image, label = cut_slice(source, axis, index, neighbours=self.slices.neighbours, size=self.slices.size_pixels)
        if mirrored:
            image, label = mirrored_slice(image, label, axis)
        rows, columns = self.size
        # Height and width of a pixel: the slice was stretched to rows x columns.
        across, down = (other for other in range(3) if other != axis)
        shape, spacing = source.geometry.shape, self.spacing_mm
        pixel_mm = (spacing[down] * shape[down] / rows, spacing[across] * shape[across] / columns)
        changes = ChangeDraws(self.augment, pixel_mm, mirrors=False)
        return Box(image, label, ((rows - 1) / 2, (columns - 1) / 2), changes.draw(random))

    def plan(self, source: PatchSource, random: np.random.RandomState) -> Box:
        """The box itself: a slice is stretched when it is read, so nothing could be read to its place."""
        return self(source, random)


def mirrored_slice(
    image: NDArray[np.uint8], label: NDArray[np.uint8], axis: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Views of a slice (channels, rows, columns) and its ids (1, rows, columns) with left and right exchanged."""
    # The neighbours are channels, so that image and label are mirrored along axes of their own:
    #
    #    plane       channels     rows      columns          left and right are
    #    sagittal    right/left   head/feet front/back       the channels
    #    coronal     front/back   head/feet right/left       the columns
    #    axial       head/feet    front/back right/left      the columns
    if axis == LEFT_RIGHT:
        return np.flip(image, 0), label
    return np.flip(image, 2), np.flip(label, 2)


def cut_slice(
    source: PatchSource,
    axis: int,
    index: int,
    *,
    neighbours: int,
    size: tuple[int, int],
    part: tuple[slice, slice] | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A slice as it is trained on: grey (2 x neighbours + 1, rows, columns) 0 ... 255, ids (1, rows, columns).

    Args:
        source: the case.
        axis: across the slice.
        index: along ``axis``.
        neighbours: slices on each side.
        size: rows and columns to which it is stretched.
        part: of the slice, along the other two axes of the network grid in their order; None is all of it. Beyond the
            slice are air and background.
    """
    shape = source.geometry.shape
    spans = [slice(0, length) for other, length in enumerate(shape) if other != axis] if part is None else [*part]
    spans.insert(axis, slice(max(0, index - neighbours), min(shape[axis], index + neighbours + 1)))
    i, j, k = spans
    image, label = source.read((i.start, j.start, k.start), (i.stop - i.start, j.stop - j.start, k.stop - k.start))
    at = index - spans[axis].start
    return grey_stack(image, axis, at, neighbours=neighbours, size=size), label_slice(label, axis, at, size)[None]
