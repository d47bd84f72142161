"""Predictions made in a process of their own: its memory is the prediction's alone, and if the system kills it, only
the scan it was at is lost. Masks that the same model file made before are kept. How the program is started is handed
in, because it stands on a floor above.
"""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol

from verse3d.core.errors import Verse3dError
from verse3d.core.files import make_folder, resolved, sha256_of
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.runtime import DeviceName
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.predictions import has_mask, read_predictions

TODO_FILE = "to_predict.jsonl"
_WENT_THROUGH = (0, 3)
"""Exit codes after which every scan has its record: all done, or some failed."""
_log = logger(__name__)


class RunPredict(Protocol):
    """Predicts in a new process, one scan after the other, and replaces the masks that are there."""

    def __call__(
        self, scans: Path, watch: Callable[[], None], *, model: Path, out: Path, device: str
    ) -> tuple[int, str]:
        """Predict the cases of an index, and call ``watch`` now and then meanwhile.

        Returns:
            The exit code (negative: killed by that signal), and what was written to stderr.
        """


@dataclass(frozen=True)
class FolderPredictions:
    """What is in a folder of masks after ``predict_missing``.

    Attributes:
        records: of every mask that is there, by case, as in ``predictions.json``.
        failures: (case, reason) of every scan without a mask of this model.
        device: where the masks were made, as far as ``predictions.json`` tells.
    """

    records: Mapping[str, Mapping[str, Any]]
    failures: tuple[tuple[str, str], ...]
    device: str


def predict_missing(
    cases: Sequence[Case],
    model: Path,
    out: Path,
    *,
    run: RunPredict,
    device: DeviceName = "auto",
    what: str = "predicting",
    progress: Progress = no_progress,
) -> FolderPredictions:
    """Make the masks that ``out`` lacks with ``verse3d predict``, started anew.

    A mask is kept if ``predictions.json`` says that this very model file (by its content) made it from this scan.

    Args:
        cases: with scans.
        model: the checkpoint.
        out: folder for the masks.
        run: starts ``verse3d predict``.
        device: where to compute.
        what: told to ``progress`` with the number of scans that are done.
        progress: see above.

    Raises:
        OutputError: the folder cannot be written to, or the program cannot be started.
        Verse3dError: the program ended before it came to any scan.
        DataError: ``predictions.json`` or the model file cannot be read.
        KeyboardInterrupt: the started program was interrupted.
    """
    make_folder(out)
    model_sha256 = sha256_of(model)
    failures: dict[str, str] = {}
    todo, started = _missing(cases, out, model_sha256), time.time()
    # A program that is killed (mostly for memory) loses the scan it was at. The next one gets the rest without it, so
    # there are as many programs as killed scans, and one more.
    while todo:
        watch = _Watch(out, started, what, len(cases) - len(todo), len(cases), progress)
        # Records of this call only: older ones may say that a scan failed which is tried again now.
        code, complaint = _predict(todo, partial(run, watch=watch, model=model, out=out, device=device), out)
        recorded = _records(out, since=started)
        left = [case for case in todo if case.case not in recorded]
        # Scans are predicted in order, so the first without a record is the one at which it ended.
        if code not in _WENT_THROUGH and left:
            failures |= _blame(left.pop(0), code, complaint, nothing_done=len(left) + 1 == len(todo))
        elif left:
            # It went through and yet they have no record: asking again would be the same.
            failures |= {case.case: f"the program left it out: {complaint}" for case in left}
            left = []
        todo = left
    progress(what, len(cases), len(cases))
    return _result(cases, out, model_sha256, failures)


def _missing(cases: Sequence[Case], out: Path, model_sha256: str) -> list[Case]:
    records, missing = _records(out), []
    for case in cases:
        record = records.get(case.case, {})
        # The same weights, the same scan, and the mask is still there: then it would come out the same.
        is_made = (
            record.get("status") == "written"
            and record.get("model_sha256") == model_sha256
            and resolved(Path(record.get("image", ""))) == resolved(case.image_path())
            and has_mask(out, case.case)
        )
        if not is_made:
            missing.append(case)
    return missing


def _records(out: Path, *, since: float = 0.0) -> dict[str, Mapping[str, Any]]:
    """The records of a folder that were finished after ``since``."""
    records = read_predictions(out).records
    return {case: record for case, record in records.items() if float(record.get("finished", 0.0)) >= since}


@dataclass(frozen=True)
class _Watch:
    """Tells how many masks are done while another program makes them."""

    out: Path
    started: float
    what: str
    done_before: int
    total: int
    progress: Progress

    def __call__(self) -> None:
        done = self.done_before + len(_records(self.out, since=self.started))
        self.progress(self.what, min(done, self.total), self.total)


def _predict(cases: Sequence[Case], run: Callable[[Path], tuple[int, str]], out: Path) -> tuple[int, str]:
    todo = out / TODO_FILE
    write_index(todo, CaseIndex(tuple(cases)))
    try:
        return run(todo)
    finally:
        todo.unlink(missing_ok=True)


def _blame(case: Case, code: int, complaint: str, *, nothing_done: bool) -> dict[str, str]:
    """The scan at which the program ended; an error that concerns all scans is raised.

    Raises:
        Verse3dError: the program ended by itself before it came to any scan.
    """
    # A traceback says what happened in its last line.
    last = complaint.splitlines()[-1] if complaint else "it said nothing"
    if code > 0 and nothing_done:
        raise Verse3dError(f"verse3d predict ended with code {code}: {complaint or last}")
    reason = f"was killed by signal {-code} (out of memory?)" if code < 0 else f"ended with code {code}: {last}"
    _log.error("%s: the program that predicted it %s", case.case, reason)
    return {case.case: f"the program that predicted it {reason}"}


def _result(cases: Sequence[Case], out: Path, model_sha256: str, failures: Mapping[str, str]) -> FolderPredictions:
    records = _records(out)
    # Asked again rather than remembered: what counts is what is in the folder now.
    missing = {case.case for case in _missing(cases, out, model_sha256)}
    made = {case.case: records[case.case] for case in cases if case.case not in missing}
    failed = [
        (case.case, failures.get(case.case) or records.get(case.case, {}).get("error") or "no mask was written")
        for case in cases
        if case.case not in made
    ]
    return FolderPredictions(made, tuple(failed), str(read_predictions(out).about.get("device", "")))
