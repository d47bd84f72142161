"""Predict one scan from file to file, with verse3d and with nnU-Net v2 on the CPU, and print the ratios.

    python benchmarks/predict_vs_nnunet.py                                     # 256x256x200, 2 and 27 classes
    python benchmarks/predict_vs_nnunet.py --scan 512x512x500 --classes 2
    python benchmarks/predict_vs_nnunet.py --scan 64x64x48 --runs 1 --ours auto --channels 8 16 32     # a quick look

nnU-Net comes from PyPI into an environment of its own below --work (2.5 GB), with the PyTorch of constraints.txt.
It runs its own predictor and its own export (nnunet_side.py): a plain-conv UNet, no mirroring, Gaussian; ours is the
dynunet of the same widths. Spacing, windows and overlap are the same. All weights are random, so masks cannot be
compared, only the work: the clean-up of ours is off, for nnU-Net does none and random masks are no vertebrae. For 2
classes nnU-Net computes two channels, ours one. Memory is that of the process and of those that it started, together.
"""

import argparse
import math
import subprocess
import venv
from functools import partial
from pathlib import Path

import torch
from measuring import Outcome, alone_in, alternate, machine, median, ratio, run_program
from models import SCHEMES
from pipelines import VARIANTS, call_once, known, run_ours
from scans import make_scan

from verse3d.core.config import Config, parse_config
from verse3d.core.memory import free_memory_bytes
from verse3d.model.checkpoint import Checkpoint, save_checkpoint
from verse3d.model.modes import get_mode
from verse3d.model.networks import parameter_count

ROOT = Path(__file__).parents[1]
PEER = "nnU-Net v2"
PATCH, SPACING_MM = 96, 1.5


def main() -> None:
    """Measure and print."""
    options = _options()
    with alone_in(options.work):
        _measure(options)


def _measure(options: argparse.Namespace) -> None:
    python = environment(options.work)
    names, scan = known(options.ours.split(",")), make_scan(options.work, options.scan)
    print(f"{scan.name}, widths {options.channels}, overlap {options.overlap}, {options.runs} runs, {machine()}")
    for classes in options.classes:
        folder = options.work / f"nnunet-{classes}-classes"
        theirs = _make_theirs(python, folder, classes, options.channels)
        jobs = {PEER: partial(_run_theirs, python, scan, folder, options)}
        for name in names:
            variant = VARIANTS[name]
            model = options.work / f"random-{classes}-classes-amp-{variant.amp}.pt"
            ours = _make_ours(model, classes, variant.amp, options)
            call_once(name, model, options.work)
            jobs[name] = partial(run_ours, scan, model, options.work / "masks" / f"random-{name}", variant.arguments)
        print(f"{classes} classes; parameters: {PEER} {theirs}, ours {ours if names else '-'}")
        _print({name: median(runs) for name, runs in alternate(jobs, options.runs).items()})


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scan", default="256x256x200", help="voxels along i, j, k")
    parser.add_argument("--classes", type=int, nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--runs", type=int, default=3, help="of each")
    parser.add_argument("--ours", default="torch,openvino", help=f"some of {','.join(VARIANTS)}")
    parser.add_argument("--overlap", type=float, default=0.25, help="of neighbouring windows")
    parser.add_argument("--channels", type=int, nargs="+", default=[32, 64, 128, 256, 320, 320], help="widths")
    parser.add_argument("--workers", type=int, default=0, help="of nnU-Net: none, or as its command has them, 3")
    parser.add_argument(
        "--limit-gb",
        type=float,
        default=free_memory_bytes() / 1e9 - 1.0,
        help="stop nnU-Net beyond this; else all that is free but 1 GB",
    )
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder to keep everything in")
    return parser.parse_args()


def environment(work: Path) -> Path:
    """The Python of an environment with nnU-Net; made if it is not there yet. It is whole when its mark is there."""
    home = (work / "nnunet-venv").absolute()
    mark = home / "whole"
    if not mark.is_file():
        print(f"installing nnU-Net into {home} ...", flush=True)
        venv.create(home, with_pip=True, clear=True)
        pip = [str(home / "bin/pip"), "install", "--quiet", "--constraint", str(ROOT / "constraints.txt")]
        subprocess.run([*pip, "torch", "nnunetv2"], check=True)
        mark.touch()
    return home / "bin/python"


def _side(python: Path, *arguments: str) -> list[str]:
    return [str(python), str(Path(__file__).with_name("nnunet_side.py")), *arguments]


def _make_theirs(python: Path, folder: Path, classes: int, channels: list[int]) -> int:
    """Write nnU-Net's model; how many parameters it has."""
    shape = ["--channels", *map(str, channels), "--patch", str(PATCH), "--spacing-mm", str(SPACING_MM)]
    command = _side(python, "make", "--model", str(folder), "--classes", str(classes), *shape)
    return int(subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.split()[-1])


def _run_theirs(python: Path, scan: Path, model: Path, options: argparse.Namespace) -> Outcome:
    out = options.work / "masks" / "nnunet"
    out.mkdir(parents=True, exist_ok=True)
    note = out / "note.json"
    settings = ["--model", str(model), "--out", str(out), "--note", str(note), "--overlap", str(options.overlap)]
    settings += ["--workers", str(options.workers)]
    return run_program(_side(python, "predict", str(scan), *settings), note, limit_gb=options.limit_gb)


def _make_ours(path: Path, classes: int, amp: str, options: argparse.Namespace) -> int:
    """Write our model; how many parameters it has."""
    config = _config(classes, amp, options)
    torch.manual_seed(0)
    network = get_mode(config.mode).network(config)
    save_checkpoint(path, Checkpoint(config, network.state_dict(), epoch=0, scores={}))
    return parameter_count(network)


def _config(classes: int, amp: str, options: argparse.Namespace) -> Config:
    return parse_config(
        {
            "labels": {"scheme": SCHEMES[classes]},
            "grid": {"spacing_mm": SPACING_MM},
            "network": {"name": "dynunet", "channels": options.channels, "residual_units": 0},
            "sampling": {"patch_voxels": PATCH, "margin_voxels": 0},
            "inference": {"overlap": options.overlap, "min_component_ml": 0.0},
            "runtime": {"amp": amp},
        }
    )


def _print(outcomes: dict[str, Outcome]) -> None:
    peer = outcomes[PEER]
    print(f"{'median of':16} {'seconds':>9} {'process':>9} {'peak GB':>8} {'ratio':>7} {'of peak':>8}")
    for name, one in outcomes.items():
        if one.trouble:
            print(f"{name:16} {one.trouble}")
            continue
        of_peak = ratio(math.nan if peer.trouble else peer.peak_mb, one.peak_mb)
        print(
            f"{name:16} {one.seconds:9.2f} {one.wall_seconds:9.2f} {one.peak_mb / 1e3:8.2f} "
            f"{ratio(peer.seconds, one.seconds):>7} {of_peak:>8}"
        )


if __name__ == "__main__":
    main()
