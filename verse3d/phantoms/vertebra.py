"""One vertebra as a signed distance function, in its own frame: mm, x right, y front, z up, origin mid body.

The atlas has no body: its origin lies where the dens passes through its ring.
"""

from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import numpy as np

from verse3d.phantoms.levels import Level
from verse3d.phantoms.shapes import Array, Plate, Points, Vec, carved, common, ellipse, ellipsoid, radial, union

_FILLET_MM = 3.0


@dataclass(frozen=True)
class Vertebra:
    """A level's sizes and what is individual about this one.

    Attributes:
        size: sizes in mm, already scaled to the person.
        body_height: mm; less than ``size.height`` in a collapsed body.
        wedge: how much lower the front is than the rear, as a slope of each endplate.
        waist: share by which the body narrows at mid height.
        phases: three angles that shape a smooth deformation of less than 1 mm.
        lean: sideways slope of the spinous process.
    """

    size: Level
    body_height: float
    wedge: float
    waist: float
    phases: Vec
    lean: float

    @property
    def canal_y(self) -> float:
        """Front-back position (mm) of the canal's centre."""
        if self.size.region == "atlas":
            return -12.0 * self.scale
        return -(self.size.depth + self.size.canal_depth) / 2 + 1.0

    @property
    def rear_y(self) -> float:
        """Front-back position (mm) of the canal's rear wall in the midline."""
        return self.canal_y - self.size.canal_depth / 2

    @property
    def pillar_x(self) -> float:
        """Distance (mm) of the articular pillar from the midline."""
        return self.size.canal_width / 2 + self.size.pedicle_width / 2

    @property
    def pedicle_z(self) -> float:
        """Height (mm) of the pedicles above the body's centre."""
        return {"cervical": 0.0, "axis": -2.0}.get(self.size.region, 0.17 * self.size.height)

    @property
    def transverse_tip(self) -> Vec:
        """Tip of the right transverse process (mm)."""
        s = self.size
        tips = {
            "thoracic": (s.transverse_span, self.rear_y - 0.22 * s.transverse_span, 0.30 * s.height),
            "lumbar": (s.transverse_span, self.canal_y - 2.0, 0.10 * s.height),
        }
        return tips.get(s.region, (s.transverse_span, -0.35 * s.depth, -3.0))

    @property
    def anchor(self) -> Vec:
        """A point (mm) well inside the bone that stands for the vertebra: the body's centre, the atlas' front arch."""
        return (0.0, 11.0 * self.scale, 0.0) if self.size.region == "atlas" else (0.0, 0.0, 0.0)

    @property
    def scale(self) -> float:
        """Size of the person against the mean, from the canal (used for the atlas and the dens)."""
        return self.size.canal_width / 24.0


class Distances(NamedTuple):
    """Distance (mm) to the whole bone and to its body alone."""

    bone: Array
    body: Array


def vertebra_sdf(vertebra: Vertebra, points: Points) -> Distances:
    """Distances of points, given in the vertebra's own frame, to its surface."""
    points = _deformed(vertebra, points)
    if vertebra.size.region == "atlas":
        ring = _atlas(vertebra, points)
        return Distances(ring, ring)
    body = _body(vertebra, points)
    if vertebra.size.region == "axis":
        base, tip = 0.3 * vertebra.size.height, 0.5 * vertebra.size.height + 15.0 * vertebra.scale
        dens = Plate((0.0, 0.5, base), (0.0, 1.0, tip - 5.0), (5.4 * vertebra.scale, 4.9 * vertebra.scale))
        body = union(body, dens.sdf(points), 5.0)
    bone = body
    # Everything that comes in a left-right pair is drawn for x >= 0.
    builders = {"thoracic": _thoracic_processes, "lumbar": _lumbar_processes}
    processes = builders.get(vertebra.size.region, _cervical_processes)(vertebra)
    for plate in (_pedicle(vertebra), _lamina(vertebra), *processes):
        bone = union(bone, plate.sdf(points.mirrored()), _FILLET_MM)
    bone = union(bone, _spinous(vertebra).sdf(points), _FILLET_MM)
    # Carved last, so that neither arch nor fillets reach into the canal.
    size = vertebra.size
    canal = ellipse(points.x, points.y - vertebra.canal_y, size.canal_width / 2, size.canal_depth / 2, 2.2)
    bone = carved(bone, canal, 1.5)
    return Distances(_with_foramen(vertebra, points.mirrored(), bone), body)


