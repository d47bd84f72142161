"""How much memory a prediction will take, and how it is made to fit."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch

from verse3d.core.errors import MemoryLimitError
from verse3d.core.geometry import Shape
from verse3d.core.limits import voxel_count
from verse3d.core.memory import SHARE_OF_FREE, free_memory_bytes
from verse3d.core.runtime import rss_mb
from verse3d.inference.sliding_window import StreamSettings
from verse3d.model.tilings import Tiling

_IMAGE_BYTES = 2  # float16
_WORKING_MB = 60.0
"""What is held for a moment: windows, buffers, planes and slabs, while grids change and files are read and written."""
KEPT_MB = 210.0
"""What threads that compute side by side keep of freed memory, each for itself: 512 x 512 x 500 took 100 MB more than
the rest of the forecast with one label, and 150 with 27 labels of noise."""
CARRYING_MB = 100.0
"""What ``MulticlassAggregator`` takes at worst beside its planes, which is where all voxels are near borders."""
_CLEANING_BYTES = 1
"""For each voxel of the mask: four bytes a run of voxels, if a quarter of them begins one. See ``clean_up``."""
_GROUPING_BYTES = 2
"""For each voxel of the mask, if bones fill its box; a spine fills a tenth. See ``labelling.instances``."""
_WINDOW_BYTES = 200
"""Lists of windows: their numbers, and the batches they are shown in. Counts from a few thousand windows on."""
_SUMS_DTYPES = (torch.float32, torch.float16)


@dataclass(frozen=True)
class Limit:
    """How much memory the whole process may hold, MB (10^6 bytes), and whether the user said so."""

    mb: float
    asked_for: bool

    @classmethod
    def of(cls, max_ram_gb: float | None) -> "Limit":
        """The user's limit, or what is held now with nine tenths of what is free."""
        if max_ram_gb is not None:
            return cls(max_ram_gb * 1000, asked_for=True)
        return cls(rss_mb() + SHARE_OF_FREE * free_memory_bytes() / 1e6, asked_for=False)


def image_mb(shape: Shape) -> float:
    """What a prepared image of that shape on the network grid takes, MB."""
    return voxel_count(shape) * _IMAGE_BYTES / 1e6


@dataclass(frozen=True, eq=False)
class Demand:
    """What one scan needs, beyond what the program holds anyway.

    Attributes:
        source_voxels: of the scan.
        source_bytes: of a voxel as it is held in memory.
        tiling: of the volume on the network grid.
        channels: of the network.
        window_mb: what the network takes for one window.
        windows_per_batch: as the config wants it.
        scout_mb: what the scouts take while they look for the spine.
        grouped: whether bones are grouped and named, where other labels are cleaned.
        sums_dtype: of the open planes, if there is room: see ``Ensemble.sums_dtype``.
        side_by_side: batches that are computed at the same time, if there is room.
        kept_mb: what threads keep of freed memory if they compute parts of the work, each by itself.
    """

    source_voxels: int
    source_bytes: int
    tiling: Tiling
    channels: int
    window_mb: float
    windows_per_batch: int
    scout_mb: float = 0.0
    grouped: bool = False
    sums_dtype: torch.dtype = torch.float32
    side_by_side: int = 1
    kept_mb: float = 0.0

    @property
    def scouting_mb(self) -> float:
        """While scouts look for the spine in the prepared volume."""
        return self._image_mb + self.scout_mb + _WORKING_MB

    @property
    def reading_mb(self) -> float:
        """While the scan is read and carried to the network grid."""
        return self.source_voxels * self.source_bytes / 1e6 + self._image_mb + _WORKING_MB

    def network_mb(self, settings: StreamSettings) -> float:
        """While the network looks at it: the prepared volume, the labels so far, the open planes, one batch."""
        # Labels are carried to the scan's grid while the network works, a single label's probability afterwards.
        carrying_mb = CARRYING_MB + self._plane_mb(settings) if self.channels > 1 else 0.0
        # Batches are computed side by side, or the planes of several labels carried to the scan's grid.
        kept_mb = self.kept_mb if settings.side_by_side > 1 or self.channels > 1 else 0.0
        return (
            self._image_mb
            + self._answer_mb
            + carrying_mb
            + kept_mb
            + self._sums_mb(settings)
            + self.window_mb * settings.windows_per_batch * settings.side_by_side
            + len(self.tiling.regions) * _WINDOW_BYTES // 10**6
            + _WORKING_MB
        )

    @property
    def finishing_mb(self) -> float:
        """While the labels are carried to the grid of the scan, cleaned (at worst in all of it) and written."""
        mask_mb = self.source_voxels / 1e6
        carrying_mb = mask_mb
        if self.channels == 1:  # the probabilities are there as well until the mask is made
            carrying_mb += self._answer_mb
        bytes_each = _GROUPING_BYTES if self.grouped else _CLEANING_BYTES
        cleaning_mb = mask_mb * (1 + bytes_each)
        return max(carrying_mb, cleaning_mb) + _WORKING_MB

    @property
    def _image_mb(self) -> float:
        return image_mb(self.tiling.shape)

    @property
    def _answer_mb(self) -> float:
        """One probability on the network grid, or labels on the grid of the scan."""
        return voxel_count(self.tiling.shape) * 4 / 1e6 if self.channels == 1 else self.source_voxels / 1e6

    def _sums_mb(self, settings: StreamSettings) -> float:
        """At most, without a walk over the windows: a header may promise more of them than memory could list."""
        # ``batches`` never lets one span more planes than its thickest window, or than it has windows.
        most = max(self.tiling.thickness, settings.windows_per_batch)
        return min(most, self.tiling.shape[self.tiling.axis]) * self._plane_mb(settings)

    def _plane_mb(self, settings: StreamSettings) -> float:
        """The sums of a plane, and their weights."""
        voxels = voxel_count(self.tiling.shape) // self.tiling.shape[self.tiling.axis]
        return voxels * (settings.sums_dtype.itemsize * self.channels + 4) / 1e6


