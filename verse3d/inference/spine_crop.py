"""Only where the spine is: scouts say where, a box is cut out of the prepared image, windows beside it are left out.

The box is cut along i and j only. Along k the volume stays whole, as it does along every axis with a margin: the margin
is air, and air behind a cut face would tell the network that the scan ends there::

    j ^  ................      the prepared image
      |  ....########....      the crop; ``near`` is smaller still, and decides about each window
      |  ....########....
      +-----------------> i
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.axismaps import Box, axis_maps, box_of
from verse3d.core.geometry import Geometry, Shape
from verse3d.core.memory import background
from verse3d.inference.aggregator import Aggregator
from verse3d.inference.open_sums import FinishedPlanes
from verse3d.inference.overview import overview
from verse3d.inference.scout import MARGIN_MM, SPINE_THRESHOLD, FloatArray, scout_megabytes
from verse3d.model.scout import SCOUT_MM, ScoutNetwork
from verse3d.model.tilings import Region

_SMALLEST_ML = 3.0
"""Of a piece that the scout takes for spine. A vertebra by itself has twice that."""
_UP_DOWN = 2
_SPINE_ML = 30.0
_GOES_ON_MM, _END_MM, _WIDER_MM = 48.0, 40.0, 12.0
"""A spine goes on beyond where a scout sees it end, in the direction of its last piece: what is missed most is C1."""


@dataclass(frozen=True, eq=False)
class SpineRegion:
    """Where the spine is, with a margin.

    Attributes:
        near: (I, J, K) bool on the scout's grid; true somewhere.
        steps: voxels of that grid per voxel of the network grid, along each axis. Both begin with the same voxel.
    """

    near: NDArray[np.bool_]
    steps: tuple[float, float, float]

    @classmethod
    def of(cls, spine: FloatArray, network_spacing_mm: tuple[float, float, float]) -> Self | None:
        """From the probability of any vertebra (I, J, K); None if there is no spine."""
        parts, count = ndimage.label(spine > SPINE_THRESHOLD)
        sizes_ml = np.bincount(parts.ravel(), minlength=count + 1) * SCOUT_MM**3 / 1000
        sizes_ml[0] = 0
        if sizes_ml.max() < _SMALLEST_ML:
            return None
        near = _around((sizes_ml >= _SMALLEST_ML)[parts])
        # Each by itself: a crumb above the head would hide where the spine ends.
        for number in np.flatnonzero(sizes_ml >= min(_SPINE_ML, sizes_ml.max())):
            near |= _lengthened(_around(parts == number))
        i, j, k = (spacing / SCOUT_MM for spacing in network_spacing_mm)
        return cls(near, (i, j, k))

    def touches(self, region: Region) -> bool:
        """Whether a region of the network grid holds some of it."""
        spans = zip(region, self.steps, self.near.shape, strict=True)
        return bool(self.near[tuple(_scout_span(along, step, size) for along, step, size in spans)].any())

    def crop(self, shape: Shape, patch: Shape, margin: Shape) -> Box:
        """The box to be cut out of a volume of ``shape`` on the network grid; never smaller than a patch."""
        found = box_of(self.near)
        if found is None:
            raise ValueError("there is no spine to crop to")
        box = []
        for axis, (along, step, size) in enumerate(zip(found, self.steps, shape, strict=True)):
            # A scout voxel s reaches over the network voxels (s - 1/2) / step ... (s + 1/2) / step.
            start = max(0, int(np.floor((along.start - 0.5) / step)))
            stop = min(size, int(np.ceil((along.stop - 0.5) / step)) + 1)
            whole = axis == _UP_DOWN or margin[axis] > 0
            box.append(slice(0, size) if whole else _widened(start, stop, min(patch[axis], size), size))
        return tuple(box)


def _around(spine: NDArray[np.bool_]) -> NDArray[np.bool_]:
    margin = int(np.ceil(MARGIN_MM / SCOUT_MM))
    return np.asarray(ndimage.maximum_filter(spine, size=2 * margin + 1, mode="constant"))


def _lengthened(near: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """What is near a piece of spine, and what lies above and below it, as wide as its ends and a little more.

    ::

        k ^     ######  +      added: a neck bends, and an atlas is broader than an axis
          |     ######  +
          |      ####
          |    ####            the end that is looked at
    """
    seen = np.flatnonzero(near.any(axis=(0, 1)))
    low, high = int(seen[0]), int(seen[-1]) + 1
    end, more, beside = (round(mm / SCOUT_MM) for mm in (_END_MM, _GOES_ON_MM, _WIDER_MM))
    margin = int(np.ceil(MARGIN_MM / SCOUT_MM))
    ends = (
        (slice(max(low, high - end), high), slice(high - margin, high + more)),
        (slice(low, min(high, low + end)), slice(max(0, low - more), low + margin)),
    )
    longer = near.copy()
    for looked_at, beyond in ends:
        slab = ndimage.maximum_filter(near[:, :, looked_at].any(2), size=2 * beside + 1, mode="constant")
        longer[:, :, beyond] |= slab[:, :, None]
    return longer


def _scout_span(along: slice, step: float, size: int) -> slice:
    """The scout's voxels between which the voxels of a region lie; at least one."""
    first = min(int(np.floor(along.start * step)), size - 1)
    return slice(first, max(first, int(np.ceil((along.stop - 1) * step))) + 1)


