"""Measuring every labelled vertebra inside its bounding box: where it is, its pieces, what it touches."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.core.volume import Volume

_LARGE_BOX_VOXELS = 2**25
_TOUCHING_ALSO_AT_CORNERS = np.ones((3, 3, 3), dtype=bool)
OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}

Boxes = Sequence[tuple[slice, ...] | None]
Point = tuple[float, float, float]
Index = tuple[int, int, int]


@dataclass(frozen=True)
class Piece:
    """A connected part of a label: its size and a voxel near its middle (index and world mm)."""

    ml: float
    index: Index
    world_mm: Point


@dataclass(frozen=True)
class Border:
    """A vertebra at an end of the field of view.

    Attributes:
        side: the end in anatomical terms, e.g. "S".
        share: the area on the outermost slice, as a share of the vertebra's largest slice along that axis.
    """

    side: str
    share: float


@dataclass(frozen=True)
class MeasuredVertebra:
    """A labelled vertebra.

    Attributes:
        id: VerSe id.
        name: e.g. "L1".
        ml: volume.
        index: its centroid, as the index of a voxel.
        world_mm: its centroid.
        pieces: connected parts (voxels that share a corner are connected), the largest first.
        borders: ends of the field of view that it touches.
    """

    id: int
    name: str
    ml: float
    index: Index
    world_mm: Point
    pieces: tuple[Piece, ...]
    borders: tuple[Border, ...]


def label_boxes(mask: Volume) -> Boxes:
    """The bounding box of every id (that of id n at n - 1), None for ids that do not occur."""
    boxes: Boxes = scipy.ndimage.find_objects(mask.array)
    return boxes


def measure_vertebrae(mask: Volume, boxes: Boxes) -> tuple[MeasuredVertebra, ...]:
    """All vertebrae of a label map (uint8 or uint16) from head to tail.

    Works label by label in its bounding box: five times the box is held beside the mask.
    """
    found = [(row, boxes[row.id - 1]) for row in VERTEBRAE if row.id <= len(boxes)]
    return tuple(_measure(row.id, row.name, mask, box) for row, box in found if box is not None)


def _measure(label_id: int, name: str, mask: Volume, box: tuple[slice, ...]) -> MeasuredVertebra:
    part = mask.array[box] == label_id
    start = np.array([span.start for span in box])
    # Voxels per plane along each axis: volume, centroid and what touches the border follow from these three rows.
    profiles = [part.sum(axis=tuple(other for other in range(3) if other != axis)) for axis in range(3)]
    middle = start + [float(profile @ np.arange(profile.size)) / float(profile.sum()) for profile in profiles]
    index, world_mm = _place(middle, mask.geometry)
    return MeasuredVertebra(
        id=label_id,
        name=name,
        ml=int(profiles[0].sum()) * mask.geometry.voxel_ml,
        index=index,
        world_mm=world_mm,
        pieces=_pieces(part, start, mask.geometry),
        borders=_borders(profiles, box, mask.geometry),
    )


def _pieces(part: NDArray[np.bool_], start: NDArray[np.intp], geometry: Geometry) -> tuple[Piece, ...]:
    # Only strays far away make such a box: there every second voxel tells enough.
    step = 2 if part.size > _LARGE_BOX_VOXELS else 1
    numbered, count = scipy.ndimage.label(part[::step, ::step, ::step], _TOUCHING_ALSO_AT_CORNERS)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    # Two would do; a third says that there are more.
    largest = np.argsort(sizes, kind="stable")[::-1][:3]
    boxes = scipy.ndimage.find_objects(numbered) if count > 1 else [tuple(slice(0, size) for size in numbered.shape)]
    pieces = []
    for number in largest.tolist():
        inside = np.argwhere(numbered[boxes[number]] == number + 1)
        # Index in the piece's box -> in the label's box, thinned by `step` -> in the mask.
        middle = start + step * (inside.mean(axis=0) + [span.start for span in boxes[number]])
        pieces.append(Piece(int(sizes[number]) * step**3 * geometry.voxel_ml, *_place(middle, geometry)))
    return tuple(pieces)


def _borders(profiles: list[NDArray[Any]], box: tuple[slice, ...], geometry: Geometry) -> tuple[Border, ...]:
    borders = []
    for axis, (profile, span) in enumerate(zip(profiles, box, strict=True)):
        code = geometry.axis_codes[axis]
        # The box begins where the scan does, so the bone may go on beyond it. The axis grows towards `code`.
        if span.start == 0:
            borders.append(Border(OPPOSITE[code], float(profile[0] / profile.max())))
        if span.stop == geometry.shape[axis]:
            borders.append(Border(code, float(profile[-1] / profile.max())))
    return tuple(borders)


def _place(point: NDArray[np.float64], geometry: Geometry) -> tuple[Index, Point]:
    """Voxel index and world mm (to 0.1 mm) of a point in voxels."""
    i, j, k = (round(float(value)) for value in point)
    x, y, z = (round(float(value), 1) for value in geometry.world_from_index(point[None])[0])
    return (i, j, k), (x, y, z)
