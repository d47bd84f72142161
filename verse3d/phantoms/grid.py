"""Blocks of a voxel grid and the points they hold, in the frame that a shape is drawn in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verse3d.core.geometry import Geometry
from verse3d.phantoms.shapes import Array, Points
from verse3d.phantoms.spine import Pose

Index = NDArray[np.int64]
WORLD = Pose(np.zeros(3), np.eye(3))


@dataclass(frozen=True)
class Block:
    """Voxels ``start`` to ``stop`` (excluded) of a grid; ``refine`` says how many samples per voxel each axis has."""

    start: Index
    stop: Index
    refine: Index

    @property
    def shape(self) -> tuple[int, int, int]:
        """Samples along i, j, k."""
        i, j, k = ((self.stop - self.start) * self.refine).tolist()
        return i, j, k

    @property
    def empty(self) -> bool:
        """Whether the block holds no voxel."""
        return bool(np.any(self.stop <= self.start))

    @property
    def slices(self) -> tuple[slice, slice, slice]:
        """Where the block's voxels lie in an array of the grid's shape."""
        i, j, k = (slice(int(a), int(b)) for a, b in zip(self.start, self.stop, strict=True))
        return i, j, k

    def points(self, geometry: Geometry, pose: Pose = WORLD, every: int = 1) -> Points:
        """The samples' coordinates (mm) in the frame of ``pose``, or of one sample in ``every`` along each axis."""
        # index -> world -> frame of the pose, as one matrix; the rotation is orthonormal, so its transpose turns back.
        matrix = pose.rotation.T @ geometry.affine[:3, :3]
        origin = pose.rotation.T @ (geometry.affine[:3, 3] - pose.centre)
        axes = []
        for axis in range(3):
            # refine 2:   voxel   |   0   |   1   |        samples at -0.25, 0.25, 0.75, 1.25
            #             sample    0   1   2   3
            samples = np.arange(min(every // 2, self.shape[axis] - 1), self.shape[axis], every)
            axes.append(np.asarray(self.start[axis] + (samples + 0.5) / self.refine[axis] - 0.5))
        i, j, k = np.ix_(*axes)
        rows = []
        for (along_i, along_j, along_k), first in zip(matrix, origin, strict=True):
            # x of all points is a sum of three axes: (I, 1, 1) + (1, J, 1) + (1, 1, K), broadcast only at the end
            plane = (along_i * i + (along_j * j + first)).astype(np.float32)
            rows.append(np.asarray(plane + (along_k * k).astype(np.float32)))
        return Points(*rows)

    def geometry(self, coarse: Geometry) -> Geometry:
        """The grid of the samples of a block that starts at the first voxel of ``coarse``."""
        affine = coarse.affine.copy()
        affine[:3, :3] /= self.refine
        affine[:3, 3] = coarse.world_from_index([0.5 / self.refine - 0.5])[0]
        return Geometry(self.shape, affine)

    def averaged(self, samples: Array) -> Array:
        """Mean of each voxel's samples: (refined shape) to (voxel shape)."""
        # (I f, J g, K h) -> (I, f, J, g, K, h) -> mean over f, g, h
        split = [n for size, f in zip(self.stop - self.start, self.refine, strict=True) for n in (int(size), int(f))]
        return np.asarray(samples.reshape(split).mean(axis=(1, 3, 5), dtype=np.float32))


def refinement(geometry: Geometry) -> Index:
    """Samples per voxel and axis that bring the sampling to about 1 mm."""
    return np.maximum(np.round(np.array(geometry.spacing_mm) / 0.95), 1).astype(np.int64)


def slice_refinement(geometry: Geometry) -> Index:
    """Like ``refinement``, but only for axes with slices so thick (1.8 mm) that thin shells would come and go."""
    return np.where(np.array(geometry.spacing_mm) < 1.8, 1, refinement(geometry))


def whole(geometry: Geometry) -> Block:
    """The whole grid, one sample per voxel."""
    return Block(np.zeros(3, np.int64), np.array(geometry.shape), np.ones(3, np.int64))


def block_around(geometry: Geometry, cloud_mm: ArrayLike, pad_mm: float, refine: ArrayLike = (1, 1, 1)) -> Block:
    """The smallest block around world points (N, 3), padded, clipped to the grid (and then perhaps empty)."""
    indices = geometry.index_from_world(cloud_mm)
    pad = pad_mm / np.array(geometry.spacing_mm)
    start = np.floor(indices.min(axis=0) - pad).astype(np.int64)
    stop = np.ceil(indices.max(axis=0) + pad).astype(np.int64) + 1
    # Clipped on both sides, so a shape beside the grid gives a block that ends before it begins.
    first, end = np.maximum(start, 0), np.minimum(stop, geometry.shape)
    return Block(first, end, np.asarray(refine, dtype=np.int64))


def box_corners(low: ArrayLike, high: ArrayLike) -> NDArray[np.float64]:
    """The eight corners (8, 3) of a box."""
    ends = np.array([low, high], dtype=float)
    return np.array([[ends[i, 0], ends[j, 1], ends[k, 2]] for i in (0, 1) for j in (0, 1) for k in (0, 1)])
