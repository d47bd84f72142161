"""Make what the benchmarks of prediction need: two trained models and three synthetic scans.

    python benchmarks/models.py --work runs/benchmarks                  # all of it, about 25 minutes on two cores
    python benchmarks/models.py --work runs/benchmarks --scans 64x64x48 --classes 2 --steps 20     # a quick look

The models are the same network for 2 classes (any vertebra or none) and for 27 (26 levels and none): MONAI's UNet with
widths 16-32-64-128-256 and two residual units, 1.5 mm, windows of 96^3 that overlap by a quarter. `verse3d train` runs
on eight phantoms (patches of 64^3), so that the masks hold something; they are no good models. What is there already is
kept. Prints how much of the smallest scan each model labels.
"""

import argparse
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import torch
from measuring import alone_in
from scans import LARGE, make_scan

from verse3d.api.predicting import predict
from verse3d.core.config import Config, load_config, parse_config
from verse3d.data.cases import CaseIndex, write_index
from verse3d.data.index.discover import load_cases
from verse3d.model.checkpoint import Checkpoint, TrainedNetwork, load_checkpoint, save_checkpoint
from verse3d.model.modes import get_mode
from verse3d.model.scout import SCOUT
from verse3d.model.starter import starter_file
from verse3d.phantoms import write_phantom

SCHEMES = {2: "binary", 27: "vertebrae"}
STEPS = {2: 600, 27: 4000}
"""Long enough for masks that hold something: three and 17 minutes on two cores."""
SMALLEST_FOREGROUND = 0.001
TRAINING = {
    "network.name": "unet",
    "network.channels": "[16, 32, 64, 128, 256]",
    "network.residual_units": "2",
    "loss.name": "dice_ce",
    "sampling.patch_voxels": "64",
    "sampling.batch_size": "1",
    "sampling.margin_voxels": "0",
    "sampling.foreground_fraction": "0.9",
    "augment.affine": "0",
    "augment.blur": "0",
    "augment.mirror_left_right": "0",
    "optim.lr": "3e-3",
    "optim.epochs": "1",
    "optim.warmup_steps": "10",
    "optim.ema_decay": "0",
    "validation.loss_batches": "0",
    "validation.pictures": "0",
}
WINDOW = 96
SPACING_MM = 1.5


def trained(work: Path, classes: int, steps: int | None = None, spacing_mm: float = SPACING_MM) -> Path:
    """The checkpoint of the model for so many classes on that grid; trained if it is not in the folder yet."""
    steps = steps or STEPS[classes]
    run = work / f"trained-{classes}-classes-{steps}-steps{_grid(spacing_mm)}"
    if not (run / "best.pt").is_file():
        print(f"training {run} ...", flush=True)
        own = {"labels.scheme": SCHEMES[classes], "optim.steps_per_epoch": str(steps)}
        settings = TRAINING | own | {"grid.spacing_mm": str(spacing_mm)}
        options = [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
        command = [
            sys.executable,
            "-m",
            "verse3d",
            "-q",
            "train",
            "--data",
            str(phantom_index(work)),
            "--out",
            str(run),
        ]
        subprocess.run([*command, "--config", "unet3d", "--overwrite", *options], check=True)
    return run / "best.pt"


def _grid(spacing_mm: float) -> str:
    """Of a file's name; nothing for the usual one."""
    return "" if spacing_mm == SPACING_MM else f"-{spacing_mm:g}-mm"


def model_for(
    work: Path,
    classes: int,
    *,
    overlap: float,
    amp: str = "auto",
    steps: int | None = None,
    scout: bool = False,
    spacing_mm: float = SPACING_MM,
) -> Path:
    """The trained model as a file of its own that predicts with this overlap and number format ("auto" or "off").

    With ``scout`` it has that of the starter weights, with which every training of a shipped config begins.
    """
    run = trained(work, classes, steps, spacing_mm).parent
    path = work / f"{run.name}-overlap{overlap:g}-amp-{amp}{'-scout' if scout else ''}.pt"
    if not path.is_file():
        checkpoint = load_checkpoint(run / "best.pt")
        values = checkpoint.config.to_dict()
        values["sampling"]["patch_voxels"] = [WINDOW] * 3
        values["inference"]["overlap"] = overlap
        values["runtime"]["amp"] = amp
        config = parse_config(values)
        save_checkpoint(path, replace(checkpoint, config=config, networks=_scout_for(config) if scout else {}))
    return path


def _scout_for(config: Config) -> dict[str, TrainedNetwork]:
    """The starter's scout beside a network of another config; what it tells apart stays levels."""
    theirs = load_checkpoint(starter_file()).networks[SCOUT]
    labels = config.labels.model_copy(update={"scheme": "vertebrae"})
    return {SCOUT: replace(theirs, config=config.model_copy(update={"labels": labels}))}


def random_model(
    work: Path, classes: int, *, overlap: float, amp: str = "auto", spacing_mm: float = SPACING_MM
) -> Path:
    """The model for so many classes as it is before any training: it is unsure everywhere."""
    path = work / f"random-{classes}-classes{_grid(spacing_mm)}-overlap{overlap:g}-amp-{amp}.pt"
    if not path.is_file():
        work.mkdir(parents=True, exist_ok=True)
        settings = TRAINING | {
            "labels.scheme": SCHEMES[classes],
            "grid.spacing_mm": str(spacing_mm),
            "sampling.patch_voxels": str(WINDOW),
            "inference.overlap": str(overlap),
            "runtime.amp": amp,
        }
        config = load_config("unet3d", [f"{key}={value}" for key, value in settings.items()])
        torch.manual_seed(0)
        network = get_mode(config.mode).network(config)
        save_checkpoint(path, Checkpoint(config, dict(network.state_dict()), epoch=0, scores={}))
    return path


def phantom_index(work: Path) -> Path:
    """The index of eight phantoms, all of them for training; made if it is not there yet."""
    index = work / "phantoms.jsonl"
    if not index.is_file():
        shutil.rmtree(work / "phantoms", ignore_errors=True)  # what an interrupted call may have left
        write_phantom(work / "phantoms", cases=8, seed=11)
        cases = load_cases(work / "phantoms")
        write_index(index, CaseIndex(tuple(replace(case, split="train") for case in cases)))
    return index


def foreground(model: Path, scan: Path, out: Path) -> tuple[float, int]:
    """The share of a scan that a model labels, and how many different labels it finds."""
    record = predict(scan, model=model, out=out, device="cpu", overwrite=True).records[0]
    if record.status != "written":
        raise SystemExit(f"{scan} cannot be predicted: {record.error}")
    return record.labelled_voxels / record.voxels, len(record.levels)


def main() -> None:
    """Make all of it and look at what the models label."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder to keep it in")
    parser.add_argument("--scans", nargs="+", default=list(LARGE), help="sizes; the first is labelled")
    parser.add_argument("--classes", type=int, nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--steps", type=int, help="of training, instead of the usual ones")
    options = parser.parse_args()
    with alone_in(options.work):
        _make(options)


def _make(options: argparse.Namespace) -> None:
    scans = [make_scan(options.work, size) for size in options.scans]
    for classes in options.classes:
        model = model_for(options.work, classes, overlap=0.25, steps=options.steps)
        share, labels = foreground(model, scans[0], options.work / "masks" / f"models-{classes}")
        verdict = "" if share >= SMALLEST_FOREGROUND else "   TOO LITTLE: agreement of its masks would mean nothing"
        print(f"{classes:2} classes: {100 * share:.2f} % of {scans[0].name} in {labels} labels{verdict}", flush=True)


if __name__ == "__main__":
    main()
