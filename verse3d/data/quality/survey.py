"""The survey of a data set: everything that is measured of its cases, in one reading of each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.threads import usable_cores
from verse3d.core.worker_pool import CannotStartError, Failure, affordable_workers, each_here, each_in_processes
from verse3d.data.cases import Case
from verse3d.data.quality.examine import predicted_bytes, survey_case
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.record import HU_BIN_WIDTH, HU_BINS, HU_LOWEST, CaseSurvey
from verse3d.data.quality.survey_cache import SurveyCache, cache_key, cache_path

__all__ = ["HU_BINS", "HU_BIN_WIDTH", "HU_LOWEST", "CaseSurvey", "cache_path", "survey_case", "survey_cases"]

_log = logger(__name__)


def survey_cases(
    cases: Sequence[Case], *, workers: int | None = None, cache: Path | None = None, progress: Progress = no_progress
) -> Iterator[CaseSurvey]:
    """Survey the cases, in their order. A case that cannot be read is a finding of it and stops nothing.

    Args:
        cases: what to read.
        workers: processes that read; None for as many as there are cores, as memory allows and as the data is worth.
            1 (or 0) reads in this process.
        cache: file that keeps what was measured, so that unchanged files are not read again; None for none.
        progress: told about every case that is done.
    """
    store = SurveyCache(cache)
    keys = [cache_key(case) for case in cases] if cache else ["" for _ in cases]
    known = {number: found for number, key in enumerate(keys) if key and (found := store.get(key, cases[number].case))}
    rest = [number for number in range(len(cases)) if number not in known]
    done = len(known)
    progress("cases", done, len(cases))
    following = 0
    for position, survey in _measured([cases[number] for number in rest], workers):
        number = rest[position]
        known[number] = survey
        store.put(keys[number], survey)
        done += 1
        progress("cases", done, len(cases))
        while following in known:
            yield known.pop(following)
            following += 1
    for number in range(following, len(cases)):
        yield known.pop(number)
    store.tidy(keys)


def _measured(cases: Sequence[Case], workers: int | None) -> Iterator[tuple[int, CaseSurvey]]:
    """(position, survey) as they are finished."""
    count = fitting_workers(cases) if workers is None else workers
    waiting = set(range(len(cases)))
    if count > 1:
        try:
            for position, outcome in each_in_processes(survey_case, cases, count):
                waiting.discard(position)
                yield position, _survey(cases[position], outcome)
        except CannotStartError as error:
            _log.warning("%s: cases are read one after the other", error)
    left = sorted(waiting)
    for number, outcome in each_here(survey_case, [cases[position] for position in left]):
        yield left[number], _survey(cases[left[number]], outcome)


def _survey(case: Case, outcome: CaseSurvey | Failure) -> CaseSurvey:
    if isinstance(outcome, CaseSurvey):
        return outcome
    hint = "try again with `workers=1`, which needs the least memory" if outcome.died else "please report this"
    message = f"{case.image or case.mask}: the check broke down: {outcome.reason}"
    broken = Finding(case.case, "error", "case-failed", message, hint)
    return CaseSurvey(case.case, findings=(broken,))


def fitting_workers(cases: Sequence[Case]) -> int:
    """How many processes are worth it and find memory for the largest case each, by the headers of the files."""
    if usable_cores() == 1 or len(cases) < 2:  # then no header needs to be read
        return 1
    needs = [predicted_bytes(case) for case in cases]
    return affordable_workers(needs, needs)
