"""Where the patient is, coarsely: no window is shown to the network that holds only air, clothes or table."""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.axismaps import slowest_first
from verse3d.core.config import GridConfig
from verse3d.model.tilings import Region

_TISSUE_HU = -300.0
_BLOCK_MM = 6.0
_MARGIN_MM = 12.0
_SMALLEST_ML = 30.0
_IN_AXIAL_PLANE = ndimage.generate_binary_structure(2, 1)[:, :, None]


@dataclass(frozen=True, eq=False)
class BodyMask:
    """Blocks of the network grid that hold the patient, or lie near one that does.

    A block of about 6 mm is dense if at least half of its voxels are denser than -300 HU, or if dense blocks enclose it
    in its axial plane, as they do lungs. The patient's inside is what remains of the dense blocks when those with a
    neighbour (over a face) that is not dense are taken away, in pieces of at least 30 ml: tables and blankets have no
    inside. Kept are the inside, one block and 12 mm around it.

    Attributes:
        blocks: (a, b, c) bool.
        voxels: edge of a block along i, j, k; the last ones may reach beyond the volume.
    """

    blocks: NDArray[np.bool_]
    voxels: tuple[int, int, int]

    @classmethod
    def of(cls, image: NDArray[np.floating], grid: GridConfig) -> "BodyMask":
        """Find the patient in a prepared image (I, J, K), 0 ... 1 on the network grid."""
        i, j, k = (max(1, round(_BLOCK_MM / spacing)) for spacing in grid.spacing_mm)
        voxels = i, j, k
        # -300 HU on the scale of the prepared image; where that window begins higher, its lower end.
        low, high = grid.window_hu
        tissue = max(0.0, (_TISSUE_HU - low) / (high - low))
        # Lungs are air within the patient: in axial planes holes are filled. Eroded by a block, so that the table,
        # which touches the back, falls off.
        dense = ndimage.binary_fill_holes(_shares(_above(image, tissue), voxels) >= 0.5, _IN_AXIAL_PLANE)
        parts, count = ndimage.label(ndimage.binary_erosion(dense, border_value=1))
        block_ml = float(np.prod(voxels) * np.prod(grid.spacing_mm)) / 1000
        large = np.bincount(parts.ravel(), minlength=count + 1) * block_ml >= _SMALLEST_ML
        large[0] = False
        if not large.any():  # nothing like a patient: nothing is left out
            return cls(np.ones_like(dense), voxels)
        block_mm = [edge * spacing for edge, spacing in zip(voxels, grid.spacing_mm, strict=True)]
        reach = [1 + math.ceil(_MARGIN_MM / edge_mm) for edge_mm in block_mm]
        near = ndimage.maximum_filter(large[parts], size=[2 * steps + 1 for steps in reach], mode="constant")
        return cls(near, voxels)

    def touches(self, region: Region) -> bool:
        """Whether a part of the volume holds a voxel of these blocks."""
        spans = zip(region, self.voxels, strict=True)
        return bool(self.blocks[tuple(slice(span.start // edge, -(-span.stop // edge)) for span, edge in spans)].any())


def _above(image: NDArray[np.floating], threshold: float) -> NDArray[np.bool_]:
    """Where an image of values 0 ... 1 exceeds a threshold in the same range."""
    if image.dtype != np.float16:
        return image > threshold
    # The bits of positive floats are in the order of their values, and processors compare integers many times as fast
    # as float16. A zero with a minus sign is a large negative integer: below every threshold, too.
    return image.view(np.int16) > np.float16(threshold).view(np.int16)


def _shares(mask: NDArray[np.bool_], voxels: tuple[int, int, int]) -> NDArray[np.float32]:
    """The share of ``True`` in every block; beyond the end the last voxel is repeated."""
    padded = np.pad(mask, [(0, -size % edge) for size, edge in zip(mask.shape, voxels, strict=True)], mode="edge")
    counts: NDArray[np.integer] = padded.view(np.uint8)
    enough = np.min_scalar_type(math.prod(voxels))
    # The slowest axis in memory first: whole planes are added, and what is left for the others is a fraction.
    for axis in slowest_first(padded):
        parts = [counts[(slice(None),) * axis + (slice(first, None, voxels[axis]),)] for first in range(voxels[axis])]
        total = parts[0].astype(enough)
        for part in parts[1:]:
            total += part
        counts = total
    return counts.astype(np.float32) / np.float32(math.prod(voxels))