def _deformed(vertebra: Vertebra, p: Points) -> Points:
    """Bend space by well under 1 mm so that no two vertebrae, and no two sides, are alike."""
    a, b, c = vertebra.phases
    wave = 2 * np.pi / 55.0
    shift = np.sin(p.z * wave + a) + np.sin(p.y * wave + b)
    x = p.x + 0.45 * shift
    y = p.y + 0.4 * np.sin(p.x * wave + c)
    z = p.z + 0.4 * np.sin(p.x * wave + a + b)
    return Points(x, y, z)


def _body(vertebra: Vertebra, p: Points) -> Array:
    """Superelliptic body: waisted, narrower in front, with hollow endplates; cervical ones with uncinate rims."""
    s = vertebra.size
    half_height = vertebra.body_height / 2
    front = np.clip(p.y * (2.0 / s.depth), -1.0, 1.0)
    narrowing = 0.16 if s.region == "thoracic" else 0.06
    rho, length = radial(p.x, p.y, (s.width / 2) * (1.0 - narrowing * (front + 0.4)), s.depth / 2, 2.4)
    level = np.clip(p.z * (1.0 / half_height), -1.0, 1.0)
    side = length * (1.0 - (1.0 - vertebra.waist * (1.0 - level * level)) / rho)
    hollow = np.maximum(1.0 - rho * rho, 0.0) * (0.055 * s.height)
    end = np.abs(p.z) - half_height + hollow + vertebra.wedge * p.y
    if s.region == "cervical":
        end -= np.where(p.z > 0, 2.5 * np.clip(np.abs(p.x) * (2.0 / s.width), 0.0, 1.0) ** 4, 0.0)
    return common(side, end, 3.0)


def _pedicle(v: Vertebra) -> Plate:
    s, z = v.size, v.pedicle_z
    radius = s.pedicle_width / 2
    start = (0.36 * s.width, -0.25 * s.depth, z)
    end = (v.pillar_x, v.canal_y - 0.1 * s.canal_depth, z)
    height = max(s.pedicle_height / 2 - radius, 0.0)
    return Plate(start, end, (radius, radius), (height, height))


def _lamina(v: Vertebra) -> Plate:
    s = v.size
    share = {"thoracic": 0.34, "lumbar": 0.25}.get(s.region, 0.24)
    start = (v.pillar_x, v.canal_y - 0.32 * s.canal_depth, v.pedicle_z - 0.18 * s.height)
    end = (0.0, v.rear_y - 2.8, v.pedicle_z - 0.32 * s.height)
    height = max(share * s.height - 2.0, 1.5)
    return Plate(start, end, (2.9, 2.9), (height, height), up=(0.0, 0.28, 1.0))


def _lumbar_processes(v: Vertebra) -> list[Plate]:
    """Joint faces that stand upright and look sideways: the upper process lies outside the lower one."""
    s, x = v.size, v.pillar_x
    top, bottom = 0.5 * s.height + 6.5, -(0.5 * s.height + s.disc + 4.5)
    upper = Plate(
        (x + 0.5, v.canal_y - 3.0, 0.1 * s.height), (x + 3.0, v.canal_y - 7.0, top), (4.2, 3.6), (1.5, 1.5), (0, 1, 0)
    )
    lower = Plate(
        (x - 1.0, v.rear_y - 0.5, 0.0), (x - 3.5, v.rear_y - 3.5, bottom), (4.2, 4.2), (1.0, 1.5), (0.5, 1, 0)
    )
    root = (x + 1.0, v.canal_y, v.pedicle_z - 0.5)
    return [upper, lower, Plate(root, v.transverse_tip, (3.6, 2.8), (1.5, 2.0))]


