"""Everything soft, and the table: skin, fat, muscle, organs, lungs, airways, discs, canal; in HU, without bone."""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.phantoms.grid import block_around, whole
from verse3d.phantoms.profile import Profile
from verse3d.phantoms.shapes import Array, Points, Vec, common, coverage, ellipse, ellipsoid
from verse3d.phantoms.spine import Pose, PosedVertebra, Spine

AIR_HU = -1000.0


@dataclass(frozen=True)
class Contrast:
    """HU of the soft tissues of one person, some with contrast medium."""

    fat: float
    muscle: float
    vessel: float
    organ: float
    lung: float
    disc: float

    @classmethod
    def drawn(cls, rng: np.random.Generator) -> "Contrast":
        """Random values: half of all persons got contrast medium."""
        enhanced = rng.random() < 0.5
        return cls(
            fat=float(rng.uniform(-110, -90)),
            muscle=float(rng.uniform(48, 66)),
            vessel=float(rng.uniform(120, 220) if enhanced else rng.uniform(38, 48)),
            organ=float(rng.uniform(85, 120) if enhanced else rng.uniform(45, 62)),
            lung=float(rng.uniform(-880, -800)),
            disc=float(rng.uniform(75, 95)),
        )


@dataclass
class _Body:
    """The voxels around the spine: ``p`` is relative to the bodies' centres of that height, ``hu`` is painted on."""

    hu: Array
    world: Points
    p: Points
    rows: NDArray[np.int32]
    profile: Profile
    softness: float

    def at(self, name: str) -> Array:
        """The profile's value at every voxel."""
        return self.profile.tables[name][self.rows]

    def paint(self, sdf: Array, value: float | Array) -> None:
        """Fill a shape with a HU value; its rim is blended over a voxel."""
        self.hu += coverage(sdf, self.softness) * (value - self.hu)


def draw_soft_tissue(spine: Spine, profile: Profile, geometry: Geometry, rng: np.random.Generator) -> Array:
    """HU (float32) of all voxels as if there were no bone."""
    contrast = Contrast.drawn(rng)
    world = whole(geometry).points(geometry)
    rows = profile.rows(world.z)
    relative = Points(world.x - profile.tables["x"][rows], world.y - profile.tables["y"][rows], world.z)
    hu = np.full(geometry.shape, AIR_HU, np.float32)
    body = _Body(hu, world, relative, rows, profile, float(np.mean(geometry.spacing_mm)))
    _skin_and_muscle(body, contrast, rng)
    _trunk(body, contrast, spine.scale, rng)
    _neck(body, spine)
    # Slow differences of some HU inside all tissue (not in air or lung).
    tissue = np.clip((body.hu + 300.0) * 0.01, 0.0, 1.0)
    body.hu += tissue * 6.0 * _waves(body.world, rng, 4, 16.0)
    _beside_the_spine(body, contrast)
    for above, below in pairwise(spine.vertebrae):
        _disc(body, geometry, above, below.pose, contrast.disc)
    _disc(body, geometry, spine.vertebrae[-1], spine.sacrum, contrast.disc)
    _table(body, rng)
    return body.hu


def _skin_and_muscle(body: _Body, contrast: Contrast, rng: np.random.Generator) -> None:
    front, rear = body.at("skin_front"), body.at("skin_rear")
    middle, half = (front - rear) * 0.5, (front + rear) * 0.5
    # A scoliosis bends the spine more than the skin.
    across = body.p.x * 0.6 + body.world.x * 0.4
    outline = ellipse(across, body.p.y - middle, body.at("skin_x"), half, 2.4)
    body.paint(outline, contrast.fat)
    # skin: a shell of 2.4 mm, 1 mm below the surface; then fat down to the muscle
    body.paint(np.abs(outline + 1.0) - 1.2, 20.0)
    body.paint(outline + body.at("fat"), contrast.muscle)
    x, rear_y = np.abs(body.p.x), -body.at("rear")
    seam: Array = (
        np.abs(ellipse(x - 2.0, body.p.y - rear_y + 6.0, body.at("muscle_x") * 1.5, body.at("muscle_y") * 1.6)) - 1.2
    )
    seam = common(seam, body.p.y - rear_y - 4.0, 1.0)
    body.paint(seam, contrast.fat + 20.0)
    gutter = ellipse(x, body.p.y - rear_y + 26.0 + float(rng.uniform(-3, 3)), 2.6, 24.0)
    body.paint(gutter, contrast.fat + 30.0)


