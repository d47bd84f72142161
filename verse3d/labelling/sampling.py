"""Points of bones in the world, about as dense as maps at 4 mm can tell apart."""

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.labelling.bones import COARSE_MM, BoneMap


def points_of_bones(bones: BoneMap, grid: Geometry) -> list[NDArray[np.float64]]:
    """World mm (n, 3) of voxels of each bone, about every 2.4 mm.

    Args:
        bones: on the grid of the scan.
        grid: that grid.
    """
    # Twice as dense as the probabilities: denser points would meet the same voxels again.
    i, j, k = (max(1, int(2 * COARSE_MM / mm)) for mm in grid.spacing_mm)
    sampled = bones.numbers[::i, ::j, ::k]
    index = np.argwhere(sampled)
    world = grid.world_from_index(index * (i, j, k) + bones.start)
    number = sampled[tuple(index.T)]
    return [world[number == bone.number] for bone in bones.bones]
