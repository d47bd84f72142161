"""The whole journey on synthetic scans, made of the other jobs."""

import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verse3d.api.comparison import compare
from verse3d.api.data import check, index, phantom
from verse3d.api.evaluating import evaluate
from verse3d.api.models import train, training_config
from verse3d.api.predicting import LABEL_FILE, predict
from verse3d.api.programs import command_line
from verse3d.core.config import Config
from verse3d.core.errors import DataError
from verse3d.core.files import PathOrText, regular_file, write_text
from verse3d.core.logs import Progress, no_progress
from verse3d.core.runtime import DeviceName
from verse3d.data.predictions import mask_path
from verse3d.data.quality.checks import CheckReport
from verse3d.evaluation.comparison import Comparison
from verse3d.evaluation.score_folder import Evaluation
from verse3d.inference.records import PredictionReport
from verse3d.report.itksnap import open_command
from verse3d.report.pictures import draw_case
from verse3d.training.fit import FitResult

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
    """The whole journey on synthetic data: phantom, index, check, train, predict unseen cases, evaluate, picture.

    Then a second model is trained on the same cases, slice by slice unless told otherwise, and both are compared.

    Args:
        out: gets ``data/``, ``cases.jsonl``, ``run/``, ``masks/``, ``scores.json`` and ``overlay.png``; with a second
            model ``run-against/`` and ``compare/``, too.
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
    phantom(folder / "data", cases=cases, seed=seed, progress=progress)
    found = index(folder / "data", out=listed, seed=seed)
    findings = check(listed, cache=False, progress=progress)

    def trained(settings: Config, run: Path) -> FitResult:
        result = train(data=listed, out=run, config=settings, max_minutes=max_minutes, device=device, progress=progress)
        if result.stopped == "interrupted":
            raise KeyboardInterrupt
        return result

    training = trained(configs[0], folder / "run")
    predictions = predict(listed, model=training.best, out=masks, split="test", device=device, progress=progress)
    evaluation = evaluate(pred=masks, truth=listed, out=folder / "scores.json", split="test", progress=progress)
    comparison = None
    if len(configs) > 1:
        second = trained(configs[1], folder / "run-against")
        runs = _named((configs[0], training), (configs[1], second))
        comparison = compare(*runs, data=listed, out=folder / "compare", device=device, progress=progress)
    first = found.cases.in_split("test")[0]
    labels = masks / LABEL_FILE
    return DemoResult(
        findings=findings,
        training=training,
        predictions=predictions,
        evaluation=evaluation,
        comparison=comparison,
        overlay=draw_case(first, mask_path(masks, first.case), folder / "overlay.png", title=f"{first.case}, unseen"),
        label_file=labels,
        open_itksnap=open_command(first.image_path(), mask_path(masks, first.case), labels),
        open_tensorboard=" ".join(command_line("tensorboard", logdir=training.folder / "tensorboard")),
    )


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
