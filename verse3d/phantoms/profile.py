"""Where the soft tissue lies around the spine: tables along the patient's height in which voxels look it up."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.phantoms.levels import SACRUM
from verse3d.phantoms.shapes import Array
from verse3d.phantoms.spine import Spine

_STEP_MM = 0.5
_BEYOND_MM = 200.0

# Sizes in mm by position on the level axis (C1 = 1, C7 = 7, T1 = 8, T12 = 19, L5 = 24, sacrum = 25, below = 30).
_SIZES: dict[str, tuple[tuple[float, ...], tuple[float, ...]]] = {
    "skin_x": ((-3, 2, 6, 8, 10, 14, 18, 21, 24, 28), (76, 70, 66, 118, 150, 155, 150, 142, 150, 172)),
    "skin_front": ((-3, 2, 3, 6, 8, 10, 14, 18, 21, 24, 28), (112, 95, 62, 50, 68, 98, 125, 130, 118, 108, 105)),
    "skin_rear": ((-3, 3, 6, 8, 10, 14, 18, 21, 24, 28), (92, 66, 72, 84, 88, 84, 80, 86, 98, 105)),
    "fat": ((-3, 3, 8, 14, 20, 25), (5, 6, 10, 12, 17, 24)),
    "chest_x": ((6, 8, 9, 10, 12, 14, 17, 19, 22), (40, 58, 74, 90, 112, 124, 130, 126, 118)),
    "chest_y": ((6, 8, 10, 12, 14, 17, 19, 22), (32, 42, 60, 74, 82, 86, 82, 68)),
    "chest_mid": ((6, 8, 10, 14, 17, 19, 22), (10, 14, 30, 44, 46, 46, 48)),
    "psoas": ((18.5, 20, 22, 24, 27), (0, 9, 17, 22, 24)),
    "aorta": ((9.5, 10.5, 12, 22.5, 23.3), (0, 12, 12, 9, 0)),
    "vein": ((16, 17.5, 23.5, 24), (0, 11, 10, 0)),
    "airway": ((-1, 0, 2, 4, 5, 6, 11.3, 12), (0, 8, 9, 8, 6, 8, 8.5, 0)),
    "muscle_x": ((1, 4, 8, 14, 20, 24), (26, 27, 30, 24, 30, 31)),
    "muscle_y": ((1, 4, 8, 14, 20, 24), (22, 20, 17, 15, 21, 22)),
}


@dataclass(frozen=True)
class Profile:
    """Tables every 0.5 mm of world height.

    Attributes:
        bottom_mm: world height of the first row.
        tables: name to float32 column: ``x``, ``y`` (centre of the bodies), ``canal_x``, ``canal_y``, ``rear``
            (distance from the bodies' centre back to the laminae), ``width``, ``position``, sizes of the soft tissue.
    """

    bottom_mm: float
    tables: dict[str, Array]

    def rows(self, z: Array) -> NDArray[np.int32]:
        """Row numbers of world heights (mm)."""
        last = len(self.tables["x"]) - 1
        return np.asarray(np.clip((z - self.bottom_mm) * (1.0 / _STEP_MM), 0, last), dtype=np.int32)

    def at_position(self, position: float, name: str) -> float:
        """A value at a place on the level axis."""
        return float(np.interp(-position, -self.tables["position"].astype(float), self.tables[name].astype(float)))

    def height_mm(self, position: float) -> float:
        """World height (mm) of a place on the level axis."""
        rows = np.arange(len(self.tables["x"]))
        return float(self.bottom_mm + _STEP_MM * np.interp(-position, -self.tables["position"].astype(float), rows))


def profile_of(spine: Spine, rng: np.random.Generator) -> Profile:
    """Tables for one person; girth and fat vary between persons."""
    chain = spine.vertebrae[::-1]
    sizes = [vertebra.shape.size for vertebra in chain]
    # From the sacrum up: np.interp wants heights that grow.
    bodies = np.array([spine.sacrum.centre, *(vertebra.pose.centre for vertebra in chain)])
    canals = np.array([vertebra.pose.with_centre((0.0, vertebra.shape.canal_y, 0.0)).centre for vertebra in chain])
    rows = np.arange(bodies[0, 2] - _BEYOND_MM, bodies[-1, 2] + _BEYOND_MM, _STEP_MM)
    inside = np.interp(rows, bodies[:, 2], np.array([SACRUM, *(vertebra.position for vertebra in chain)]))
    # Beyond the ends the level axis goes on at 30 mm per level.
    beyond = np.maximum(bodies[0, 2] - rows, 0) - np.maximum(rows - bodies[-1, 2], 0)
    position = np.asarray(inside + beyond / 30.0)
    heights = [vertebra.pose.centre[2] for vertebra in chain]
    columns = {
        "position": position,
        "x": np.interp(rows, bodies[:, 2], bodies[:, 0]),
        "y": np.interp(rows, bodies[:, 2], bodies[:, 1]),
        "canal_x": np.interp(rows, canals[:, 2], canals[:, 0]),
        "canal_y": np.interp(rows, canals[:, 2], canals[:, 1]),
        "rear": np.interp(rows, heights, [-vertebra.shape.rear_y for vertebra in chain]),
        "width": np.interp(rows, heights, [size.width for size in sizes]),
        "canal": np.interp(rows, heights, [size.canal_depth / 2 for size in sizes]),
    }
    columns |= _soft_sizes(position, spine.scale, rng)
    return Profile(float(rows[0]), {name: column.astype(np.float32) for name, column in columns.items()})


def _soft_sizes(
    position: NDArray[np.float64], scale: float, rng: np.random.Generator
) -> dict[str, NDArray[np.float64]]:
    found = {name: scale * np.interp(position, at, sizes) for name, (at, sizes) in _SIZES.items()}
    fat = found["fat"] * rng.uniform(0.6, 1.6)
    # Who has more fat is wider all around by as much.
    girth = fat - found["fat"]
    for name in ("skin_x", "skin_front", "skin_rear"):
        found[name] = found[name] + girth
    return found | {"fat": fat}