def _trunk(body: _Body, contrast: Contrast, k: float, rng: np.random.Generator) -> None:
    """Chest with lungs and heart, belly with organs and bowel."""
    profile = body.profile
    chest = ellipse(body.p.x, body.p.y - body.at("chest_mid"), body.at("chest_x"), body.at("chest_y"), 2.3)
    dome = profile.height_mm(17.0) + float(rng.uniform(-12, 12))
    hill = np.maximum(1.0 - (body.p.x / (95.0 * k)) ** 2 - ((body.p.y - 55.0 * k) / (85.0 * k)) ** 2, -0.6)
    diaphragm = body.p.z - (dome + 45.0 * k * hill)
    arch = np.abs(body.p.x) - 40.0 * k
    top = body.p.z + 0.45 * (body.p.y - 10.0 * k) + arch * arch * (1.0 / 55.0)
    apex = profile.height_mm(8.3)
    belly = np.maximum(chest + 5.0, top - profile.height_mm(8.6))
    back = ellipse(body.p.x, body.p.y + body.at("rear") - 2.0, body.at("width") * 0.5 + 32.0 * k, 27.0 * k, 2.4)
    body.paint(common(belly, -back, 8.0), np.where(diaphragm > 0, contrast.fat + 70.0, contrast.fat + 5.0))
    _organs(body, contrast, k, rng, np.maximum(chest + 8.0, diaphragm + 4.0))
    middle = ellipse(body.p.x, body.p.y - 42.0 * k, 30.0 * k, 48.0 * k)
    lungs = np.maximum(np.maximum(chest + 5.5, -middle), np.maximum(-diaphragm, 0.9 * (top - apex)))
    lungs = np.maximum(lungs, (body.at("width") * 0.5 + 5.0) - np.abs(body.p.x))
    lungs = common(lungs, -back, 6.0)
    vessels = _waves(body.world, rng, 5, 22.0)
    body.paint(lungs, contrast.lung + 420.0 * np.clip(vessels - 1.75, 0.0, 1.0))
    heart = (-22.0 * k, 78.0 * k, profile.height_mm(14.5))
    body.paint(ellipsoid(body.p, heart, (52.0 * k, 42.0 * k, 55.0 * k)), 0.5 * (contrast.vessel + 45.0))


def _organs(body: _Body, contrast: Contrast, k: float, rng: np.random.Generator, cavity: Array) -> None:
    """Liver, spleen, kidneys and bowel with gas; ``cavity`` keeps them below the diaphragm and within the wall."""

    def place(centre: Vec, half: Vec, value: float) -> None:
        x, y, position = centre
        at = (x * k, y * k, body.profile.height_mm(position))
        scaled = (half[0] * k, half[1] * k, half[2] * k)
        body.paint(np.maximum(ellipsoid(body.p, at, scaled), cavity), value)

    folds = _waves(body.world, rng, 5, 55.0)
    inside = np.maximum(cavity + 6.0, 22.0 * k - body.p.y)
    body.paint(np.maximum(inside, (0.15 - folds) * 14.0), 35.0)
    body.paint(np.maximum(inside, (1.3 - folds) * 14.0), -780.0)
    place((52.0, 50.0, 18.2), (68.0, 66.0, 62.0), contrast.organ)
    place((-82.0, 12.0, 18.5), (28.0, 34.0, 45.0), contrast.organ - 5.0)
    kidney = 0.6 * contrast.organ + 0.4 * contrast.vessel
    place((58.0, -12.0, 20.8), (24.0, 22.0, 48.0), kidney)
    place((-57.0, -12.0, 20.4), (24.0, 22.0, 48.0), kidney)


