"""The whole journey on synthetic scans, made of the other jobs."""

import os
import shutil
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verse3d.api.comparison import compare
from verse3d.api.data import check, index
from verse3d.api.evaluating import evaluate
from verse3d.api.models import train, training_config
from verse3d.api.obtaining import phantom
from verse3d.api.predicting import LABEL_FILE, predict
from verse3d.api.programs import command_line
from verse3d.core.config import Config
from verse3d.core.errors import DataError
from verse3d.core.files import PathOrText, regular_file, write_text
from verse3d.core.logs import Progress, no_progress
from verse3d.core.runtime import DeviceName
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.predictions import mask_path
from verse3d.data.quality.checks import CheckReport
from verse3d.evaluation.comparison import Comparison
from verse3d.evaluation.score_folder import Evaluation, evaluate_folder
from verse3d.inference.records import PredictionReport
from verse3d.report.demo_page import (
    INTRODUCTION,
    TITLE,
    comparison_section,
    data_section,
    next_section,
    scores_section,
    starter_section,
    training_section,
)
from verse3d.report.itksnap import open_command
from verse3d.report.page import PageSection, write_page
from verse3d.report.pictures import LOSS_PICTURE, draw_case
from verse3d.training.fit import FitResult
from verse3d.training.runfolder import history_of

DEMO_MARKER = "verse3d-demo.txt"
_PARTS = (
    "data",
    "cases.jsonl",
    "cases.store",
    "run",
    "masks",
    "scores.json",
    "scores.csv",
    "scores.md",
    "scores-centroids",
    "run-against",
    "compare",
    "overlay.png",
    "starter",
    "pictures",
    "index.html",
)
_MARKER_TEXT = (
    f"verse3d demo wrote these beside this file: {', '.join(_PARTS)}.\n"
    "Told to overwrite, it deletes them and makes them again. Whatever else is here is not touched.\n"
)
_MARKER_READ = 1000


@dataclass(frozen=True)
class DemoResult:
    """What ``demo`` leaves behind.

    Attributes:
        findings: of the data check.
        training: how the run stands.
        predictions: a record per unseen case.
        evaluation: their scores.
        comparison: the same model against a second one on the unseen cases; None if there is no second one.
        overlay: a PNG of the first unseen case.
        page: everything on one page of HTML, pictures included.
        label_file: for ITK-SNAP.
        open_itksnap: the command that opens the first unseen case.
        open_tensorboard: the command that shows the run.
    """

    findings: CheckReport
    training: FitResult
    predictions: PredictionReport
    evaluation: Evaluation
    comparison: Comparison | None
    overlay: Path
    page: Path
    label_file: Path
    open_itksnap: str
    open_tensorboard: str


