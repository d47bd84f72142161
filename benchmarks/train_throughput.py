"""How many patches per second a training learns from: its step by itself, the whole loop, and a stock MONAI loop.

    python benchmarks/train_throughput.py [--minutes 6] [--device cuda] [--set runtime.compile=on] [--peers monai]

Synthetic scans are written first. Then every part runs as a program of its own on the same scans, config and device:

    step    one fixed batch on the device, no data: what the network allows
    loop    verse3d.train from files, with augmentation, validation and checkpoints; its first epoch is not counted
    monai   CacheDataset, persistent workers, RandCropByPosNegLabeld, the same augmentations, AMP

nnU-Net is no peer here: its benchmark trainer (``nnUNetTrainerBenchmark_5epochs``) wants a GPU, a data set that nnU-Net
has preprocessed and an environment of its own, and is run by its own command. The last line of the output is one JSON
object.
"""

import argparse
import csv
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

HERE = Path(__file__).resolve()
WARM_UP_STEPS = 8
STEPS_BETWEEN_READINGS = 8


def main() -> None:
    """Run one part, or all of them."""
    options = _options()
    if options.part:
        note = {"step": step_only, "loop": whole_loop}[options.part](options)
        options.note.write_text(json.dumps(note))
        return
    with tempfile.TemporaryDirectory(prefix="verse3d-throughput-") as work:
        options.work = options.work or Path(work)
        scans = write_scans(options.work / "scans", options.cases, options.scan)
        print(f"{len(scans)} scans of {'x'.join(map(str, options.scan))} in {options.work}", flush=True)
        figures = measure(options)
    print(json.dumps(figures))


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """All parts after one another, and what follows from them."""
    parts = ["step", "loop", *(options.peers or [])]
    seconds = 60 * options.minutes / (len(parts) + 1)  # step takes half a share, starting the programs the rest
    notes = {}
    for part in parts:
        notes[part] = run_part(part, options, seconds / 2 if part == "step" else seconds)
        print(f"{part:6} {notes[part]}", flush=True)
    return {**{f"{part}_{key}": value for part, note in notes.items() for key, value in note.items()}, **ratios(notes)}


