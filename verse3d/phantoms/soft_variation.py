"""What makes one body's soft tissue unlike another's, beyond what the phantom's own persons differ in."""

import numpy as np

from verse3d.core.geometry import Geometry
from verse3d.phantoms.grid import whole
from verse3d.phantoms.profile import Profile
from verse3d.phantoms.shapes import Array, coverage, ellipse

_MYELOGRAMS = 0.1


def make_stouter(profile: Profile, rng: np.random.Generator) -> None:
    """Put up to 35 mm around the body (in place), so that narrow views seldom reach the air behind the back."""
    more_mm = float(rng.uniform(0.0, 35.0))
    for name, part in (("skin_x", 1.0), ("skin_front", 1.0), ("skin_rear", 1.0), ("fat", 0.7)):
        profile.tables[name] += np.float32(part * more_mm)


def vary_tissue(hu: Array, geometry: Geometry, rng: np.random.Generator) -> None:
    """Fat in streaks and patches, and slow differences, in everything that is soft (in place)."""
    soft = np.clip((hu + 300.0) * 0.01, 0.0, 1.0)
    for grain_mm, strength in ((4.0, rng.uniform(3, 12)), (12.0, rng.uniform(3, 15))):
        hu += soft * strength * _field(rng, geometry, grain_mm)
    patches = np.clip(_field(rng, geometry, float(rng.uniform(8.0, 16.0))) - rng.uniform(1.0, 2.0), 0.0, 1.0)
    hu += soft * patches * (rng.uniform(-110, -70) - hu)


def fill_canal(hu: Array, profile: Profile, geometry: Geometry, rng: np.random.Generator) -> None:
    """Contrast medium around the cord in one of ten cases, as for a myelogram (in place)."""
    if rng.random() >= _MYELOGRAMS:
        return
    world = whole(geometry).points(geometry)
    rows = profile.rows(world.z)
    depth = profile.tables["canal"][rows]
    u, v = world.x - profile.tables["canal_x"][rows], world.y - profile.tables["canal_y"][rows]
    # The sac within the canal's fat, without the cord or its roots: the proportions of the phantom's canal.
    sac = np.maximum(ellipse(u, v, depth * 1.08, depth * 0.86), -ellipse(u, v, depth * 0.4, depth * 0.3))
    hu += coverage(sac, float(np.mean(geometry.spacing_mm))) * (float(rng.uniform(150, 500)) - hu)


def _field(rng: np.random.Generator, geometry: Geometry, grain_mm: float) -> Array:
    """Smooth noise of unit deviation over a grid: straight lines between random points."""
    sizes = np.maximum(np.ceil(np.array(geometry.shape) * np.array(geometry.spacing_mm) / grain_mm), 2).astype(int)
    field: Array = rng.standard_normal(sizes, dtype=np.float32)
    for axis, (voxels, points) in enumerate(zip(geometry.shape, sizes.tolist(), strict=True)):
        # A matrix with a hat function around each point, (voxels, points), applied to one axis after the other.
        place = np.linspace(0, points - 1, voxels, dtype=np.float32)[:, None]
        hats = np.maximum(1.0 - np.abs(place - np.arange(points, dtype=np.float32)), 0.0)
        field = np.moveaxis(np.tensordot(hats, field, (1, axis)), 0, axis)
    return np.asarray(field / max(float(field.std()), 1e-3))
