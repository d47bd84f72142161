"""A spine of the phantom's own kind whose bodies stand where a mask has them, so that the same body fits around."""

from collections.abc import Mapping
from dataclasses import replace
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from verse3d.core.labels import VERTEBRAE
from verse3d.phantoms.levels import SACRUM, level, level_names
from verse3d.phantoms.spine import Pose, PosedVertebra, Posture, Spine, individual

Vector = NDArray[np.float64]
_TOP_DOWN = [label.name for label in VERTEBRAE]


def fitted_spine(rng: np.random.Generator, centres: Mapping[str, Vector], heights: Mapping[str, float]) -> Spine:
    """A whole spine through the given centres of bodies (mm), continued above and below in an average posture.

    Args:
        rng: decides the individual sizes.
        centres: names to world mm (3,), at least one.
        heights: of the bodies, mm.
    """
    known = [name for name in _TOP_DOWN if name in centres]
    names = _names(known)
    # Size of the person against the mean, from how far apart the bodies stand.
    ratios = [float(np.linalg.norm(centres[a] - centres[b])) / _step(a, 1.0) for a, b in pairwise(known)]
    scale = float(np.clip(np.median(ratios), 0.7, 1.3)) if ratios else 1.0
    shapes = {name: individual(rng, level(name), scale, 1.0, False) for name in names}
    posture = Posture(lordosis=1.0, kyphosis=1.0, cobb_deg=0.0, apex=13.0, turn=0.0)
    poses: dict[str, Pose] = {}
    for name in known:
        poses[name] = Pose(centres[name], _rotation(name, known, centres, posture))
    first, last = names.index(known[0]), names.index(known[-1])
    # Beyond the known ones they are stacked as in any other phantom: upwards from the first, downwards from the last.
    for lower, upper in pairwise(reversed(names[: first + 1])):
        turned = posture.rotation(shapes[upper].size.position, np.zeros(3))
        poses[upper] = _stacked(poses[lower], turned, _step(shapes[upper].size.name, scale))
    for upper, lower in pairwise(names[last:]):
        turned = posture.rotation(shapes[lower].size.position, np.zeros(3))
        poses[lower] = _stacked(poses[upper], turned, -_step(upper, scale))
    bottom = level(names[-1])
    sacrum = _stacked(
        poses[names[-1]],
        posture.rotation(SACRUM, np.zeros(3)),
        -scale * (bottom.height / 2 + bottom.disc),
    )
    for upper, lower in pairwise(known):
        gap = float(np.linalg.norm(centres[upper] - centres[lower])) - (heights[upper] + heights[lower]) / 2
        size = replace(shapes[upper].size, disc=float(np.clip(gap, 2.0, 25.0)))
        shapes[upper] = replace(shapes[upper], size=size, body_height=heights[upper])
    return Spine(tuple(PosedVertebra(shapes[name], poses[name]) for name in names), sacrum, scale)


def _names(known: list[str]) -> list[str]:
    """All vertebrae of the person, head to tail: none between known ones that the mask does not have."""
    usual = set(level_names(None))
    first, last = _TOP_DOWN.index(known[0]), _TOP_DOWN.index(known[-1])
    return [
        name for place, name in enumerate(_TOP_DOWN) if name in known or (name in usual and not first < place < last)
    ]


def _step(name: str, scale: float) -> float:
    """Mean distance (mm) from a vertebra's centre to that of the one below."""
    size = level(name)
    return scale * (18.0 if size.region == "atlas" else size.height + size.disc)


def _rotation(name: str, known: list[str], centres: Mapping[str, Vector], posture: Posture) -> Vector:
    """Right, front and up (columns) from the way the bodies stand on each other."""
    place = known.index(name)
    above, below = known[max(place - 1, 0)], known[min(place + 1, len(known) - 1)]
    if above == below:
        return posture.rotation(level(name).position, np.zeros(3))
    up = centres[above] - centres[below]
    up = up / np.linalg.norm(up)
    right = np.array([1.0, 0.0, 0.0]) - up[0] * up
    right = right / np.linalg.norm(right)
    return np.stack([right, np.cross(up, right), up], axis=1)


def _stacked(start: Pose, rotation: Vector, step: float) -> Pose:
    axis = start.rotation[:, 2] + rotation[:, 2]
    return Pose(start.centre + axis / np.linalg.norm(axis) * step, rotation)
