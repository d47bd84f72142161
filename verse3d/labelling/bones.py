"""Single bones in the box of a scan, and what can be measured of them; no names yet."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.geometry import Geometry
from verse3d.core.labels import label_counts
from verse3d.labelling.growing import FREE

CORE = 2
_TIP = 0.005
COARSE_MM = 1.2
_BODY_DEPTH = 0.6
_CUT_AREA, _CUT_DEPTH = 0.2, 0.4
"""A bone is cut by a face of the scan of which it takes so much, in faces of a cube as large as the bone, and to which
its body is so near, in sides of that cube: half a body's height. The tip of a process takes little, and where the edge
of the next vertebra hangs together with a bone, its body is far."""


@dataclass(frozen=True)
class Bone:
    """One bone, whatever it is called.

    Attributes:
        number: its value in the map.
        centre_mm: of its thickest part, which is the body, world RAS+ mm.
        volume_ml: of what is in view.
        is_cut: whether the scan ends in the middle of it. A tip cut off a process does not count.
        width_mm: how far it reaches from left to right, processes included; NaN if that is not known.
        arch_mm: how far the middle of all of it lies behind that of its body; NaN if that is not known.
    """

    number: int
    centre_mm: tuple[float, float, float]
    volume_ml: float
    is_cut: bool
    width_mm: float = float("nan")
    arch_mm: float = float("nan")


@dataclass(frozen=True, eq=False)
class BoneMap:
    """Which bone each voxel belongs to.

    Attributes:
        numbers: uint8 (i, j, k), 0 for none; a box of the grid of the scan.
        start: index of its first voxel.
        bones: all of them.
        dropped_ml: volume of foreground that belongs to no bone.
    """

    numbers: NDArray[np.uint8]
    start: tuple[int, int, int]
    bones: tuple[Bone, ...]
    dropped_ml: float = 0.0

    @property
    def box(self) -> tuple[slice, slice, slice]:
        """Where ``numbers`` lie in the scan."""
        i, j, k = (slice(first, first + n) for first, n in zip(self.start, self.numbers.shape, strict=True))
        return i, j, k

    def write(self, ids: NDArray[np.uint8], labels: NDArray[np.uint8]) -> None:
        """Fill ``labels``, the whole scan, with ``ids`` by the number of the bone, (256,); 0 where there is none."""
        if not self.numbers.size:
            labels[...] = 0  # there may have been something, though no bone
        inside = labels[self.box]
        for target, numbers in zip(inside, self.numbers, strict=True):  # plane by plane: NumPy widens indices
            target[...] = ids[numbers]


@dataclass(frozen=True)
class CoarseGrid:
    """Every so many voxels of a fine grid.

    Attributes:
        step: voxels of the fine grid along each axis.
        spacing_mm, voxel_ml: of the coarse one.
    """

    step: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    voxel_ml: float

    @classmethod
    def of(cls, geometry: Geometry) -> "CoarseGrid":
        """About ``COARSE_MM``, 0.8 to 1.6 mm, and never finer than the grid itself."""
        # A spacing of 0.85 mm takes every voxel, one of 0.8 mm every second (1.2 / 0.8 is a little less than 1.5).
        i, j, k = (max(1, int(COARSE_MM / mm + 0.501)) for mm in geometry.spacing_mm)
        # (i, j, k) are voxels, not mm: thick slices are taken as they are, thin ones every so many.
        x, y, z = geometry.spacing_mm
        return cls((i, j, k), (i * x, j * y, k * z), i * j * k * geometry.voxel_ml)

    def taken(self, fine: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The voxels of a fine map (or box) that are on the coarse grid."""
        i, j, k = self.step
        # In memory of its own, because it is walked over several times.
        return np.ascontiguousarray(fine[::i, ::j, ::k])

    def hand_out(
        self, coarse: NDArray[np.uint8], owners: NDArray[np.uint8], cores: NDArray[np.uint8] | None = None
    ) -> None:
        """Give ``FREE`` voxels to whoever owns the coarse voxel that they belong to, in place.

        Args:
            coarse: owners on the coarse grid.
            owners: of every voxel, with a plane of 0 around.
            cores: a map of parts; only its cores are given away.
        """
        inside = owners[1:-1, 1:-1, 1:-1]
        i, j, k = self.step
        for plane in range(coarse.shape[0]):
            thick = slice(plane * i, plane * i + i)
            # One coarse plane stands for i fine ones; at the far faces it may reach beyond the box.
            own = coarse[plane].repeat(j, 0).repeat(k, 1)[: inside.shape[1], : inside.shape[2]]
            target = inside[thick]
            given = (target == FREE) & (own > 0)
            if cores is not None:
                given &= cores[thick] == CORE
            np.copyto(target, np.broadcast_to(own, target.shape), where=given)


