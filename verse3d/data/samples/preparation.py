"""Preparing many cases: ahead of a training, or beside it in the order in which it will want them."""

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from threading import Event, Thread

from verse3d.core.errors import DataError, OutputError
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.threads import usable_cores
from verse3d.core.volume import stored_voxels
from verse3d.core.worker_pool import CannotStartError, Failure, affordable_workers, each, each_in_processes
from verse3d.data.samples.blocks import DamagedEntryError
from verse3d.data.samples.entry import check_entry
from verse3d.data.samples.grid import fitting_geometry
from verse3d.data.samples.prepare import Job, ensure_prepared
from verse3d.data.samples.store import SampleStore

_log = logger(__name__)
_BYTES_PER_VOXEL = 1.3
"""Of image and labels on disk, measured: 0.5 (much air) ... 1.3 (a noisy abdomen without any)."""
_BASE_BYTES = 300e6
_GIVES_WAY = 5  # niceness: who trains comes first


@dataclass(frozen=True)
class Preparation:
    """How the cases stand after ``prepare_cases``.

    Attributes:
        made: names of cases that were prepared.
        kept: names of cases whose entries were there and whole.
        repaired: names of those among ``made`` whose entries were damaged.
        failures: (case, reason) of those that cannot be prepared.
        disk_bytes: what all entries of these cases take.
    """

    made: tuple[str, ...]
    kept: tuple[str, ...]
    repaired: tuple[str, ...]
    failures: tuple[tuple[str, str], ...]
    disk_bytes: int


@dataclass(frozen=True)
class _Need:
    """What preparing a case takes, by the header of its scan."""

    disk: float
    memory: float


def prepare_cases(jobs: Sequence[Job], workers: int | None, progress: Progress = no_progress) -> Preparation:
    """Prepare what is not prepared, check all of what is, and make damaged entries again.

    Args:
        jobs: the cases.
        workers: processes; None for as many as cores, memory and the data are worth. 1 prepares in this process.
        progress: told about every case.

    Raises:
        OutputError: the disk is too small, or cannot be written to. What is prepared stays.
    """
    for job in jobs:
        if not job.problem:
            job.store.forget_failure(job.name)  # it is tried again: the reason may have passed
    require_room(jobs)
    states = {}
    count = fitting_workers(jobs) if workers is None else workers
    for number, outcome in each(prepare_or_check, jobs, count, "cases are prepared"):
        state = _told(jobs[number], outcome)
        if isinstance(state, OutputError):
            raise state
        states[number] = state
        progress("cases", len(states), len(jobs))

    def named(*wanted: str) -> tuple[str, ...]:
        return tuple(jobs[number].case.case for number in sorted(states) if states[number] in wanted)

    failures = tuple((job.case.case, reason) for job in jobs if (reason := job.failure))
    disk = sum(disk_bytes(job.store, job.name) for job in jobs if job.is_done)
    return Preparation(named("made", "repaired"), named("kept"), named("repaired"), failures, disk)


def _told(job: Job, outcome: str | OutputError | Failure) -> str | OutputError:
    """The outcome; what broke down is noted as the fault of the case."""
    if isinstance(outcome, Failure):
        job.store.note_failure(job.name, f"the preparation broke down: {outcome.reason}")
        return "failed"
    return outcome


def prepare_or_check(job: Job) -> str | OutputError:
    """Prepare a case, or compare its entry with its checksums and make it again if it is damaged.

    Returns:
        "made", "kept", "repaired" or "failed" (which is noted in the store); or why the store cannot be written.
    """
    try:
        was_done = job.is_done
        if was_done and _is_whole(job):
            return "kept"
        if was_done:
            job.store.remove_entry(job.name)
        ensure_prepared(job)
    except OutputError as error:
        return OutputError(error.message, hint=error.hint)  # without its cause, which may not travel
    except DataError:
        return "failed"
    return "repaired" if was_done else "made"


