"""What an older checkout of verse3d takes for a training, and what this one takes: whole programs, in turn.

    git worktree add --detach /somewhere/old REVISION
    python benchmarks/train_before_after.py /somewhere/old [--epochs 6] [--steps 20] [--turns 2]

Both train with the same config for the same number of steps, on the same synthetic scans, on the CPU, with validation.
This one finds no prepared cases in its first turn, and those of the first turn later. It also trains a scout, for up to
a tenth of the time; ``--set-after scout.enabled=false`` compares what both do. The last line is one JSON object:
``patches_ratio`` (patches/s after the first epoch, this one over the older one), ``whole_ratio`` (seconds of the whole
program, the older one over this one; ``whole_ratio_unprepared`` of the first turn) and ``data_share`` (the part of its
epochs that this one spent on data).
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
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from measuring import machine
from train_throughput import write_scans

HERE = Path(__file__).resolve().parents[1]
INDEX = "import sys, verse3d; verse3d.index(sys.argv[1], out=sys.argv[2], validation=float(sys.argv[3]))"
TRAIN = """
import sys, verse3d
verse3d.train(data=sys.argv[1], out=sys.argv[2], config=sys.argv[3], overrides=sys.argv[4:], device="cpu",
              overwrite=True)
"""


@dataclass(frozen=True)
class Run:
    """What one training took.

    Attributes:
        seconds: of the whole program, imports and all.
        cpu_s: processor seconds of it and what it started.
        patches_s: median over the epochs but the first one, in which everything warms up.
        data_share: mean part of these epochs that was spent waiting for data; None if the program does not tell.
    """

    seconds: float
    cpu_s: float
    patches_s: float
    data_share: float | None


def main() -> None:
    """Measure in turn, and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("old", type=Path, help="a checkout of the older state")
    parser.add_argument("--config", default="unet3d-cpu")
    parser.add_argument("--epochs", type=int, default=6)
    parser.add_argument("--steps", type=int, default=20, help="of an epoch")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="for both")
    parser.add_argument(
        "--set-after", action="append", default=[], metavar="KEY=VALUE", help="for this one, e.g. scout.enabled=false"
    )
    parser.add_argument("--cases", type=int, default=6, help="one of them is for validation")
    parser.add_argument("--scan", type=int, nargs=3, default=(160, 160, 280), help="voxels of a scan, 1.5 mm each")
    parser.add_argument("--turns", type=int, default=2)
    options = parser.parse_args()
    if not (options.old / "verse3d" / "__init__.py").is_file():
        parser.error(f"{options.old} is no checkout of verse3d")
    print(machine(), flush=True)
    with tempfile.TemporaryDirectory(prefix="verse3d-before-after-") as work:
        write_scans(Path(work) / "scans", options.cases, tuple(options.scan))
        runs = measured(options, {"before": options.old.resolve(), "after": HERE}, Path(work))
    print(json.dumps(summary(runs)))


def measured(options: argparse.Namespace, sides: dict[str, Path], work: Path) -> dict[str, list[Run]]:
    """Every side in each turn, so that other work on the machine meets both."""
    for side, checkout in sides.items():
        index = [str(work / "scans"), str(work / side / "cases.jsonl"), str(1 / options.cases)]
        (work / side).mkdir()
        run_program(checkout, INDEX, index)
    runs: dict[str, list[Run]] = {side: [] for side in sides}
    for turn in range(options.turns):
        for side, checkout in sides.items():
            own = options.set_after if side == "after" else []
            runs[side].append(trained(options, checkout, work / side, [*options.set, *own]))
            print(f"  turn {turn + 1} of {options.turns}: {side:6} {runs[side][-1]}", flush=True)
    return runs


def trained(options: argparse.Namespace, checkout: Path, folder: Path, further: list[str]) -> Run:
    """One training by the code of a checkout."""
    out = folder / "run"
    settings = [f"optim.epochs={options.epochs}", f"optim.steps_per_epoch={options.steps}", "validation.every_epochs=2"]
    words = [str(folder / "cases.jsonl"), str(out), options.config, *settings, *further]
    seconds, cpu_s = run_program(checkout, TRAIN, words)
    with (out / "history.csv").open() as table:
        rows: list[dict[str, Any]] = list(csv.DictReader(table))
    counted = rows[1:] or rows
    waiting = [float(row["waiting_share"]) for row in counted if row.get("waiting_share")]
    rate = statistics.median(float(row["patches_per_s"]) for row in counted)
    return Run(
        round(seconds, 2), round(cpu_s, 2), round(rate, 3), round(statistics.fmean(waiting), 4) if waiting else None
    )


def run_program(checkout: Path, program: str, words: list[str]) -> tuple[float, float]:
    """Run a program with the code of a checkout to its end; seconds, and processor seconds with its children's."""
    before, started = os.times(), time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(checkout)}
    done = subprocess.run(
        [sys.executable, "-c", program, *words],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=checkout,
    )
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip()}")
    seconds, after = time.perf_counter() - started, os.times()
    spent = after.children_user + after.children_system - before.children_user - before.children_system
    return seconds, spent


def summary(runs: dict[str, list[Run]]) -> dict[str, Any]:
    """Medians over the turns, and what they say about each other."""
    before, after = runs["before"], runs["after"]
    later = after[1:] or after

    def ratio(above: list[float], below: list[float]) -> float:
        return round(statistics.median(above) / statistics.median(below), 3)

    return {
        "patches_ratio": ratio([run.patches_s for run in after], [run.patches_s for run in before]),
        "whole_ratio": ratio([run.seconds for run in before], [run.seconds for run in later]),
        "whole_ratio_unprepared": ratio([run.seconds for run in before], [after[0].seconds]),
        "cpu_ratio": ratio([run.cpu_s for run in before], [run.cpu_s for run in later]),
        "data_share": statistics.median(run.data_share for run in after if run.data_share is not None),
        "runs": {side: [vars(run) for run in found] for side, found in runs.items()},
    }


if __name__ == "__main__":
    main()