def measured_bones(
    numbers: NDArray[np.uint8], start: tuple[int, int, int], coarse: CoarseGrid, geometry: Geometry
) -> tuple[Bone, ...]:
    """Measure what is in a box of the scan that begins at ``start``."""
    volumes = label_counts(numbers) * geometry.voxel_ml
    faces = list(_faces(numbers, start, geometry))
    sampled = coarse.taken(numbers)
    found = []
    for number, box in enumerate(ndimage.find_objects(sampled), start=1):
        if box is None:
            continue
        # Padded, so that the edge of the box counts as the bone's surface and not as more of it.
        bone = np.pad(sampled[box] == number, 1)
        depth = ndimage.distance_transform_edt(bone, sampling=coarse.spacing_mm)[1:-1, 1:-1, 1:-1]
        # A vertebra is 25 mm thick in its body and 10 mm in its processes: the middle of its thickest part is that of
        # its body.
        deep = np.argwhere(depth >= _BODY_DEPTH * depth.max())
        # index: (1, 3) on the coarse grid of the box, whose first voxel is ``start`` in the scan.
        index = deep.mean(axis=0, keepdims=True) + [side.start for side in box]
        centre = start + index * coarse.step
        x, y, z = geometry.world_from_index(centre)[0].tolist()
        side = (1000.0 * volumes[number]) ** (1 / 3)  # of a cube as large as the bone, mm
        is_cut = any(
            areas[number] > _CUT_AREA * side**2
            and abs(centre[0, axis] - at) * geometry.spacing_mm[axis] < _CUT_DEPTH * side
            for axis, at, areas in faces
        )
        # mm from the first voxel of its box
        steps_mm = geometry.affine[:3, :3] * coarse.step
        all_mm, deep_mm = np.argwhere(bone[1:-1, 1:-1, 1:-1]) @ steps_mm.T, deep @ steps_mm.T
        width_mm, arch_mm = _width_mm(all_mm[:, 0]), float(deep_mm[:, 1].mean() - all_mm[:, 1].mean())
        shape = (float("nan"), float("nan")) if is_cut else (width_mm, arch_mm)
        found.append(Bone(number, (x, y, z), float(volumes[number]), is_cut, *shape))
    return tuple(found)


def _width_mm(across_mm: NDArray[np.float64]) -> float:
    """From left to right, without the outermost half per cent of its voxels on either side."""
    left, right = np.quantile(across_mm, (_TIP, 1.0 - _TIP))
    return float(right - left)


def _faces(
    numbers: NDArray[np.uint8], start: tuple[int, int, int], geometry: Geometry
) -> Iterator[tuple[int, int, NDArray[np.floating]]]:
    """The faces of the scan that the box reaches: axis, plane, and how much of it each bone takes, mm² (256,)."""
    for axis in range(3):
        face_mm2 = 1000.0 * geometry.voxel_ml / geometry.spacing_mm[axis]
        for plane in {0, geometry.shape[axis] - 1}:
            # Counted in the box; outside of it no bone touches them.
            if 0 <= plane - start[axis] < numbers.shape[axis]:
                yield axis, plane, label_counts(np.take(numbers, [plane - start[axis]], axis)) * face_mm2
