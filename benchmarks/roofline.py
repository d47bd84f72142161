"""What these cores reach in large products and convolutions, and what share of it our forward pass reaches.

    python benchmarks/roofline.py                              # both networks and backends, two minutes on two cores
    python benchmarks/roofline.py --classes 2 --repeats 1 --window 32    # a quick look

GFLOP/s, counting a multiplication and an addition as two. First the roof, in float32 and in bfloat16: a square matrix
product, and a 3x3x3 convolution of 64 channels by oneDNN, the kind that a U-Net is made of. Then windows of the UNet of
the other benchmarks, as `predict` computes them. Its operations are those of its convolutions alone: what norms and
activations take is lost time. All take turns, so that other load meets them alike; figures are medians of elapsed time,
after one turn that is not counted. The last line is JSON.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from measuring import alone_in, machine
from models import SCHEMES, random_model
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from verse3d.core.runtime import choose_precision
from verse3d.inference.backends import open_backend
from verse3d.model.checkpoint import load_checkpoint
from verse3d.model.modes import get_mode
from verse3d.model.on_cpu import QuickConvolutions

CPU = torch.device("cpu")
PRODUCT, CHANNELS, EDGE = 2048, 64, 48
FORMATS = {"float32": torch.float32, "bfloat16": torch.bfloat16}


@dataclass(frozen=True)
class Job:
    """Something to compute again and again.

    Attributes:
        name: in the table.
        number_format: "float32" or "bfloat16".
        operations: in one call.
        call: does it.
        is_roof: whether others are measured against it.
    """

    name: str
    number_format: str
    operations: float
    call: Callable[[], Any]
    is_roof: bool = False


def main() -> None:
    """Measure and print."""
    options = _options()
    torch.set_grad_enabled(False)
    with alone_in(options.work):
        jobs = [job for name in FORMATS for job in (_product(name), _convolution(name))]
        jobs += [_forward(options, classes, backend) for classes in options.classes for backend in options.backends]
        print(f"{machine()}, PyTorch uses {torch.get_num_threads()} threads, medians of {options.repeats}", flush=True)
        reached = _reached(jobs, options.repeats)
    _print(jobs, reached)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", choices=SCHEMES, default=list(SCHEMES))
    parser.add_argument("--backends", nargs="+", choices=("torch", "openvino"), default=["torch", "openvino"])
    parser.add_argument("--repeats", type=int, default=7, help="measured turns of each")
    parser.add_argument("--window", type=int, default=96, help="voxels along each edge")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for the models")
    return parser.parse_args()


def _product(number_format: str) -> Job:
    one, other = (torch.rand(PRODUCT, PRODUCT).to(FORMATS[number_format]) for _ in range(2))
    return Job(f"product of {PRODUCT}^2", number_format, 2.0 * PRODUCT**3, lambda: one @ other, is_roof=True)


def _convolution(number_format: str) -> Job:
    dtype = FORMATS[number_format]
    layer = nn.Conv3d(CHANNELS, CHANNELS, 3, padding=1).to(dtype)
    image = torch.rand(1, CHANNELS, *(EDGE,) * 3).to(dtype)

    def convolve() -> torch.Tensor:
        with QuickConvolutions():
            found: torch.Tensor = layer(image)
        return found

    # 27 neighbours, each channel with each channel
    operations = 2.0 * 27 * CHANNELS**2 * EDGE**3
    return Job(f"convolution, {CHANNELS} channels", number_format, operations, convolve, is_roof=True)


def _forward(options: argparse.Namespace, classes: int, name: str) -> Job:
    """A window as ``predict`` shows it to the network, in the number format that this processor suits."""
    path = random_model(options.work, classes, overlap=0.25)
    checkpoint, precision = load_checkpoint(path), choose_precision("auto", CPU)
    backend = open_backend(name, checkpoint, path, CPU, precision)
    window = torch.rand(1, 1, *(options.window,) * 3)
    network = get_mode(checkpoint.config.mode).network(checkpoint.config)
    operations = float(_operations(network, window))
    return Job(f"{classes} classes, {name}", backend.precision, operations, lambda: backend(window))


def _operations(network: nn.Module, window: torch.Tensor) -> int:
    """Of one forward pass, counted from shapes alone: on the "meta" device nothing is computed."""
    with FlopCounterMode(display=False) as counter:
        copy.deepcopy(network).to("meta")(window.to("meta"))
    return int(counter.get_total_flops())


def _reached(jobs: list[Job], repeats: int) -> list[float]:
    """GFLOP/s of each job."""
    turns: list[list[float]] = [[] for _ in jobs]
    for turn in range(repeats + 1):
        for job, seconds in zip(jobs, turns, strict=True):
            start = time.perf_counter()
            job.call()
            if turn:
                seconds.append(time.perf_counter() - start)
    return [job.operations / statistics.median(one) / 1e9 for job, one in zip(jobs, turns, strict=True)]


def _print(jobs: list[Job], reached: list[float]) -> None:
    roofs = {
        name: max(speed for job, speed in zip(jobs, reached, strict=True) if job.is_roof and job.number_format == name)
        for name in FORMATS
    }
    found = []
    for job, speed in zip(jobs, reached, strict=True):
        share = speed / roofs[job.number_format]
        print(
            f"{job.name:28} {job.number_format:9} {job.operations / 1e9:8.1f} GFLOP {speed:8.1f} GFLOP/s {share:6.1%}"
        )
        found.append(
            {"name": job.name, "format": job.number_format, "gflop_s": round(speed, 1), "share": round(share, 3)}
        )
    print(json.dumps({"machine": machine(), "reached": found}))


if __name__ == "__main__":
    main()
