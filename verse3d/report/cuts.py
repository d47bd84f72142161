"""Through which point to cut a volume so that its three planes show the vertebrae."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, vertebra
from verse3d.core.preview import Preview

_POSITION = {label.id: number for number, label in enumerate(VERTEBRAE)}
_OFTEN_ABSENT = {vertebra(name).id for name in ("T13", "L6")}
_BODY_SHARE = 0.5
_VERTEBRA_HALF_HEIGHT_MM = 20.0
_LOOK_EVERY_MM, _SPINE_HALF_WIDTH_MM = 3.0, 40.0
_BONE_HU = (250.0, 3000.0)


@dataclass(frozen=True, eq=False)
class LabelPlace:
    """Where a label lies, in indices of the volume turned to RAS.

    Attributes:
        id: of the label.
        voxels: how many it has.
        centre: mean index (3,) of its voxels.
        coronal_voxels: how many of them each coronal plane of the volume cuts.
        axial_voxels: how many of them each axial plane of the volume cuts.
        middle: index (3,) below which half of its voxels lie, axis by axis; stray pieces hardly move it.
        extent_mm: its size along the three axes.
    """

    id: int
    voxels: int
    centre: NDArray[np.float64]
    coronal_voxels: NDArray[np.int64]
    axial_voxels: NDArray[np.int64]
    middle: NDArray[np.int64]
    extent_mm: tuple[float, float, float]


def label_places(mask: NDArray[Any], geometry: Geometry) -> tuple[LabelPlace, ...]:
    """The place of every label; vertebrae of VerSe from head to tail, then the other ids in ascending order.

    Args:
        mask: label ids (I, J, K), any unsigned dtype; only one box per label is copied.
        geometry: its grid.

    Raises:
        GeometryError: the mask does not have the shape of the geometry.
    """
    if mask.shape != geometry.shape:
        raise GeometryError(f"a mask of shape {mask.shape} does not lie on a grid of shape {geometry.shape}")
    turned, grid = nib.apply_orientation(mask, nib.io_orientation(geometry.affine)), geometry.reoriented("RAS")
    # The box of every id from 1 on, sought in the order in which the voxels lie in memory.
    slowest_first = np.argsort(-np.abs(turned.strides), kind="stable")
    back = np.argsort(slowest_first)
    boxes = enumerate(scipy.ndimage.find_objects(turned.transpose(slowest_first)), start=1)
    places = [_place(turned, number, tuple(box[axis] for axis in back), grid) for number, box in boxes if box]
    return tuple(sorted(places, key=lambda place: (_POSITION.get(place.id, len(_POSITION)), place.id)))


def _place(turned: NDArray[Any], label: int, box: tuple[slice, ...], grid: Geometry) -> LabelPlace:
    inside = turned[box] == label
    profiles = [np.count_nonzero(inside, axis=tuple({0, 1, 2} - {axis})) for axis in range(3)]
    starts = np.array([part.start for part in box])
    coronal, axial = (np.zeros(turned.shape[axis], dtype=np.int64) for axis in (1, 2))
    coronal[box[1]], axial[box[2]] = profiles[1], profiles[2]
    x, y, z = (float(size * mm) for size, mm in zip(inside.shape, grid.spacing_mm, strict=True))
    return LabelPlace(
        id=label,
        voxels=int(profiles[0].sum()),
        centre=starts + [np.average(np.arange(len(profile)), weights=profile) for profile in profiles],
        coronal_voxels=coronal,
        axial_voxels=axial,
        middle=starts + [int(np.searchsorted(np.cumsum(profile), profile.sum() / 2)) for profile in profiles],
        extent_mm=(x, y, z),
    )


def cut_through(places: Sequence[LabelPlace], geometry: Geometry) -> NDArray[np.float64]:
    """World mm (3,) of a point whose planes show as much as possible of these labels.

    The sagittal plane goes through their midline (the median of their centres), the coronal one through as many of
    their bodies as possible, the axial one through the middle label. Of a single label (all vertebrae in one, with
    stray pieces) the medians of its voxels count. Without any label it is the volume's middle.
    """
    grid = geometry.reoriented("RAS")
    if not places:
        return grid.world_from_index((np.array([grid.shape]) - 1) / 2).reshape(3)
    if len(places) == 1:
        # Of a column of vertebrae the fullest plane near the middle is a body with its arch, and no disc.
        only, reach = places[0], int(_VERTEBRA_HALF_HEIGHT_MM / grid.spacing_mm[2])
        first = max(0, int(only.middle[2]) - reach)
        axial = first + int(np.argmax(only.axial_voxels[first : int(only.middle[2]) + reach + 1]))
        index = (only.middle[0], _coronal_index(places), axial)
        return grid.world_from_index(np.rint([index])).reshape(3)
    # Medians: one label that a network invented far away does not pull the planes off.
    centres = np.array([place.centre for place in places])
    heights = np.sort(centres[:, 2])
    index = (np.median(centres[:, 0]), _coronal_index(places), heights[len(heights) // 2])
    return grid.world_from_index(np.rint([index])).reshape(3)


def cut_through_bone(scan: Preview) -> NDArray[np.float64] | None:
    """World mm (3,) of a point that should lie in the spine of a CT; None if nothing near its middle is bone.

    Looks at every third millimetre and at most 40 mm to the left and right of the middle, where bone is spine, for the
    coronal plane with most of it.
    """
    geometry = scan.volume.geometry
    turned = nib.apply_orientation(scan.volume.array, nib.io_orientation(geometry.affine))
    grid = geometry.reoriented("RAS")
    step = np.maximum(1, np.rint(_LOOK_EVERY_MM / np.array(grid.spacing_mm)).astype(int))
    reach = int(_SPINE_HALF_WIDTH_MM / grid.spacing_mm[0])
    first = max(0, grid.shape[0] // 2 - reach)
    near = scan.values(turned[first : grid.shape[0] // 2 + reach + 1 : step[0], :: step[1], :: step[2]])
    bone = (near > _BONE_HU[0]) & (near < _BONE_HU[1])
    if not bone.any():
        return None
    # Smoothed over three planes, so that a single noisy one does not win.
    depth = int(np.argmax(scipy.ndimage.uniform_filter1d(np.count_nonzero(bone, axis=(0, 2)).astype(float), 3)))
    across = np.count_nonzero(bone[:, max(0, depth - 4) : depth + 5], axis=(1, 2))
    x = first + step[0] * np.average(np.arange(len(across)), weights=across)
    return grid.world_from_index(np.rint([(x, depth * step[1], (grid.shape[2] - 1) / 2)])).reshape(3)


def _coronal_index(places: Sequence[LabelPlace]) -> int:
    """The plane that cuts most labels near their largest section, which is that of the body; of those the fullest."""
    # (labels, J): voxels of each label in each coronal plane
    voxels = np.array([place.coronal_voxels for place in places])
    cut = np.count_nonzero(voxels >= _BODY_SHARE * voxels.max(axis=1, keepdims=True), axis=0)
    # By how many labels a plane cuts well, among equals by how many voxels: lexsort takes its last key first.
    return int(np.lexsort((voxels.sum(axis=0), cut))[-1])


def level_place(places: Sequence[LabelPlace], name: str) -> LabelPlace:
    """The place of a vertebra by its name.

    Raises:
        DataError: there is no such vertebra, or it is not in the mask.
    """
    wanted = vertebra(name)
    for place in places:
        if place.id == wanted.id:
            return place
    there = levels_text(place.id for place in places) or "no vertebra"
    raise DataError(f"level {wanted.name} is not in the mask, which holds {there}")


def require_inside(point_mm: ArrayLike, geometry: Geometry) -> None:
    """Check that a point lies in a voxel of the grid.

    Raises:
        DataError: it does not; the message says how far the scan reaches.
    """
    index = geometry.index_from_world(np.reshape(point_mm, (1, 3)))[0]
    if np.all(index >= -0.5) and np.all(index <= np.array(geometry.shape) - 0.5):
        return
    low, high = geometry.corners_mm().min(axis=0), geometry.corners_mm().max(axis=0)
    reach = ", ".join(f"{axis} {a:.0f} ... {b:.0f}" for axis, a, b in zip("xyz", low, high, strict=True))
    place = ", ".join(f"{value:g}" for value in np.ravel(point_mm))
    raise DataError(f"the point ({place}) mm lies outside of the scan, whose voxels reach from {reach} mm")


def levels_text(ids: Iterable[int]) -> str:
    """Names of the vertebrae among some ids, runs joined, e.g. "T9-T11, L1-L5"; T13 and L6 may lack in a run."""
    present = set(ids)
    runs: list[list[str]] = []
    goes_on = False
    for label in VERTEBRAE:
        if label.id in present:
            if not goes_on:
                runs.append([])
            runs[-1].append(label.name)
            goes_on = True
        elif label.id not in _OFTEN_ABSENT:  # T12-L1 is a run for whoever has no T13
            goes_on = False
    return ", ".join(run[0] if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)
