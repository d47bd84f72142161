"""The survey of a data set: everything that is measured of its cases, in one reading of each."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from verse3d.core.runtime import Progress, no_progress
from verse3d.data.cases import Case
from verse3d.data.examine.case import survey_case
from verse3d.data.examine.record import HU_BIN_WIDTH, HU_BINS, HU_LOWEST, CaseSurvey

__all__ = ["HU_BINS", "HU_BIN_WIDTH", "HU_LOWEST", "CaseSurvey", "survey_case", "survey_cases"]


def survey_cases(
    cases: Sequence[Case], *, workers: int | None = None, cache: Path | None = None, progress: Progress = no_progress
) -> Iterator[CaseSurvey]:
    """Survey the cases, in their order. A case that cannot be read is a finding of it and stops nothing.

    Args:
        cases: what to read.
        workers: processes that read; None for as many as there are cores, if memory allows.
        cache: file that keeps what was measured, so that unchanged files are not read again; None for none.
        progress: told about every case.
    """
    for number, case in enumerate(cases):
        progress("cases", number, len(cases))
        yield survey_case(case)
    progress("cases", len(cases), len(cases))