def _neck(body: _Body, spine: Spine) -> None:
    """Airway in front of the cervical spine, brain above the atlas."""
    axis_y = body.at("width") * 0.42 + 13.0 * spine.scale
    airway = ellipse(body.p.x, body.p.y - axis_y, body.at("airway") + 0.01, body.at("airway") * 0.72 + 0.01)
    body.paint(airway, AIR_HU)
    atlas = spine.vertebrae[0].pose.with_centre((0.0, 8.0 * spine.scale, 77.0 * spine.scale))
    centre = (float(atlas.centre[0]), float(atlas.centre[1]), float(atlas.centre[2]))
    k = spine.scale
    body.paint(ellipsoid(body.world, centre, (68.0 * k, 86.0 * k, 60.0 * k)), 34.0)


def _beside_the_spine(body: _Body, contrast: Contrast) -> None:
    """Psoas, aorta, vena cava and the spinal canal."""
    x, y, width = body.p.x, body.p.y, body.at("width")
    psoas = body.at("psoas") + 0.01
    body.paint(ellipse(np.abs(x) - (width * 0.5 + psoas * 0.85), y + 4.0, psoas, psoas * 1.15), contrast.muscle)
    for name, side in (("aorta", -0.30), ("vein", 0.42)):
        radius = body.at(name) + 0.01
        body.paint(ellipse(x - width * side, y - (width * 0.38 + radius + 4.0), radius, radius), contrast.vessel)
    depth = body.at("canal")
    u, v = body.world.x - body.at("canal_x"), body.world.y - body.at("canal_y")
    body.paint(ellipse(u, v, depth * 1.25, depth), -20.0)
    body.paint(ellipse(u, v, depth * 1.08, depth * 0.86), 14.0)
    # The cord ends at L1; below it there are only its roots.
    cord = np.where(body.at("position") < 20.0, 0.72, 0.3).astype(np.float32)
    body.paint(ellipse(u, v, depth * 0.8 * cord, depth * 0.62 * cord), 40.0)


def _disc(body: _Body, geometry: Geometry, above: PosedVertebra, below: Pose, value: float) -> None:
    """A disc with a denser ring, between two bodies; the bodies are drawn over it."""
    size = above.shape.size
    if size.region == "atlas":
        return
    low = above.pose.with_centre((0.0, 0.0, -above.shape.body_height / 2 - size.disc / 2))
    pose = Pose(low.centre, (above.pose.rotation + below.rotation) * 0.5)
    radius = 0.75 * max(size.width, size.depth)
    block = block_around(geometry, low.centre[None], radius)
    if block.empty:
        return
    p = block.points(geometry, pose)
    rim = ellipse(p.x, p.y, size.width * 0.5 + 0.8, size.depth * 0.5 + 0.8, 2.4)
    disc = common(rim, np.abs(p.z) - (size.disc * 0.5 + 2.0), 2.0)
    density = value + 25.0 * np.clip(1.0 + rim / 6.0, 0.0, 1.0)
    part = body.hu[block.slices]
    part += coverage(disc, body.softness) * (density - part)


def _table(body: _Body, rng: np.random.Generator) -> None:
    """A thin curved plate with a light core under the back, for a patient on the back."""
    tables = body.profile.tables
    inside = (tables["position"] > 8.0) & (tables["position"] < 25.0)
    rear = float((tables["y"] - tables["skin_rear"])[inside].min()) - float(rng.uniform(2.0, 10.0))
    depth = rear + body.world.x * body.world.x * (1.0 / 900.0) - body.world.y
    body.paint(np.abs(depth - 12.0) - 11.0, -850.0)
    for offset in (1.5, 22.5):
        body.paint(np.abs(depth - offset) - 1.5, 60.0)


def _waves(points: Points, rng: np.random.Generator, count: int, length_mm: float) -> Array:
    """A smooth random field: a sum of plane waves with unit variance per pair, about +-2."""
    total = np.zeros(np.broadcast_shapes(*(axis.shape for axis in points)), np.float32)
    for _ in range(count):
        direction = rng.normal(size=3)
        wave = direction / np.linalg.norm(direction) * 2 * np.pi / (length_mm * rng.uniform(0.7, 1.4))
        a, b, c = wave.tolist()
        total += np.sin(points.x * a + points.y * b + points.z * c + float(rng.uniform(0, 2 * np.pi)))
    return np.asarray(total * float(np.sqrt(2.0 / count)), dtype=np.float32)