def _widened(start: int, stop: int, least: int, size: int) -> slice:
    """A range of at least ``least`` around ``start`` ... ``stop``, pushed inside 0 ... ``size``."""
    lacking = max(0, least - (stop - start))
    first = min(max(0, start - lacking // 2), max(0, size - (stop - start + lacking)))
    return slice(first, min(size, first + (stop - start) + lacking))


@dataclass(frozen=True, eq=False)
class Scouts:
    """The scouts of one or several models.

    Attributes:
        networks: in evaluation mode; a place is left out if none of them sees spine near it.
        absence: why there are none, for the user.
    """

    networks: Sequence[ScoutNetwork] = ()
    absence: str = ""

    def find(self, image: NDArray[np.floating], grid: Geometry) -> SpineRegion | None:
        """Where the spine is in a prepared image (I, J, K) on the network ``grid``; None: nobody knows."""
        if not self.networks:
            return None
        seen = overview(self.networks, image, grid, levels=False)
        return SpineRegion.of(seen.spine, grid.spacing_mm)

    def megabytes(self, grid: Geometry) -> float:
        """What they take at most while they look at a volume on the network ``grid``."""
        return scout_megabytes(grid) if self.networks else 0.0


NO_SCOUTS = Scouts()


@dataclass(frozen=True, eq=False)
class CroppedGrids:
    """The part of a scan that is looked at.

    Attributes:
        box: on the network grid.
        grid: of that box.
        source_box: the voxels of the scan between its outermost voxels.
        source: their grid.
    """

    box: Box
    grid: Geometry
    source_box: Box
    source: Geometry

    @classmethod
    def of(cls, box: Box, grid: Geometry, source: Geometry) -> Self:
        """From a box of the network ``grid`` of the scan ``source``."""
        source_axis, maps = axis_maps(grid, source)
        # within: those voxels of the scan that are interpolated between voxels of the box and no others.
        source_box = tuple(one.within(box[axis]) for axis, one in zip(source_axis, maps, strict=True))
        if any(along.stop <= along.start for along in source_box):  # slices thicker than the box
            return cls.whole(grid, source)
        return cls(box, _cropped(grid, box), source_box, _cropped(source, source_box))

    @classmethod
    def whole(cls, grid: Geometry, source: Geometry) -> Self:
        """All of it."""
        box, source_box = (tuple(slice(0, size) for size in one.shape) for one in (grid, source))
        return cls(box, grid, source_box, source)

    def cut(self, image: NDArray[np.floating]) -> NDArray[np.floating]:
        """The part of an image (I, J, K) on the network grid.

        It is a copy where it is less than half, so that the whole is given back as soon as nobody else holds it.
        """
        part = image[self.box]
        return part.copy() if 2 * part.size < image.size else part


def _cropped(grid: Geometry, box: Box) -> Geometry:
    return grid.cropped([along.start for along in box], [along.stop for along in box])


class PastedAggregator:
    """The labels of a part of a scan, put into the whole, with background around.

    Args:
        inner: about the part.
        shape: of the whole scan.
        place: of the part in it.
    """

    def __init__(self, inner: Aggregator, shape: Shape, place: Box) -> None:
        self._inner, self._shape, self._place = inner, shape, place
        self.seconds_resample = 0.0

    def take(self, planes: FinishedPlanes) -> None:
        """Hand planes of the part on, whose indices are those of the part's own grid."""
        self._inner.take(planes)
        self.seconds_resample = self._inner.seconds_resample

    def mask(self) -> NDArray[np.uint8]:
        """The labels of the whole scan, uint8 (I, J, K): those of the part in its place, 0 elsewhere. Once."""
        part = self._inner.mask()
        self.seconds_resample = self._inner.seconds_resample
        whole = background(self._shape[::-1]).T
        whole[self._place] = part
        return whole


@dataclass(frozen=True)
class CropRecord:
    """What the scouts did for a scan, for the list of predictions.

    Attributes:
        box: [start, stop) along i, j, k of the network grid; empty if everything was looked at.
        why: everything was looked at; "" if it was not, or as the user wanted it.
        skipped: share of the voxels of the network grid that no window covered.
        seconds: that the scouts took.
    """

    box: Sequence[tuple[int, int]] = ()
    why: str = ""
    skipped: float = 0.0
    seconds: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {
            "box": [list(along) for along in self.box],
            "why_everywhere": self.why,
            "skipped": round(self.skipped, 4),
            "seconds": round(self.seconds, 3),
        }


def moved(region: Region, box: Box) -> Region:
    """A region that is counted from the first voxel of a box, counted from that of the whole volume."""
    i, j, k = (
        slice(along.start + inside.start, along.stop + inside.start) for along, inside in zip(region, box, strict=True)
    )
    return i, j, k


def covered_share(regions: Iterable[Region], within: Box, shape: Shape) -> float:
    """The share of a volume's voxels that lie in any of the regions, which are counted from the corner of ``within``.

    The faces of the regions cut the volume into a few hundred blocks, each wholly inside or outside of every region::

        faces  0    32   64    96       a block per gap, however many voxels that is
               |----|----|-----|
    """
    places = [moved(region, within) for region in regions]
    if not places:
        return 0.0
    faces = [np.unique([(place[axis].start, place[axis].stop) for place in places]) for axis in range(3)]
    covered = np.zeros([one.size - 1 for one in faces], bool)
    for place in places:
        blocks = (np.searchsorted(one, (along.start, along.stop)) for one, along in zip(faces, place, strict=True))
        covered[tuple(slice(first, stop) for first, stop in blocks)] = True
    i, j, k = (np.diff(one).astype(float) for one in faces)
    return float(np.einsum("ijk,i,j,k->", covered, i, j, k) / np.prod(np.array(shape, float)))
