"""What a call may hold in memory, what it holds anyway, and so what is planned for each scan."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import torch

from verse3d.core.errors import MemoryLimitError
from verse3d.core.limits import voxel_count
from verse3d.core.memory import give_back_freed_memory
from verse3d.core.runtime import rss_mb
from verse3d.core.single_threaded import share_of_threads
from verse3d.core.threads import thread_count
from verse3d.core.volume import StoredVoxels
from verse3d.data.samples.grid import network_geometry
from verse3d.inference.memory_plan import KEPT_MB, Demand, Limit, Plan, make_plan
from verse3d.inference.predictor import Predictor

_SIDE_BY_SIDE = 2
_SMALL_WINDOW_MB = 150.0
"""What a window may take of which two are computed at the same time. That of one label takes 117, of 27 channels 460:
there a second one would add a quarter to the peak of the whole prediction."""
_LEAST_OF_SMALL_WINDOW_MB = 40.0
"""What it takes at the very least: 18 MB with one label, 33 of the starter weights, 110 with 27 channels."""


@dataclass(frozen=True, eq=False)
class Budget:
    """The memory of one call.

    Attributes:
        predictor: what works on the scans.
        limit: what the process may hold.
        held_mb: what it holds without any scan.
        window_mb: what the network takes for one window.
    """

    predictor: Predictor
    limit: Limit
    held_mb: float
    window_mb: float

    @classmethod
    def measured(cls, predictor: Predictor, max_ram_gb: float | None) -> Self:
        """Open the network and try it with an empty window.

        Raises:
            MemoryLimitError: program and model, or they and a single window, do not fit.
        """
        return cls.unopened(predictor, max_ram_gb).opened()

    @classmethod
    def unopened(cls, predictor: Predictor, max_ram_gb: float | None) -> Self:
        """Before the network was tried, as if it took nothing: good for what is done before.

        Raises:
            MemoryLimitError: program and model, or they and a single window, do not fit.
        """
        limit = Limit.of(max_ram_gb)
        # Twice, so that the message says whether program and model alone are too much, or only with a window.
        for more_mb, what in ((0.0, "alone"), (predictor.least_window_mb(), "with one of its windows")):
            _require_room(rss_mb() + more_mb, limit, f"the program and the model {what}")
        return cls(predictor, limit, held_mb=rss_mb(), window_mb=0.0)

    def opened(self, besides_mb: float = 0.0) -> Self:
        """After the network was tried with an empty window.

        Args:
            besides_mb: held now, but counted where scans are planned.
        """
        self.predictor.make_ready()
        window_mb = self._measured_window_mb()
        give_back_freed_memory()  # it would be counted twice
        return replace(self, held_mb=rss_mb() - besides_mb, window_mb=window_mb)

    def _measured_window_mb(self) -> float:
        """With the threads that it will be computed with: what is prepared for it is prepared for their number."""
        if self._can_share and self.predictor.least_window_mb() <= _LEAST_OF_SMALL_WINDOW_MB:
            with share_of_threads(_SIDE_BY_SIDE):
                window_mb = self.predictor.window_mb()
            if self._is_small(window_mb):
                return window_mb
        return self.predictor.window_mb()

    def holding(self, scan_mb: float) -> Self:
        """For a scan that was read before there was a budget: it is in memory, and counted where scans are planned."""
        return replace(self, held_mb=max(0.0, rss_mb() - scan_mb))

    def plan(self, stored: StoredVoxels) -> Plan:
        """How a scan is predicted within the limit.

        Raises:
            MemoryLimitError: it does not fit.
            GeometryError: no CT has such voxels.
        """
        return make_plan(self._demand(stored), self.limit, self.held_mb)

    def fits_overlapped(self, scans: Sequence[StoredVoxels]) -> bool:
        """Whether the largest scans may be read, segmented and written at the same time."""
        demands = [self._demand(stored) for stored in scans]
        settings = replace(self.predictor.settings, side_by_side=self._side_by_side)
        # The worst moment is when three large scans are each in another stage.
        peak_mb = (
            self.held_mb
            + max((demand.reading_mb for demand in demands), default=0.0)
            + max((max(demand.scouting_mb, demand.network_mb(settings)) for demand in demands), default=0.0)
            + max((demand.finishing_mb for demand in demands), default=0.0)
        )
        return peak_mb <= self.limit.mb

    def _demand(self, stored: StoredVoxels) -> Demand:
        method, naming = self.predictor.method, self.predictor.naming
        grid = network_geometry(stored.geometry, method.grid)
        return Demand(
            source_voxels=voxel_count(stored.geometry.shape),
            source_bytes=stored.bytes_in_memory,
            tiling=self.predictor.tiling(grid.shape, stored.geometry),
            channels=method.network_scheme.output_channels,
            window_mb=self.window_mb,
            windows_per_batch=method.inference.windows_per_batch,
            scout_mb=max(self.predictor.scouts.megabytes(grid), naming.megabytes(grid) if naming else 0.0),
            grouped=method.by_sequence,
            sums_dtype=self.predictor.settings.sums_dtype,
            side_by_side=self._side_by_side,
            kept_mb=KEPT_MB if self._can_share else 0.0,
        )

    @property
    def _side_by_side(self) -> int:
        """How many batches are computed at once. More than two would take memory and gain little."""
        return _SIDE_BY_SIDE if self._can_share and self._is_small(self.window_mb) else 1

    @property
    def _can_share(self) -> bool:
        """Whether there are cores for two batches, and backends that let several threads compute."""
        has_cores = min(thread_count(), torch.get_num_threads()) > 1
        return has_cores and all(one.takes_threads for one in self.predictor.placement.ensemble.backends)

    def _is_small(self, window_mb: float) -> bool:
        return window_mb * self.predictor.method.inference.windows_per_batch <= _SMALL_WINDOW_MB


def _require_room(held_mb: float, limit: Limit, what: str) -> None:
    if held_mb <= limit.mb:
        return
    allowed = f"`max_ram_gb` allows {limit.mb / 1000:g}" if limit.asked_for else f"{limit.mb / 1000:.2f} GB may be used"
    raise MemoryLimitError(
        f"{what} hold {held_mb / 1000:.2f} GB, {allowed}",
        hint=f"a scan comes on top: allow `max_ram_gb={math.ceil(held_mb / 100) / 10 + 0.5:.1f}` or more",
        option="max_ram_gb",
    )