def _thoracic_processes(v: Vertebra) -> list[Plate]:
    """Joint faces that look backwards: the upper process lies in front of the lower one."""
    s, x = v.size, v.pillar_x
    top, bottom = 0.5 * s.height + 4.0, -(0.5 * s.height + s.disc + 3.0)
    upper = Plate(
        (x, v.canal_y - 2.0, 0.1 * s.height), (x + 0.5, v.canal_y - 4.5, top), (3.4, 3.0), (1.0, 2.0), (1, 0, 0)
    )
    lower = Plate((x - 0.5, v.rear_y - 0.5, 0.0), (x - 1.0, v.rear_y - 2.8, bottom), (3.4, 3.0), (1.0, 2.0), (1, 0, 0))
    root = (x + 0.5, v.canal_y - 4.0, 0.05 * s.height)
    return [upper, lower, Plate(root, v.transverse_tip, (3.8, 4.3), (1.0, 0.5))]


def _cervical_processes(v: Vertebra) -> list[Plate]:
    """Articular pillars with sloping joints, and a transverse process that the vertebral artery runs through."""
    s, x = v.size, v.pillar_x + 1.5
    is_axis = s.region == "axis"
    top = 0.5 * s.height + (1.0 if is_axis else 3.0)
    bottom = -(0.5 * s.height + s.disc + 1.5)
    upper_y = v.canal_y + (9.5 if is_axis else 1.0)
    upper = Plate((x, v.canal_y - 1.0, 0.0), (x, upper_y, top - 2.0), (4.2, 3.8), (1.0, 1.5), (1, 0, 0))
    lower = Plate((x, v.canal_y - 2.0, 0.0), (x, v.canal_y - 7.0, bottom + 2.0), (4.2, 3.8), (1.0, 1.5), (1, 0, 0))
    front = Plate((0.42 * s.width, 0.0, -1.5), v.transverse_tip, (2.8, 3.0), (0.5, 0.5))
    rear = Plate((x, v.canal_y + 2.0, -1.0), v.transverse_tip, (3.0, 3.0), (0.5, 0.5))
    return [upper, lower, front, rear]


def _with_foramen(v: Vertebra, p: Points, bone: Array) -> Array:
    """Cervical vertebrae: the hole for the vertebral artery, between body and pillar."""
    if v.size.region != "cervical":
        return bone
    tip_x, tip_y, _ = v.transverse_tip
    x, y = (0.5 * v.size.width + tip_x) / 2 - 1.0, tip_y - 0.5
    hole = ellipse(p.x - x, p.y - y, 2.6, 2.4)
    return carved(bone, hole, 1.0)


def _spinous(v: Vertebra) -> Plate:
    s = v.size
    angle = np.deg2rad(s.spinous_angle_deg)
    start = (0.0, v.rear_y - 2.5, v.pedicle_z - 0.36 * s.height)
    along = np.array([v.lean, -np.cos(angle), -np.sin(angle)]) * (s.spinous_length - 3.0)
    end = (float(along[0]), start[1] + float(along[1]), start[2] + float(along[2]))
    radius = (2.9, 3.4) if s.region != "axis" else (3.5, 4.5)
    half = max(s.spinous_height / 2 - 3.0, 0.5)
    tip = half * (1.05 if s.region == "lumbar" else 0.6)
    return Plate(start, end, radius, (half, tip))


def _atlas(v: Vertebra, p: Points) -> Array:
    """A ring with two lateral masses and wide transverse processes."""
    k = v.scale
    around = ellipse(p.x, p.y + 7.5 * k, 20.0 * k, 19.0 * k, 2.2)
    above = np.maximum(np.abs(p.z) - 2.2 * k, 0.0)
    ring = np.sqrt(around * around + above * above) - 3.2
    m = p.mirrored()
    mass = ellipsoid(m, (18.0 * k, 0.5 * k, -0.5), (7.0 * k, 9.5 * k, 8.5 * k))
    transverse = Plate((20.0 * k, -3.0 * k, -1.0), (36.0 * k, -6.0 * k, -2.0), (4.2, 3.4), (1.0, 1.0))
    front = ellipsoid(p, (0.0, 12.5 * k, 0.0), (6.0, 4.0, 5.0))
    rear = ellipsoid(p, (0.0, -28.0 * k, 0.0), (5.0, 4.5, 4.5))
    ring = reduce(lambda a, b: union(a, b, _FILLET_MM), [ring, mass, transverse.sdf(m), front, rear])
    return carved(ring, ellipse(p.x, p.y - 1.0, 7.4 * k, 7.2 * k), 1.0)
