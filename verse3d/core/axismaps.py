"""How the indices of two grids with parallel axes map to each other: a permutation, and a scale and offset per axis."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry, Shape

Box = tuple[slice, ...]

_PARALLEL_TOLERANCE_VOXELS = 1e-2
_OUTSIDE_TOLERANCE_VOXELS = 1.0


@dataclass(frozen=True)
class AxisMap:
    """For each index along one target axis: the two source voxels around it and the weight of the upper one."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]

    @property
    def size(self) -> int:
        """How many target indices there are."""
        return self.lower.size

    @property
    def nearest(self) -> NDArray[np.intp]:
        """The closer source voxel; the lower one if both are equally far."""
        return np.where(self.weight > 0.5, self.upper, self.lower)

    @property
    def span(self) -> slice:
        """The source indices that are drawn on."""
        return slice(int(self.lower.min()), int(self.upper.max()) + 1)

    def part(self, span: slice) -> "AxisMap":
        """The map of a range of target indices."""
        return AxisMap(self.lower[span], self.upper[span], self.weight[span])

    def moved(self, by: int) -> "AxisMap":
        """The map with all source indices moved."""
        return AxisMap(self.lower + by, self.upper + by, self.weight)

    def within(self, used: slice) -> slice:
        """The target indices that draw on nothing but source indices in ``used``."""
        # Both voxels around the target's centre have to be there; `touched` is content with one of them.
        indices = np.flatnonzero((self.lower >= used.start) & (self.upper < used.stop))
        return slice(int(indices[0]), int(indices[-1]) + 1) if indices.size else slice(0, 0)

    def touched(self, used: slice) -> slice:
        """The target indices that draw on any source index in ``used``; one index if there are none."""
        indices = np.flatnonzero((self.upper >= used.start) & (self.lower < used.stop))
        return slice(int(indices[0]), int(indices[-1]) + 1) if indices.size else slice(0, 1)

    def interpolated(self, values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """``values`` carried over linearly along one of their axes. Two copies of the result are held meanwhile."""
        #    lower     target     upper
        #      o---------x-----------o        value = lower + weight * (upper - lower)
        #       - weight -
        result: NDArray[np.float32] = np.take(values, self.lower, axis=axis)
        rise = np.take(values, self.upper, axis=axis)
        rise -= result
        rise *= np.expand_dims(self.weight, tuple(range(1, values.ndim - axis)))
        result += rise
        return result


def aligned(array: NDArray[Any], source: Geometry, target: Geometry) -> tuple[NDArray[Any], list[AxisMap]]:
    """A view of ``array`` with its axes in the target's order, and the map along each of them.

    Raises:
        GeometryError: the array is not on ``source``; the axes are not parallel; ``target`` reaches out of ``source``.
    """
    if array.shape != source.shape:
        raise GeometryError(f"the array's shape {array.shape} is not that of its grid {source.shape}")
    source_axis, maps = axis_maps(source, target)
    return array.transpose(source_axis), maps


def axis_maps(source: Geometry, target: Geometry) -> tuple[list[int], list[AxisMap]]:
    """For each axis of the target the axis of the source that runs along it, and the map between them.

    Raises:
        GeometryError: the axes are not parallel; ``target`` reaches out of ``source``.
    """
    # index in source = A * index in target + offset. With parallel axes each column of A has one entry that counts:
    #
    #         |  0   0.5  0 |        axis 0 of the target runs along axis 1 of the source (against it, scale -2),
    #     A = | -2   0    0 |        axis 1 along axis 0 (half as far apart), axis 2 along axis 2
    #         |  0   0    1 |
    source_from_target = np.linalg.solve(source.affine, target.affine)
    linear, offset = source_from_target[:3, :3], source_from_target[:3, 3]
    source_axis = [int(axis) for axis in np.abs(linear).argmax(axis=0)]  # for each target axis
    _refuse_not_parallel(linear, source_axis, target.shape)
    maps = [
        _axis_map(linear[axis, number], offset[axis], source.shape[axis], target.shape[number])
        for number, axis in enumerate(source_axis)
    ]
    return source_axis, maps


def cut_to_need(view: NDArray[Any], maps: Sequence[AxisMap]) -> tuple[NDArray[Any], list[AxisMap]]:
    """The part of ``view`` that the maps draw on, and the maps into that part."""
    spans = [axis.span for axis in maps]
    return view[tuple(spans)], [axis.moved(-span.start) for axis, span in zip(maps, spans, strict=True)]


def target_box(maps: Sequence[AxisMap], source_box: Box) -> Box:
    """The target indices that draw on any source index in ``source_box``."""
    return tuple(axis.touched(used) for axis, used in zip(maps, source_box, strict=True))


def box_of(mask: NDArray[Any]) -> Box | None:
    """The smallest box that holds all that is true or not 0; None if nothing is."""
    box = []
    for axis in range(mask.ndim):
        indices = np.flatnonzero(mask.any(axis=tuple(other for other in range(mask.ndim) if other != axis)))
        if not indices.size:
            return None
        box.append(slice(int(indices[0]), int(indices[-1]) + 1))
        # What is empty along this axis need not be looked at along the next ones.
        mask = mask[(slice(None),) * axis + (box[-1],)]
    return tuple(box)


def slowest_first(view: NDArray[Any]) -> list[int]:
    """The axes by their stride in memory (of equal ones the longer first), so that planes are read in one piece."""
    return sorted(range(3), key=lambda axis: (abs(view.strides[axis]), view.shape[axis]), reverse=True)


def _refuse_not_parallel(linear: NDArray[np.floating], source_axis: list[int], shape: Shape) -> None:
    # What is left beside these entries, at the far end of the target: how far a voxel would be off there.
    rest = linear.copy()
    for number, axis in enumerate(source_axis):
        rest[axis, number] = 0.0
    drift = float((np.abs(rest) @ (np.array(shape) - 1)).max())
    if sorted(source_axis) != [0, 1, 2] or drift > _PARALLEL_TOLERANCE_VOXELS:
        raise GeometryError(f"the two grids are rotated against each other (by up to {drift:.3g} voxels)")


def _axis_map(scale: float, offset: float, source_size: int, target_size: int) -> AxisMap:
    # Rounded, so that a centre that meets a source voxel within float error meets it exactly.
    position = np.round(np.arange(target_size) * scale + offset, 6)
    beyond = max(-float(position.min()), float(position.max()) - (source_size - 1))
    # A coarse target may end up to half its own voxel beyond a fine source (and the reverse).
    if beyond > _OUTSIDE_TOLERANCE_VOXELS * max(1.0, abs(scale)):
        raise GeometryError(f"the target grid reaches {beyond:.2f} voxels beyond the source grid")
    position = np.clip(position, 0, source_size - 1)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, source_size - 1)
    return AxisMap(lower, upper, (position - lower).astype(np.float32))
