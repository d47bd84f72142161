"""The shapes of real vertebrae: each label of a VerSe mask as a smooth signed distance, whatever grid it came on.

Distances are interpolated instead of labels (shape-based interpolation; Raya and Udupa, IEEE TMI 1990;9:32), so slices
of 3 mm leave no steps. The frame is the mask's own: mm along its axes, right, front and up; how the scan was tilted in
the scanner's room is left out, so a mask gives the same shapes however its axes are stored.
"""

from dataclasses import dataclass
from pathlib import Path

import nibabel as nib
import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, find_objects, gaussian_filter, map_coordinates, zoom

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, present_ids, require_known_ids
from verse3d.core.limits import require_ct_grid, voxel_count
from verse3d.core.resample import resample_vote
from verse3d.core.volume import read_geometry, read_labels
from verse3d.phantoms.render import FAR_MM
from verse3d.phantoms.shapes import Array

Vector = NDArray[np.float64]

_FINEST_MM = 0.9
_SMOOTH_MM = 0.7
_ROOM_MM = 9.0
_CUT_MM2 = 100.0
_MOST_VOXELS = 500_000_000
_FEWEST_MM3 = 500.0
_MOST_POINTS = 2000


@dataclass(frozen=True, eq=False)
class BoneShape:
    """One vertebra of a mask.

    Attributes:
        name: "C1" ... "L6", "T13".
        distance: mm to its surface, negative inside, float32; axes grow to the right, front and head.
        origin: place (mm) of the first sample.
        step: mm between samples along each axis.
        centre: the point (mm) deepest inside: the middle of the body, of the atlas a lateral mass.
        radius: its depth, mm.
    """

    name: str
    distance: Array
    origin: Vector
    step: Vector
    centre: Vector
    radius: float

    def at(self, points: Array) -> Array:
        """Distances (mm, float32) at points (3, ...), mm; at most 9 beyond the samples."""
        column = (3, *[1] * (points.ndim - 1))
        index = (points - self.origin.reshape(column)) / self.step.reshape(column)
        return np.asarray(map_coordinates(self.distance, index, order=1, cval=FAR_MM), np.float32)

    def cloud_mm(self) -> Vector:
        """Up to some thousand points (N, 3) of the bone, its outermost ones among them."""
        inside = np.argwhere(self.distance < 0)
        ends = [pick(inside[:, axis]) for axis in range(3) for pick in (np.argmin, np.argmax)]
        chosen = np.concatenate([inside[:: max(len(inside) // _MOST_POINTS, 1)], inside[ends]])
        return np.asarray(self.origin + chosen * self.step)


def read_shapes(path: Path) -> tuple[BoneShape, ...]:
    """The whole vertebrae of a mask, head to tail. Those that its upper or lower face cuts are left out.

    Raises:
        DataError: the file is unreadable or too large, holds ids that are not VerSe's, or no whole vertebra.
        GeometryError: its voxels cannot be those of a CT.
    """
    labels, step = _upright(*require_vertebrae(path))
    boxes = find_objects(labels)
    found = []
    for label in VERTEBRAE:
        box = boxes[label.id - 1] if label.id <= len(boxes) else None
        if box is not None and _is_whole(labels, label.id, step):
            found.append(_shape(label.name, labels, label.id, box, step))
    if not found:
        raise DataError(f"{path} holds no whole vertebra", hint="choose a mask with vertebrae away from its ends")
    return tuple(found)


def require_vertebrae(path: Path) -> tuple[NDArray[np.uint8], Geometry]:
    """The voxels of a mask with VerSe's ids, and their grid.

    Raises:
        DataError: the file is unreadable or too large, is empty or binary, or holds ids that are not VerSe's.
        GeometryError: its voxels cannot be those of a CT.
    """
    geometry, _ = read_geometry(path)
    if voxel_count(geometry.shape) > _MOST_VOXELS:
        raise DataError(f"{path} is too large: {geometry.shape} voxels, expected at most {_MOST_VOXELS:,} in all")
    require_ct_grid(geometry)
    volume = read_labels(path)
    found = present_ids(volume.array) - {0}
    if not found:
        raise DataError(f"{path} is empty: no voxel has a label", hint="leave it out")
    if found in ({1}, {255}):
        raise DataError(
            f"{path} is binary: it tells bone from background, not vertebrae apart",
            hint="use masks with VerSe's ids, 1 (C1) to 25 (L6) and 28 (T13)",
        )
    try:
        require_known_ids(found)
    except DataError as error:
        raise DataError(f"{path}: {error.message}", hint=error.hint) from None
    return volume.array.astype(np.uint8, copy=False), geometry


def _upright(array: NDArray[np.uint8], geometry: Geometry) -> tuple[NDArray[np.uint8], Vector]:
    """The labels with axes to the right, front and head, cut to the bones and 1 voxel around, and their spacing."""
    change = nib.orientations.ornt_transform(nib.io_orientation(geometry.affine), nib.orientations.axcodes2ornt("RAS"))
    upright = nib.orientations.apply_orientation(array, change)
    # Rounded, because a turned affine has spacings of .9999999, and sizes are counted in them.
    spacing = np.round(geometry.reoriented("RAS").spacing_mm, 4)
    # Only the mask's own frame is kept: a diagonal affine, wherever the scanner stood.
    own = Geometry(upright.shape, np.diag([*spacing, 1.0]))
    x, y, z = np.maximum(spacing, _FINEST_MM).tolist()
    coarse = own.resampled((x, y, z))
    return (resample_vote(upright, own, coarse) if coarse != own else upright), np.array([x, y, z])


def _is_whole(labels: NDArray[np.uint8], label: int, step: Vector) -> bool:
    """Large enough for a vertebra, and hardly touching the upper or lower face."""
    if np.count_nonzero(labels == label) * np.prod(step) < _FEWEST_MM3:
        return False
    faces = max(np.count_nonzero(labels[:, :, end] == label) for end in (0, -1))
    return bool(faces * step[0] * step[1] < _CUT_MM2)


def _shape(name: str, labels: NDArray[np.uint8], label: int, box: tuple[slice, ...], step: Vector) -> BoneShape:
    room = np.ceil(_ROOM_MM / step).astype(int)
    start = np.array([span.start for span in box]) - room
    # Beyond the mask's faces there is nothing, so a process that a side face cuts ends there.
    inside = np.pad(labels[box] == label, [(n, n) for n in room])
    signed = distance_transform_edt(~inside, sampling=step) - distance_transform_edt(inside, sampling=step)
    # Thick axes are brought to about 1 mm, smoothly; first and last samples stay where they are.
    factors = np.maximum(np.round(step), 1)
    sizes = (np.array(signed.shape) - 1) * factors + 1
    fine = signed.astype(np.float32)
    if np.any(factors > 1):
        fine = np.asarray(zoom(fine, sizes / signed.shape, order=3))
    finer = step * (np.array(signed.shape) - 1) / (np.array(fine.shape) - 1)
    smooth = gaussian_filter(fine, _SMOOTH_MM / finer)
    depth = float(smooth.min())
    deep = np.argwhere(smooth < 0.85 * depth) * finer
    # Not the deepest sample alone: it may lie anywhere in a body that is wider than high. Those near it, because the
    # atlas is as deep on both sides of the canal.
    near = np.linalg.norm(deep - np.array(np.unravel_index(smooth.argmin(), smooth.shape)) * finer, axis=1)
    deepest = deep[near < -1.5 * depth].mean(axis=0)
    origin = start * step
    return BoneShape(name, np.minimum(smooth, FAR_MM), origin, finer, origin + deepest, -depth)
