"""From detections to named vertebrae, with how sure that is and what else they could be called."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache

import numpy as np
from numpy.typing import NDArray

from verse3d.labelling.detections import REGIONS, Detections
from verse3d.labelling.evidence import LevelEvidence
from verse3d.labelling.features import describe
from verse3d.labelling.levels import LEVELS, SACRUM, anomalies_on, whole_spines
from verse3d.labelling.priors import Priors, shipped_priors
from verse3d.labelling.sequence import Path, best_paths, weigh
from verse3d.labelling.spine_curve import split_spines
from verse3d.labelling.weighing import priors_of_bones, weigh_bones

KEPT_PATHS = 6
_KEPT_OF_BONES = 12
"""Without points on pedicles and ribs there is more to be doubted."""
_LACKING = -3.0
"""Of the ends of the best path: the scan goes on where the spine does not, so one bone may be two vertebrae."""
_LEAST_IN_SECOND_SPINE = 3
_CLEARLY_REVERSED = -0.3
_GAP = 1.5


@dataclass(frozen=True)
class Reading:
    """One way to read a spine.

    Attributes:
        names: row of the detection -> name, from head to feet; detections that are no vertebra have none.
        probability: of this reading among all that were found.
    """

    names: dict[int, str]
    probability: float


@dataclass(frozen=True)
class NamedSpine:
    """One spine: its readings, best first, and what follows from them.

    Attributes:
        order: rows of all its detections from head to feet, the false ones included.
        readings: the best one and what else it could be, at least one.
        ambiguous: the best reading is not sure enough to be given without a word; look at the others, too.
        upside_down: the head lies lower in the world than the feet: the header may be wrong.
        missed: name -> where it should lie (world mm), for vertebrae between the first and the last one that have no
            detection, by the best reading: evenly spaced between their detected neighbours.
    """

    order: tuple[int, ...]
    readings: tuple[Reading, ...]
    ambiguous: bool
    upside_down: bool
    missed: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)

    @property
    def names(self) -> dict[int, str]:
        """Row of the detection -> name by the best reading."""
        return self.readings[0].names

    @property
    def probability(self) -> float:
        """How sure the best reading is, 0 to 1."""
        return self.readings[0].probability

    def chances(self, row: int) -> dict[str, float]:
        """Name -> probability of one detection over all readings, likeliest first; "" means no vertebra."""
        sums: dict[str, float] = {}
        for reading in self.readings:
            name = reading.names.get(row, "")
            sums[name] = sums.get(name, 0.0) + reading.probability
        return dict(sorted(sums.items(), key=lambda item: -item[1]))


def name_spines(
    found: Detections, priors: Priors | None = None, levels: LevelEvidence | None = None
) -> list[NamedSpine]:
    """Name every vertebra of a scan.

    Args:
        found: the detections, in any order. Without any there is no spine and the list is empty.
        priors: what is known of spines; None: the shipped numbers.
        levels: what is known about each detection, if not from its own regions and pedicles.

    Returns:
        One entry per spine, the longest first: usually one, two for two patients. Lone detections beside it and pairs
        are not spines as long as there is a longer one.
    """
    priors = priors or shipped_priors()
    spines = split_spines(found)
    kept = [rows for number, rows in enumerate(spines) if not number or len(rows) >= _LEAST_IN_SECOND_SPINE]
    return [_named(found, rows, priors, levels) for rows in kept]


def _named(found: Detections, rows: NDArray[np.intp], priors: Priors, levels: LevelEvidence | None) -> NamedSpine:
    paths = _paths(found, rows, priors, levels)
    upside_down = False
    # Read both ways only where the regions ask for it: each way is a search of its own.
    if _reversed(found.taken(rows)):
        other = _paths(found, rows[::-1], priors, levels)
        if upside_down := other[0].score > paths[0].score:
            paths, rows = other, rows[::-1]
    readings = _readings(paths, rows)
    unsure = readings[0].probability < float(priors.certain[0]) or paths[0].ends < _LACKING
    ambiguous = bool(readings[0].names) and unsure
    missed = _missed(readings[0].names, found.centres_mm)
    return NamedSpine(tuple(map(int, rows)), readings, ambiguous, upside_down, missed)


def _paths(found: Detections, rows: NDArray[np.intp], priors: Priors, levels: LevelEvidence | None) -> list[Path]:
    ordered = found.taken(rows)
    if levels is not None:
        priors = priors_of_bones(priors)
        return best_paths(weigh_bones(levels, rows, ordered.centres_mm, priors), priors, _KEPT_OF_BONES)
    return best_paths(weigh(describe(ordered), ordered.centres_mm, priors), priors, KEPT_PATHS)


def _reversed(found: Detections) -> bool:
    """Do the regions run the wrong way: lumbar at the head end, cervical at the feet?"""
    known = np.nan_to_num(found.regions, nan=0.0)
    if len(found) < 3 or not known.any():
        return False
    # cervical 0, thoracic 1, lumbar 2: the mean region of each detection, which grows from head to feet
    region = known @ np.arange(len(REGIONS)) / np.maximum(known.sum(axis=1), 1e-6)
    place = np.arange(len(found)) - (len(found) - 1) / 2.0
    # Correlation of region and place in the row; clearly negative: the row begins at the feet.
    size = np.linalg.norm(place) * np.linalg.norm(region - region.mean())
    return bool(size > 0.3 and place @ (region - region.mean()) / size < _CLEARLY_REVERSED)


def _readings(paths: Sequence[Path], rows: NDArray[np.intp]) -> tuple[Reading, ...]:
    """Paths as readings. Those that contradict no name of a better one are the same reading.

    So whether a doubtful point at the end is a vertebra does not make the names of the others doubtful. S1 is no name,
    but contradicts L6: whether the lowest vertebra is L6 or the sacrum is a question worth asking.
    """
    scores = np.array([path.score for path in paths])
    # Less the largest, so that exp overflows nowhere; the shares add up to 1.
    shares = np.exp(scores - scores.max())
    shares /= shares.sum()
    sums: list[tuple[dict[int, str], float]] = []
    for path, share in zip(paths, shares, strict=True):
        levels = {int(rows[row]): name for row, name in path.names().items()}
        same = next((place for place, (other, _) in enumerate(sums) if _agree(other, levels)), None)
        if same is None:
            sums.append((levels, float(share)))
        else:
            sums[same] = (sums[same][0], sums[same][1] + float(share))
    first, *others = [
        Reading({row: name for row, name in levels.items() if name != SACRUM}, share) for levels, share in sums
    ]
    return (first, *sorted(others, key=lambda reading: -reading.probability))


def _agree(one: dict[int, str], other: dict[int, str]) -> bool:
    """Do two readings name something in common, and everything in common alike?"""
    shared = one.keys() & other.keys()
    return bool(shared or one == other) and all(one[row] == other[row] for row in shared)


def _missed(names: dict[int, str], centres_mm: NDArray[np.float64]) -> dict[str, tuple[float, float, float]]:
    """What the plainest spine with these names has between the first and the last of them, and is not among them.

    L1 next to T11 without a gap means that the patient has no T12, not that T12 was missed.
    """
    found = {name: centres_mm[row] for row, name in names.items()}
    fitting = [spine for spine in _spine_names() if found.keys() <= set(spine)]
    if not fitting or len(found) < 2:
        return {}
    steps = np.linalg.norm(np.diff(list(found.values()), axis=0), axis=1)
    missed: dict[str, tuple[float, float, float]] = {}
    for (upper, above), (lower, below), step in zip(found.items(), list(found.items())[1:], steps, strict=False):
        # found       T10 - - - - - - - - - - L1
        # between          T11       T12           evenly on the line from one centre to the next
        between = fitting[0][fitting[0].index(upper) + 1 : fitting[0].index(lower)]
        if between == ("T12",) and step <= _GAP * np.median(steps):
            continue
        for place, name in enumerate(between, start=1):
            x, y, z = above + (below - above) * place / (len(between) + 1)
            missed[name] = (float(x), float(y), float(z))
    return missed


@cache
def _spine_names() -> tuple[tuple[str, ...], ...]:
    """The nine spines by names, the plainest first."""
    # Of spines with equally many anomalies always the same one comes first.
    ranked = sorted(whole_spines(), key=lambda spine: (anomalies_on(spine).sum(), spine))
    return tuple(tuple(LEVELS[level] for level in spine) for spine in ranked)
