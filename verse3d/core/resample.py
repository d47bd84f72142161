"""Carrying voxels between two grids whose axes are parallel, one axis at a time.

Reorienting, cropping and changing the spacing keep the directions of the axes, so the map from one index to the other
is a permutation with a scale and an offset per axis, and linear interpolation separates into three 1-D ones. The
volume is walked plane by plane along its slowest axis in memory; beside source and result only a few planes are held.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import find_objects

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry, Shape

_PARALLEL_TOLERANCE_VOXELS = 1e-2
_OUTSIDE_TOLERANCE_VOXELS = 1.0
_SHARE_TOLERANCE = 1e-6
_Plane = NDArray[Any]


@dataclass(frozen=True)
class _AxisMap:
    """For each index along one target axis: the two source voxels around it and the weight of the upper one."""

    lower: NDArray[np.intp]
    upper: NDArray[np.intp]
    weight: NDArray[np.float32]

    @property
    def nearest(self) -> NDArray[np.intp]:
        """The closer source voxel; the lower one if both are equally far."""
        return np.where(self.weight > 0.5, self.upper, self.lower)

    def part(self, span: slice) -> "_AxisMap":
        """The map of a range of target indices."""
        return _AxisMap(self.lower[span], self.upper[span], self.weight[span])

    def moved(self, by: int) -> "_AxisMap":
        """The map with all source indices moved."""
        return _AxisMap(self.lower + by, self.upper + by, self.weight)

    def interpolated(self, values: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
        """``values`` carried over linearly along one of their axes. Two copies of the result are held meanwhile."""
        result: NDArray[np.float32] = np.take(values, self.lower, axis=axis)
        rise = np.take(values, self.upper, axis=axis)
        rise -= result
        rise *= np.expand_dims(self.weight, tuple(range(1, values.ndim - axis)))
        result += rise
        return result


def resample_linear(array: NDArray[Any], source: Geometry, target: Geometry) -> NDArray[np.float32]:
    """Trilinear interpolation of ``array`` (on ``source``, any real dtype) onto ``target``, as float32.

    Beyond the outermost voxel centres the nearest value is repeated. Equals MONAI's ``Spacingd(mode="bilinear")``.

    Raises:
        GeometryError: the array is not on ``source``; the axes are not parallel; ``target`` reaches out of ``source``.

    Example:
        >>> line = Geometry((3, 1, 1), np.eye(4))
        >>> fine = line.resampled((0.5, 1.0, 1.0))
        >>> resample_linear(np.array([0, 2, 4]).reshape(3, 1, 1), line, fine).ravel().tolist()
        [0.0, 1.0, 2.0, 3.0, 4.0]
    """
    view, axes = _aligned(array, source, target)
    order = _slowest_first(view)
    slabs = view.transpose(order)
    across, rows, columns = (axes[axis] for axis in order)

    def plane(index: int) -> _Plane:
        return columns.interpolated(rows.interpolated(slabs[index].astype(np.float32, copy=False), 0), 1)

    planes = _PlaneCache(plane)
    result = np.empty([target.shape[axis] for axis in order], dtype=np.float32)
    for row, lower, upper, weight in _steps(across):
        result[row] = planes[lower]
        if weight > 0:
            result[row] += (planes[upper] - planes[lower]) * weight
    return result.transpose(np.argsort(order))


def resample_nearest(array: NDArray[Any], source: Geometry, target: Geometry) -> NDArray[Any]:
    """The nearest voxel's value (dtype kept); of two equally near ones the one with the lower source index.

    Raises:
        GeometryError: as for ``resample_linear``.
    """
    view, axes = _aligned(array, source, target)
    return view[np.ix_(*(axis.nearest for axis in axes))]


def resample_vote(array: NDArray[np.uint8], source: Geometry, target: Geometry) -> NDArray[np.uint8]:
    """Label maps by "linear vote": each label's mask is interpolated linearly and the largest share wins.

    Smoother than the nearest voxel when the grids differ, and never invents a label. Equal shares go to the lower id.
    Works label by label inside its bounding box; beside the result two float32 arrays of the target's size are held.

    Raises:
        GeometryError: as for ``resample_linear``.
    """
    view, axes = _aligned(array, source, target)
    best = np.zeros(target.shape, dtype=np.uint8)
    share_of_best = np.zeros(target.shape, dtype=np.float32)
    share_of_background = np.ones(target.shape, dtype=np.float32)
    for label, source_box in enumerate(_label_boxes(view), start=1):
        if source_box is None:
            continue
        box = _target_box(axes, source_box)
        share = _share(view, label, axes, box)
        wins = share > share_of_best[box] + _SHARE_TOLERANCE
        best[box][wins] = label
        share_of_best[box][wins] = share[wins]
        share_of_background[box] -= share
    best[share_of_best <= share_of_background + _SHARE_TOLERANCE] = 0
    return best


def _label_boxes(view: NDArray[np.uint8]) -> Sequence[tuple[slice, ...] | None]:
    boxes: Sequence[tuple[slice, ...] | None] = find_objects(view)
    return boxes


def _share(view: NDArray[np.uint8], label: int, axes: list[_AxisMap], box: tuple[slice, ...]) -> NDArray[np.float32]:
    """The interpolated mask of ``label`` on the part ``box`` of the target grid."""
    parts = [axis.part(span) for axis, span in zip(axes, box, strict=True)]
    drawn_on = tuple(slice(int(part.lower.min()), int(part.upper.max()) + 1) for part in parts)
    share: NDArray[np.float32] = (view[drawn_on] == label).astype(np.float32)
    for number, (part, span) in enumerate(zip(parts, drawn_on, strict=True)):
        share = part.moved(-span.start).interpolated(share, number)
    return share


def _target_box(axes: list[_AxisMap], source_box: tuple[slice, ...]) -> tuple[slice, ...]:
    """The target indices that draw on any source index in ``source_box``."""
    box = []
    for axis, used in zip(axes, source_box, strict=True):
        touched = np.flatnonzero((axis.upper >= used.start) & (axis.lower < used.stop))
        box.append(slice(int(touched[0]), int(touched[-1]) + 1) if touched.size else slice(0, 1))
    return tuple(box)


class _PlaneCache:
    """The planes computed last. Neighbouring target rows share source planes, so three are enough."""

    def __init__(self, compute: Callable[[int], _Plane]) -> None:
        self._compute = compute
        self._planes: dict[int, _Plane] = {}

    def __getitem__(self, index: int) -> _Plane:
        if index not in self._planes:
            if len(self._planes) == 3:
                del self._planes[next(iter(self._planes))]
            self._planes[index] = self._compute(index)
        return self._planes[index]


def _steps(axis: _AxisMap) -> list[tuple[int, int, int, float]]:
    return [
        (row, int(lower), int(upper), float(weight))
        for row, (lower, upper, weight) in enumerate(zip(axis.lower, axis.upper, axis.weight, strict=True))
    ]


def _aligned(array: NDArray[Any], source: Geometry, target: Geometry) -> tuple[NDArray[Any], list[_AxisMap]]:
    """A view of ``array`` with its axes in the target's order, and the map along each of them."""
    if array.shape != source.shape:
        raise GeometryError(f"the array's shape {array.shape} is not that of its grid {source.shape}")
    source_from_target = np.linalg.solve(source.affine, target.affine)
    linear, offset = source_from_target[:3, :3], source_from_target[:3, 3]
    source_axis = [int(axis) for axis in np.abs(linear).argmax(axis=0)]  # for each target axis
    _refuse_not_parallel(linear, source_axis, target.shape)
    view = array.transpose(source_axis)
    maps = [
        _axis_map(linear[axis, number], offset[axis], view.shape[number], target.shape[number])
        for number, axis in enumerate(source_axis)
    ]
    return view, maps


