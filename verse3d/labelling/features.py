"""What a detection and its neighbours along the spine look like, in numbers that do not depend on how the patient lies.

Lengths are in the patient's own frame (along the spine, across it), so tilting, turning or mirroring the scan changes
nothing but how the ends lie.
"""

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.labelling.detections import Detections, region_logits

REACH = 2
"""How many neighbours to either side a detection sees."""

_MOST_COUNTED = 10
_PEDICLE_REACH_MM = 45.0
_PEDICLE_ALONG_MM = 16.0


def describe(found: Detections) -> NDArray[np.float64]:
    """Numbers about each detection, (N, F) float64, for detections in order from head to feet.

    Columns: region log odds of the detection and of ``REACH`` neighbours to either side, with a flag where there is
    none; pedicles (found, distance across and along the spine, width) of it and its two neighbours; the steps between
    the neighbours and how far they lie beside a line; how many detections lie above and below it; and what is the same
    for all of the spine.
    """
    count = len(found)
    logits = region_logits(found.regions) / 4.0
    present = np.ones((count, 1))
    pedicles = _pedicles(found)
    # How many detections lie above each, (N,), in tenths and at most 1; turned round it is how many lie below
    above = np.minimum(np.arange(count), _MOST_COUNTED) / _MOST_COUNTED
    # Each column says the same for a child and for a giant, standing or lying: scores, counts, and lengths beside
    # what is usual (a step of 25 mm becomes 0).
    columns = [
        _window(np.hstack([logits, present]), REACH),
        _window(pedicles, 1),
        _window(_steps(found.centres_mm) / 25.0 - 1.0, REACH),
        _window(_kinks(found.centres_mm), 1),
        np.column_stack([above, above[::-1]]),
        np.broadcast_to(_whole_spine(found, logits, pedicles), (count, _WHOLE)),
    ]
    return np.hstack(columns)


def tangents(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Unit vectors along the spine towards the feet, (N, 3); straight down where there is only one point."""
    if len(points_mm) < 2:
        return np.tile([0.0, 0.0, -1.0], (len(points_mm), 1))
    along = np.gradient(points_mm, axis=0)
    lengths = np.linalg.norm(along, axis=1, keepdims=True)
    down = np.array([0.0, 0.0, -1.0])
    unit: NDArray[np.float64] = np.where(lengths > 1e-6, along / np.maximum(lengths, 1e-6), down)
    return unit


def _window(rows: NDArray[np.float64], reach: int) -> NDArray[np.float64]:
    """Each row beside its neighbours, (N, (2 reach + 1) columns); zeros beyond the ends."""
    # rows, reach 1:   a       0 a b
    #                  b  ->   a b c
    #                  c       b c 0
    padded = np.pad(rows, ((reach, reach), (0, 0)))
    return np.hstack([padded[shift : shift + len(rows)] for shift in range(2 * reach + 1)])


def _steps(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """Distance to the next detection in mm, (N, 1); the last has the mean step, which says nothing."""
    if len(points_mm) < 2:
        return np.full((len(points_mm), 1), 25.0)
    steps = np.linalg.norm(np.diff(points_mm, axis=0), axis=1)
    return np.append(steps, steps.mean())[:, None]


def _kinks(points_mm: NDArray[np.float64]) -> NDArray[np.float64]:
    """How far each detection lies beside the line between its neighbours, (N, 1), in 20 mm and at most 3."""
    kinks = np.zeros((len(points_mm), 1))
    if len(points_mm) > 2:
        #      o upper
        #      |  \
        #      |---o    how far it lies beside the chord from its upper to its lower neighbour
        #      |  /
        #      o lower
        chord = points_mm[2:] - points_mm[:-2]
        unit = chord / np.maximum(np.linalg.norm(chord, axis=1, keepdims=True), 1e-6)
        offset = points_mm[1:-1] - points_mm[:-2]
        beside = offset - (offset * unit).sum(axis=1, keepdims=True) * unit
        kinks[1:-1, 0] = np.minimum(np.linalg.norm(beside, axis=1) / 20.0, 3.0)
    return kinks


def _pedicles(found: Detections) -> NDArray[np.float64]:
    """Per detection, (N, 4): how many pedicles were found, how far across and along they lie, width between them.

    Left and right are averaged, so a mirrored spine gives the same numbers. What was not found is 0.
    """
    down = tangents(found.centres_mm)
    counted = np.zeros((len(found), 1))
    offsets = np.zeros((len(found), 2))
    at = np.full((2, len(found), 3), np.nan)
    for side, pedicles in enumerate((found.left_pedicles_mm, found.right_pedicles_mm)):
        for row, pedicle, along, across in _nearest_pedicles(found.centres_mm, down, pedicles):
            at[side, row] = pedicle
            counted[row] += 1.0
            offsets[row] += across / 25.0 - 1.0, along / 10.0
    width = np.linalg.norm(at[0] - at[1], axis=1)
    return np.column_stack(
        [counted, offsets / np.maximum(counted, 1.0), np.where(np.isnan(width), 0.0, width / 30.0 - 1.0)]
    )


def _nearest_pedicles(
    centres_mm: NDArray[np.float64], down: NDArray[np.float64], pedicles_mm: NDArray[np.float64]
) -> list[tuple[int, NDArray[np.float64], float, float]]:
    """Row, position, mm towards the head and mm across the spine, for each centre that has a pedicle."""
    if not len(pedicles_mm):
        return []
    offsets = pedicles_mm[None] - centres_mm[:, None]
    along = -(offsets * down[:, None]).sum(axis=2)
    distance = scipy.spatial.distance.cdist(centres_mm, pedicles_mm)
    usable = (np.abs(along) < _PEDICLE_ALONG_MM) & (distance < _PEDICLE_REACH_MM)
    # a pedicle springs from the upper half of its body, so 3 mm above the centre is where it is looked for
    best = np.where(usable, np.abs(along - 3.0), np.inf).argmin(axis=1)
    across = np.sqrt(np.maximum(distance**2 - along**2, 0.0))
    rows = np.flatnonzero(usable.any(axis=1))
    return [(int(r), pedicles_mm[best[r]], float(along[r, best[r]]), float(across[r, best[r]])) for r in rows]


_WHOLE = 10


def _whole_spine(found: Detections, logits: NDArray[np.float64], pedicles: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is the same for every detection of the spine, (10,): size, clarity of the regions, curvature, pedicles."""
    count = len(found)
    if not count:
        return np.zeros(_WHOLE)
    down = tangents(found.centres_mm)
    steps = _steps(found.centres_mm)[:, 0] / 25.0 - 1.0
    sure = [logits[:, region][logits.argmax(axis=1) == region] for region in range(3)]
    return np.array(
        [
            steps.mean(),
            np.median(steps),
            min(count, 2 * _MOST_COUNTED) / _MOST_COUNTED,
            *(each.mean() if len(each) else 0.0 for each in sure[1:]),
            float(down[0] @ down[-1]),
            float(down[-1] @ (0.0, 0.0, -1.0)),
            pedicles[:, 0].mean(),
            *pedicles[:, 1:3].mean(axis=0),
        ]
    )
