"""A data set in numbers and in figures."""

from dataclasses import dataclass
from pathlib import Path

from verse3d.core.files import PathOrText, make_folder
from verse3d.core.logs import Progress, no_progress
from verse3d.data.index.discover import is_index, load_cases
from verse3d.data.quality.survey import cache_path, survey_cases
from verse3d.data.schemes import doubts_in_words
from verse3d.report.charts import draw_charts
from verse3d.report.dataset_stats import CaseStats, SplitSummary, summarise, write_table
from verse3d.report.figures import save_figure

STATS_TABLE = "stats.csv"
_CHART_DPI = 120


@dataclass(frozen=True)
class StatsResult:
    """What ``stats`` found and wrote.

    Attributes:
        table: the CSV with a row per case.
        figures: the PNG files.
        summary: a row per split, and one for all.
        failures: (case, why it or its mask could not be used).
        notes: what is doubtful about the levels that were counted.
    """

    table: Path
    figures: tuple[Path, ...]
    summary: tuple[SplitSummary, ...]
    failures: tuple[tuple[str, str], ...]
    notes: tuple[str, ...] = ()


def stats(
    data: PathOrText,
    *,
    out: PathOrText,
    workers: int | None = 1,
    cache: bool = True,
    progress: Progress = no_progress,
) -> StatsResult:
    """Measure a data set: ``stats.csv`` with a row per case, and figures.

    The figures are ``spacing``, ``size``, ``orientation``, ``field_of_view``, ``levels``, ``hu`` and ``splits`` (PNG).
    Cases that cannot be read are listed and stop nothing.

    Args:
        data: an index or a folder.
        out: folder for the table and the figures.
        workers: processes that read; 1 reads in this one, None takes as many as cores and memory allow.
        cache: use and keep what ``check`` and this function measured, beside the index. A folder has no cache.
        progress: told about every case that is done.

    Raises:
        DataError: there is no such index or folder, or no case in it.
        OutputError: the folder cannot be written to.
    """
    source, folder = Path(data), Path(out)
    cases = load_cases(source)
    make_folder(folder)
    kept = cache_path(source) if cache and is_index(source) else None
    surveys = survey_cases(cases.cases, workers=workers, cache=kept, progress=progress)
    measured = [CaseStats(case, survey) for case, survey in zip(cases, surveys, strict=True)]
    write_table(folder / STATS_TABLE, measured)
    figures = []
    for name, figure in draw_charts(measured).items():
        # One after the other, so that only one figure is held.
        figures.append(folder / f"{name}.png")
        save_figure(figure, figures[-1], dpi=_CHART_DPI)
    failures = tuple((each.case.case, each.problem) for each in measured if each.problem)
    notes = doubts_in_words({each.case.case: each.doubt for each in measured})
    return StatsResult(folder / STATS_TABLE, tuple(figures), tuple(summarise(measured)), failures, notes)
