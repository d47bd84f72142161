"""From CT files to mask files: while the network is at one scan, the next is read and the last is written."""

import contextlib
import math
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError, MemoryLimitError, Verse3dError
from verse3d.core.files import make_folder, remove_leftovers
from verse3d.core.geometry import Geometry
from verse3d.core.labels import label_counts
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.memory import give_back_freed_memory
from verse3d.core.runtime import forget_peak_rss, peak_rss_mb, rss_mb
from verse3d.core.volume import StoredVoxels, read_image, stored_voxels, write_labels
from verse3d.data.cases import Case
from verse3d.data.predictions import predictions_file
from verse3d.data.samples.grid import network_geometry
from verse3d.inference.answers import Answer
from verse3d.inference.guards import refuse_foreign_mask, refuse_own_output, require_mask_of
from verse3d.inference.plan import Demand, Limit, Plan, make_plan
from verse3d.inference.postprocess import clean_up
from verse3d.inference.predictor import Look, Predictor
from verse3d.inference.records import PredictionRecord, PredictionReport, RecordList, log_record

MASK_SUFFIX = "_seg-vert_msk.nii.gz"
_Result = TypeVar("_Result")
_EXPECTED = (Verse3dError, RuntimeError, MemoryError, OSError, ValueError)
"""What a bad scan, a full disk or a lack of memory raise: the scan fails, the others go on."""
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


