"""What the scanner's operator chose: which part of the spine, how wide, how fine, in which axis order, how tilted."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.phantoms.levels import Anomaly
from verse3d.phantoms.spine import Spine, rotation_matrix

Vector = NDArray[np.float64]

_REGIONS = ("lumbar", "cervicothoracic", "thoracolumbar", "thoracic")
_FIRST = {
    "lumbar": ("T10", "T11", "T12", "L1"),
    "cervicothoracic": ("C1", "C2", "C3", "C4"),
    "thoracolumbar": ("T6", "T7", "T8", "T9"),
    "thoracic": ("T1", "T2", "T3", "T4"),
}
_LAST = {
    "lumbar": ("L4", "L5", "L5"),
    "cervicothoracic": ("T1", "T2", "T3"),
    "thoracolumbar": ("L1", "L2", "L3"),
    "thoracic": ("T9", "T10", "T11"),
}
_ORDERS = (("PIR", 0.35), ("LAS", 0.2), ("LPS", 0.15), ("RAS", 0.1), ("ASR", 0.1), ("PIL", 0.1))
_MAX_VOXELS = 4.5e6


@dataclass(frozen=True)
class Headers:
    """NIfTI codes of the two places that can hold the affine; 0 means "not set"."""

    sform_code: int
    qform_code: int


@dataclass(frozen=True)
class View:
    """A field of view: the grid, the vertebrae it was aimed at, and how the header will state it."""

    geometry: Geometry
    aimed_at: tuple[str, ...]
    headers: Headers


def levels_in_view(rng: np.random.Generator, index: int, names: list[str], anomaly: Anomaly | None) -> tuple[str, ...]:
    """Names of the vertebrae, head to tail, that the scan is aimed at; regions take turns with ``index``."""
    region = _REGIONS[index % len(_REGIONS)]
    if anomaly in ("l6", "screw"):
        region = "lumbar"
    if anomaly in ("t13", "t12-missing"):
        region = "thoracolumbar"
    first, last = str(rng.choice(_FIRST[region])), str(rng.choice(_LAST[region]))
    last = names[-1] if anomaly == "l6" or last not in names else last
    first = "T11" if first not in names else first
    return tuple(names[names.index(first) : names.index(last) + 1])


def choose_view(rng: np.random.Generator, spine: Spine, aimed_at: tuple[str, ...]) -> View:
    """A random scan of those vertebrae."""
    targets = [spine.named(name) for name in aimed_at]
    cloud = np.concatenate([vertebra.cloud_mm() for vertebra in targets])
    geometry, headers = grid_around(rng, cloud, shows_sacrum=targets[-1] is spine.vertebrae[-1])
    return View(geometry, aimed_at, headers)


def grid_around(
    rng: np.random.Generator, cloud_mm: Vector, *, shows_sacrum: bool, most_voxels: float = _MAX_VOXELS
) -> tuple[Geometry, Headers]:
    """The grid of a random scan of some bones, and how its header states it.

    Args:
        rng: decides margins, tilt, axis order and spacing.
        cloud_mm: points (N, 3) of the bones, world mm.
        shows_sacrum: whether the scan may reach further down than to the next vertebra.
        most_voxels: a larger scan is made coarser.
    """
    # Directions (3, 3) of right, front and up for this scan: half of all scans are tilted by up to 12 degrees.
    angles = rng.uniform(-1.0, 1.0, 3) * np.array([11.0, 5.0, 5.0])
    frame = rotation_matrix(*angles) if rng.random() < 0.5 else np.eye(3)
    low, high = _extent(rng, cloud_mm @ frame, shows_sacrum)
    codes = str(rng.choice([code for code, _ in _ORDERS], p=[share for _, share in _ORDERS]))
    spacing = _spacing(rng, codes, high - low, most_voxels)
    geometry = _geometry(low, high, frame, codes, spacing)
    # Codes of sform and qform: some files hold both, some only one of them.
    codes_of_both = ((0, 1), (1, 1), (2, 0), (1, 0))
    headers = Headers(*codes_of_both[int(rng.choice(4, p=[0.4, 0.3, 0.15, 0.15]))])
    return geometry, headers


def _extent(rng: np.random.Generator, cloud: Vector, shows_sacrum: bool) -> tuple[Vector, Vector]:
    """Bounds (mm) of the scan along its own axes, in which the points (N, 3) are given; so tilted scans end tilted."""
    low, high = cloud.min(axis=0), cloud.max(axis=0)
    wide = rng.random() < 0.35
    side = rng.uniform(30.0, 95.0) if wide else rng.uniform(4.0, 16.0)
    front, rear = (rng.uniform(30, 120), rng.uniform(20, 60)) if wide else (rng.uniform(8, 25), rng.uniform(4, 14))
    ends = rng.uniform(1.5, 12.0, 2)
    if shows_sacrum:
        # The sacrum is never labelled, so the scan may show as much of it as it likes.
        ends[0] += rng.uniform(0.0, 35.0)
    other_side = side * rng.uniform(0.8, 1.0)
    return low - np.array([side, rear, ends[0]]), high + np.array([other_side, front, ends[1]])


def _spacing(rng: np.random.Generator, codes: str, extent: Vector, most_voxels: float) -> Vector:
    """Millimetres along right, front, up; slices are stacked along the last stored axis."""
    spacing = np.full(3, rng.uniform(0.8, 1.3))
    thick = {"R": 0, "L": 0, "A": 1, "P": 1}.get(codes[2], 2)
    slices = rng.choice([1.0, 1.25, 1.5, 2.0, 2.5, 3.0], p=[0.25, 0.15, 0.2, 0.25, 0.1, 0.05])
    spacing[thick] = max(slices, spacing[0])
    # Too many: coarser by the same factor along all axes, so the field of view stays.
    voxels = float(np.prod(extent / spacing))
    return np.asarray(np.round(spacing * max(voxels / most_voxels, 1.0) ** (1 / 3), 4))


def _geometry(low: Vector, high: Vector, frame: Vector, codes: str, spacing: Vector) -> Geometry:
    affine, shape, origin = np.eye(4), [], np.zeros(3)
    for column, code in enumerate(codes):
        axis = {"R": 0, "L": 0, "A": 1, "P": 1}.get(code, 2)
        sign = 1.0 if code in "RAS" else -1.0
        affine[:3, column] = sign * spacing[axis] * frame[:, axis]
        # The first voxel lies at the low end of an axis that grows to R, A or S, else at the high end.
        origin[axis] = low[axis] if sign > 0 else high[axis]
        shape.append(int(np.ceil((high[axis] - low[axis]) / spacing[axis])) + 1)
    affine[:3, 3] = frame @ origin
    i, j, k = shape
    return Geometry((i, j, k), affine)
