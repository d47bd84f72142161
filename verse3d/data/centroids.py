"""The centroids that come with VerSe, in both of its formats, as world mm.

Subject-based release ("voxel"): the first element ``{"direction": ["P", "I", "R"]}`` names the axes, X, Y, Z are voxel
indices along them (one decimal; NaN where the annotators had none).

MICCAI releases: no direction, X, Y, Z are indices of a copy of the scan with voxels of 1 mm, reoriented. Which way
is written nowhere in the file; in the terms of nibabel, where a letter is the direction in which an axis grows,

- MICCAI'20 counts to P, I, R ("anterior, superior, left" are where its axes begin),
- MICCAI'19 counts to I, P, L.

The edges of that copy are taken to be those of the scan, so world positions are true to about half a millimetre.
``read_centroids`` takes the convention that puts more centroids into their labels if there is a mask, else more of
them into the volume, and of two that do equally well the one that the file's name speaks for ("iso-ctd": '20).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import AfterValidator, Field

from verse3d.core.errors import DataError
from verse3d.core.files import write_json
from verse3d.core.geometry import Geometry
from verse3d.core.readers import MEGABYTE, Record, checked, read_record
from verse3d.core.volume import Volume
from verse3d.core.wording import brief

CENTROID_SUFFIX = "_seg-subreg_ctd.json"
CentroidFormat = Literal["voxel", "miccai19", "miccai20"]
MICCAI_AXES: dict[CentroidFormat, str] = {"miccai20": "PIR", "miccai19": "IPL"}
"""The directions in which X, Y and Z grow."""
_COPY_SPACING_MM = 1.0
_MOST_BYTES = MEGABYTE
_FARTHEST = 1e6
"""Voxels or millimetres; no scan is as long."""
_HINT = 'expected a list of {"label": 20, "X": ..., "Y": ..., "Z": ...}, perhaps after {"direction": ["P", "I", "R"]}'


@dataclass(frozen=True)
class StoredCentroids:
    """What the file says.

    Attributes:
        direction: the axes of X, Y and Z, e.g. "PIR"; "" if it does not say (MICCAI).
        labels: VerSe ids, in the order of the file.
        points: (N, 3) X, Y, Z.
        skipped: labels whose values are not numbers (NaN).
    """

    direction: str
    labels: tuple[int, ...]
    points: tuple[tuple[float, float, float], ...]
    skipped: tuple[int, ...] = ()


@dataclass(frozen=True)
class Centroids:
    """Centroids in the world.

    Attributes:
        format: how they were stored.
        labels: VerSe ids.
        world_mm: RAS+, one per label.
        skipped: labels whose values are not numbers.
        turned_from: the axes that the file names, if they are not those of the scan; else "".
    """

    format: CentroidFormat
    labels: tuple[int, ...]
    world_mm: tuple[tuple[float, float, float], ...]
    skipped: tuple[int, ...] = ()
    turned_from: str = ""


def read_centroids(path: Path, geometry: Geometry, mask: Volume | None = None) -> Centroids:
    """Read a centroid file of either format.

    Args:
        path: the JSON file.
        geometry: the grid of the scan that it belongs to.
        mask: the label map of that scan, on any grid; tells the two MICCAI conventions apart.

    Raises:
        DataError: the file is missing, damaged or no list of centroids.
    """
    stored = parse_centroids(path)
    if stored.direction:
        world = world_from_voxels(stored.points, stored.direction, geometry)
        own = "".join(geometry.axis_codes)
        turned_from = stored.direction if stored.direction != own else ""
        return Centroids("voxel", stored.labels, _rows(world), stored.skipped, turned_from)
    named = "miccai20" if "iso-ctd" in path.name else "miccai19"
    # Neither file says which convention it follows: names hint at it, and the mask decides.
    ordered: list[CentroidFormat] = sorted(MICCAI_AXES, key=lambda each: each != named)
    placed = {each: world_from_miccai(stored.points, each, geometry) for each in ordered}
    best = max(ordered, key=lambda each: _fitting(stored.labels, placed[each], geometry, mask))  # the first of equals
    return Centroids(best, stored.labels, _rows(placed[best]), stored.skipped)


def parse_centroids(path: Path) -> StoredCentroids:
    """Read the file as it is.

    Raises:
        DataError: missing, not JSON, or no list of centroids.
    """
    content = read_record(path, list[dict[str, Any]], max_bytes=_MOST_BYTES, allow_nan=True, hint=_HINT)
    direction = ""
    labels, points, skipped = [], [], []
    for number, element in enumerate(content):
        place = f"{path}, element {number}"
        if "direction" in element:
            codes = list(checked(element, _Direction, place, hint=_HINT).direction)
            if sorted({"L": "R", "P": "A", "I": "S"}.get(code, code) for code in codes) != ["A", "R", "S"]:
                raise DataError(f"{place}: direction {brief(codes)} does not name three axes", hint=_HINT)
            direction = "".join(codes)
            continue
        row = checked(element, _Point, place, hint=_HINT)
        if np.isfinite(row.xyz).all():
            labels.append(row.label)
            points.append(row.xyz)
        else:
            skipped.append(row.label)
    return StoredCentroids(direction, tuple(labels), tuple(points), tuple(skipped))


def _in_reach(value: float) -> float:
    if abs(value) > _FARTHEST:  # never so for NaN, which says that the annotators had none
        raise ValueError(f"lies more than {_FARTHEST:g} away")
    return value


_Coordinate = Annotated[float, Field(allow_inf_nan=True), AfterValidator(_in_reach)]


class _Point(Record):
    """A label and where it lies. Some releases write the label as 20.0."""

    label: Annotated[int, Field(ge=0, le=2**16)]
    X: _Coordinate
    Y: _Coordinate
    Z: _Coordinate

    @property
    def xyz(self) -> tuple[float, float, float]:
        """As one point."""
        return self.X, self.Y, self.Z


class _Direction(Record):
    direction: list[str] | str


def world_from_voxels(points: ArrayLike, direction: str, geometry: Geometry) -> NDArray[np.float64]:
    """World mm (N, 3) of voxel indices (N, 3) that count along the axes ``direction`` of the scan.

    Raises:
        GeometryError: ``direction`` does not name three axes.
    """
    return geometry.reoriented(direction).world_from_index(np.reshape(np.asarray(points, dtype=float), (-1, 3)))


def world_from_miccai(points: ArrayLike, convention: CentroidFormat, geometry: Geometry) -> NDArray[np.float64]:
    """World mm (N, 3) of indices (N, 3) into the copy with 1 mm voxels, whose edges are those of the scan."""
    # indices of the copy -> mm from its edge -> indices of the turned scan -> world
    turned = geometry.reoriented(MICCAI_AXES[convention])
    # The 1 mm copy shares the scan's edges, not its first voxel centre:
    #
    #     scan   |     o     |     o     |       3 mm
    #     copy   | x | x | x | x | x | x |       1 mm
    from_edge_mm = (np.reshape(np.asarray(points, dtype=float), (-1, 3)) + 0.5) * _COPY_SPACING_MM
    return turned.world_from_index(from_edge_mm / np.array(turned.spacing_mm) - 0.5)


def labels_at(world_mm: NDArray[np.float64], mask: Volume) -> list[int | None]:
    """The label of the voxel around each point; None outside of the volume."""
    nearest = np.rint(mask.geometry.index_from_world(world_mm)).astype(int)
    inside = np.all((nearest >= 0) & (nearest < np.array(mask.geometry.shape)), axis=1)
    found: list[int | None] = []
    for index, is_inside in zip(nearest, inside, strict=True):
        found.append(int(mask.array[tuple(index)]) if is_inside else None)
    return found


def _fitting(
    labels: Sequence[int], world_mm: NDArray[np.float64], geometry: Geometry, mask: Volume | None
) -> tuple[int, int]:
    """How many centroids lie in their label, and how many in the volume."""
    # Within the volume up to the edges of the outermost voxels, half a voxel beyond their centres.
    index = geometry.index_from_world(world_mm)
    within = ((index > -0.5) & (index < np.array(geometry.shape) - 0.5)).all(axis=1)
    hits = 0
    if mask is not None:
        # -1 is no label, so a point outside of the volume never hits.
        at_points = [found or -1 for found in labels_at(world_mm, mask)]
        hits = sum(label == found for label, found in zip(labels, at_points, strict=True))
    return hits, int(within.sum())


def _rows(points: NDArray[np.float64]) -> tuple[tuple[float, float, float], ...]:
    return tuple((float(x), float(y), float(z)) for x, y, z in points)


def write_centroids(path: Path, centroids_mm: Mapping[int, NDArray[np.float64]], geometry: Geometry) -> None:
    """Write centroids as VerSe's subject-based release does: the axes, then voxel indices with one decimal.

    Raises:
        OutputError: it cannot be written.
    """
    rows: list[dict[str, Any]] = [{"direction": list(geometry.axis_codes)}]
    for label, centroid in centroids_mm.items():
        index = geometry.index_from_world(centroid[None])[0]
        # One decimal, as the annotators wrote it: a tenth of a voxel is finer than anybody can point.
        x, y, z = (round(float(value), 1) for value in index)
        rows.append({"label": label, "X": x, "Y": y, "Z": z})
    write_json(path, rows)
