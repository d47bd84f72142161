"""The three stages of a scan: read it, segment it, write its mask. Each takes what the one before has made.

    Case  ->  read  ->  PreparedScan  ->  segment  ->  SegmentedScan  ->  write  ->  PredictionRecord
    path                image, float16,                labels or their               a line of
                        on the network's grid          probability                   predictions.json

An exception ends the way of its scan (see ``pipeline``): ``MaskIsKeptError`` where the mask is there and may stay.
"""

import contextlib
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.caseerrors import reason_of
from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.handed import Handed
from verse3d.core.labels import label_counts
from verse3d.core.logs import Progress, logger
from verse3d.core.memory import give_back_freed_memory
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.read_ahead import ArrivingScan, ReadAhead, ScanFile
from verse3d.core.runtime import peak_rss_mb
from verse3d.core.volume import StoredVoxels, write_labels
from verse3d.data.cases import Case
from verse3d.data.centroids import write_centroids
from verse3d.data.predictions import MASK_SUFFIX, centroid_path, mask_path
from verse3d.data.samples.grid import network_geometry
from verse3d.inference.budget import Budget
from verse3d.inference.guards import (
    Maker,
    OtherMaskError,
    refuse_foreign_mask,
    refuse_own_output,
    require_maker,
    require_mask_of,
)
from verse3d.inference.mask_warnings import empty_mask_warning, mask_warnings
from verse3d.inference.memory_plan import Plan
from verse3d.inference.naming import centroids_in_mask, naming_record
from verse3d.inference.predictor import Predictor
from verse3d.inference.records import PredictionRecord, RecordList, contents_told_by
from verse3d.inference.scan_states import OpenedScan, PreparedScan, SegmentedScan
from verse3d.inference.scan_warnings import scan_warnings, tissue_warnings
from verse3d.labelling.vertebrae import NamedBones

_log = logger(__name__)


class MaskIsKeptError(Exception):
    """The mask of the scan is there and may stay. Holds what the user should know about it."""


@dataclass(frozen=True, eq=False)
class ScanStages:
    """What all scans of one call share, and what is done with each.

    Attributes:
        predictor: labels them.
        out: folder of the masks.
        maker: what makes the masks.
        overwrite: whether masks that verse3d made are replaced.
        budget: of memory.
        records: what is known about earlier calls.
        watch: samples the memory.
        progress: told about windows.
        ahead: a scan that is being read already.
    """

    predictor: Predictor
    out: Path
    maker: Maker
    overwrite: bool
    budget: Budget
    records: RecordList
    watch: MemoryWatch
    progress: Progress
    ahead: ReadAhead | None = None

    def read(self, case: Case) -> PreparedScan:
        """The scan on the network grid, if there is anything to be done and memory for it.

        Raises:
            MaskIsKeptError: its mask is there and may stay.
            DataError: the scan is damaged, or was replaced meanwhile; or there is a mask that may not be replaced.
            MemoryLimitError: it does not fit.
        """
        image, target, peak = case.image_path(), mask_path(self.out, case.case), self.watch.peak()
        scan, plan = self._read_and_planned(case, target)
        settings, trained_on = self.predictor.method.grid, self.predictor.trained_on
        grid, start = network_geometry(scan.stored.geometry, settings), time.perf_counter()
        prepared, _ = self.predictor.prepare(scan.volume, scan.wait_for)
        whole = scan.whole()
        preparing = time.perf_counter() - max(start, whole.ended)  # what was done meanwhile took no time of its own
        seconds_of = {"read": round(whole.seconds, 3), "prepare": round(preparing, 3)}
        warnings = scan_warnings(whole.volume, trained_on)
        warnings += tissue_warnings(prepared, grid, settings.window_hu, trained_on)
        opened = OpenedScan(self._record(case), image, target, peak, scan.stored, grid)
        return PreparedScan(opened, plan, Handed(prepared), seconds_of, warnings)

    def _read_and_planned(self, case: Case, target: Path) -> tuple[ArrivingScan, Plan]:
        """The scan in memory and the plan for it; raises as ``read``. What is being read already is planned behind."""
        image = case.image_path()
        ahead = self.ahead.take(image) if self.ahead else None
        self._refuse_or_keep(case, target)
        if ahead is None:
            file = ScanFile.opened(image)
            plan = _planned(self.budget, file.stored, image)  # before it is read
            return ArrivingScan.arrived(file.read()), plan
        scan = ahead.result()
        return scan, _planned(self.budget.holding(scan.megabytes), scan.stored, image)

    def replanned(self, scan: PreparedScan) -> PreparedScan:
        """A scan that was read before it was known what the network takes, with a plan that counts it.

        Raises:
            MemoryLimitError: it does not fit.
        """
        return replace(scan, plan=_planned(self.budget, scan.opened.stored, scan.opened.image))

    def segment(self, scan: PreparedScan) -> SegmentedScan:
        """What the network says about it."""
        opened = scan.opened
        _log.debug(
            "%s: %s voxels, expecting a peak of %.2f GB (%.1f may be used)",
            opened.record.case,
            " x ".join(map(str, opened.stored.geometry.shape)),
            scan.plan.peak_mb / 1000,
            scan.plan.limit_mb / 1000,
        )
        start = time.perf_counter()
        aggregator, done = self.predictor.segment(
            scan.image.take(), opened.grid, opened.stored.geometry, scan.plan.settings, progress=self.progress
        )
        whole, network, scouting = time.perf_counter() - start, done.seconds, done.crop.seconds
        # What is left: cutting windows out, and adding their scores up.
        stitching = whole - network - aggregator.seconds_resample - scouting
        seconds_of = {**scan.seconds_of, "network": round(network, 3), "stitch": round(stitching, 3)}
        if scouting:
            seconds_of["scout"] = round(scouting, 3)
        if done.crop.why:
            # That a model cannot do better is no news about this scan.
            tell = _log.info if self.predictor.scouts.networks else _log.debug
            tell("%s: searching the whole scan: %s", opened.record.case, done.crop.why)
        return SegmentedScan(opened, scan.plan, aggregator, done, seconds_of, scan.warnings)

    def write(self, scan: SegmentedScan) -> PredictionRecord:
        """Resample to the grid of the scan what is not there yet, clean it and write it."""
        opened, seconds_of = scan.opened, dict(scan.seconds_of)
        give_back_freed_memory()  # what the network needed; a mask is new
        labels = scan.aggregator.mask()
        give_back_freed_memory()  # the probabilities it was made of; cleaning needs room of its own
        seconds_of["resample"] = round(scan.aggregator.seconds_resample, 3)
        with _timed(seconds_of, "clean"):
            named = self.predictor.finish(labels, opened.stored.geometry, scan.networks.levels)
        # The mask is looked at while it is packed.
        with _timed(seconds_of, "write"), ThreadPoolExecutor(1, "look") as beside:
            looking = beside.submit(_looked_at, labels, opened.stored.geometry, named)
            write_labels(opened.target, labels, like=opened.stored.header, scheme=self.predictor.method.scheme.name)
            found = looking.result()
        record = _written(scan, seconds_of, found, self.predictor)
        if named is None:
            return record
        write_centroids(centroid_path(self.out, opened.record.case), centroids_in_mask(named), opened.stored.geometry)
        return replace(record, **naming_record(named), warnings=(*record.warnings, *named.notes))

    def ended(self, case: Case, error: Exception) -> PredictionRecord:
        """The record of a scan whose mask is kept, or cannot be had."""
        record = self._record(case)
        if isinstance(error, MaskIsKeptError):
            kept = replace(record, status="skipped", warnings=error.args, model_sha256="", models=(), settings={})
            return replace(kept, **contents_told_by(self.records.previous(case.case)))
        _log.debug("%s", case.case, exc_info=True)
        mask_of = self.records.previous(case.case) if isinstance(error, OtherMaskError) else {}
        return replace(record, error=reason_of(error), mask_of=mask_of)

    def _record(self, case: Case) -> PredictionRecord:
        """That of a scan with which nothing has been done yet."""
        maker = self.maker
        return PredictionRecord(
            case.case,
            str(case.image or ""),
            f"{case.case}{MASK_SUFFIX}",
            "failed",
            model_sha256=maker.model_sha256,
            models=maker.models,
            settings=maker.settings,
        )

    def _refuse_or_keep(self, case: Case, target: Path) -> None:
        """Nothing that is there is lost: raises what keeps this scan from being worked on."""
        refuse_own_output(target, case)
        if target.exists() and not self.overwrite:
            previous = self.records.previous(case.case)
            require_mask_of(target, case.image_path(), previous)
            made_by = Maker.of_record(previous)
            require_maker(target, made_by, self.maker)
            if made_by.is_known or not self.maker.is_known:
                raise MaskIsKeptError
            raise MaskIsKeptError(f"no record tells which model made {target.name}: `overwrite` makes it anew")
        refuse_foreign_mask(target)


