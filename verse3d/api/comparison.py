"""The job that sets trained models against each other."""

from dataclasses import replace
from pathlib import Path

from verse3d.api import programs
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.files import PathOrText, make_folder, write_json, write_text
from verse3d.core.logs import Progress, no_progress
from verse3d.core.runtime import DeviceName, choose_device
from verse3d.data.cases import Case, Split
from verse3d.data.index.discover import load_cases
from verse3d.evaluation.comparison import CompareOptions, Comparison, check_fairness, compare_contestants
from verse3d.evaluation.fairness import load_contestants
from verse3d.report.compare_figure import compare_figure
from verse3d.report.compare_text import csv_text, json_dict, markdown
from verse3d.report.figures import save_figure
from verse3d.report.pictures import draw_folder


def compare(
    *runs: PathOrText,
    data: PathOrText,
    out: PathOrText,
    split: Split | None = None,
    allow_different: bool = False,
    folds: bool = False,
    pictures: int = 2,
    device: DeviceName = "auto",
    progress: Progress = no_progress,
) -> Comparison:
    """Set trained models against each other on the same cases, in pairs, on the grids of the scans.

    Missing predictions are made into ``out/<name>/masks`` by a program of their own, so that time and memory are
    theirs; a mask is kept if the same model file made it.

    Args:
        runs: ``PATH`` or ``NAME=PATH[,PATH ...]`` each, at least two. A path is a run folder, a checkpoint, or the word
            "starter". Several
            paths under one name are seeds of one approach and are averaged case by case.
        data: an index or a folder with masks in VerSe ids.
        out: gets ``compare.md``, ``compare.csv``, ``compare.json``, ``compare.png`` and a folder per run with masks,
            scores and pictures.
        split: the cases to compare on; None means "test", or with ``folds`` all.
        allow_different: compare although split, network grid, labels or post-processing differ; what differs is
            written into the table. A model is never scored on a case that it was trained on.
        folds: the paths under a name are folds of a cross-validation (or the folder that ``train_folds`` has filled):
            each is scored on the fold that was held out of its own ``cases.jsonl``, or on the test cases there.
        pictures: how many cases are drawn per run, beside its loss curve.
        device: where to predict.
        progress: told about every scan.

    Raises:
        ConfigError: fewer than two runs, names that clash, or runs that differ (everything is listed).
        CheckpointError: a run holds no model, or a damaged one.
        DataError: there is no case, or none that every run could be scored on.
        OutputError: the folder cannot be written to.
    """
    if folds and split is not None:
        raise ConfigError("folds bring their own test cases: leave out `split`", option="split")
    if pictures < 0:
        raise ConfigError(f"`pictures` must be at least 0, got {pictures}", option="pictures")
    choose_device(device)  # refuses a GPU that is not there before anything is read
    contestants = load_contestants(runs, folds=folds)
    # Everything that may be refused is refused before the first scan is predicted, which may take hours.
    cases = _cases(Path(data), None if folds else split or "test")
    check_fairness(contestants, cases, allow_different=allow_different, folds=folds)
    options = CompareOptions(
        allow_different=allow_different,
        folds=folds,
        pictures=pictures,
        run=programs.run_predict,
        painter=draw_folder,
        device=device,
        progress=progress,
    )
    folder = make_folder(Path(out))
    return _written(compare_contestants(contestants, cases, folder, options), folder)


def _cases(data: Path, split: Split | None) -> tuple[Case, ...]:
    cases = tuple(
        case for case in load_cases(data) if case.image and case.mask and (split is None or case.split == split)
    )
    if not cases:
        raise DataError(
            f"{data} has no case with a scan and a mask{f' in the {split} split' if split else ''}",
            hint="`split` chooses another one; `verse3d.index(assign=...)` puts cases into one",
            option="split",
        )
    return cases


def _written(comparison: Comparison, folder: Path) -> Comparison:
    page, table, content, picture = (folder / f"compare.{suffix}" for suffix in ("md", "csv", "json", "png"))
    write_text(page, markdown(comparison))
    write_text(table, csv_text(comparison))
    write_json(content, json_dict(comparison))
    save_figure(compare_figure(comparison), picture, dpi=150)
    return replace(comparison, written=(page, table, content, picture))
