"""From CT files to mask files, in three stages: read, segment, write.

While the network is at one scan, the next is read and the last is written, if memory allows.
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.errors import DataError
from verse3d.core.files import make_folder, remove_leftovers
from verse3d.core.geometry import Geometry
from verse3d.core.labels import label_counts
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.memory import give_back_freed_memory
from verse3d.core.peak_memory import MemoryWatch, Peak
from verse3d.core.runtime import peak_rss_mb
from verse3d.core.volume import StoredVoxels, read_image, stored_voxels, write_labels
from verse3d.data.cases import Case
from verse3d.data.centroids import write_centroids
from verse3d.data.predictions import MASK_SUFFIX, centroid_path, mask_path, predictions_file
from verse3d.data.samples.grid import network_geometry
from verse3d.inference.aggregator import Answer
from verse3d.inference.budget import Budget
from verse3d.inference.guards import (
    Maker,
    OtherMaskError,
    refuse_foreign_mask,
    refuse_own_output,
    require_maker,
    require_mask_of,
)
from verse3d.inference.mask_warnings import EMPTY_MASK, mask_warnings
from verse3d.inference.memory_plan import Plan
from verse3d.inference.naming import centroids_in_mask, naming_record
from verse3d.inference.pipeline import Stages, one_by_one, overlapped
from verse3d.inference.predictor import Look, Predictor
from verse3d.inference.records import PredictionRecord, PredictionReport, RecordList, log_record
from verse3d.inference.scan_warnings import scan_warnings, tissue_warnings

_log = logger(__name__)


@dataclass(frozen=True)
class PredictOptions:
    """What may be chosen for one call.

    Attributes:
        overwrite: replace masks that verse3d made.
        part, parts: do every ``parts``-th scan, beginning with number ``part``, for jobs that share a folder.
        max_ram_gb: limit for the resident memory of the process, GB (10^9 bytes); None: what is free, less a tenth.
        overlap: read the next scan and write the last one while the network works, if memory allows.
    """

    overwrite: bool = False
    part: int = 0
    parts: int = 1
    max_ram_gb: float | None = None
    overlap: bool = True


def predict_cases(
    cases: Sequence[Case],
    predictor: Predictor,
    out: Path,
    *,
    about: Callable[[], dict[str, Any]],
    model_sha256: str = "",
    options: PredictOptions | None = None,
    progress: Progress = no_progress,
) -> PredictionReport:
    """Write one mask per scan into ``out``, and a list of records beside them. A bad scan does not stop the rest.

    Args:
        cases: with scans; of them those of ``options.part`` are done.
        predictor: labels them.
        out: the folder. Several calls may fill it at the same time.
        about: says what the list tells about the call as a whole.
        model_sha256: stored in every record.
        options: see there.
        progress: told about every scan and piece.

    Raises:
        OutputError: ``out`` cannot be written to.
        DataError: a list of records in it is damaged.
        MemoryLimitError: the program and the model alone do not fit.
    """
    options = options or PredictOptions()
    own = list(cases[options.part :: options.parts])
    make_folder(out)
    remove_leftovers(out)
    budget = Budget.measured(predictor, options.max_ram_gb)
    limit_mb = round(budget.limit.mb, 1)
    records = RecordList(out / predictions_file(options.part, options.parts), lambda: {**about(), "limit_mb": limit_mb})
    maker = Maker(model_sha256, tuple(about().get("models", ())), predictor.mask_settings)
    done: list[PredictionRecord] = []
    progress("scans", 0, len(own))
    with records, MemoryWatch() as watch:
        job = _Job(predictor, out, maker, options, budget, records, watch, progress)
        in_turn = overlapped if options.overlap and _fits_overlapped(own, budget) else one_by_one
        stages = Stages(job.read, job.segment, job.write, job.ended, (_MaskIsKept, *CASE_ERRORS))
        with contextlib.closing(in_turn(own, stages)) as finished:
            for record in finished:
                done.append(record)
                records.add(record)
                log_record(record)
                progress("scans", len(done), len(own))
    return PredictionReport(out, tuple(done))


def _fits_overlapped(cases: Sequence[Case], budget: Budget) -> bool:
    """Whether the limit allows to work on three scans at once; those that will fail do not count."""
    if len(cases) < 2:
        return False
    scans = []
    for case in cases:
        with contextlib.suppress(*CASE_ERRORS):
            stored = stored_voxels(case.image_path())
            budget.plan(stored)
            scans.append(stored)
    return budget.fits_overlapped(scans)


class _MaskIsKept(Exception):  # noqa: N818 - no error: the scan is done already
    """The mask of the scan is there and may stay. Holds what the user should know about it."""


@dataclass(eq=False)
class _Scan:
    """A scan on its way; what is no longer needed is dropped as it goes.

    Attributes:
        image: (I, J, K) float16 on the network ``grid``, between reading and segmenting.
        answer: what the network says, between segmenting and writing.
    """

    record: PredictionRecord
    target: Path
    peak: Peak
    plan: Plan
    stored: StoredVoxels
    grid: Geometry
    image: NDArray[np.float16] | None = None
    answer: Answer | None = None
    look: Look = field(default_factory=lambda: Look(0, 0))
    seconds_of: dict[str, float] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()

    def take_image(self) -> NDArray[np.float16]:
        """The prepared image; the scan holds it no longer."""
        image, self.image = self.image, None
        if image is None:
            raise ValueError(f"{self.record.case} is not prepared")
        return image

    def take_answer(self) -> Answer:
        """What the network said; the scan holds it no longer."""
        answer, self.answer = self.answer, None
        if answer is None:
            raise ValueError(f"no network has looked at {self.record.case}")
        return answer

    @contextlib.contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Note how long a stage takes."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds_of[stage] = round(time.perf_counter() - start, 3)


@dataclass(frozen=True, eq=False)
class _Job:
    """What all scans of one call share, and the three stages."""

    predictor: Predictor
    out: Path
    maker: Maker
    options: PredictOptions
    budget: Budget
    records: RecordList
    watch: MemoryWatch
    progress: Progress

    def read(self, case: Case) -> _Scan:
        """The scan on the network grid, if there is anything to be done."""
        image, target, peak = case.image_path(), mask_path(self.out, case.case), self.watch.peak()
        self._refuse_or_keep(case, target)
        stored = stored_voxels(image)
        before = _identity(image)
        with _naming(image):
            plan = self.budget.plan(stored)
        _log_plan(case.case, stored, plan)
        grid = network_geometry(stored.geometry, self.predictor.config.grid)
        scan = _Scan(self._record(case), target, peak, plan, stored, grid)
        with scan.timed("read"):
            volume = read_image(image)
        if _identity(image) != before or volume.header.binaryblock != stored.header.binaryblock:
            raise DataError(f"{image} was replaced while it was read", hint="predict it again when it is complete")
        scan.warnings = scan_warnings(volume, self.predictor.trained_on)
        with scan.timed("prepare"):
            scan.image, _ = self.predictor.prepare(volume)
        window_hu = self.predictor.config.grid.window_hu
        scan.warnings += tissue_warnings(scan.image, grid, window_hu, self.predictor.trained_on)
        return scan

    def segment(self, scan: _Scan) -> _Scan:
        """What the network says about it."""
        start = time.perf_counter()
        scan.answer, scan.look = self.predictor.segment(
            scan.take_image(), scan.grid, scan.stored.geometry, scan.plan.settings, progress=self.progress
        )
        whole, network, home = time.perf_counter() - start, scan.look.seconds, scan.answer.seconds_home
        scouting = scan.look.crop.seconds
        scan.seconds_of |= {"network": round(network, 3), "stitch": round(whole - network - home - scouting, 3)}
        if scouting:
            scan.seconds_of["scout"] = round(scouting, 3)
        if scan.look.crop.why:
            _log.info("%s: all of the scan is looked at: %s", scan.record.case, scan.look.crop.why)
        return scan

    def write(self, scan: _Scan) -> PredictionRecord:
        """Carry to the grid of the scan what is not there yet, clean it and write it."""
        answer = scan.take_answer()
        give_back_freed_memory()  # what the network needed; a mask is new
        labels = answer.mask()
        scan.seconds_of["home"] = round(answer.seconds_home, 3)
        del answer
        with scan.timed("clean"):
            named = self.predictor.finish(labels, scan.stored.geometry, scan.look.levels)
        with scan.timed("write"):
            write_labels(scan.target, labels, like=scan.stored.header, scheme=self.predictor.scheme.name)
        if named is None:
            return _written(scan, labels, self.predictor)
        write_centroids(centroid_path(self.out, scan.record.case), centroids_in_mask(named), scan.stored.geometry)
        record = _written(scan, labels, self.predictor)
        return replace(record, **naming_record(named), warnings=(*record.warnings, *named.notes))

    def ended(self, case: Case, error: Exception) -> PredictionRecord:
        """The record of a scan whose mask is kept, or cannot be had."""
        record = self._record(case)
        if isinstance(error, _MaskIsKept):
            return replace(record, status="skipped", warnings=error.args, model_sha256="", models=(), settings={})
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
        if target.exists() and not self.options.overwrite:
            previous = self.records.previous(case.case)
            require_mask_of(target, case.image_path(), previous)
            made_by = Maker.of_record(previous)
            require_maker(target, made_by, self.maker)
            if made_by.is_known or not self.maker.is_known:
                raise _MaskIsKept
            raise _MaskIsKept(f"no record tells which model made {target.name}: `overwrite` makes it anew")
        refuse_foreign_mask(target)


@contextlib.contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors about a grid say which file's it is."""
    try:
        yield
    except DataError as error:
        raise type(error)(f"{path}: {error.message}", hint=error.hint) from error


