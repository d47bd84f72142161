"""The whole journey on synthetic scans, made of the other jobs."""

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verse3d.api.data import check, index, phantom
from verse3d.api.models import LABEL_FILE, evaluate, predict, train
from verse3d.core.errors import DataError
from verse3d.core.files import PathOrText, write_text
from verse3d.core.runtime import DeviceName, Progress, no_progress
from verse3d.data.checks import CheckReport
from verse3d.inference.predict import PredictionReport, mask_path
from verse3d.report.evaluation import Evaluation
from verse3d.report.itksnap import open_command
from verse3d.report.pictures import draw_case
from verse3d.training.fit import FitResult

DEMO_MARKER = "verse3d-demo.txt"


@dataclass(frozen=True)
class DemoResult:
    """What ``demo`` leaves behind.

    Attributes:
        findings: of the data check.
        training: how the run stands.
        predictions: a record per unseen case.
        evaluation: their scores.
        overlay: a PNG of the first unseen case.
        label_file: for ITK-SNAP.
        open_itksnap: the command that opens the first unseen case.
        open_tensorboard: the command that shows the run.
    """

    findings: CheckReport
    training: FitResult
    predictions: PredictionReport
    evaluation: Evaluation
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
    overrides: Sequence[str] = (),
    max_minutes: float | None = None,
    device: DeviceName = "auto",
    overwrite: bool = False,
    progress: Progress = no_progress,
) -> DemoResult:
    """The whole journey on synthetic data: phantom, index, check, train, predict unseen cases, evaluate, picture.

    Args:
        out: gets ``data/``, ``cases.jsonl``, ``run/``, ``masks/``, ``scores.json`` and ``overlay.png``.
        cases: how many phantoms.
        seed: of the phantoms.
        config: of the training.
        overrides: ``"section.key=value"`` on top of it.
        max_minutes: of the training.
        device: for training and prediction.
        overwrite: replace an earlier demo in ``out``.
        progress: told about every stage.

    Raises:
        DataError: ``out`` holds a demo already, or files of these names that no demo wrote.
        KeyboardInterrupt: the training was interrupted.
    """
    folder = Path(out)
    _clear_demo(folder, overwrite=overwrite)
    listed, run, masks = folder / "cases.jsonl", folder / "run", folder / "masks"
    phantom(folder / "data", cases=cases, seed=seed, progress=progress)
    found = index(folder / "data", out=listed, seed=seed)
    findings = check(listed, cache=False, progress=progress)
    training = train(
        data=listed,
        out=run,
        config=config,
        overrides=overrides,
        max_minutes=max_minutes,
        device=device,
        progress=progress,
    )
    if training.stopped == "interrupted":
        raise KeyboardInterrupt
    predictions = predict(listed, model=training.best, out=masks, split="test", device=device, progress=progress)
    evaluation = evaluate(pred=masks, truth=listed, out=folder / "scores.json", split="test", progress=progress)
    first = found.cases.in_split("test")[0]
    labels = masks / LABEL_FILE
    return DemoResult(
        findings=findings,
        training=training,
        predictions=predictions,
        evaluation=evaluation,
        overlay=draw_case(first, mask_path(masks, first.case), folder / "overlay.png", title=f"{first.case}, unseen"),
        label_file=labels,
        open_itksnap=open_command(first.image_path(), mask_path(masks, first.case), labels),
        open_tensorboard=f"tensorboard --logdir {training.folder / 'tensorboard'}",
    )


def _clear_demo(folder: Path, *, overwrite: bool) -> None:
    """Remove what an earlier demo wrote, and nothing else."""
    parts = [folder / name for name in ("data", "cases.jsonl", "run", "masks", "scores.json", "scores.csv")]
    existing = [part for part in parts if part.exists()]
    marker = folder / DEMO_MARKER
    if existing and not marker.exists():
        raise DataError(
            f"{folder} holds {existing[0].name}, which no demo wrote", hint="choose another --out folder for the demo"
        )
    if existing and not overwrite:
        raise DataError(
            f"{folder} already holds a demo ({existing[0].name})", hint="use --overwrite or another --out folder"
        )
    write_text(marker, "Everything here was written by verse3d demo; with --overwrite it is deleted and made again.\n")
    for part in existing:
        if part.is_dir():
            shutil.rmtree(part)
        else:
            part.unlink()
