"""Bones that are not vertebrae: ribs, sacrum, hip bones, skull and jaw. They are drawn but never labelled."""

from itertools import pairwise, product

import numpy as np
import scipy

from verse3d.core.geometry import Geometry
from verse3d.phantoms.grid import block_around, box_corners
from verse3d.phantoms.profile import Profile
from verse3d.phantoms.shapes import Array, Plate, Points, Vec, common, ellipsoid, union
from verse3d.phantoms.spine import PosedVertebra, Spine

_FAR_MM = 20.0
_RIB_STEPS = 26


def draw_distractors(spine: Spine, profile: Profile, geometry: Geometry) -> Array:
    """Distance (mm, at most 20) of every voxel to the nearest bone that is not a vertebra."""
    field = np.full(geometry.shape, _FAR_MM, np.float32)
    with_ribs = [vertebra for vertebra in spine.vertebrae if vertebra.shape.size.region == "thoracic"]
    for vertebra, side in product(with_ribs, (-1.0, 1.0)):
        for plate in _rib(vertebra, profile, side):
            # Only the voxels around the plate are touched, and a few mm more, so that distances are right just outside
            # of its surface, too.
            reach = max(plate.radius) + max(plate.half_height) + 3.0
            block = block_around(geometry, np.array([plate.start, plate.end]), reach)
            if not block.empty:
                where = block.slices
                np.minimum(field[where], plate.sdf(block.points(geometry)), out=field[where])
    _sacrum_and_hips(field, geometry, spine)
    _skull(field, geometry, spine)
    return field


def _rib(vertebra: PosedVertebra, profile: Profile, side: float) -> list[Plate]:
    """A rib in the world: head beside the disc above, past the transverse process, then round the chest."""
    path = _rib_path(vertebra, profile, side)
    heights = np.interp(np.arange(len(path)), [0, 4, 8], [1.0, 2.0, 3.2])
    plates = []
    for n, (start, end) in enumerate(pairwise(path)):
        plates.append(
            Plate(_vec(start), _vec(end), (3.0, 3.0), (float(heights[n]), float(heights[n + 1])), (0.0, 0.15, 1.0))
        )
    return plates


def _rib_path(vertebra: PosedVertebra, profile: Profile, side: float) -> Array:
    """World points (N, 3) along the middle of a rib."""
    s, tip = vertebra.shape.size, vertebra.shape.transverse_tip
    near = vertebra.pose.to_world(
        np.array([
            [side * (s.width / 2 + 3.5), -0.36 * s.depth, 0.45 * s.height],
            [side * (tip[0] - 4.0), tip[1] + 9.0, tip[2] + 2.0],
            [side * (tip[0] + 12.0), tip[1] + 2.0, tip[2] - 2.0],
        ])
    )  # fmt: skip
    end = np.interp(vertebra.position, [8, 12, 17, 18, 19, 19.5], [150, 150, 140, 100, 70, 40])
    drop = np.interp(vertebra.position, [8, 10, 14, 19], [25, 45, 70, 60])
    angles = np.arange(45.0, end + 1e-6, 15.0) if end > 60 else np.array([38.0, 45.0])
    turn = np.deg2rad(angles)
    half_x, half_y, mid_y = (
        profile.at_position(vertebra.position, name) for name in ("chest_x", "chest_y", "chest_mid")
    )
    centre = vertebra.pose.centre
    far = np.stack([
        0.5 * centre[0] + side * half_x * np.sin(turn),
        centre[1] + mid_y - half_y * np.cos(turn),
        centre[2] - drop * (angles - 30.0) / 110.0,
    ], axis=1)  # fmt: skip
    controls = np.concatenate([near, far])
    length = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(controls, axis=0), axis=1))])
    samples = np.concatenate([np.linspace(0, length[2], 8)[:-1], np.linspace(length[2], length[-1], _RIB_STEPS - 7)])
    # Asked for only here: scipy loads `interpolate` when it is first used, and half a second is much for programs that
    # never draw a rib.
    return np.asarray(scipy.interpolate.CubicSpline(length, controls)(samples))


def _vec(values: Array) -> Vec:
    x, y, z = values.tolist()
    return x, y, z


