"""A smooth random deformation: turned, stretched, perhaps mirrored, and displaced a little differently everywhere."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import map_coordinates, zoom

from verse3d.phantoms.shapes import Array
from verse3d.phantoms.spine import rotation_matrix

Vector = NDArray[np.float64]

_FINER = 4
_MARGIN_MM = 60.0
_STEPS_BACK = 8


@dataclass(frozen=True, eq=False)
class Deformation:
    """Where each point of a drawing comes from.

    ``source = centre + matrix @ (point - centre + displacement(point))``, all in mm.

    Attributes:
        centre: stays where it is but for the displacement.
        matrix: rotation, scale and mirror, (3, 3).
        lattice: displacements (mm) on a regular lattice, (3, A, B, C).
        low: place (mm) of the lattice's first point.
        step_mm: between its points.
    """

    centre: Vector
    matrix: Vector
    lattice: Array
    low: Vector
    step_mm: float

    def source(self, points: Array) -> Array:
        """Where points (3, ...) come from."""
        column = (3, *[1] * (points.ndim - 1))
        index = (points - self.low.reshape(column)) / self.step_mm
        moved = points - self.centre.reshape(column)
        for axis in range(3):
            moved[axis] += map_coordinates(self.lattice[axis], index, order=1, mode="nearest")
        return np.asarray(np.tensordot(self.matrix, moved, 1) + self.centre.reshape(column), points.dtype)

    def drawn_at(self, sources: Vector) -> Vector:
        """Where points (N, 3) of the source come to lie: the inverse, found step by step."""
        # point = p - displacement(point) with p undone from rotation and scale; the displacement changes by less than
        # half a mm per mm, so every step at least halves the error.
        undone = np.linalg.solve(self.matrix, (sources - self.centre).T).T + self.centre
        points = undone
        for _ in range(_STEPS_BACK):
            index = ((points - self.low) / self.step_mm).T
            shift = [map_coordinates(part, index, order=1, mode="nearest") for part in self.lattice]
            points = undone - np.stack(shift, axis=1)
        return np.asarray(points)


def draw_deformation(rng: np.random.Generator, low: Vector, high: Vector) -> Deformation:
    """A random deformation of what lies between two corners (mm).

    Rotation up to 10 degrees, scale .85 to 1.15 per axis, mirrored left to right in half of all cases, displaced by up
    to 2.5 mm (standard deviation) with control points 25 to 40 mm apart: more of it, and processes no longer look like
    any that a patient has.
    """
    scale = rng.uniform(0.85, 1.15, 3)
    scale[0] *= rng.choice([-1.0, 1.0])
    matrix = rotation_matrix(*rng.uniform(-10.0, 10.0, 3)) / scale
    apart, strength = float(rng.uniform(25.0, 40.0)), float(rng.uniform(0.5, 2.5))
    size = high - low + 2 * _MARGIN_MM
    controls = rng.standard_normal((3, *(np.ceil(size / apart).astype(int) + 1))).astype(np.float32)
    # A cubic spline through the control points, sampled so finely that straight lines do between.
    lattice = zoom(controls, (1, _FINER, _FINER, _FINER), order=3, grid_mode=False)
    lattice *= strength / float(lattice.std())
    return Deformation((low + high) / 2, matrix, lattice, low - _MARGIN_MM, apart / _FINER)
