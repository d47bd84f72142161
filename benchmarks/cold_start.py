"""From the call to the mask: whole processes of `verse3d predict` with a cold interpreter, and what commands import.

    python benchmarks/cold_start.py                                # medians of 5, about five minutes on two cores
    python benchmarks/cold_start.py --scans 64x64x48 --runs 1      # a quick look

Every run is a process of its own; stock MONAI (monai_stock.py) and verse3d take turns. The model is converted
before (what is done once per model is not measured). verse3d imports what it needs when it needs it, as the command
does. Then, for each command, the seconds until its job could begin, beside the seconds that Python itself takes to
start, and which of the slow libraries it has loaded: others follow when the job needs them. verse3d is compiled to
bytecode first, as pip does when it installs a package. The last line is JSON.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

from measuring import Outcome, alone_in, alternate, machine, median, ratio
from models import SCHEMES, model_for
from pipelines import Stock, call_once, compile_package, run_ours
from scans import make_scan

_COMMAND = (
    "from verse3d import api, cli; from verse3d.core import importing, threads; threads.let_waiting_threads_sleep()"
)
JOBS = {
    "import verse3d": "import verse3d",
    "check": f"{_COMMAND}; api.check",
    "look": f"{_COMMAND}; api.look",
    "evaluate": f"{_COMMAND}; api.evaluate",
    "predict": f"{_COMMAND}; api.predict\nwith importing.uncollected(): from verse3d.inference import loading, predict",
    "train": f"{_COMMAND}; api.train",
}
"""What runs before a job begins, as the command has it."""
SLOW = ("torch", "monai", "ignite", "matplotlib", "scipy.stats", "sympy", "openvino")
STOCK = "stock MONAI"


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--scans", nargs="+", default=["128x128x128", "512x512x500"], help="voxels along i, j, k")
    parser.add_argument("--classes", type=int, choices=SCHEMES, default=2)
    parser.add_argument("--scout", action="store_true", help="ours has that of the starter weights")
    parser.add_argument("--runs", type=int, default=5, help="of each")
    parser.add_argument("--steps", type=int, help="of the training of the model, instead of the usual ones")
    parser.add_argument("--work", type=Path, default=Path("runs/benchmarks"), help="folder for models, scans, masks")
    options = parser.parse_args()
    with alone_in(options.work):
        compile_package()
        print(f"{options.classes} classes, {options.runs} runs, {machine()}", flush=True)
        found = {"machine": machine(), "predict": _predictions(options), "start": _starts(options.runs)}
    print(json.dumps(found))


def _predictions(options: argparse.Namespace) -> dict[str, dict[str, float]]:
    """Seconds and peak memory of whole processes, by scan."""
    model = model_for(options.work, options.classes, overlap=0.25, steps=options.steps, scout=options.scout)
    stock_model = model_for(options.work, options.classes, overlap=0.25, amp="off", steps=options.steps)
    call_once("auto", model, options.work)
    found = {}
    for size in options.scans:
        scan, masks = make_scan(options.work, size), options.work / "masks"
        jobs = {
            STOCK: partial(Stock(2, 0.25).run, scan, stock_model, masks / "cold-stock"),
            "verse3d": partial(run_ours, scan, model, masks / "cold-ours", imports_first=False),
        }
        outcomes = {name: median(runs) for name, runs in alternate(jobs, options.runs).items()}
        found[size] = _compared(size, outcomes[STOCK], outcomes["verse3d"])
    return found


def _compared(size: str, stock: Outcome, ours: Outcome) -> dict[str, float]:
    if stock.trouble or ours.trouble:
        raise SystemExit(f"{size}: {stock.trouble or ours.trouble}")
    print(
        f"{size:>12}  call to mask {ours.wall_seconds:6.2f} s, peak {ours.peak_mb / 1e3:.2f} GB; {STOCK} "
        f"{stock.wall_seconds:6.2f} s, {stock.peak_mb / 1e3:.2f} GB: {ratio(stock.wall_seconds, ours.wall_seconds)}",
        flush=True,
    )
    return {
        "seconds": round(ours.wall_seconds, 2),
        "peak_gb": round(ours.peak_mb / 1e3, 3),
        "stock_seconds": round(stock.wall_seconds, 2),
        "stock_peak_gb": round(stock.peak_mb / 1e3, 3),
        "ratio": round(stock.wall_seconds / ours.wall_seconds, 2),
    }


def _starts(runs: int) -> dict[str, dict[str, object]]:
    """Seconds until each job could begin, beyond those of Python itself, and what it has loaded then."""
    empty = statistics.median(_started("")[0] for _ in range(runs))
    found: dict[str, dict[str, object]] = {"python": {"seconds": round(empty, 3), "loaded": []}}
    for job, code in JOBS.items():
        times = [_started(code) for _ in range(runs)]
        seconds = statistics.median(one for one, _ in times) - empty
        found[job] = {"seconds": round(seconds, 3), "loaded": times[0][1]}
        print(f"{job:>16}  {seconds:6.2f} s beyond Python's {empty:.2f}; loads {', '.join(times[0][1]) or 'none'}")
    return found


def _started(code: str) -> tuple[float, list[str]]:
    """Seconds until a program has run so far, and which slow libraries it has loaded; how long it takes to end is no
    part of its start."""
    told = f"import os, sys\nprint(*(name for name in {SLOW!r} if name in sys.modules), flush=True)\nos._exit(0)"
    start = time.perf_counter()
    with subprocess.Popen([sys.executable, "-c", f"{code}\n{told}"], stdout=subprocess.PIPE, text=True) as run:
        line = run.stdout.readline() if run.stdout else ""
        seconds = time.perf_counter() - start
    if run.returncode:
        raise SystemExit(f"{code} ended with {run.returncode}")
    return seconds, line.split()


if __name__ == "__main__":
    main()
