"""What a worker does for a sample: draw, read the voxels that the sample will touch, and send them as stored."""

from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from verse3d.core.augmenting import AugmentConfig
from verse3d.core.config import SamplingConfig
from verse3d.core.geometry import Shape
from verse3d.data.samples.draws import UNCHANGED, ChangeDraws, Changes
from verse3d.data.samples.source import PatchSource

Layout = tuple[tuple[tuple[int, ...], str], tuple[tuple[int, ...], str]]
"""(shape, type) of an image and of its label."""


@dataclass(frozen=True, eq=False)
class Box:
    """The voxels that a sample is made from, and what is to be done with them.

    Attributes:
        image: (n, ...) as stored: float16 grey values 0 ... 1, or uint8 0 ... 255.
        label: (1, ...) uint8 network ids.
        middle: where in the box the middle of the sample lies, in voxels from the first one.
        changes: what was drawn.
    """

    image: NDArray[Any]
    label: NDArray[np.uint8]
    middle: tuple[float, ...]
    changes: Changes = UNCHANGED

    @property
    def layout(self) -> Layout:
        """Shape and type of image and label."""
        return (self.image.shape, self.image.dtype.name), (self.label.shape, self.label.dtype.name)

    def write(self, image: NDArray[Any], label: NDArray[np.uint8]) -> None:
        """Copy the voxels into arrays of that layout."""
        image[...], label[...] = self.image, self.label


@dataclass(frozen=True, eq=False)
class PlannedBox:
    """A ``Box`` whose voxels are still to be read, so that they can be read to where they are wanted.

    Attributes:
        source: the case.
        start, size: its voxels.
        middle, changes: as of a ``Box``.
    """

    source: PatchSource
    start: Shape
    size: Shape
    middle: tuple[float, ...]
    changes: Changes = UNCHANGED

    @property
    def layout(self) -> Layout:
        """Shape and type of image and label."""
        return ((1, *self.size), "float16"), ((1, *self.size), "uint8")

    def write(self, image: NDArray[Any], label: NDArray[np.uint8]) -> None:
        """Read the voxels into arrays of that layout, which are contiguous.

        Raises:
            DataError: the case cannot be read any more.
        """
        self.source.read_into(self.start, image[0], label[0])


class Cut(Protocol):
    """Cuts the box of a sample out of a case; all it does depends on the case and the random state alone."""

    @property
    def size(self) -> tuple[int, ...]:
        """Of the sample that the box is for."""
        ...

    def __call__(self, source: PatchSource, random: np.random.RandomState) -> Box:
        """A box, and what becomes of it."""
        ...

    def plan(self, source: PatchSource, random: np.random.RandomState) -> Box | PlannedBox:
        """The same box; what it needs of the case may be read later."""
        ...


class PatchCut:
    """Boxes of random patches.

    A share of the patches is centred on a labelled voxel, the others on an unlabelled one. A patch may reach beyond the
    volume by ``margin_voxels``, or evenly on both sides if it is larger than that; there it is 0 (air, background).
    The box of a patch that is turned, scaled or bent reaches as far as the change does, so that a turned patch shows
    the scan in its corners and not nothing.

    Args:
        sampling: size of the patches, and where they lie.
        augment: what is drawn to be changed about them.
        spacing_mm: of the network grid.
    """

    def __init__(
        self, sampling: SamplingConfig, augment: AugmentConfig, spacing_mm: tuple[float, float, float]
    ) -> None:
        self.patch = np.array(sampling.patch_voxels)
        self.margin = np.array(sampling.margin_voxels)
        self.foreground_fraction = sampling.foreground_fraction
        self.changes = ChangeDraws(augment, spacing_mm)

    @property
    def size(self) -> tuple[int, ...]:
        """Voxels of a patch along i, j, k."""
        return tuple(self.patch.tolist())

    def __call__(self, source: PatchSource, random: np.random.RandomState) -> Box:
        """The box of one patch: image (1, I, J, K) float16, label (1, I, J, K) uint8."""
        plan = self.plan(source, random)
        image, label = source.read(plan.start, plan.size)
        return Box(image[None], label[None], plan.middle, plan.changes)

    def plan(self, source: PatchSource, random: np.random.RandomState) -> PlannedBox:
        """The box of one patch, of which nothing was read but the block that its centre lies in."""
        centre = source.draw_centre(self.foreground_fraction, random)
        changes = self.changes.draw(random)
        corner = patch_corner(centre, self.patch, np.array(source.geometry.shape), self.margin)
        start, size, middle = box_around(corner, self.patch, changes)
        return PlannedBox(source, _three(start), _three(size), middle, changes)


def patch_corner(
    centre: NDArray[np.int_], patch: NDArray[np.int_], shape: NDArray[np.int_], margin: NDArray[np.int_] | int = 0
) -> NDArray[np.int_]:
    """The first voxel (d,) of a patch around ``centre``, pushed inside a volume of ``shape`` and its margin."""
    first, last = -margin, shape + margin - patch
    # Where the patch is larger than scan and margins there is no choice: it lies in the middle.
    free = np.clip(centre - patch // 2, first, np.maximum(first, last))
    return np.where(first <= last, free, -((patch - shape) // 2))


def box_around(
    corner: NDArray[np.int_], patch: NDArray[np.int_], changes: Changes
) -> tuple[NDArray[np.int_], NDArray[np.int_], tuple[float, ...]]:
    """Of the box of a patch that begins at ``corner``: first voxel and size (d,), and its middle, as of a ``Box``."""
    half = (patch - 1) / 2
    if changes.warp is None:
        return corner, patch, tuple(half.tolist())
    #    start        corner           middle                       the box of a turned patch
    #      |------------|----------------|----------------|------------|
    reach = changes.warp.reach(tuple(patch.tolist()))
    start = np.floor(corner + half - reach).astype(int)
    size = np.ceil(corner + half + reach).astype(int) + 1 - start
    return start, size, tuple((corner + half - start).tolist())


def _three(numbers: NDArray[np.int_]) -> tuple[int, int, int]:
    i, j, k = (int(number) for number in numbers)
    return i, j, k
