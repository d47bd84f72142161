"""How large a vertebra is at each level, from the atlas to the last lumbar one (adult means, rounded)."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

RegionName = Literal["atlas", "axis", "cervical", "thoracic", "lumbar"]
Anomaly = Literal["l6", "t13", "t12-missing", "collapsed", "screw", "l5-missing"]

SACRUM = 25.0
"""Position of the sacrum on the level axis that runs from C1 (1) over T1 (8) and L1 (20) to L5 (24)."""


@dataclass(frozen=True)
class Level:
    """Typical sizes (mm, degrees) of one vertebra.

    Attributes:
        name: "C1" ... "L6", "T13".
        position: place on the level axis (C1 = 1, T1 = 8, L1 = 20, L5 = 24), fractional for supernumerary ones.
        disc: height of the disc below.
        transverse_span: distance of the tip of the transverse process from the midline.
        spinous_length: from the canal's rear wall to the tip.
        spinous_angle_deg: how far the spinous process points downwards.
    """

    name: str
    position: float
    width: float
    depth: float
    height: float
    disc: float
    canal_width: float
    canal_depth: float
    pedicle_width: float
    pedicle_height: float
    transverse_span: float
    spinous_length: float
    spinous_angle_deg: float
    spinous_height: float

    @property
    def region(self) -> RegionName:
        """Which building plan the level follows."""
        if self.name in ("C1", "C2"):
            return "atlas" if self.name == "C1" else "axis"
        return {"C": "cervical", "T": "thoracic", "L": "lumbar"}[self.name[0]]  # type: ignore[return-value]


# position: width, depth, height, disc, canal w, d, pedicle w, h, transverse span, spinous length, angle, height
_TABLE: dict[float, tuple[float, ...]] = {
    2: (17, 15, 17, 5, 24, 16, 6, 8, 25, 19, 18, 11),
    3: (17, 15, 13, 5, 24, 15, 6, 7, 25, 15, 18, 8),
    5: (18, 15.5, 13.5, 5.5, 25, 14.5, 6, 7, 26, 17, 20, 8),
    7: (21, 16.5, 14.5, 5.5, 25, 14.5, 6.5, 8, 32, 27, 24, 9),
    8: (24, 17, 16, 5, 21, 15, 7, 9, 36, 29, 30, 9),
    10: (24, 20, 18, 4.5, 17, 15, 6, 11, 31, 29, 44, 9),
    13: (26, 24, 20, 4.5, 16.5, 15, 6, 12, 30, 33, 57, 9),
    16: (30, 27, 22, 5, 17, 15, 6.5, 13, 28, 31, 46, 10),
    18: (35, 28, 24, 6, 18.5, 16, 8, 15, 25, 26, 25, 14),
    19: (38, 29, 25, 7, 20, 16.5, 8, 15, 22, 25, 13, 17),
    20: (41, 31, 27, 8, 22, 17, 8.5, 15, 36, 28, 8, 20),
    22: (44, 33, 28.5, 10, 23, 17, 10, 15, 45, 31, 4, 22),
    24: (48, 34, 28, 10, 26, 17, 13, 14, 44, 23, 10, 16),
}


def level(name: str, lumbar: int = 5) -> Level:
    """The typical sizes of a level by name; what the table lacks is interpolated.

    ``lumbar`` vertebrae has the person: of four the last one is as L5, on the sacrum, and the first as L1.

    Example:
        >>> level("L5").width, level("T6").region
        (48.0, 'thoracic')
    """
    # C1 = 1 ... C7 = 7, T1 = 8 ... T12 = 19, L1 = 20 ... L5 = 24; T13 and L6 lie half a level further
    before_first = {"C": 0.0, "T": 7.0, "L": 19.0}[name[0]]
    position = {"T13": 19.5, "L6": 24.5}.get(name, before_first + float(name[1:]))
    if name[0] == "L" and lumbar < 5:
        position = 20.0 + (position - 20.0) * 4.0 / (lumbar - 1)
    columns = np.array(list(_TABLE.values()), dtype=float).T
    sizes = [float(np.interp(position, list(_TABLE), column)) for column in columns]
    return Level(name, position, *sizes)


def level_names(anomaly: Anomaly | None) -> Sequence[str]:
    """All vertebrae of one person from head to tail."""
    thoracic = {"t13": 13, "t12-missing": 11}.get(anomaly or "", 12)
    lumbar = {"l6": 6, "l5-missing": 4}.get(anomaly or "", 5)
    counts = (("C", 7), ("T", thoracic), ("L", lumbar))
    return [f"{letter}{number}" for letter, count in counts for number in range(1, count + 1)]