def _refuse_not_parallel(linear: NDArray[np.floating], source_axis: list[int], shape: Shape) -> None:
    rest = linear.copy()
    for number, axis in enumerate(source_axis):
        rest[axis, number] = 0.0
    drift = float((np.abs(rest) @ (np.array(shape) - 1)).max())
    if sorted(source_axis) != [0, 1, 2] or drift > _PARALLEL_TOLERANCE_VOXELS:
        raise GeometryError(f"the two grids are rotated against each other (by up to {drift:.3g} voxels)")


def _axis_map(scale: float, offset: float, source_size: int, target_size: int) -> _AxisMap:
    # Rounded, so that a centre that meets a source voxel within float error meets it exactly.
    position = np.round(np.arange(target_size) * scale + offset, 6)
    beyond = max(-float(position.min()), float(position.max()) - (source_size - 1))
    # A coarse target may end up to half its own voxel beyond a fine source (and the reverse).
    if beyond > _OUTSIDE_TOLERANCE_VOXELS * max(1.0, abs(scale)):
        raise GeometryError(f"the target grid reaches {beyond:.2f} voxels beyond the source grid")
    position = np.clip(position, 0, source_size - 1)
    lower = np.floor(position).astype(np.intp)
    upper = np.minimum(lower + 1, source_size - 1)
    return _AxisMap(lower, upper, (position - lower).astype(np.float32))


def _slowest_first(view: NDArray[Any]) -> list[int]:
    """The axes by their stride in memory (of equal ones the longer first), so that planes are read in one piece."""
    return sorted(range(3), key=lambda axis: (abs(view.strides[axis]), view.shape[axis]), reverse=True)