def _is_whole(job: Job) -> bool:
    try:
        entry = job.store.entry(job.name)
        if entry is None:
            return False
        check_entry(job.store.entry_folder(job.name), entry)
    except DamagedEntryError as error:
        _log.warning("%s; it is made again", error.message)
        return False
    return True


@contextmanager
def preparing(jobs: Sequence[Job], progress: Progress = no_progress) -> Iterator[None]:
    """Prepare in other processes, in this order, what is not prepared yet, while the block runs.

    Little data is left to whoever wants it first. When the block ends, what is under way is given up.

    Args:
        jobs: the cases.
        progress: told about every case, by a thread of its own.

    Raises:
        OutputError: the disk is too small. Nothing was started.
    """
    missing = [job for job in jobs if not job.is_done and not job.failure]
    require_room(missing)
    workers = fitting_workers(missing)
    if workers < 2:
        yield
        return
    _log.info("%d of %d cases are prepared by %d processes", len(missing), len(jobs), workers)
    stop = Event()
    work = partial(_prepare_beside, missing, workers, stop, progress)
    thread = Thread(target=work, name="verse3d-prepare", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _prepare_beside(jobs: Sequence[Job], workers: int, stop: Event, progress: Progress) -> None:
    # A disk that cannot be written to is met by the readers, too: they can stop the training for it.
    done = 0
    try:
        for number, outcome in each_in_processes(_prepare_gently, jobs, workers, stop):
            state = _told(jobs[number], outcome)
            if isinstance(state, OutputError):
                raise state
            done += 1
            progress("preparing cases", done, len(jobs))
    except CannotStartError as error:
        _log.warning("%s: cases are prepared when they are needed", error)
    except OutputError as error:
        _log.error("the preparation stops: %s", error)
    if done == len(jobs):
        _log.info("all cases are prepared")


def _prepare_gently(job: Job) -> str | OutputError:
    if hasattr(os, "nice") and os.nice(0) < _GIVES_WAY:
        os.nice(_GIVES_WAY)
    return prepare_or_check(job)


def require_room(jobs: Sequence[Job]) -> None:
    """Check that the disk holds what is still to be prepared.

    Raises:
        OutputError: it does not.
    """
    needs = [_need(job) for job in jobs if not job.is_done and not job.failure]
    if not needs:
        return
    folder = jobs[0].store.folder
    wanted, free = sum(need.disk for need in needs), shutil.disk_usage(folder).free
    if wanted > free:
        raise OutputError(
            f"the prepared cases need about {wanted / 1e9:.1f} GB in {folder}, and {free / 1e9:.1f} GB are free",
            hint="choose a larger disk with `store`, or a coarser grid.spacing_mm",
            option="store",
        )


def fitting_workers(jobs: Sequence[Job]) -> int:
    """How many processes are worth it and find memory for the largest case each, by the headers of the files."""
    needs = [_need(job) for job in jobs if not job.problem]
    if usable_cores() == 1 or len(needs) < 2:
        return 1
    memory = [need.memory for need in needs]
    # What the program itself takes has to fit into memory, too, but is no work.
    work = [need.memory - _BASE_BYTES for need in needs]
    return affordable_workers(memory, work)


def _need(job: Job) -> _Need:
    try:
        stored = stored_voxels(job.case.image_path())
        target = fitting_geometry(stored.geometry, job.grid, bytes_each=3).shape
    except DataError:
        return _Need(0.0, _BASE_BYTES)  # it will fail for that reason
    disk = float(target[0]) * target[1] * target[2] * _BYTES_PER_VOXEL
    shape = stored.geometry.shape
    return _Need(disk, float(shape[0]) * shape[1] * shape[2] * stored.bytes_in_memory + disk + _BASE_BYTES)


def disk_bytes(store: SampleStore, name: str) -> int:
    """What an entry takes on disk."""
    return sum(path.stat().st_size for path in store.entry_folder(name).glob("*") if path.is_file())
