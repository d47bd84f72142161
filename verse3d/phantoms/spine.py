"""A whole spine in the world (mm, RAS+): where every vertebra stands, and how the person differs from the mean."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import NDArray

from verse3d.phantoms.levels import SACRUM, Anomaly, Level, level, level_names
from verse3d.phantoms.shapes import Points
from verse3d.phantoms.vertebra import Vertebra, vertebra_sdf

Vector = NDArray[np.float64]

# Forward lean (degrees) of the spine's axis, going up, by position: lordosis, kyphosis, lordosis of a supine adult.
_LEAN_DEG = {
    1: -5, 2: -7, 3: -3, 5: 8, 7: 19, 8: 22, 10: 17, 13: 4, 16: -8, 18: -13, 20: -12, 21: -7, 22: 1, 23: 10, 24: 22,
    25: 38,
}  # fmt: skip


@dataclass(frozen=True)
class Pose:
    """A local frame in the world: ``world = centre + rotation @ local``, mm."""

    centre: Vector
    rotation: Vector

    def to_world(self, points: Vector) -> Vector:
        """World mm (N, 3) of local mm (N, 3)."""
        return np.asarray(points, dtype=float) @ self.rotation.T + self.centre

    def with_centre(self, local: Sequence[float]) -> "Pose":
        """The same directions around another local point."""
        return Pose(self.to_world(np.array([local]))[0], self.rotation)


@dataclass(frozen=True)
class PosedVertebra:
    """One vertebra in the world."""

    shape: Vertebra
    pose: Pose

    @property
    def name(self) -> str:
        """Name of the level, for example "T12"."""
        return self.shape.size.name

    @property
    def position(self) -> float:
        """Place on the level axis (C1 = 1 ... L5 = 24)."""
        return self.shape.size.position

    def cloud_mm(self, step_mm: float = 3.0) -> Vector:
        """World mm (N, 3) of a coarse lattice of points in, or within 1.5 mm of, the bone."""
        axes = [np.arange(low, high, step_mm, dtype=np.float32) for low, high in _local_box(self.shape)]
        lattice = Points(*np.meshgrid(*axes, indexing="ij"))
        inside = vertebra_sdf(self.shape, lattice).bone < 1.5
        return self.pose.to_world(np.stack([axis[inside] for axis in lattice], axis=1))


@dataclass(frozen=True)
class Spine:
    """All vertebrae from head to tail, and the sacrum's frame (origin in the middle of its upper endplate)."""

    vertebrae: tuple[PosedVertebra, ...]
    sacrum: Pose
    scale: float

    def named(self, name: str) -> PosedVertebra:
        """The vertebra of that name."""
        return next(vertebra for vertebra in self.vertebrae if vertebra.name == name)

    def names(self) -> list[str]:
        """Names from head to tail."""
        return [vertebra.name for vertebra in self.vertebrae]


@dataclass(frozen=True)
class Posture:
    """Angles (degrees) along the level axis: forward lean, sideways lean and axial turn at any position."""

    lordosis: float
    kyphosis: float
    cobb_deg: float
    apex: float
    turn: float

    def rotation(self, position: float, jitter_deg: Vector) -> Vector:
        """Rotation matrix of a vertebra at that position; ``jitter_deg`` (3,) adds to the three angles."""
        sideways = 0.5 * self.cobb_deg * np.sin((position - self.apex) * 2 * np.pi / 15.0)
        # The sacrum stands straight; the bend grows over four levels above it.
        fade = np.clip((SACRUM - position) / 4.0, 0.0, 1.0)
        mean_lean = float(np.interp(position, list(_LEAN_DEG), list(_LEAN_DEG.values())))
        # The mean spine's lean, more or less curved in the chest (levels 10 to 14) and at the bottom (21).
        curved = np.interp(position, [10, 14, 18, 21], [self.kyphosis, self.kyphosis, 1.0, self.lordosis])
        angles = np.array([mean_lean * float(curved), sideways * fade, self.turn * sideways * fade]) + jitter_deg
        return rotation_matrix(*angles)


def rotation_matrix(lean_deg: float, sideways_deg: float, turn_deg: float) -> Vector:
    """Rotation (3, 3) that leans the z axis forwards, then to the right, after a turn around z."""
    a, b, c = np.deg2rad([lean_deg, sideways_deg, turn_deg])
    forward = np.array([[1, 0, 0], [0, np.cos(a), np.sin(a)], [0, -np.sin(a), np.cos(a)]])
    right = np.array([[np.cos(b), 0, np.sin(b)], [0, 1, 0], [-np.sin(b), 0, np.cos(b)]])
    turned = np.array([[np.cos(c), -np.sin(c), 0], [np.sin(c), np.cos(c), 0], [0, 0, 1]])
    return np.asarray(right @ forward @ turned)


