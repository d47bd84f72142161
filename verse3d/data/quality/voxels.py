"""The grey values of a scan, measured plane by plane: histograms, range and fingerprint."""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.volume import Volume
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.record import HU_BIN_WIDTH, HU_BINS, HU_LOWEST


@dataclass(frozen=True)
class VoxelFacts:
    """Counts per HU bin inside and outside of labels, the lowest and the highest value, and the fingerprint."""

    inside: tuple[int, ...]
    outside: tuple[int, ...]
    hu_range: tuple[float, float]
    fingerprint: str


_WITHOUT_NEGATIVES = (
    (1.0, "values scaled to 0 ... 1"),
    (255.0, "an MR image or an 8-bit picture"),
    (1000.0, "an MR image"),  # water alone would be 1024 where HU were shifted
    (math.inf, "HU + 1024, or an MR image"),
)
"""Up to which value a scan without negative ones reaches, and what it then looks like."""


def measure_voxels(image: Volume, mask: NDArray[np.unsignedinteger] | None) -> VoxelFacts:
    """Walk over the planes once; a few of them are held beside the scan.

    Args:
        image: the scan.
        mask: its label map on the same grid (same shape), or None: then everything is outside.
    """
    counts = np.zeros(2 * HU_BINS, dtype=np.int64)
    low, high = np.inf, -np.inf
    digest = _new_digest(image)
    for number, plane in enumerate(np.moveaxis(image.array, -1, 0)):
        digest.update(_plane_bytes(plane))
        low, high = min(low, float(plane.min())), max(high, float(plane.max()))
        bins = _bins(plane)
        if mask is not None:
            bins[mask[..., number] > 0] += HU_BINS
        counts += np.bincount(bins.ravel(order="K"), minlength=2 * HU_BINS)
    return VoxelFacts(
        tuple(counts[HU_BINS:].tolist()), tuple(counts[:HU_BINS].tolist()), (low, high), digest.hexdigest()
    )


def _bins(plane: NDArray[Any]) -> NDArray[np.intp]:
    steps = plane.astype(np.float32)
    steps -= HU_LOWEST
    steps /= HU_BIN_WIDTH
    np.clip(steps, 0, HU_BINS - 1, out=steps)
    bins: NDArray[np.intp] = steps.astype(np.intp)  # cutting off decimals rounds down: nothing is below 0
    return bins


def fingerprint(volume: Volume) -> str:
    """Identifies the voxel values and the shape of a volume, whatever its header, dtype or compression."""
    digest = _new_digest(volume)
    for plane in np.moveaxis(volume.array, -1, 0):
        digest.update(_plane_bytes(plane))
    return digest.hexdigest()


def _new_digest(volume: Volume) -> "hashlib.blake2b":
    return hashlib.blake2b(repr(volume.geometry.shape).encode(), digest_size=16)


def _plane_bytes(plane: NDArray[Any]) -> bytes:
    whole = np.rint(plane) if plane.dtype.kind == "f" else plane
    return whole.astype(np.int32).tobytes(order="F")


def check_grey_values(case: str, image: Volume) -> Iterator[Finding]:
    """Scales that are no Hounsfield units: 8-bit pictures, MR images, HU + 1024, normalised or constant values."""
    # A voxel in sixty or so is enough to know the range of the scale; odd steps, so that none beats with a pattern.
    sample = image.array[::3, ::5, ::3] if min(image.array.shape) > 8 else image.array
    low, high = (float(value) for value in np.percentile(sample, [0.1, 99.9]))
    place = f"{image.path}: 99.8 % of the voxels lie between {low:.0f} and {high:.0f}"
    hint = "Hounsfield units have air at -1000, water at 0 and dense bone above 700"
    if low == high:
        yield Finding(case, "warning", "hu-range", f"{image.path}: almost all voxels have the value {low:.0f}", hint)
    elif low >= 0:
        looks_like = next(words for most, words in _WITHOUT_NEGATIVES if high <= most)
        yield Finding(case, "warning", "hu-range", f"{place}: this looks like {looks_like}", hint)
    elif high < 200 or high > 20_000 or low < -10_000:
        yield Finding(case, "warning", "hu-range", f"{place}: this does not look like a CT with bone", hint)