def demo(
    *,
    out: PathOrText = "runs/demo",
    cases: int = 12,
    seed: int = 0,
    config: PathOrText = "demo3d",
    against: PathOrText | None = "demo2d",
    overrides: Sequence[str] = (),
    max_minutes: float | None = None,
    device: DeviceName = "auto",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> DemoResult:
    """The whole journey on synthetic data: phantom, index, check, train, predict unseen cases, evaluate, one page.

    Before anything is trained, the starter weights segment an unseen case.

    Then a second model is trained on the same cases, slice by slice unless told otherwise, and both are compared.

    Args:
        out: gets ``data/``, ``cases.jsonl``, ``run/``, ``masks/``, ``scores.json``, ``overlay.png``, ``starter/``,
            ``pictures/`` and ``index.html``, which shows all of it; with a second model ``run-against/`` and
            ``compare/``, too.
        cases: how many phantoms.
        seed: of the phantoms.
        config: of the training.
        against: config of the second model; None trains no second one.
        overrides: ``"section.key=value"`` on top of both.
        max_minutes: of each training.
        device: for training and prediction.
        overwrite: replace an earlier demo in ``out``.
        progress: told about every stage.

    Raises:
        ConfigError: a config holds mistakes; nothing is made then.
        DataError: ``out`` holds a demo already, or anything that no demo wrote.
        KeyboardInterrupt: the training was interrupted.
    """
    folder = Path(out)
    configs = [training_config(None, chosen, overrides) for chosen in (config, against) if chosen is not None]
    _clear_demo(folder, overwrite=overwrite)
    listed, masks = folder / "cases.jsonl", folder / "masks"
    phantom(folder / "data", cases=cases, seed=seed, workers=None, progress=progress)
    found = index(folder / "data", out=listed, seed=seed)
    findings = check(listed, cache=False, progress=progress)
    first = found.cases.in_split("test")[0]
    sections = [_starter(first, folder / "starter", device, progress)]
    sections.append(data_section(findings, Counter(str(case.split) for case in found.cases)))

    def trained(settings: Config, run: Path) -> FitResult:
        result = train(data=listed, out=run, config=settings, max_minutes=max_minutes, device=device, progress=progress)
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        return result

    training = trained(configs[0], folder / "run")
    predictions = predict(listed, model=training.best, out=masks, split="test", device=device, progress=progress)
    pictures = folder / "pictures"
    evaluation = evaluate(
        pred=masks, truth=listed, out=folder / "scores.json", split="test", pictures=pictures, progress=progress
    )
    sections += _learnt(training, evaluation, pictures)
    comparison = None
    if len(configs) > 1:
        second = trained(configs[1], folder / "run-against")
        runs = _named((configs[0], training), (configs[1], second))
        comparison = compare(*runs, data=listed, out=folder / "compare", device=device, progress=progress)
        sections.append(comparison_section(comparison, folder / "compare" / "compare.png"))
    labels = masks / LABEL_FILE
    viewer = open_command(first.image_path(), mask_path(masks, first.case), labels)
    watch = " ".join(command_line("tensorboard", logdir=training.folder / "tensorboard"))
    sections.append(next_section((viewer, watch)))
    return DemoResult(
        findings=findings,
        training=training,
        predictions=predictions,
        evaluation=evaluation,
        comparison=comparison,
        overlay=draw_case(
            first,
            mask_path(masks, first.case),
            folder / "overlay.png",
            title=f"{first.case}, unseen",
            scheme=evaluation.scheme,
        ),
        page=write_page(folder / "index.html", TITLE, INTRODUCTION, sections),
        label_file=labels,
        open_itksnap=viewer,
        open_tensorboard=watch,
    )


def _starter(case: Case, folder: Path, device: DeviceName, progress: Progress) -> PageSection:
    """Segment one case with the weights that come with verse3d, before anything is trained."""
    report = predict(case.image_path(), out=folder, device=device, progress=progress)
    record = report.records[0]
    if record.status != "written":
        raise DataError(f"the starter weights could not segment {case.case}: {record.error}")
    scored = evaluate_folder(folder, CaseIndex((case,)), folder / "scores.json")
    mask, picture = mask_path(folder, case.case), folder / "overlay.png"
    draw_case(case, mask, picture, title=f"{case.case}, starter weights")
    return starter_section(scored, record.seconds, picture)


def _learnt(training: FitResult, evaluation: Evaluation, pictures: Path) -> list[PageSection]:
    """What the page says about the training and the unseen cases; the loss curve is among the pictures."""
    pictured = [pictures / f"{case.case}.png" for case in evaluation.cases]
    drawn = [path for path in pictured if path.is_file()]
    history = history_of(training.best)
    loss = pictures / LOSS_PICTURE
    return [
        training_section(history, training.best_epoch, training.best_dice, loss),
        scores_section(evaluation, drawn),
    ]


def _named(*runs: tuple[Config, FitResult]) -> list[str]:
    """Runs called by their modes, or by their folders if both have one mode."""
    modes = [settings.mode for settings, _ in runs]
    names = modes if len(set(modes)) == len(modes) else [run.folder.name for _, run in runs]
    return [f"{name}={run.folder}" for name, (_, run) in zip(names, runs, strict=True)]


def _clear_demo(folder: Path, *, overwrite: bool) -> None:
    """Make sure that the folder is new, empty or a demo's, and remove what an earlier demo wrote, and nothing else."""
    marker = folder / DEMO_MARKER
    there = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if there and not _is_marker(marker):
        raise DataError(
            f"{folder} holds {there[0]}, which no demo wrote", hint="name a new or empty folder as `out`", option="out"
        )
    parts = [folder / name for name in _PARTS if os.path.lexists(folder / name)]
    if parts and not overwrite:
        raise DataError(
            f"{folder} already holds a demo ({parts[0].name})",
            hint="use `overwrite` or another folder as `out`",
            option="out",
        )
    write_text(marker, _MARKER_TEXT)
    for part in parts:
        if part.is_dir() and not part.is_symlink():  # what is behind a link is not the demo's
            shutil.rmtree(part)
        else:
            part.unlink()


def _is_marker(path: Path) -> bool:
    """Whether a demo wrote it; other files of that name are somebody's own."""
    try:
        return "verse3d demo" in regular_file(path).read_text(encoding="utf-8", errors="replace")[:_MARKER_READ]
    except (DataError, OSError):
        return False
