"""Signed distance functions: negative inside, positive outside, in mm, exact enough within a few mm of a surface."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# Coordinates, distances and HU are computed in float32; numpy's stubs lose that in many operations.
Array = NDArray[np.floating]
Vec = tuple[float, float, float]


class Points(NamedTuple):
    """Coordinates of many points in mm: three float32 arrays that broadcast to one shape."""

    x: Array
    y: Array
    z: Array

    def mirrored(self) -> "Points":
        """The same points folded onto the half x >= 0, so that one shape draws a left-right pair."""
        return Points(np.abs(self.x), self.y, self.z)


class Plate(NamedTuple):
    """A rounded bar from ``start`` to ``end`` (mm) that is broader along ``up``.

    ``radius`` is half the thickness, ``half_height`` what is added on both sides along ``up`` before rounding; each is
    given at the start and at the end. With ``half_height`` zero it is a (tapered) capsule. ``up`` must not run along.
    """

    start: Vec
    end: Vec
    radius: tuple[float, float]
    half_height: tuple[float, float] = (0.0, 0.0)
    up: Vec = (0.0, 0.0, 1.0)

    def sdf(self, points: Points) -> Array:
        """Distance (mm) of the points to the surface."""
        #         up  ^     _______________
        #             |    /               \
        #       start o---|----------------|---> along, to end      n: out of the page
        #                  \_____________/
        start, along = np.array(self.start), np.subtract(self.end, self.start)
        length = float(np.linalg.norm(along))
        along = along / length
        up = np.array(self.up) - np.dot(self.up, along) * along
        up = up / np.linalg.norm(up)
        offset = Points(*(axis - float(origin) for axis, origin in zip(points, start, strict=True)))
        s, t, n = (dot(offset, axis) for axis in (along, up, np.cross(along, up)))
        part = np.clip(s * (1.0 / length), 0.0, 1.0)
        beyond = s - part * length
        above = np.maximum(np.abs(t) - _blend(self.half_height, part), 0.0)
        return np.asarray(np.sqrt(beyond * beyond + above * above + n * n) - _blend(self.radius, part))


def dot(points: Points, axis: NDArray[np.float64]) -> Array:
    """Dot product of every point with one vector."""
    x, y, z = (float(value) for value in axis)
    return np.asarray(points.x * x + points.y * y + points.z * z)


def _blend(ends: tuple[float, float], part: Array) -> Array | float:
    first, last = ends
    return first if first == last else first + (last - first) * part


def radial(x: Array, y: Array, half_x: float | Array, half_y: float | Array, power: float = 2.0) -> tuple[Array, Array]:
    """Superellipse in the plane: the scaled radius rho (1 on the rim) and the distance from the centre (mm)."""
    u, v = np.abs(x) / half_x, np.abs(y) / half_y
    # power 2 is a circle, more is squarer; both branches, because a general power is slow.
    rho = np.sqrt(u * u + v * v) if power == 2.0 else np.power(np.power(u, power) + np.power(v, power), 1.0 / power)
    return np.maximum(rho, 1e-3), np.sqrt(x * x + y * y)


def ellipse(x: Array, y: Array, half_x: float | Array, half_y: float | Array, power: float = 2.0) -> Array:
    """Distance (mm) to an endless superelliptic cylinder."""
    rho, length = radial(x, y, half_x, half_y, power)
    return np.asarray(length * (1.0 - 1.0 / rho))


def ellipsoid(points: Points, centre: Vec, half: Vec) -> Array:
    """Distance (mm) to an ellipsoid."""
    x, y, z = (axis - float(c) for axis, c in zip(points, centre, strict=True))
    rho = np.sqrt((x / half[0]) ** 2 + (y / half[1]) ** 2 + (z / half[2]) ** 2)
    return np.asarray(np.sqrt(x * x + y * y + z * z) * (1.0 - 1.0 / np.maximum(rho, 1e-3)))


def union(a: Array, b: Array, smooth_mm: float) -> Array:
    """Both shapes, with a fillet of about ``smooth_mm`` where they meet."""
    # Only where both surfaces are about equally near; elsewhere it is the plain minimum.
    share = np.maximum(smooth_mm - np.abs(a - b), 0.0)
    return np.asarray(np.minimum(a, b) - share * share * (0.25 / smooth_mm))


def common(a: Array, b: Array, smooth_mm: float) -> Array:
    """What lies in both shapes, with rounded edges."""
    return -union(-a, -b, smooth_mm)


def carved(a: Array, hole: Array, smooth_mm: float) -> Array:
    """The first shape without the second, with rounded edges."""
    return common(a, -hole, smooth_mm)


def coverage(sdf: Array, width_mm: float) -> Array:
    """Share (0-1) of a voxel of that width that lies inside a shape, from the distance at its centre."""
    return np.asarray(np.clip(0.5 - sdf * (1.0 / width_mm), 0.0, 1.0))
