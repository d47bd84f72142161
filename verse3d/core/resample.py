"""Carrying voxels between two grids whose axes are parallel, one axis at a time.

Reorienting, cropping and changing the spacing keep the directions of the axes, so the map from one index to the other
is a permutation with a scale and an offset per axis, and linear interpolation separates into three 1-D ones. The
volume is walked plane by plane along its slowest axis in memory, or tile by tile where masks come out; beside source
and result only a few planes or tiles are held for each core. The result does not depend on the number of cores.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import DTypeLike, NDArray

from verse3d.core.axismaps import AxisMap, Box, aligned, box_of, cut_to_need, slowest_first, target_box
from verse3d.core.geometry import Geometry
from verse3d.core.memory import background
from verse3d.core.threads import in_ranges

_SHARE_TOLERANCE = 1e-6
_ROUNDING = 1e-5
_TILE = (64, 64, 64)
_Plane = NDArray[np.float32]
Finish = Callable[[_Plane], NDArray[Any]]
"""What becomes of a plane of interpolated values; it may be changed in place."""
Ready = Callable[[int], object]
"""Returns when so many voxels of an array that is being filled are there: the first ones in the order of memory."""


def all_ready(count: int) -> None:
    """Of an array that is there."""


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
    return resample_finished(array, source, target, np.float32, lambda plane: plane)


def resample_finished(
    array: NDArray[Any],
    source: Geometry,
    target: Geometry,
    dtype: DTypeLike,
    finish: Finish,
    *,
    part: Box | None = None,
    ready: Ready = all_ready,
) -> NDArray[Any]:
    """As ``resample_linear``, but each plane passes through ``finish`` and is stored as ``dtype``.

    No volume of float32 is held. ``finish`` gets planes of any orientation and must treat each voxel by itself.
    Of the target only the box ``part`` is made, if it is given: its values are those of the whole.
    An array that is still being filled is followed plane by plane: ``ready`` is asked for each before it is read.

    Raises:
        GeometryError: as for ``resample_linear``.
        Whatever ``ready`` raises.
    """
    view, axes = _aligned_part(array, source, target, part)
    order = slowest_first(view)
    # Laid out in memory as the source is, so that reading and writing run through memory in the same order.
    slowest, middle, fastest = (axes[axis].size for axis in order)
    result: NDArray[Any] = np.empty((slowest, middle, fastest), dtype).transpose(np.argsort(order))
    in_ranges(lambda start, stop: _interpolate(view, axes, result, finish, slice(start, stop), ready), slowest)
    return result


def resample_nearest(array: NDArray[Any], source: Geometry, target: Geometry) -> NDArray[Any]:
    """The nearest voxel's value (dtype kept); of two equally near ones the one with the lower source index.

    Raises:
        GeometryError: as for ``resample_linear``.
    """
    view, axes = aligned(array, source, target)
    # The nearest voxel is the nearest along each axis: rows, columns and planes are picked, nothing is computed.
    return view[np.ix_(*(axis.nearest for axis in axes))]


def resample_above(
    probability: NDArray[np.floating], source: Geometry, target: Geometry, threshold: float
) -> NDArray[np.uint8]:
    """Where ``resample_linear(probability, source, target) > threshold``: 1 there, 0 elsewhere.

    Interpolates only around source voxels above the threshold, tile by tile. The mask lies in memory as in a NIfTI
    file (the first axis runs fastest).

    Args:
        probability: values 0 ... 1, any float dtype.
        source: their grid.
        target: the grid of the mask.
        threshold: 0 ... 1.

    Raises:
        GeometryError: as for ``resample_linear``.
    """
    view, axes = aligned(probability, source, target)
    across, rows, columns = slowest_first(view.T)
    # Reversed in memory and given back turned: in a NIfTI file the first axis runs fastest.
    mask = background(target.shape[::-1])

    def fill(tile: Box) -> None:
        # An interpolated value exceeds the largest of the eight around it by rounding at most.
        ready = _around(view.T, axes[::-1], tile, lambda near: near > threshold - _ROUNDING)
        if ready is None:
            return
        near, maps, box = ready
        values = _carried(near.astype(np.float32), maps, (rows, columns, across))
        mask[tile][box] = values > threshold

    _in_tiles(fill, mask.shape)
    return mask.T


def resample_vote(
    array: NDArray[np.uint8], source: Geometry, target: Geometry, *, part: Box | None = None, undecided: int = 0
) -> NDArray[np.uint8]:
    """Label maps by "linear vote": each label's mask is interpolated linearly and the largest share wins.

    Smoother than the nearest voxel when the grids differ, and never invents a label. Equal shares go to the lower id.
    Works tile by tile, and there label by label inside its bounding box. The result lies in memory as in a NIfTI file
    (the first axis runs fastest).

    Args:
        array: ids on ``source``.
        source: their grid.
        target: the grid of the result.
        part: the box of the target to make; None for all of it.
        undecided: id for voxels where the labels together outweigh the background and none does by itself, e.g.
            shares of .3, .3 and .4. With it the vote on "any label or none" can be read off the result, too.

    Raises:
        GeometryError: as for ``resample_linear``.
    """
    view, axes = _aligned_part(array, source, target, part)
    best = np.zeros([axis.size for axis in axes[::-1]], np.uint8)

    def fill(tile: Box) -> None:
        ready = _around(view.T, axes[::-1], tile, lambda near: near > 0)
        if ready is not None:
            near, maps, box = ready
            _vote(near, maps, best[tile][box], undecided)

    _in_tiles(fill, best.shape)
    return best.T


def _aligned_part(
    array: NDArray[Any], source: Geometry, target: Geometry, part: Box | None
) -> tuple[NDArray[Any], list[AxisMap]]:
    """As ``aligned``, with the maps of a box of the target."""
    view, axes = aligned(array, source, target)
    if part is not None:
        axes = [axis.part(span) for axis, span in zip(axes, part, strict=True)]
    return view, axes


def _in_tiles(work: Callable[[Box], None], shape: tuple[int, ...]) -> None:
    """Call ``work`` with boxes that make up the whole, on all cores."""
    deep, high, wide = _TILE

    def slab(start: int, stop: int) -> None:
        # A slab belongs to one core, and within it tiles follow each other: what is read stays in the cache.
        for row in range(0, shape[1], high):
            for column in range(0, shape[2], wide):
                work((slice(start, stop), slice(row, row + high), slice(column, column + wide)))

    in_ranges(slab, shape[0], deep)


def _around(
    view: NDArray[Any], maps: Sequence[AxisMap], tile: Box, matters: Callable[[NDArray[Any]], NDArray[np.bool_]]
) -> tuple[NDArray[Any], list[AxisMap], Box] | None:
    """What a tile of the target draws on, cut to where something matters; None where nothing does.

    The source part, the maps into it, and the box inside the tile that they fill.
    """
    # source          near                     wanted             what is interpolated
    # +---------+     +-----+  what the        +-----+            +--+  only the part of
    # | . . . . |     |. . .|  tile draws on   |. . .|            |##|  the tile that
    # | . . # # |  -> |. # #|               -> |.+--+|    ->      +--+  draws on it
    # | . . # # |     |. # #|                  |.|##||
    # +---------+     +-----+                  +-+--++
    near, parts = cut_to_need(view, [axis.part(span) for axis, span in zip(maps, tile, strict=True)])
    wanted = box_of(matters(near))
    if wanted is None:
        return None
    box = target_box(parts, wanted)
    return *cut_to_need(near, [axis.part(span) for axis, span in zip(parts, box, strict=True)]), box


def _carried(values: NDArray[np.float32], maps: Sequence[AxisMap], order: Sequence[int]) -> NDArray[np.float32]:
    """Values interpolated along one axis after the other."""
    for axis in order:
        values = maps[axis].interpolated(values, axis)
    return values


def _interpolate(  # noqa: PLR0917 - one call, above
    view: NDArray[Any], maps: Sequence[AxisMap], out: NDArray[Any], finish: Finish, span: slice, ready: Ready
) -> None:
    """Fill the part ``span`` of the slowest axis of ``out`` with the finished planes of ``view``."""
    order = slowest_first(view)
    # Along the slowest axis a target plane lies between two source planes, and neighbours share them. Each source
    # plane is interpolated within itself once, then two of them are mixed:
    #
    #     source planes      0         1         2         3
    #     target rows        |   a   b | c   d   | e   f   |        a, b <- 0, 1      c, d <- 1, 2
    slabs, goal = view.transpose(order), out.transpose(order)[span]
    across, rows, columns = (maps[axis] for axis in order)

    def plane(index: int) -> _Plane:
        ready((index + 1) * slabs[index].size)
        return _carried(slabs[index].astype(np.float32, copy=False), (rows, columns), (0, 1))

    planes = _PlaneCache(plane)
    part = across.part(span)
    with np.errstate(invalid="ignore"):  # of infinity, which is refused when the whole array is there
        for row, (lower, upper) in enumerate(zip(part.lower.tolist(), part.upper.tolist(), strict=True)):
            if (weight := float(part.weight[row])) > 0:
                # lower + weight * (upper - lower), in place: one plane is allocated and not three.
                between = planes[upper] - planes[lower]
                between *= weight
                between += planes[lower]
            else:
                between = planes[lower].copy()
            goal[row] = finish(between)


def _vote(near: NDArray[np.uint8], maps: Sequence[AxisMap], best: NDArray[np.uint8], undecided: int) -> None:
    """Fill ``best`` (all 0) with the labels of ``near`` carried over by ``maps``."""
    near = np.ascontiguousarray(near)
    share_of_best = np.zeros(best.shape, np.float32)
    share_of_background = np.ones(best.shape, np.float32)
    # One label at a time, within the box that it can reach, so that no grid holds labels x voxels.
    boxes: Sequence[Box | None] = scipy.ndimage.find_objects(near)
    for label, source_box in enumerate(boxes, start=1):
        if source_box is None:
            continue
        box = target_box(maps, source_box)
        # Each label's mask is interpolated for itself, where the label is. A share must be larger to win, so of equal
        # ones the lower id stays, which came first.
        part, parts = cut_to_need(near, [axis.part(span) for axis, span in zip(maps, box, strict=True)])
        # The fastest axis first: it reads rows in order, and what it makes is smaller for the other two.
        share = _carried((part == label).astype(np.float32), parts, (2, 1, 0))
        wins = share > share_of_best[box] + _SHARE_TOLERANCE
        np.copyto(best[box], label, where=wins)
        np.copyto(share_of_best[box], share, where=wins)
        # All shares and the background sum to 1, so the background needs no interpolation of its own.
        share_of_background[box] -= share
    # In a tie with the background nothing is labelled.
    share_of_background += _SHARE_TOLERANCE
    none_wins = share_of_best <= share_of_background
    best[none_wins] = 0
    if undecided:
        # All labels together hold 1 - background, so they outweigh it below one half.
        best[none_wins & (2 * share_of_background < 1 + _SHARE_TOLERANCE)] = undecided


class _PlaneCache:
    """The planes computed last. Neighbouring target rows share source planes, so three are enough."""

    def __init__(self, compute: Callable[[int], _Plane]) -> None:
        self._compute = compute
        self._planes: dict[int, _Plane] = {}

    def __getitem__(self, index: int) -> _Plane:
        if index not in self._planes:
            if len(self._planes) == 3:
                oldest = next(iter(self._planes))
                del self._planes[oldest]
            self._planes[index] = self._compute(index)
        return self._planes[index]
