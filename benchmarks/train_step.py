"""One training step in float32 and in bf16, on the CPU, for the networks that verse3d offers.

    python benchmarks/train_step.py [--repeats 5]

Both formats run in this process on the same random patch, in turn; medians in seconds and their ratio are printed.
"""

import argparse
import statistics
import time

import torch

from verse3d.core.config import Config, parse_config
from verse3d.core.runtime import Precision
from verse3d.model.modes import Method
from verse3d.training.learner import build_learner
from verse3d.training.step import Learner, training_step

NETWORKS = {
    "unet": [16, 32, 64, 128, 256],
    "dynunet": [16, 32, 64, 128],
    "segresnet": [16, 32, 64, 128],
}
PATCH, BATCH = [64, 64, 96], 2


def config_of(name: str) -> Config:
    """The config of a network with the widths above."""
    return parse_config(
        {
            "network": {"name": name, "channels": NETWORKS[name]},
            "sampling": {"patch_voxels": PATCH, "batch_size": BATCH},
        }
    )


def learner_in(name: str, dtype: torch.dtype) -> Learner:
    """A fresh learner with the given number format."""
    config = config_of(name)
    learner = build_learner(Method(config), config.optim, config.runtime, torch.device("cpu"))
    object.__setattr__(learner, "precision", Precision(dtype, scales_loss=False))
    return learner


def seconds(learner: Learner, batch: dict[str, torch.Tensor]) -> float:
    """Wall time of one step."""
    start = time.perf_counter()
    training_step(learner, batch)
    return time.perf_counter() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    batch = {
        "image": torch.rand(BATCH, 1, *PATCH),
        "label": (torch.rand(BATCH, 1, *PATCH) > 0.8).to(torch.uint8),
    }
    print(f"batch {BATCH} x {PATCH}, {torch.get_num_threads()} threads, median of {repeats}")
    for name in NETWORKS:
        learners = {dtype: learner_in(name, dtype) for dtype in (torch.float32, torch.bfloat16)}
        times: dict[torch.dtype, list[float]] = {dtype: [] for dtype in learners}
        for repeat in range(repeats + 1):
            for dtype, learner in learners.items():
                spent = seconds(learner, batch)
                if repeat:  # the first step sets up caches
                    times[dtype].append(spent)
        float32, bf16 = (statistics.median(values) for values in times.values())
        print(f"{name:10} float32 {float32:6.2f} s   bf16 {bf16:6.2f} s   ratio {float32 / bf16:.2f}")


if __name__ == "__main__":
    main()
