"""How wide vertebrae are from the tip of one transverse process to the other, beside their neighbours.

Transverse processes grow shorter from T1 to T12 and long again from L1 on (Masharawi and Salame, Shape variation of the
neural arch in the thoracic and lumbar spine, Clinical Anatomy 24:858-867, 2011, on 240 spines)::

    C7  T1  T2  ...  T9  T10 T11 T12 | L1  L2  L3  L4  L5
    --  --- ---      --  --  -   -   | --  --- --- --  ----

Only ratios count, so the size of the patient does not.
"""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from verse3d.labelling.levels import LEVELS, SACRUM, edges

_NECK_MM = {"C1": 76, "C2": 54, "C3": 53, "C4": 54, "C5": 56, "C6": 59, "C7": 62}
"""Round figures: no mask at hand shows a whole neck."""
_STEPS = {
    "T1": 0.21, "T2": -0.04, "T3": -0.08, "T4": -0.05, "T5": 0.02, "T6": -0.01, "T7": 0.0, "T8": 0.0, "T9": -0.02,
    "T10": -0.09, "T11": -0.09, "T12": 0.0, "L1": 0.27, "L2": 0.08, "L3": 0.14, "L4": -0.09, "L5": 0.24, "L6": 0.0,
}  # fmt: skip
"""Log of the width beside that of the vertebra above, the mean of one to five masks (``benchmarks/naming_widths.py``):
sub-verse004, 009 and 010 and two automatic ones. L6 is as L5, for want of any."""
_T13_BELOW_T12 = 0.13
"""Half-way to L1; no mask at hand shows one."""
_SPREAD, _WIDE_SPREAD = 0.12, 0.2
_WIDE = ("T13", "L5", "L6")
_TAIL = 5.0
_WEIGHT = 0.5
"""A process that is missing from a mask makes one step smaller and the next one larger: the same evidence twice."""
_OF_SACRUM = -0.3
"""About what a usual vertebra gets: its wings say nothing about the others."""


def width_scores(log_ratio: float) -> NDArray[np.float64]:
    """What the width of a vertebra beside that of one above it says for each edge of the graph, (E,).

    Args:
        log_ratio: of the lower one to the upper one; NaN if one of them is not known: no evidence in any direction.
    """
    expected, spread = _expected()
    if not np.isfinite(log_ratio):
        return np.zeros(len(expected))
    # Tails as heavy as those of distances.
    surprise = np.log1p(((log_ratio - expected) / spread) ** 2 / _TAIL)
    scores = -0.5 * (_TAIL + 1.0) * _WEIGHT * surprise
    return np.asarray(np.where(np.isnan(scores), _OF_SACRUM, scores), np.float64)


@cache
def _expected() -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The expected log ratio of the ends of each edge, NaN where one is the sacrum, and its spread; (E,) each."""
    widths = _log_widths()
    ends = [(LEVELS[way[0]], LEVELS[way[-1]]) for way in edges().ways]
    expected = np.array([widths[lower] - widths[upper] for upper, lower in ends])
    spread = np.array([_WIDE_SPREAD if set(pair) & set(_WIDE) else _SPREAD for pair in ends])
    return expected, spread


def _log_widths() -> dict[str, float]:
    widths = {name: float(np.log(mm)) for name, mm in _NECK_MM.items()}
    last = widths["C7"]
    for name, step in _STEPS.items():
        last += step
        widths[name] = last
    return widths | {"T13": widths["T12"] + _T13_BELOW_T12, SACRUM: float("nan")}
