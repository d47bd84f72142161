"""A phantom with a full field of view, on a coarse grid: the whole body from the hips to the skull, and its spine."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.phantoms.levels import Anomaly
from verse3d.phantoms.profile import profile_of
from verse3d.phantoms.render import Bones, Density, draw_vertebrae
from verse3d.phantoms.scanner import Protocol, scanned
from verse3d.phantoms.shapes import Array, coverage
from verse3d.phantoms.skeleton import draw_distractors
from verse3d.phantoms.spine import Spine, build_spine
from verse3d.phantoms.tissue import draw_soft_tissue

_STREAM = 7
"""Keeps the draws of these phantoms apart from those of ``make_case``."""
_ANOMALIES: tuple[Anomaly | None, ...] = (None, None, None, "l6", "t13", "t12-missing")


@dataclass(frozen=True, eq=False)
class Body:
    """A synthetic CT of a whole trunk and its truth.

    Attributes:
        image_hu: int16 (I, J, K).
        mask: uint8 (I, J, K), VerSe ids.
        geometry: of both; axes RAS.
        anomaly: what is unusual about this person, or None.
    """

    image_hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    geometry: Geometry
    anomaly: Anomaly | None


def make_body(seed: int, index: int, spacing_mm: float = 4.0, *, anomaly: Anomaly | None = None) -> Body:
    """Person number ``index`` of a series; the same numbers always give the same voxels.

    Half of them have a supernumerary or a missing vertebra. Air is around, and a table lies below.

    Args:
        seed: of the series, >= 0.
        index: of the person, >= 0.
        spacing_mm: along all axes; below 2 mm it takes gigabytes.
        anomaly: of this person, in place of what is drawn.
    """
    rng = np.random.default_rng([seed, index, _STREAM])
    drawn = _ANOMALIES[int(rng.integers(len(_ANOMALIES)))]
    anomaly = anomaly or drawn
    spine = build_spine(rng, anomaly)
    geometry = _whole_trunk(spine, rng, spacing_mm)
    hu, bones = draw_body(spine, geometry, rng)
    return Body(scanned(hu, geometry, Protocol.drawn(rng), rng), bones.mask, geometry, anomaly)


def draw_body(spine: Spine, geometry: Geometry, rng: np.random.Generator) -> tuple[Array, Bones]:
    """The body before scanning, float32 HU on the grid: soft tissue, other bones, and the vertebrae over them."""
    density = Density(
        core_hu=float(rng.uniform(120, 240)), shell_hu=float(rng.uniform(680, 900)), shell_mm=1.1, joint_mm=1.5
    )
    profile = profile_of(spine, rng)
    hu = draw_soft_tissue(spine, profile, geometry, rng)
    others = coverage(draw_distractors(spine, profile, geometry), float(np.mean(geometry.spacing_mm)))
    hu += others * (float(rng.uniform(300, 500)) - hu)
    bones = draw_vertebrae(spine, geometry, density)
    return np.asarray(hu * (1.0 - bones.share) + bones.hu, np.float32), bones


def _whole_trunk(spine: Spine, rng: np.random.Generator, spacing_mm: float) -> Geometry:
    """A grid around the body, whose ends lie at random below the sacrum and above the atlas."""
    centres = np.array([vertebra.pose.centre for vertebra in spine.vertebrae])
    middle = (centres.min(axis=0) + centres.max(axis=0)) / 2
    half_x, rear, front = rng.uniform(170, 230), rng.uniform(110, 160), rng.uniform(130, 210)
    low = np.array([middle[0] - half_x, middle[1] - rear, spine.sacrum.centre[2] - rng.uniform(30, 130)])
    high = np.array([middle[0] + half_x, middle[1] + front, centres[0, 2] + rng.uniform(25, 110)])
    affine = np.diag([spacing_mm, spacing_mm, spacing_mm, 1.0])
    affine[:3, 3] = low
    i, j, k = np.ceil((high - low) / spacing_mm).astype(int).tolist()
    return Geometry((i, j, k), affine)
