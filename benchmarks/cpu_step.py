"""A training step, and a network's answer, on a CPU: as PyTorch computes them, and in the quicker ways of ``on_cpu``.

    python benchmarks/cpu_step.py [--turns 8] [--threads 2]

The same network, weights and batch; both sides take turns, and the median counts. The last line is one JSON object:
milliseconds of elapsed time by config, and the share that is left of each.
"""

import argparse
import json
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial

import torch
from measuring import machine

from verse3d.core.config import Config, load_config
from verse3d.core.runtime import channels_last
from verse3d.model.modes import Method
from verse3d.model.on_cpu import quick_on
from verse3d.training import step
from verse3d.training.learner import build_learner
from verse3d.training.step import Learner, training_step

CPU = torch.device("cpu")
ROWS = {
    "unet3d-cpu": ("unet3d-cpu", []),
    "unet3d-cpu, float32": ("unet3d-cpu", ["runtime.amp=off"]),
    "unet3d, batch 2": ("unet3d", ["sampling.batch_size=2"]),
    "vertebrae, batch 1": ("vertebrae", ["sampling.batch_size=1"]),
    "vertebrae-direct, batch 1": ("vertebrae-direct", ["sampling.batch_size=1"]),
}
Way = Callable[[torch.device], AbstractContextManager[object]]


def as_pytorch_does(_: torch.device) -> AbstractContextManager[object]:
    """No quicker way."""
    return nullcontext()


WAYS: dict[str, Way] = {"pytorch": as_pytorch_does, "verse3d": quick_on}


def main() -> None:
    """Measure row by row, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=8)
    parser.add_argument("--threads", type=int, help="of PyTorch; default: as many as there are cores")
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    print(f"{machine()}, {torch.get_num_threads()} threads of PyTorch {torch.__version__}", flush=True)
    figures = {}
    for name, (config, overrides) in ROWS.items():
        figures[name] = measured(load_config(config, overrides), options.turns)
        print(f"{name:28} {figures[name]}", flush=True)
    print(json.dumps(figures))


def measured(config: Config, turns: int) -> dict[str, float]:
    """Milliseconds of a step and of the network alone, either way, and what is left of each."""
    torch.manual_seed(0)
    learner = build_learner(Method(config), config.optim, config.runtime, CPU)
    image = torch.rand(config.sampling.batch_size, 1, *config.sampling.patch_voxels)
    batch = {"image": image, "label": (image > 0.8).to(torch.uint8)}
    taken: dict[str, list[float]] = {f"{what}_{way}_ms": [] for what in ("step", "forward") for way in WAYS}
    for _ in range(turns + 1):
        for way, quick in WAYS.items():
            step.quick_on = quick
            taken[f"step_{way}_ms"].append(milliseconds(partial(training_step, learner, batch)))
            taken[f"forward_{way}_ms"].append(milliseconds(partial(answer, learner, image[:1], quick)))
    # The first turn warms up.
    medians = {name: round(statistics.median(each[1:]), 1) for name, each in taken.items()}
    for what in ("step", "forward"):
        medians[f"{what}_share"] = round(medians[f"{what}_verse3d_ms"] / medians[f"{what}_pytorch_ms"], 2)
    return medians


def answer(learner: Learner, image: torch.Tensor, quick: Way) -> None:
    """The network alone, of one window."""
    with torch.no_grad(), learner.precision.autocast(CPU), quick(CPU):
        learner.network(channels_last(image))


def milliseconds(work: Callable[[], object]) -> float:
    """Elapsed time of a call."""
    began = time.perf_counter()
    work()
    return 1e3 * (time.perf_counter() - began)


if __name__ == "__main__":
    main()
