"""How much quicker several processes learn than one, each on one core of the CPU: steps of the same joint batch.

    python benchmarks/scaling.py [--ranks 1 2] [--batch 4] [--patch 96] [--steps 5] [--rounds 3]

Every number of processes takes its turn in each round, so that other work on the machine hits all alike; medians.
Efficiency is the speed of N processes over N times that of one. The last line is JSON.
"""

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import time

import torch

from verse3d.core.config import parse_config
from verse3d.model.modes import Method
from verse3d.training.learner import build_learner
from verse3d.training.ranks import joined
from verse3d.training.step import training_step

WARM_UP = 2


def main() -> None:
    """Measure and print, or be one of the processes that are measured."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--batch", type=int, default=4, help="of all processes together")
    parser.add_argument("--patch", type=int, default=96, help="voxels along each edge")
    parser.add_argument("--steps", type=int, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--measured", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measured:
        measured(options.batch, options.patch, options.steps)
        return
    seconds: dict[int, list[float]] = {count: [] for count in options.ranks}
    for _ in range(options.rounds):
        for count in options.ranks:
            seconds[count].append(seconds_of(count, options.batch, options.patch, options.steps))
    medians = {count: statistics.median(values) for count, values in seconds.items()}
    alone = medians[1]
    print(f"joint batch of {options.batch} patches of {options.patch}³ voxels, one core per process\n")
    print("| processes | s per step | efficiency |\n|--:|--:|--:|")
    for count, median in medians.items():
        print(f"| {count} | {median:.3f} | {alone / median / count:.0%} |")
    print(json.dumps({"seconds": seconds, "efficiency": {n: alone / median / n for n, median in medians.items()}}))


def seconds_of(count: int, batch: int, patch: int, steps: int) -> float:
    """Seconds per step of so many processes."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    options = {"--batch": batch, "--patch": patch, "--steps": steps}
    command = [sys.executable, __file__, "--measured", *(str(each) for pair in options.items() for each in pair)]
    processes = []
    for rank in range(count):
        told = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        environment = {**os.environ, **{name: str(value) for name, value in told.items()}, "OMP_NUM_THREADS": "1"}
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    return max(float(process.communicate()[0]) for process in processes)


def measured(batch: int, patch: int, steps: int) -> None:
    """Learn from one's share of a random batch, on one core, and print the seconds per step."""
    torch.set_num_threads(1)
    edges = [patch] * 3
    config = parse_config({"sampling": {"patch_voxels": edges, "batch_size": batch}, "runtime": {"amp": "off"}})
    with joined(torch.device("cpu")) as ranks:
        if hasattr(os, "sched_setaffinity"):
            cores = sorted(os.sched_getaffinity(0))
            os.sched_setaffinity(0, {cores[ranks.rank % len(cores)]})
        learner = build_learner(Method(config), config.optim, config.runtime, torch.device("cpu"), ranks)
        samples = len(range(ranks.rank, batch, ranks.count))
        image = torch.rand(samples, 1, *edges)
        share = {"image": image, "label": (image > 0.7).to(torch.uint8)}
        for _ in range(WARM_UP):
            training_step(learner, share)
        started = time.perf_counter()
        for _ in range(steps):
            training_step(learner, share)
        print((time.perf_counter() - started) / steps)


if __name__ == "__main__":
    main()