def _log_plan(case: str, stored: StoredVoxels, plan: Plan) -> None:
    _log.info(
        "%s: %s voxels, expecting a peak of %.2f GB (%.1f may be used)",
        case,
        " x ".join(map(str, stored.geometry.shape)),
        plan.peak_mb / 1000,
        plan.limit_mb / 1000,
    )


def _identity(path: Path) -> tuple[int, ...]:
    """What changes if a file is written to or replaced."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _written(scan: _Scan, labels: NDArray[np.uint8], predictor: Predictor) -> PredictionRecord:
    voxels = label_counts(labels)
    names = tuple(label.name for label in predictor.scheme.labels if voxels[label.id])
    odd = mask_warnings(labels, scan.stored.geometry) if names else (EMPTY_MASK,)
    return replace(
        scan.record,
        status="written",
        seconds=round(sum(scan.seconds_of.values()), 3),
        seconds_of=dict(scan.seconds_of),
        peak_rss_mb=round(scan.peak.mb, 1),
        process_peak_rss_mb=round(peak_rss_mb(), 1),
        plan=scan.plan.to_dict(),
        windows=scan.look.pieces,
        windows_left_out=scan.look.of - scan.look.pieces,
        scout=scan.look.crop.to_dict(),
        voxels=int(labels.size),
        labelled_voxels=int(voxels[1:].sum()),
        levels=names,
        warnings=(*odd, *scan.warnings),
    )
