"""Synthetic spines from published mean distances: what is expected of the naming, made without it."""

import numpy as np

from verse3d.labelling.detections import Detections, detections

# mean distance in mm from each vertebra to the next one below (19,177 bodies of VID), T12 and L5 also to their extras
CERVICAL = [f"C{number}" for number in range(1, 8)]
THORACIC = [f"T{number}" for number in range(1, 13)]
LUMBAR = [f"L{number}" for number in range(1, 6)]
WHOLE = CERVICAL + THORACIC + LUMBAR

_STEPS_MM = (
    *(17.5, 24.7, 17.8, 17.2, 16.9, 17.9, 20.0),
    *(20.9, 21.1, 21.0, 21.6, 22.1, 22.6, 23.3, 24.0, 25.4, 27.3, 29.6, 32.4),
    *(34.6, 35.8, 36.5, 36.3, 36.6),
)
NEXT_MM = dict(zip(WHOLE, _STEPS_MM, strict=True)) | {"T13": 32.4, "L6": 34.0}
WIDTHS_MM = {"C": 26.0, "T": 25.0, "L": 33.0}


def between(first: str, last: str, names: list[str] = WHOLE) -> list[str]:
    return names[names.index(first) : names.index(last) + 1]


def centres_of(names: list[str], scale: float = 1.0, bend: float = 0.0, sideways: float = 0.0) -> np.ndarray:
    """Body centres (N, 3), RAS mm, from head to feet on a curve with a front-back and a sideways wave."""
    depth = np.cumsum([0.0, *(NEXT_MM[name] for name in names[:-1])])[: len(names)] * scale
    phase = depth / 200.0
    return np.column_stack([sideways * np.sin(phase), bend * np.cos(phase), -depth])


def scores_of(names: list[str]) -> np.ndarray:
    scores = np.full((len(names), 3), 0.03)
    scores[np.arange(len(names)), ["CTL".index(name[0]) for name in names]] = 0.99
    return scores


def spine_of(names: list[str], scale: float = 1.0, bend: float = 10.0, sideways: float = 0.0) -> Detections:
    """Detections with clear regions and both pedicles, in order."""
    centres = centres_of(names, scale, bend, sideways)
    half = np.array([WIDTHS_MM[name[0]] + (15.0 if name in ("L5", "L6") else 0.0) for name in names]) / 2 * scale
    behind = np.tile([0.0, -23.0 * scale, 3.0], (len(names), 1))
    left, right = centres + behind, centres + behind
    left[:, 0] -= half
    right[:, 0] += half
    return detections(centres, scores_of(names), left, right)


def shuffled(found: Detections, seed: int = 0) -> tuple[Detections, np.ndarray]:
    """The same detections in another order, and which row each was before."""
    order = np.random.default_rng(seed).permutation(len(found))
    return found.taken(order), order


def moved(found: Detections, matrix: np.ndarray, shift: np.ndarray) -> Detections:
    return Detections(
        found.centres_mm @ matrix.T + shift,
        found.regions,
        found.left_pedicles_mm @ matrix.T + shift,
        found.right_pedicles_mm @ matrix.T + shift,
    )


def joined(one: Detections, other: Detections) -> Detections:
    return Detections(
        np.concatenate([one.centres_mm, other.centres_mm]),
        np.concatenate([one.regions, other.regions]),
        np.concatenate([one.left_pedicles_mm, other.left_pedicles_mm]),
        np.concatenate([one.right_pedicles_mm, other.right_pedicles_mm]),
    )