def _sacrum_and_hips(field: Array, geometry: Geometry, spine: Spine) -> None:
    """The sacrum, and the hip bones on both sides of it with a joint space between."""
    k = spine.scale
    corners = spine.sacrum.to_world(box_corners([-120 * k, -75 * k, -125 * k], [120 * k, 75 * k, 45 * k]))
    block = block_around(geometry, corners, 0.0)
    if block.empty:
        return
    points = Points(*(axis * (1.0 / k) for axis in block.points(geometry, spine.sacrum)))
    sacrum = _sacrum(points)
    # One side is drawn, at x >= 0; mirrored points make it both.
    side = points.mirrored()
    wing = Plate((54.0, -46.0, -12.0), (104.0, 42.0, 4.0), (6.0, 4.0), (26.0, 30.0)).sdf(side)
    root = Plate((58.0, -34.0, -50.0), (86.0, 24.0, -92.0), (9.0, 14.0), (10.0, 10.0)).sdf(side)
    # Nearer than 2.2 (mm, in a spine of average size) to the sacrum there is a joint, no bone.
    hips = np.maximum(union(wing, root, 8.0), 2.2 - sacrum)
    np.minimum(field[block.slices], np.minimum(sacrum, hips) * k, out=field[block.slices])


def _sacrum(p: Points) -> Array:
    m = p.mirrored()
    bodies = Plate((0.0, -1.0, -9.0), (0.0, -12.0, -46.0), (15.0, 8.0), (10.0, 9.0), (1.0, 0.0, 0.0)).sdf(p)
    bodies = common(bodies, p.z, 2.0)
    rest = [
        Plate((0.0, -12.0, -44.0), (0.0, -4.0, -88.0), (7.0, 4.0), (16.0, 5.0), (1.0, 0.0, 0.0)).sdf(p),
        Plate((18.0, -10.0, -14.0), (44.0, -20.0, -24.0), (9.0, 9.0), (5.0, 9.0)).sdf(m),
        Plate((40.0, -22.0, -24.0), (20.0, -18.0, -68.0), (9.0, 6.0), (3.0, 3.0)).sdf(m),
        Plate((24.0, -22.0, -14.0), (0.0, -36.0, -20.0), (3.5, 3.5), (7.0, 7.0)).sdf(m),
        Plate((0.0, -36.0, -16.0), (0.0, -32.0, -62.0), (4.0, 3.5), (4.0, 2.0), (0.0, 1.0, 0.0)).sdf(p),
        Plate((22.0, -24.0, -10.0), (21.0, -30.0, 7.0), (5.0, 4.0), (1.0, 2.0), (0.5, 1.0, 0.0)).sdf(m),
    ]
    for part in rest:
        bodies = union(bodies, part, 4.0)
    return bodies


def _skull(field: Array, geometry: Geometry, spine: Spine) -> None:
    """The skull's base and vault above the atlas, and the lower jaw in front of it."""
    k, atlas = spine.scale, spine.vertebrae[0].pose
    corners = atlas.to_world(box_corners([-85 * k, -100 * k, -60 * k], [85 * k, 115 * k, 150 * k]))
    block = block_around(geometry, corners, 0.0)
    if block.empty:
        return
    points = Points(*(axis * (1.0 / k) for axis in block.points(geometry, atlas)))
    m = points.mirrored()
    vault = ellipsoid(points, (0.0, 8.0, 77.0), (72.0, 90.0, 64.0))
    shell = np.abs(vault + 3.5) - 3.5
    opening = ellipsoid(points, (0.0, -8.0, 14.0), (14.0, 17.0, 12.0))
    shell = np.maximum(shell, -opening)
    condyle = ellipsoid(m, (19.0, 1.0, 14.5), (7.0, 11.0, 6.5))
    jaw = Plate((46.0, 30.0, 12.0), (42.0, 40.0, -26.0), (4.5, 5.0), (8.0, 8.0), (0.0, 1.0, 0.0)).sdf(m)
    body = Plate((42.0, 40.0, -28.0), (4.0, 92.0, -36.0), (5.0, 6.0), (8.0, 8.0)).sdf(m)
    found = np.minimum(union(shell, condyle, 5.0), union(jaw, body, 4.0))
    np.minimum(field[block.slices], found * k, out=field[block.slices])