def ratios(notes: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The loop against its own step, and against the peer."""
    rate = {part: note.get("patches_per_s", float("nan")) for part, note in notes.items()}
    found = {"ratio_step": rate["loop"] / rate["step"]}
    if "monai" in rate:
        found["ratio_monai"] = rate["loop"] / rate["monai"]
    return {name: round(value, 3) for name, value in found.items()}


def run_part(part: str, options: argparse.Namespace, seconds: float) -> dict[str, Any]:
    """One part as a program of its own; what it noted, or what went wrong."""
    note = options.work / f"{part}.json"
    program = HERE if part in ("step", "loop") else HERE.with_name("monai_training.py")
    command = [sys.executable, str(program), "--note", str(note), "--work", str(options.work)]
    command += ["--seconds", f"{seconds:.0f}", "--device", options.device, "--config", options.config]
    command += ["--part", part] if program == HERE else ["--workers", str(options.workers or spare_cores())]
    command += [word for override in options.set for word in ("--set", override)]
    started = time.perf_counter()
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=seconds * 3 + 240)
    if done.returncode or not note.is_file():
        return {"trouble": " | ".join((done.stderr or done.stdout).strip().splitlines()[-6:])}
    return {**json.loads(note.read_text()), "program_s": round(time.perf_counter() - started, 1)}


def spare_cores() -> int:
    """Workers for the peer: as many as ours takes on a GPU."""
    return max(1, len(os.sched_getaffinity(0)) - 2)


def write_scans(folder: Path, count: int, shape: tuple[int, int, int]) -> list[Path]:
    """Noise with bright blocks that are labelled L1 to L5, at 1.5 mm; the last scan is for validation."""
    folder.mkdir(parents=True, exist_ok=True)
    affine, scans = np.diag([1.5, 1.5, 1.5, 1.0]), []
    for number in range(count):
        random = np.random.default_rng(number)
        hu = (random.standard_normal(shape, np.float32) * 40).astype(np.int16)
        mask = np.zeros(shape, np.uint8)
        i, j, height = shape[0] // 2, shape[1] // 2, shape[2] // 6
        for level in range(5):
            bottom = level * height + height // 2
            block = np.s_[i - 15 : i + 15, j - 12 : j + 12, bottom : bottom + height - 3]
            mask[block] = 24 - level
            hu[block] += 400
        path = folder / f"sub-x{number:03d}_ct.nii"
        nib.save(nib.Nifti1Image(hu, affine), path)
        nib.save(nib.Nifti1Image(mask, affine), folder / f"sub-x{number:03d}_seg-vert_msk.nii")
        scans.append(path)
    return scans


def settings(options: argparse.Namespace) -> list[str]:
    """Long enough for any machine: the clock ends the run."""
    return ["optim.epochs=2000", "validation.pictures=0", *options.set]


def step_only(options: argparse.Namespace) -> dict[str, Any]:
    """Steps on one batch that lies on the device."""
    import torch  # noqa: PLC0415 - not in the program that only starts others

    from verse3d.core.config import load_config  # noqa: PLC0415
    from verse3d.core.runtime import choose_device  # noqa: PLC0415
    from verse3d.model.modes import Method  # noqa: PLC0415
    from verse3d.training.launch import Launcher  # noqa: PLC0415
    from verse3d.training.learner import build_learner  # noqa: PLC0415

    config, device = load_config(options.config, settings(options)), choose_device(options.device)
    torch.manual_seed(0)
    learner = build_learner(Method(config), config.optim, config.runtime, device)
    channels = next(learner.network.parameters()).shape[1]  # of the first layer: a slice may come with its neighbours
    image = torch.rand((config.sampling.batch_size, channels, *Method(config).cut().size), device=device)
    batch = {"image": image, "label": (image[:, :1] > 0.8).to(torch.uint8)}
    launch = Launcher(learner, config.runtime, config.optim.epochs * config.optim.steps_per_epoch)
    for _ in range(WARM_UP_STEPS if device.type == "cuda" else 1):
        float(launch(batch).loss)
    steps, started = 0, time.perf_counter()
    while time.perf_counter() - started < options.seconds:
        for _ in range(STEPS_BETWEEN_READINGS if device.type == "cuda" else 1):
            result = launch(batch)
            steps += 1
        float(result.loss)
    seconds = time.perf_counter() - started
    name = torch.cuda.get_device_name() if device.type == "cuda" else "cpu"
    rate = steps * config.sampling.batch_size / seconds
    return {"patches_per_s": round(rate, 2), "ms_per_step": round(1e3 * seconds / steps, 2), "device": name}


def whole_loop(options: argparse.Namespace) -> dict[str, Any]:
    """``verse3d.train``; rates without the first epoch, in which everything warms up."""
    import verse3d  # noqa: PLC0415

    index = options.work / "cases.jsonl"
    verse3d.index(options.work / "scans", out=index, validation=1 / options.cases)
    started = time.perf_counter()
    out = options.work / "run"
    verse3d.train(
        data=index,
        out=out,
        config=options.config,
        overrides=settings(options),
        device=options.device,
        max_minutes=options.seconds / 60,
        overwrite=True,
    )
    seconds = time.perf_counter() - started
    with (out / "history.csv").open() as table:
        rows = list(csv.DictReader(table))
    config_batch = len(rows) and _samples_per_step(out)
    first, counted = rows[0], rows[1:] or rows
    minutes = float(rows[-1]["minutes"]) - float(first["minutes"])
    steps = int(rows[-1]["step"]) - int(first["step"])
    waiting = [float(row["waiting_share"]) for row in counted if row.get("waiting_share")]
    return {
        "patches_per_s": round(statistics.median(float(row["patches_per_s"]) for row in counted), 2),
        "overall_patches_per_s": round(steps * config_batch / (60 * minutes), 2) if minutes else None,
        "waiting_share": round(statistics.fmean(waiting), 4) if waiting else None,
        "first_epoch_patches_per_s": round(float(first["patches_per_s"]), 2),
        "validations": sum(bool(row["validation_dice"]) for row in rows),
        "epochs": len(rows),
        "seconds": round(seconds, 1),
    }


def _samples_per_step(run: Path) -> int:
    from verse3d.core.config import load_config  # noqa: PLC0415

    return load_config(run / "config.yaml").sampling.batch_size


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=6.0, help="of measuring, all parts together")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--config", default="unet3d")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--peers", nargs="*", choices=("monai",), default=["monai"])
    parser.add_argument("--workers", type=int, help="of the peers")
    parser.add_argument("--cases", type=int, default=9)
    parser.add_argument("--scan", type=_shape, default=(200, 200, 280), metavar="IxJxK")
    parser.add_argument("--work", type=Path, help="folder to keep; otherwise a temporary one")
    for hidden in ("--part", "--note", "--seconds"):
        kind = {"--part": str, "--note": Path, "--seconds": float}[hidden]
        parser.add_argument(hidden, type=kind, help=argparse.SUPPRESS)
    return parser.parse_args()


def _shape(text: str) -> tuple[int, int, int]:
    i, j, k = (int(part) for part in text.split("x"))
    return i, j, k


if __name__ == "__main__":
    main()