@contextlib.contextmanager
def _timed(seconds_of: dict[str, float], stage: str) -> Iterator[None]:
    """Note how long a stage takes."""
    start = time.perf_counter()
    yield
    seconds_of[stage] = round(time.perf_counter() - start, 3)


def _planned(budget: Budget, stored: StoredVoxels, path: Path) -> Plan:
    """The plan for a scan; errors about its grid say which file's it is."""
    try:
        return budget.plan(stored)
    except DataError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


@dataclass(frozen=True, eq=False)
class _Found:
    """What is in a mask: how many voxels of each id, (256,), and what is odd about them."""

    voxels: NDArray[np.int64]
    warnings: tuple[str, ...]


def _looked_at(labels: NDArray[np.uint8], geometry: Geometry, named: NamedBones | None) -> _Found:
    voxels = label_counts(labels)
    if voxels[1:].any():
        return _Found(voxels, mask_warnings(labels, geometry))
    return _Found(voxels, (empty_mask_warning(all_cut=bool(named and named.vertebrae)),))


def _written(
    scan: SegmentedScan, seconds_of: dict[str, float], found: _Found, predictor: Predictor
) -> PredictionRecord:
    labelled = int(found.voxels[1:].sum())
    return replace(
        scan.opened.record,
        status="written",
        seconds=round(sum(seconds_of.values()), 3),
        seconds_of=seconds_of,
        peak_rss_mb=round(scan.opened.peak.mb, 1),
        process_peak_rss_mb=round(peak_rss_mb(), 1),
        plan=scan.plan.to_dict(),
        windows=scan.networks.windows,
        windows_left_out=scan.networks.of - scan.networks.windows,
        scout=scan.networks.crop.to_dict(),
        voxels=int(found.voxels.sum()),
        labelled_voxels=labelled,
        labelled_ml=round(labelled * scan.opened.stored.geometry.voxel_ml, 2),
        levels=tuple(label.name for label in predictor.method.scheme.labels if found.voxels[label.id]),
        warnings=(*found.warnings, *scan.warnings),
    )