@dataclass(frozen=True)
class Plan:
    """How a scan is predicted, and what that takes.

    Attributes:
        settings: of the streaming.
        held_mb: what the program held when the plan was made: libraries, networks, neighbouring scans.
        stages_mb: what each stage adds to that.
        limit_mb: what the process may hold at most.
    """

    settings: StreamSettings
    held_mb: float
    stages_mb: Mapping[str, float]
    limit_mb: float

    @property
    def peak_mb(self) -> float:
        """The largest resident memory that is expected."""
        return self.held_mb + max(self.stages_mb.values())

    def to_dict(self) -> dict[str, object]:
        """Plain values, for the list of predictions."""
        return {
            "windows_per_batch": self.settings.windows_per_batch,
            "side_by_side": self.settings.side_by_side,
            "sums": str(self.settings.sums_dtype).removeprefix("torch."),
            "held_mb": round(self.held_mb, 1),
            "stages_mb": {stage: round(mb, 1) for stage, mb in self.stages_mb.items()},
            "peak_mb": round(self.peak_mb, 1),
            "limit_mb": round(self.limit_mb, 1),
        }


def make_plan(demand: Demand, limit: Limit, held_mb: float) -> Plan:
    """The plan closest to the config's wishes that stays below the limit.

    First batches are computed one after the other, then they shrink, then the sums are held in float16.

    Raises:
        MemoryLimitError: the smallest plan does not fit either; says what would.
    """
    smallest = None
    for settings in _wishes(demand):
        smallest = _plan(demand, settings, limit, held_mb)
        if smallest.peak_mb <= limit.mb:
            return smallest
    if smallest is None:
        raise ValueError("a batch holds at least one window")
    raise _does_not_fit(smallest, limit)


def _wishes(demand: Demand) -> Iterator[StreamSettings]:
    """Settings from the quickest to the smallest."""
    # Side by side; then float32 (if it is wanted): 4, 2, 1 windows; then float16: 4, 2, 1.
    if demand.side_by_side > 1:
        yield StreamSettings(demand.windows_per_batch, demand.sums_dtype, demand.side_by_side)
    for dtype in _SUMS_DTYPES[_SUMS_DTYPES.index(demand.sums_dtype) :]:
        batch = demand.windows_per_batch
        while batch >= 1:
            yield StreamSettings(batch, dtype)
            batch //= 2


def _plan(demand: Demand, settings: StreamSettings, limit: Limit, held_mb: float) -> Plan:
    stages = {
        "reading": demand.reading_mb,
        "scouting": demand.scouting_mb,
        "network": demand.network_mb(settings),
        "finishing": demand.finishing_mb,
    }
    return Plan(settings, held_mb, stages, limit.mb)


def _does_not_fit(plan: Plan, limit: Limit) -> MemoryLimitError:
    # Stages follow each other, so the largest one decides.
    stage, mb = max(plan.stages_mb.items(), key=lambda item: item[1])
    allowed = f"`max_ram_gb={limit.mb / 1000:g}` allows" if limit.asked_for else "is free"
    needed = plan.peak_mb / 1000
    return MemoryLimitError(
        f"this needs at least {needed:.1f} GB of memory, {'' if limit.asked_for else f'{limit.mb / 1000:.1f} GB '}"
        f"{allowed}: {plan.held_mb / 1000:.1f} GB for the program and the model, {mb / 1000:.1f} GB for {stage}",
        hint=f"allow `max_ram_gb={np.ceil(needed * 10) / 10:g}`"
        if limit.asked_for
        else "close other programs, or cut the scan to the spine",
        option="max_ram_gb",
    )
