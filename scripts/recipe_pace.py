"""What a training step of each row of ``screen_recipe.py`` takes on this machine, so that all get the same budget."""

import importlib
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace

PACE_STEPS = (10, 40)
"""A training of each length; what the second one takes longer is due to its steps."""
GPU_SECONDS = 1.5
Command = list[str]


def slope(training: Callable[[int], Command]) -> float:
    """Processor time of a step in s, from trainings of two lengths.

    Args:
        training: the command that trains for so many steps.
    """
    few, many = PACE_STEPS
    # The first training also prepares the cases, so it is none of the two that are compared.
    _, short, long = (timed(training(steps)) for steps in (few, few, many))
    return (long - short) / (many - few)


def timed(command: Command) -> float:
    """Run it; its processor time in s, that of its workers included."""
    before = os.times()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    if done.returncode:
        sys.exit(done.stdout)
    after = os.times()
    return after.children_user + after.children_system - before.children_user - before.children_system


def on_gpu(config: str, settings: Sequence[str]) -> float:
    """Wall time of a step in s, recorded and not compiled, on one batch that lies on the GPU."""
    sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "benchmarks"))
    benchmark = importlib.import_module("train_throughput")
    options = SimpleNamespace(config=config, set=[*settings, "runtime.compile=off"], device="cuda", seconds=GPU_SECONDS)
    return float(benchmark.step_only(options)["ms_per_step"]) / 1e3


class Paces:
    """What a step takes, measured the first time it is asked for and kept in a file.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def of(self, name: str, measure: Callable[[], float]) -> float:
        """Of a row, in s."""
        kept: dict[str, float] = json.loads(self._path.read_text(encoding="utf-8")) if self._path.exists() else {}
        if name not in kept:
            kept[name] = measure()
            self._path.write_text(json.dumps(kept, indent=1), encoding="utf-8")
        return kept[name]
