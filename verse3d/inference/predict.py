"""From CT files to mask files, in three stages: read, segment, write (see ``scan_stages``).

While the network is opened the first scan is read; while it is at one scan, the next is read and the last is written,
if memory allows.
"""

import contextlib
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from verse3d.core.caseerrors import CASE_ERRORS
from verse3d.core.errors import without_frames
from verse3d.core.files import make_folder, remove_leftovers
from verse3d.core.logs import Progress, no_progress
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.read_ahead import ReadAhead
from verse3d.core.volume import stored_voxels
from verse3d.data.cases import Case
from verse3d.data.predictions import predictions_file
from verse3d.inference.budget import Budget
from verse3d.inference.guards import Maker
from verse3d.inference.memory_plan import image_mb
from verse3d.inference.pipeline import Stages, one_by_one, overlapped
from verse3d.inference.predictor import Predictor
from verse3d.inference.records import PredictionRecord, PredictionReport, RecordList, log_record
from verse3d.inference.scan_stages import MaskIsKeptError, ScanStages
from verse3d.inference.scan_states import PreparedScan


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
    ahead: ReadAhead | None = None,
) -> PredictionReport:
    """Write one mask per scan into ``out``, and a list of records beside them. A bad scan does not stop the rest.

    Args:
        cases: with scans; of them those of ``options.part`` are done.
        predictor: labels them.
        out: the folder. Several calls may fill it at the same time.
        about: says what the list tells about the call as a whole.
        model_sha256: stored in every record.
        options: see there.
        progress: told about every scan and window.
        ahead: the first of these scans, if it is being read already.

    Raises:
        OutputError: ``out`` cannot be written to.
        DataError: a list of records in it is damaged.
        MemoryLimitError: the program and the model alone do not fit.
    """
    options = options or PredictOptions()
    own = list(cases[options.part :: options.parts])
    budget = Budget.unopened(predictor, options.max_ram_gb)
    limit_mb = round(budget.limit.mb, 1)
    records = RecordList(out / predictions_file(options.part, options.parts), lambda: {**about(), "limit_mb": limit_mb})
    maker = Maker(model_sha256, tuple(about().get("models", ())), predictor.mask_settings)
    done: list[PredictionRecord] = []
    progress("scans", 0, len(own))
    with MemoryWatch() as watch:
        before = ScanStages(predictor, out, maker, options.overwrite, budget, records, watch, progress, ahead)
        begun = _read_while_opening(own[:1] if options.overlap else [], before)
        held = (read.result().opened.grid.shape for read in begun.values() if read.exception() is None)
        scan = replace(before, budget=budget.opened(besides_mb=sum(map(image_mb, held))))

        def read(case: Case) -> PreparedScan:
            return scan.replanned(begun.pop(case.case).result()) if case.case in begun else scan.read(case)

        in_turn = overlapped if options.overlap and _fits_overlapped(own, scan.budget) else one_by_one
        stages = Stages(read, scan.segment, scan.write, scan.ended, (MaskIsKeptError, *CASE_ERRORS))
        make_folder(out)  # not before the model is known to work
        remove_leftovers(out)
        with records, contextlib.closing(in_turn(own, stages)) as finished:
            for record in finished:
                done.append(record)
                records.add(record)
                log_record(record)
                progress("scans", len(done), len(own))
    return PredictionReport(out, tuple(done))


def _read_while_opening(cases: Sequence[Case], stages: ScanStages) -> dict[str, Future[PreparedScan]]:
    """Open the backends, which must be done in this thread, and read scans in another meanwhile; by case.

    ::

        thread "read"    unpack .nii.gz, resample to the network grid
        this thread      load OpenVINO, compile the network             measure one window, segment ...
    """
    with ThreadPoolExecutor(1, "read") as reader:
        ahead = {case.case: reader.submit(stages.read, case) for case in cases}
        stages.predictor.make_ready()
    return {case: _settled(read) for case, read in ahead.items()}


def _settled(read: "Future[PreparedScan]") -> "Future[PreparedScan]":
    """The same outcome; a scan that failed is not held while the next ones are planned."""
    if (error := read.exception()) is None:
        return read
    failed: Future[PreparedScan] = Future()
    failed.set_exception(without_frames(error))
    return failed


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
