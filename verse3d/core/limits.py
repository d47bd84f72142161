"""What no CT exceeds, and what a file and the memory have room for: asked of the header, before any voxel is read.

A header of 348 bytes can promise 30000 x 30000 x 30000 voxels, or voxels of 1500 mm. Whoever believes it is killed by
the system, together with all that was still to be done.
"""

import math
from pathlib import Path
from typing import Any

from nibabel.arrayproxy import ArrayProxy

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry, Shape

SPACING_MM = (0.01, 100.0)
"""The finest micro-CT and the coarsest scout stay well within."""
MOST_VOXELS = 10**12
"""Of a grid: two terabytes in half precision."""
_MOST_UNPACKED = 1032
"""Deflate makes at most so many bytes of one: two bits say "repeat the last 258 bytes"."""


def voxel_count(shape: tuple[Any, ...]) -> int:
    """How many voxels there are, in whole numbers of any size (NumPy's product would overflow)."""
    return math.prod(int(size) for size in shape)


def require_whole_file(path: Path, stored: ArrayProxy) -> None:
    """Compare what the header promises with the length of the file, which for a packed one is a bound.

    Raises:
        EOFError: the file cannot hold so many voxels.
    """
    promised = max(0, int(stored.offset)) + voxel_count(stored.shape) * stored.dtype.itemsize
    most = size = path.stat().st_size
    if path.suffix.lower() == ".gz":
        most *= _MOST_UNPACKED
    if promised > most:
        raise EOFError(f"its header promises {promised:,} bytes, but a file of {size:,} holds at most {most:,}")


def spacing_problem(geometry: Geometry) -> str:
    """Why the voxels cannot be those of a CT; empty if they can."""
    low, high = SPACING_MM
    finest, coarsest = min(geometry.spacing_mm), max(geometry.spacing_mm)
    if low <= finest and coarsest <= high:
        return ""
    size = " x ".join(f"{edge:.4g}" for edge in geometry.spacing_mm)
    return f"voxels of {size} mm cannot be those of a CT (expected are {low:g} to {high:g} mm)"


def require_ct_grid(geometry: Geometry) -> None:
    """Refuse a grid that no CT has.

    Raises:
        GeometryError: the spacing is impossible.
    """
    if problem := spacing_problem(geometry):
        raise GeometryError(problem, hint="repair the header's spacing, or export the scan from its DICOM series again")


def require_countable(shape: Shape, what: str) -> None:
    """Refuse a grid that is larger than any memory.

    Raises:
        GeometryError: it has more than ``MOST_VOXELS``.
    """
    if voxel_count(shape) > MOST_VOXELS:
        size = " x ".join(map(str, shape))
        raise GeometryError(
            f"{what} would have {size} voxels, more than {MOST_VOXELS:.0e}",
            hint="compare the spacing of the scan with grid.spacing_mm of the model's config",
        )