def mask_path(out: Path, case: str) -> Path:
    """Where the mask of a case is written."""
    return out / f"{case}{MASK_SUFFIX}"


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
        out: the folder.
        about: says what the list tells about the call as a whole.
        model_sha256: stored in every record.
        options: see there.
        progress: told about every scan and piece.

    Raises:
        OutputError: ``out`` cannot be written to.
        MemoryLimitError: the program and the model alone do not fit.
    """
    options = options or PredictOptions()
    own = list(cases[options.part :: options.parts])
    make_folder(out)
    path = out / predictions_file(options.part, options.parts)
    remove_leftovers(path)
    job = _Job(predictor, out, model_sha256, options, _Memory.measured(predictor, Limit.of(options.max_ram_gb)))
    limit_mb = round(job.memory.limit.mb, 1)
    records = RecordList(path, lambda: {**about(), "limit_mb": limit_mb}, [case.case for case in own])
    done = []
    with contextlib.closing(_worked_on(own, job, records, progress)) as worked_on:
        for number, record in enumerate(worked_on, start=1):
            done.append(record)
            records.add(record)
            log_record(record)
            progress("scans", number, len(own))
    return PredictionReport(out, tuple(done))


@dataclass(frozen=True)
class _Memory:
    """What may be held, and what the program and one piece hold."""

    limit: Limit
    held_mb: float
    piece_mb: float

    @classmethod
    def measured(cls, predictor: Predictor, limit: Limit) -> "_Memory":
        piece_mb = predictor.piece_mb()
        give_back_freed_memory()  # it would be counted twice
        held_mb = rss_mb()
        if held_mb > limit.mb:
            raise MemoryLimitError(
                f"the program and the model alone hold {held_mb / 1000:.2f} GB, "
                f"--max-ram-gb allows {limit.mb / 1000:g}",
                hint=f"a scan comes on top: allow --max-ram-gb {math.ceil(held_mb / 100) / 10 + 0.5:.1f} or more",
            )
        return cls(limit, held_mb, piece_mb)


@dataclass(frozen=True, eq=False)
class _Job:
    """What all scans of one call share."""

    predictor: Predictor
    out: Path
    model_sha256: str
    options: PredictOptions
    memory: _Memory


@dataclass(eq=False)
class _Scan:
    """A scan on its way; what is no longer needed is dropped as it goes."""

    record: PredictionRecord
    target: Path
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

    def timed(self, stage: str, work: Callable[[], _Result]) -> _Result:
        """Do a stage and note how long it took."""
        start = time.perf_counter()
        try:
            return work()
        finally:
            self.seconds_of[stage] = round(time.perf_counter() - start, 3)


def _worked_on(
    cases: Sequence[Case], job: _Job, records: RecordList, progress: Progress
) -> Generator[PredictionRecord, None, None]:
    """The records of all scans in their order. Closing it early waits for the mask that is being written."""
    progress("scans", 0, len(cases))
    overlap = job.options.overlap and _neighbours_fit(cases, job)
    with _workers(overlap) as (reader, writer):
        reading = [reader.submit(_read, case, job, records) for case in cases[:1]]
        writing: Future[PredictionRecord] | None = None
        for number, _ in enumerate(cases):
            scan = reading.pop().result()
            if number + 1 < len(cases) and overlap:
                reading.append(reader.submit(_read, cases[number + 1], job, records))
            answered = _look_at(scan, job, progress)
            del scan
            if writing is not None:
                yield writing.result()
            writing = writer.submit(_finish, answered, job)
            del answered
            if number + 1 < len(cases) and not overlap:
                yield writing.result()
                writing = None
                reading.append(reader.submit(_read, cases[number + 1], job, records))
        if writing is not None:
            yield writing.result()


@contextlib.contextmanager
def _workers(overlap: bool) -> Iterator[tuple[Executor, Executor]]:
    """A thread that reads and one that writes."""
    count = 1
    with ThreadPoolExecutor(count, "read") as reader, ThreadPoolExecutor(count, "write") as writer:
        try:
            yield reader, writer
        finally:
            reader.shutdown(wait=False, cancel_futures=True)


def _neighbours_fit(cases: Sequence[Case], job: _Job) -> bool:
    """Whether the largest scans may be read, looked at and written at the same time."""
    if len(cases) < 2:
        return False
    demands = [demand for case in cases if (demand := _expected_demand(case, job))]
    if not demands:
        return True
    memory = job.memory
    peak_mb = (
        memory.held_mb
        + max(demand.reading_mb for demand in demands)
        + max(demand.network_mb(job.predictor.settings) for demand in demands)
        + max(demand.finishing_mb for demand in demands)
    )
    return peak_mb <= memory.limit.mb


def _expected_demand(case: Case, job: _Job) -> Demand | None:
    try:
        return _demand(stored_voxels(case.image_path()), job)
    except _EXPECTED:
        return None  # it will fail by itself


def _demand(stored: StoredVoxels, job: _Job) -> Demand:
    predictor, source = job.predictor, stored.geometry
    grid = network_geometry(source, predictor.config.grid)
    return Demand(
        source_voxels=int(np.prod(source.shape)),
        source_bytes=stored.bytes_in_memory,
        tiling=predictor.tiling(grid.shape, source),
        channels=predictor.scheme.output_channels,
        piece_mb=job.memory.piece_mb,
        pieces_per_batch=predictor.config.inference.windows_per_batch,
    )


def _read(case: Case, job: _Job, records: RecordList) -> _Scan | PredictionRecord:
    """The scan on the network grid, or the record of why there is none."""
    target = mask_path(job.out, case.case)
    record = PredictionRecord(case.case, str(case.image or ""), target.name, "failed", model_sha256=job.model_sha256)
    try:
        image = case.image_path()
        refuse_own_output(target, case)
        if target.exists() and not job.options.overwrite:
            require_mask_of(target, image, records.previous(case.case))
            return replace(record, status="skipped", model_sha256="")
        refuse_foreign_mask(target)
        remove_leftovers(target)
        return _prepared(image, target, record, job)
    except _EXPECTED as error:
        return _failed(record, error)


def _prepared(image: Path, target: Path, record: PredictionRecord, job: _Job) -> _Scan:
    stored = stored_voxels(image)
    before = _identity(image)
    plan = make_plan(_demand(stored, job), job.memory.limit, job.memory.held_mb)
    _log_plan(record.case, stored, plan)
    scan = _Scan(record, target, plan, stored, network_geometry(stored.geometry, job.predictor.config.grid))
    volume = scan.timed("read", lambda: read_image(image))
    if _identity(image) != before or volume.header.binaryblock != stored.header.binaryblock:
        raise DataError(f"{image} was replaced while it was read", hint="predict it again when it is complete")
    low, high = volume.array.min(), volume.array.max()
    if low == high:
        scan.warnings = (f"all voxels of the scan have the value {float(low):g}",)
    scan.image, _ = scan.timed("prepare", lambda: job.predictor.prepare(volume))
    return scan


def _log_plan(case: str, stored: StoredVoxels, plan: Plan) -> None:
    size = " x ".join(map(str, stored.geometry.shape))
    _log.info(
        "%s: %s voxels, expecting a peak of %.2f GB (%.1f may be used)",
        case,
        size,
        plan.peak_mb / 1000,
        plan.limit_mb / 1000,
    )


def _identity(path: Path) -> tuple[int, ...]:
    """What changes if a file is written to or replaced."""
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


def _look_at(scan: _Scan | PredictionRecord, job: _Job, progress: Progress) -> _Scan | PredictionRecord:
    if isinstance(scan, PredictionRecord):
        return scan
    try:
        start = time.perf_counter()
        scan.answer, scan.look = job.predictor.segment(
            scan.take_image(), scan.grid, scan.stored.geometry, scan.plan.settings, progress=progress
        )
        whole, network, home = time.perf_counter() - start, scan.look.seconds, scan.answer.seconds_home
        scan.seconds_of |= {"network": round(network, 3), "stitch": round(whole - network - home, 3)}
    except _EXPECTED as error:
        return _failed(scan.record, error)
    return scan


def _finish(scan: _Scan | PredictionRecord, job: _Job) -> PredictionRecord:
    """Carry home what is not there yet, clean it and write it."""
    if isinstance(scan, PredictionRecord):
        return scan
    predictor, source = job.predictor, scan.stored.geometry
    try:
        answer = scan.take_answer()
        give_back_freed_memory()  # what the network needed; a mask is new
        labels = answer.mask()
        scan.seconds_of["home"] = round(answer.seconds_home, 3)
        del answer
        scan.timed("clean", lambda: clean_up(labels, source, predictor.config.inference))
        scan.timed("write", lambda: write_labels(scan.target, labels, like=scan.stored.header))
    except _EXPECTED as error:
        return _failed(scan.record, error)
    return _written(scan, labels, predictor)


def _written(scan: _Scan, labels: NDArray[np.uint8], predictor: Predictor) -> PredictionRecord:
    voxels = label_counts(labels)
    names = tuple(label.name for label in predictor.scheme.labels if voxels[label.id])
    empty = () if names else ("no vertebra was found: the mask is empty",)
    record = replace(
        scan.record,
        status="written",
        seconds=round(sum(scan.seconds_of.values()), 3),
        seconds_of=dict(scan.seconds_of),
        peak_rss_mb=round(peak_rss_mb(), 1),
        plan=scan.plan.to_dict(),
        windows=scan.look.pieces,
        windows_left_out=scan.look.of - scan.look.pieces,
        voxels=int(labels.size),
        labelled_voxels=int(voxels[1:].sum()),
        levels=names,
        warnings=(*empty, *scan.warnings),
    )
    forget_peak_rss()
    return record


def _failed(record: PredictionRecord, error: BaseException) -> PredictionRecord:
    _log.debug("%s", record.case, exc_info=True)
    message = str(error) if isinstance(error, Verse3dError) else f"{type(error).__name__}: {error}"
    return replace(record, error=message)
