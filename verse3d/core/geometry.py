"""Where voxels lie: shape and affine as one immutable value, and what reorienting, resampling and cropping do to it.

The world is RAS+ millimetres (x grows to the patient's right, y to the front, z to the head). Indices are voxel
centres, axes are called i, j, k. Nothing here touches voxels.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import GeometryError

Shape = tuple[int, int, int]
SpacingMm = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Geometry:
    """A voxel grid in the world.

    Args:
        shape: voxels along i, j, k; each at least 1.
        affine: 4 x 4, maps an index (i, j, k, 1) to world mm (RAS+). A read-only float64 copy is kept.

    Raises:
        GeometryError: the shape is not three positive numbers; the affine is not 4 x 4, not finite,
            singular, or its last row is not 0 0 0 1.

    Example:
        >>> grid = Geometry((10, 20, 30), np.diag([1.0, 1.0, 2.0, 1.0]))
        >>> grid.axis_codes, grid.spacing_mm
        (('R', 'A', 'S'), (1.0, 1.0, 2.0))
    """

    shape: Shape
    affine: NDArray[np.float64]

    def __post_init__(self) -> None:
        shape = np.asarray(self.shape)
        if shape.shape != (3,) or np.any(shape < 1) or np.any(shape != np.floor(shape)):
            raise GeometryError(f"a geometry has three axes of at least one whole voxel, got shape {self.shape!r}")
        # A frozen dataclass can be completed only past its own setter.
        object.__setattr__(self, "shape", _shape(shape))
        object.__setattr__(self, "affine", _checked_affine(self.affine))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Geometry):
            return NotImplemented
        return self.shape == other.shape and bool(np.array_equal(self.affine, other.affine))

    def __hash__(self) -> int:
        return hash((self.shape, (self.affine + 0.0).tobytes()))  # -0.0 equals 0.0 and must hash like it

    @cached_property
    def spacing_mm(self) -> SpacingMm:
        """Distance between neighbouring voxel centres along i, j, k."""
        x, y, z = np.linalg.norm(self.affine[:3, :3], axis=0).tolist()
        return x, y, z

    @property
    def voxel_ml(self) -> float:
        """Volume of one voxel in millilitres."""
        return float(abs(np.linalg.det(self.affine[:3, :3]))) / 1000.0

    @cached_property
    def axis_codes(self) -> tuple[str, str, str]:
        """The anatomical direction that each axis grows towards, e.g. ("P", "I", "R"); the nearest one if oblique."""
        i, j, k = nib.aff2axcodes(self.affine)
        return str(i), str(j), str(k)

    @property
    def skew(self) -> float:
        """Largest absolute cosine between two axes: 0 for a proper scan, > 0 if the affine shears."""
        directions = self.affine[:3, :3] / np.array(self.spacing_mm)
        # Entries off the diagonal are cosines between axes; those on it are 1.
        cosines = directions.T @ directions - np.eye(3)
        return float(np.abs(cosines).max())

    def world_from_index(self, points: ArrayLike) -> NDArray[np.float64]:
        """World mm (N, 3) of index coordinates (N, 3)."""
        return np.asarray(points, dtype=float) @ self.affine[:3, :3].T + self.affine[:3, 3]

    def index_from_world(self, points_mm: ArrayLike) -> NDArray[np.float64]:
        """Index coordinates (N, 3), fractional, of world mm (N, 3)."""
        # Solved rather than multiplied with an inverse, which loses digits where voxels are flat.
        offsets = np.asarray(points_mm, dtype=float) - self.affine[:3, 3]
        return np.asarray(np.linalg.solve(self.affine[:3, :3], offsets.T).T)

    def contains(self, points_mm: ArrayLike) -> NDArray[np.bool_]:
        """Whether each of the world points (N, 3) lies among the voxel centres of the grid, (N,)."""
        index = self.index_from_world(points_mm)
        return np.asarray(((index >= 0) & (index <= np.array(self.shape) - 1)).all(axis=1))

    def corners_mm(self) -> NDArray[np.float64]:
        """World mm (8, 3) of the centres of the corner voxels."""
        # Two affine maps differ most at a corner, so eight points tell about all voxels.
        ends = np.array(self.shape) - 1
        return self.world_from_index([[i, j, k] for i in (0, ends[0]) for j in (0, ends[1]) for k in (0, ends[2])])

    def distance_mm(self, other: "Geometry") -> float:
        """How far the same index lies apart in the two grids, at the worst corner; inf if the shapes differ."""
        if self.shape != other.shape:
            return float("inf")
        return float(np.linalg.norm(self.corners_mm() - other.corners_mm(), axis=1).max())

    def reoriented(self, axis_codes: str | tuple[str, str, str] = "RAS") -> "Geometry":
        """The same voxels with axes permuted and flipped so that they grow towards ``axis_codes``.

        Raises:
            GeometryError: the codes are not one of L/R, one of P/A and one of I/S, in any order.
        """
        codes = tuple(axis_codes)
        if sorted({"L": "R", "P": "A", "I": "S"}.get(code, code) for code in codes) != ["A", "R", "S"]:
            raise GeometryError(f"axis codes name each axis once, e.g. RAS or PIR (L/R, P/A, I/S), got {axis_codes!r}")
        start = nib.io_orientation(self.affine)
        change = nib.orientations.ornt_transform(start, nib.orientations.axcodes2ornt(codes))
        # new index -> old index -> world: a flipped axis begins at the voxel that was its last.
        affine = self.affine @ nib.orientations.inv_ornt_aff(change, self.shape)
        shape = [0, 0, 0]
        for axis, (target, _) in enumerate(change):
            shape[int(target)] = self.shape[axis]
        return Geometry(_shape(shape), affine)

    def resampled(self, spacing_mm: SpacingMm) -> "Geometry":
        """The same axes with another spacing. The first voxel's centre stays, the last is met to half a voxel.

        The shape follows MONAI's ``Spacingd`` (``round((n - 1) * old / new + 1)`` per axis).

        Raises:
            GeometryError: the spacing is not three positive numbers.
        """
        if np.shape(spacing_mm) != (3,) or not np.all(np.isfinite(spacing_mm)) or min(spacing_mm) <= 0:
            raise GeometryError(f"spacing_mm must be three positive numbers, got {spacing_mm}")
        # Voxel centres, not edges, are laid over each other:
        #
        #     old    o-----o-----o-----o-----o            n = 5, spacing 1
        #     new    x--------x--------x--------          spacing 1.5: round(4 / 1.5 + 1) = 4, the last one at 4.5
        zoom = np.asarray(spacing_mm, dtype=float) / np.array(self.spacing_mm)
        affine = self.affine.copy()
        affine[:3, :3] *= zoom
        # Rounded twice: 2.4999999 is a half that was computed, and goes where MONAI takes it.
        extent = (np.array(self.shape) - 1) / zoom + 1.0
        return Geometry(_shape(np.round(np.round(extent, 6))), affine)

    def cropped(self, start: ArrayLike, stop: ArrayLike) -> "Geometry":
        """The grid of ``array[start:stop]``; ``start`` may be negative and ``stop`` beyond the end (padding).

        Raises:
            GeometryError: nothing is left along an axis.
        """
        first, last = np.asarray(start, dtype=int), np.asarray(stop, dtype=int)
        affine = self.affine.copy()
        # Only the first voxel moves; directions and spacing are those of before.
        affine[:3, 3] = self.world_from_index(first[None])[0]
        return Geometry(_shape(last - first), affine)

    def to_dict(self) -> dict[str, Any]:
        """Plain lists for JSON: ``{"shape": [3], "affine": [4][4]}``."""
        return {"shape": list(self.shape), "affine": self.affine.tolist()}


def _shape(values: ArrayLike) -> Shape:
    i, j, k = (int(value) for value in np.asarray(values))
    return i, j, k


def _checked_affine(affine: ArrayLike) -> NDArray[np.float64]:
    matrix = np.array(affine, dtype=np.float64)
    if matrix.shape != (4, 4):
        raise GeometryError(f"an affine is a 4 x 4 matrix, got shape {matrix.shape}")
    if not np.all(np.isfinite(matrix)):
        raise GeometryError(f"the affine holds NaN or infinity:\n{matrix}")
    if not np.array_equal(matrix[3], (0, 0, 0, 1)):
        raise GeometryError(f"the last row of an affine is 0 0 0 1, got {matrix[3]}")
    # The determinant of the directions alone says how flat the axes lie, whatever the spacing.
    lengths = np.linalg.norm(matrix[:3, :3], axis=0)
    if np.any(lengths == 0) or abs(np.linalg.det(matrix[:3, :3] / lengths)) < 1e-6:
        raise GeometryError(
            f"the affine is singular, so voxels have no volume:\n{matrix}",
            hint="export the scan from its DICOM series again, or repair the header's sform/qform",
        )
    matrix.setflags(write=False)
    return matrix