def build_spine(rng: np.random.Generator, anomaly: Anomaly | None, collapsed: Sequence[str] = ()) -> Spine:
    """One person's spine; ``collapsed`` names the vertebrae whose body has lost height."""
    scale, broad = rng.uniform(0.88, 1.12), rng.uniform(0.95, 1.05)
    posture = Posture(
        lordosis=rng.uniform(0.65, 1.15),
        kyphosis=rng.uniform(0.7, 1.3),
        cobb_deg=rng.uniform(0.0, 25.0) * rng.choice([0.3, 1.0]) * rng.choice([-1.0, 1.0]),
        apex=rng.uniform(8.0, 18.0),
        turn=rng.uniform(0.1, 0.5),
    )
    names = level_names(anomaly)
    lumbar = sum(name[0] == "L" for name in names)
    shapes = [individual(rng, level(name, lumbar), scale, broad, name in collapsed) for name in names]
    sacrum = Pose(np.zeros(3), posture.rotation(SACRUM, rng.normal(0, 2, 3)))
    return Spine(_stacked(rng, shapes, posture, sacrum), sacrum, float(scale))


def _stacked(
    rng: np.random.Generator, shapes: list[Vertebra], posture: Posture, sacrum: Pose
) -> tuple[PosedVertebra, ...]:
    """Stand the vertebrae on top of each other, from the sacrum upwards."""
    posed: list[PosedVertebra] = []
    below, half_below = sacrum, 0.0
    for shape in reversed(shapes):
        rotation = posture.rotation(shape.size.position, rng.normal(0, 1.0, 3))
        axis = below.rotation[:, 2] + rotation[:, 2]
        step = half_below + shape.size.disc + shape.body_height / 2
        if shape.size.region == "atlas":
            step = 18.0 * shape.scale
        pose = Pose(below.centre + axis / np.linalg.norm(axis) * step, rotation)
        posed.append(PosedVertebra(shape, pose))
        below, half_below = pose, shape.body_height / 2
    return tuple(reversed(posed))


def individual(rng: np.random.Generator, mean: Level, scale: float, broad: float, collapsed: bool) -> Vertebra:
    """One person's vertebra: the mean size, scaled, with a few per cent of its own."""
    size = _scaled(mean, scale, broad, rng)
    share = rng.uniform(0.5, 0.65) if collapsed else 1.0
    wedge = rng.uniform(0.10, 0.16) if collapsed else rng.normal(0.015 if mean.region == "thoracic" else 0.0, 0.012)
    first, second, third = rng.uniform(0, 2 * np.pi, 3).tolist()
    return Vertebra(
        size=size,
        body_height=size.height * share,
        wedge=float(wedge),
        waist=float(rng.uniform(0.07, 0.13)),
        phases=(first, second, third),
        lean=float(rng.normal(0, 0.04)),
    )


_FIXED = ("name", "position", "spinous_angle_deg")


def _scaled(mean: Level, scale: float, broad: float, rng: np.random.Generator) -> Level:
    changed = {
        field.name: float(getattr(mean, field.name) * scale * rng.normal(1.0, 0.025))
        for field in fields(mean)
        if field.name not in _FIXED
    }
    changed["width"] *= broad
    changed["spinous_angle_deg"] = mean.spinous_angle_deg + float(rng.normal(0, 3.0))
    changed["pedicle_width"] = max(changed["pedicle_width"], 5.4)
    return replace(mean, **changed)  # type: ignore[arg-type]


def _local_box(v: Vertebra) -> list[tuple[float, float]]:
    """Bounds (mm) of a vertebra along its own x, y, z, with room to spare."""
    s = v.size
    if s.region == "atlas":
        return [(-46 * v.scale, 46 * v.scale), (-38 * v.scale, 22 * v.scale), (-15 * v.scale, 15 * v.scale)]
    drop = max(s.spinous_length * np.sin(np.deg2rad(s.spinous_angle_deg)) + s.spinous_height / 2, s.disc + 8.0)
    side, rear = s.transverse_span + 8.0, v.rear_y - s.spinous_length - 8.0
    top = s.height / 2 + (22.0 * v.scale if s.region == "axis" else 12.0)
    return [(-side, side), (rear, s.depth / 2 + 6.0), (-s.height / 2 - drop - 6.0, top)]
