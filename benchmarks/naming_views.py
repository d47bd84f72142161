"""Views of phantoms to name vertebrae in: a whole person, or a part, and whether names follow from what it shows."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, vertebra
from verse3d.phantoms.body import Body, make_body
from verse3d.phantoms.levels import Anomaly

SEED = 4711
"""Of persons that no training sees: ``benchmarks/scout.py`` and trainings draw others."""
LEAST_VERTEBRAE = 3
_COUNTED = {
    "l6": {"T12", "L1", "L6"},
    "t13": {"C7", "T1", "T13", "L1"},
    "t12-missing": {"C7", "T1", "T11", "L1"},
    "l5-missing": {"T12", "L1", "L4"},
}
"""What must be in view for an anomaly to be: both ends of what is counted."""


@dataclass(frozen=True, eq=False)
class View:
    """A part of a person.

    Attributes:
        name: of the person and the part.
        image_hu, mask, geometry: int16 and VerSe ids (I, J, K), and their grid.
        whole: VerSe ids of the vertebrae that lie wholly in it, from head to feet.
        anomaly: what is unusual and in view; "" for nothing.
        decidable: whether a border that names start from is in view.
    """

    name: str
    image_hu: NDArray[np.int16]
    mask: NDArray[np.uint8]
    geometry: Geometry
    whole: tuple[int, ...]
    anomaly: str
    decidable: bool

    @property
    def truth(self) -> NDArray[np.uint8]:
        """The mask without vertebrae that the part cuts, as VerSe ships it."""
        return np.where(np.isin(self.mask, self.whole), self.mask, 0).astype(np.uint8)


def views(persons: int, parts: int, spacing_mm: float, anomaly: Anomaly | None = None) -> Iterator[View]:
    """Every person whole, and random parts of three to nine vertebrae of each, on grids of ``spacing_mm``.

    Half of the persons have L6, T13 or no T12; with ``anomaly`` all have that.
    """
    for number in range(persons):
        body = make_body(SEED, number, spacing_mm, anomaly=anomaly)
        random = np.random.default_rng([SEED, number])
        ids = [label.id for label in VERTEBRAE if (body.mask == label.id).any()]
        planes = {one: np.flatnonzero((body.mask == one).any(axis=(0, 1))) for one in ids}
        yield _view(body, f"person {number}, whole", planes, 0, body.mask.shape[2])
        for part in range(parts):
            count = int(random.integers(LEAST_VERTEBRAE, 10))
            first = int(random.integers(0, len(ids) - count + 1))
            # k grows towards the head: the lowest vertebra begins the part, a little is shown beyond both ends
            margin = random.integers(1, 1 + int(12 / spacing_mm), 2)
            low = max(0, int(planes[ids[first + count - 1]][0]) - int(margin[0]))
            high = min(body.mask.shape[2], int(planes[ids[first]][-1]) + 1 + int(margin[1]))
            yield _view(body, f"person {number}, part {part}", planes, low, high)


def _view(body: Body, name: str, planes: dict[int, NDArray[np.intp]], low: int, high: int) -> View:
    whole = tuple(one for one, at in planes.items() if low <= at[0] and at[-1] < high)
    names = [vertebra(one).name for one in whole]
    last = [vertebra(one).name for one in planes][-1]
    below_mm = (planes[vertebra(last).id][0] - low) * body.geometry.spacing_mm[2]
    regions = {one[0] for one in names}
    start, stop = (0, 0, low), (*body.geometry.shape[:2], high)
    return View(
        name,
        np.ascontiguousarray(body.image_hu[:, :, low:high]),
        np.ascontiguousarray(body.mask[:, :, low:high]),
        body.geometry.cropped(start, stop),
        whole,
        body.anomaly if body.anomaly and _COUNTED[body.anomaly] <= set(names) else "",
        _can_be_counted(body.anomaly, names)
        and (len(regions) > 1 or "C1" in names or (last in names and below_mm >= 10.0)),
    )


def _can_be_counted(anomaly: str | None, names: Sequence[str]) -> bool:
    """Whether the names follow from what is in view, in a person with an anomaly.

    The lowest vertebra with ribs is T12 to anybody who does not see where T1 is, and the one above the sacrum is L5 to
    anybody who does not see the last rib, however many there are.
    """
    regions = {name[0] for name in names}
    if anomaly in ("t13", "t12-missing"):
        return "C7" in names or "T" not in regions
    return anomaly not in ("l6", "l5-missing") or "T12" in names or "L" not in regions
