"""The survey of a data set: everything that is measured of its cases, in one reading of each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from verse3d.core.logs import Progress, no_progress
from verse3d.core.threads import usable_cores
from verse3d.core.worker_pool import Failure, affordable_workers, each
from verse3d.data.cases import Case
from verse3d.data.quality.examine import predicted_bytes, survey_case
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.record import HU_BIN_WIDTH, HU_BINS, HU_LOWEST, CaseSurvey
from verse3d.data.quality.survey_cache import SurveyCache, cache_key, cache_path

__all__ = ["HU_BINS", "HU_BIN_WIDTH", "HU_LOWEST", "CaseSurvey", "cache_path", "survey_case", "survey_cases"]


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
    to_read = [cases[number] for number in rest]
    count = fitting_workers(to_read) if workers is None else workers
    for position, outcome in each(survey_case, to_read, count, "cases are read"):
        number = rest[position]
        known[number] = _survey(cases[number], outcome)
        store.put(keys[number], known[number])
        done += 1
        progress("cases", done, len(cases))
        while following in known:
            yield known.pop(following)
            following += 1
    for number in range(following, len(cases)):
        yield known.pop(number)
    store.tidy(keys)


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
