"""A scan between its stages (see ``scan_stages``): opened, prepared, segmented."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.handed import Handed
from verse3d.core.peak_memory import Peak
from verse3d.core.volume import StoredVoxels
from verse3d.inference.aggregator import Aggregator
from verse3d.inference.memory_plan import Plan
from verse3d.inference.predictor import NetworkPass
from verse3d.inference.records import PredictionRecord


@dataclass(frozen=True, eq=False)
class OpenedScan:
    """A scan whose header was read, and for which there is something to be done.

    Attributes:
        record: says so far that it failed.
        image: the file.
        target: the mask that will be written.
        peak: the largest memory since then.
        stored: header and grid.
        grid: of the network.
    """

    record: PredictionRecord
    image: Path
    target: Path
    peak: Peak
    stored: StoredVoxels
    grid: Geometry


@dataclass(frozen=True, eq=False)
class PreparedScan:
    """A scan on the network grid.

    Attributes:
        opened: the scan.
        plan: how it will be segmented.
        image: (I, J, K) float16, 0 ... 1; taken once, so that only the part with the spine is held from then on.
        seconds_of: what each stage took so far.
        warnings: for the user.
    """

    opened: OpenedScan
    plan: Plan
    image: Handed[NDArray[np.float16]]
    seconds_of: dict[str, float]
    warnings: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class SegmentedScan:
    """What the network says about a scan.

    Attributes:
        opened, plan, seconds_of, warnings: as of ``PreparedScan``, whose image is not held any more.
        aggregator: gives the mask, once.
        networks: what they did with it.
    """

    opened: OpenedScan
    plan: Plan
    aggregator: Aggregator
    networks: NetworkPass
    seconds_of: dict[str, float]
    warnings: tuple[str, ...]
