"""What a CT scanner does to the body: blur, metal streaks, noise, whole HU."""

from dataclasses import dataclass
from itertools import product

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from verse3d.core.geometry import Geometry
from verse3d.phantoms.grid import block_around, whole
from verse3d.phantoms.shapes import Array, Plate, coverage
from verse3d.phantoms.spine import PosedVertebra

METAL_HU = 3000.0
_LOWEST_HU, _HIGHEST_HU = -1024, 3071


@dataclass(frozen=True)
class Protocol:
    """Blur (standard deviation, mm), noise (standard deviation, HU) and its grain (voxels)."""

    blur_mm: float
    noise_hu: float
    grain_voxels: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Protocol":
        """A random but sensible protocol."""
        return cls(float(rng.uniform(0.4, 0.75)), float(rng.uniform(8, 30)), float(rng.uniform(0.4, 0.8)))


def scanned(hu: Array, geometry: Geometry, protocol: Protocol, rng: np.random.Generator) -> NDArray[np.int16]:
    """The image (int16 HU) of a body given as float32 HU on the same grid."""
    blurred = hu
    for axis, spacing in enumerate(geometry.spacing_mm):
        sigma = max(protocol.blur_mm / spacing, 0.3)  # the slice profile
        blurred = gaussian_filter1d(blurred, sigma, axis=axis, truncate=3.0, mode="nearest")
    # Noise after the blur: a scanner blurs the body, its noise has a grain of its own.
    grain = rng.standard_normal(hu.shape, dtype=np.float32)
    for axis in range(3):
        grain = gaussian_filter1d(grain, protocol.grain_voxels, axis=axis, truncate=2.0, mode="wrap")
    # Scaled back, because blurring takes most of the noise away.
    strength = protocol.noise_hu / float(grain.std(dtype=np.float64))
    noisy = blurred + np.asarray(grain * strength, dtype=np.float32)
    return np.asarray(np.clip(np.rint(noisy), _LOWEST_HU, _HIGHEST_HU), dtype=np.int16)


def add_screws(hu: Array, geometry: Geometry, holders: list[PosedVertebra]) -> None:
    """Put a metal screw through each pedicle of these vertebrae (in place), with streaks in the axial plane."""
    for vertebra, side in product(holders, (-1.0, 1.0)):
        v, pose = vertebra.shape, vertebra.pose
        # From behind through the pedicle into the body, as a surgeon puts it.
        head = (side * (v.pillar_x + 3.0), v.rear_y - 9.0, v.pedicle_z + 1.0)
        tip = (side * 0.18 * v.size.width, 0.22 * v.size.depth, v.pedicle_z)
        block = block_around(geometry, pose.to_world(np.array([head, tip])), 10.0)
        if block.empty:
            continue
        points = block.points(geometry, pose)
        shaft = Plate(head, tip, (2.8, 2.2)).sdf(points)
        cap = Plate(head, (head[0], head[1] - 6.0, head[2]), (6.0, 6.0)).sdf(points)
        part = hu[block.slices]
        part += coverage(np.minimum(shaft, cap), 1.0) * (METAL_HU - part)
        _streaks(hu, geometry, vertebra, head)


def _streaks(hu: Array, geometry: Geometry, vertebra: PosedVertebra, centre: tuple[float, float, float]) -> None:
    """Dark and bright rays that fade with the distance from the metal, only at its height."""
    p = whole(geometry).points(geometry, vertebra.pose.with_centre(centre))
    distance = np.sqrt(p.x * p.x + p.y * p.y) + 4.0
    # Nine bright and nine dark rays around the screw
    rays = np.cos(np.arctan2(p.y, p.x) * 9.0)
    near = np.exp(-(p.z * p.z) * (1.0 / 30.0))
    tissue = hu > -700  # there is no streak in air
    hu += 900.0 * rays / distance * near * tissue
