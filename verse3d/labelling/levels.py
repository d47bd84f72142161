"""Which vertebra can follow which: the graph that every reading of a spine walks down.

    C1 - ... - C7 - T1 - ... - T11 - T12 - L1 - ... - L4 - L5 - S1
                                 \\     \\ /           \\    \\ /
                                  \\    T13            \\    L6
                                   L1 (no T12)         S1 (four lumbar)

S1 stands for the first thing below the last lumbar vertebra that looks like a vertebra. VerSe never labels it, so it is
part of a reading but never a name.
"""

from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from verse3d.core.labels import VERTEBRAE

SACRUM = "S1"
LEVELS: tuple[str, ...] = (*(label.name for label in VERTEBRAE), SACRUM)
"""The 26 vertebrae of VerSe from head to tail, and S1."""
LEVEL_INDEX = {name: position for position, name in enumerate(LEVELS)}
ANOMALIES: tuple[str, ...] = ("T13", "no T12", "L6", "no L5")
MOST_MISSED = 3
"""So many vertebrae in a row may be without a detection."""

_REGULAR = tuple(name for name in LEVELS if name not in ("T13", "L6"))
_UNUSUAL = {("T12", "T13"): "T13", ("T11", "L1"): "no T12", ("L5", "L6"): "L6", ("L4", SACRUM): "no L5"}
STEPS: dict[tuple[str, str], str] = {
    **dict.fromkeys(pairwise(_REGULAR), ""),
    **dict.fromkeys((("T13", "L1"), ("L6", SACRUM)), ""),
    **_UNUSUAL,
}
"""Neighbours in a spine, and the anomaly that the step means ("" for none)."""


@dataclass(frozen=True)
class Edges:
    """All ways from one detected vertebra to the next one, with up to ``MOST_MISSED`` between them undetected.

    Attributes:
        start: level index of the upper one, int (E,).
        end: level index of the lower one, int (E,).
        missed: how many vertebrae lie between them, int (E,).
        anomalies: which anomalies the way passes, 0 or 1, (E, 4) in the order of ``ANOMALIES``.
        ways: the levels along each way, the ends included.
        into: edge numbers that end in each level, int (27, W), filled up with -1.
    """

    start: NDArray[np.intp]
    end: NDArray[np.intp]
    missed: NDArray[np.intp]
    anomalies: NDArray[np.float64]
    ways: tuple[tuple[int, ...], ...]
    into: NDArray[np.intp]


@cache
def edges() -> Edges:
    """The edges of the graph above, in a fixed order."""
    # T11 ... L1 is there twice or more: by way of T12, of T12 and T13, or at once.
    ways = [way for level in range(len(LEVELS)) for way in _ways_from((level,)) if len(way) > 1]
    arriving = [[number for number, way in enumerate(ways) if way[-1] == level] for level in range(len(LEVELS))]
    into = np.full((len(LEVELS), max(map(len, arriving))), -1)
    for level, numbers in enumerate(arriving):
        into[level, : len(numbers)] = numbers
    return Edges(
        start=np.array([way[0] for way in ways]),
        end=np.array([way[-1] for way in ways]),
        missed=np.array([len(way) - 2 for way in ways]),
        anomalies=np.array([anomalies_on(way) for way in ways]),
        ways=tuple(ways),
        into=into,
    )


def anomalies_on(way: tuple[int, ...]) -> NDArray[np.float64]:
    """Which anomalies a way along neighbouring levels passes: 0 or 1 for each of ``ANOMALIES``."""
    # T11 -> L1 is the step that means "no T12"; most steps mean nothing ("").
    met = {STEPS[LEVELS[a], LEVELS[b]] for a, b in pairwise(way)}
    # a way that begins or ends inside an anomaly has met it, too
    met |= {name for name in ("T13", "L6") if LEVEL_INDEX[name] in way}
    return np.array([float(name in met) for name in ANOMALIES])


def _ways_from(way: tuple[int, ...]) -> list[tuple[int, ...]]:
    """The way itself and all that go on from it."""
    found = [way]
    # Two ends and at most so many between them.
    if len(way) < MOST_MISSED + 2:
        for above, below in STEPS:
            if LEVEL_INDEX[above] == way[-1]:
                found += _ways_from((*way, LEVEL_INDEX[below]))
    return found


@cache
def whole_spines() -> tuple[tuple[int, ...], ...]:
    """The nine spines that the graph allows from C1 to S1: 11, 12 or 13 thoracic, 4, 5 or 6 lumbar vertebrae."""
    found = []
    stack: list[tuple[int, ...]] = [(0,)]
    while stack:
        spine = stack.pop()
        if LEVELS[spine[-1]] == SACRUM:
            found.append(spine)
        stack += [(*spine, LEVEL_INDEX[below]) for above, below in STEPS if LEVEL_INDEX[above] == spine[-1]]
    return tuple(sorted(found))
