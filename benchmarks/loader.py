"""How fast patches come off the disk: verse3d's prepared store against MONAI's data sets and nnU-Net's loader.

    python benchmarks/loader.py [--cases 20] [--scan 400x400x500] [--seconds 30] [--peers monai cache nnunet]
    python benchmarks/loader.py --cases 4 --scan 200x200x250 --seconds 10 --peers monai

Patches of 96 x 96 x 96, two worker processes, nobody augments; with ``--augmented`` everybody does, in a second table
(verse3d in the main process, where a GPU would do it). Every side reads the same synthetic scans, prepares them
in its own way (not counted), and then runs as a program of its own, one after the other, in turns. nnU-Net runs in the
environment of ``--nnunet-python``; where it isn't installed it is left out, and it is said why.

Memory is that of the largest worker process, all that it shares with its parent included. The last line is JSON.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from loader_scans import write_scans
from measuring import alone_in, machine, run_program

HERE = Path(__file__).parent
PEERS = {"monai": "MONAI PersistentDataset", "cache": "MONAI CacheDataset", "nnunet": "nnU-Net v2"}
_OURS = "verse3d"


@dataclass(frozen=True)
class Figures:
    """What a side reached.

    Attributes:
        patches_s: patches per second.
        cpu_ms: processor time of all its processes per patch; other load on the machine changes it less.
        worker_mb: memory of its largest worker.
        disk_gb: what it prepared.
        trouble: why there are no figures.
    """

    patches_s: float = 0.0
    cpu_ms: float = 0.0
    worker_mb: float = 0.0
    disk_gb: float = 0.0
    trouble: str = ""


def main() -> None:
    """Measure all sides and print a table and a line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=20)
    parser.add_argument("--scan", default="400x400x500", help="voxels of a scan, 1 mm each")
    parser.add_argument("--seconds", type=float, default=30.0, help="to count patches, per side and turn")
    parser.add_argument("--turns", type=int, default=2, help="the best of so many counts")
    parser.add_argument("--peers", nargs="*", choices=PEERS, default=list(PEERS))
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--patch", type=int, default=96)
    parser.add_argument("--work", type=Path, default=Path("runs/bench_loader"), help="scans and prepared files")
    parser.add_argument("--augmented", action="store_true", help="a second table, with everybody's own augmentation")
    parser.add_argument("--nnunet-python", default=sys.executable, help="an interpreter that imports nnunetv2")
    options = parser.parse_args()
    options.shape = tuple(int(length) for length in options.scan.split("x"))
    if len(options.shape) != 3 or min(options.shape) < 1:
        parser.error(f"--scan must look like 400x400x500, got {options.scan}")
    with alone_in(options.work):
        print(f"{machine()}; {options.cases} scans of {options.scan}, patches of {options.patch}", flush=True)
        scans = write_scans(options.work / f"scans-{options.scan}", options.cases, options.shape)
        figures = measured(options, scans)
        augmented = measured(options, scans, ["--augment"]) if options.augmented else {}
    print_table(figures)
    result = summary(options, figures)
    if augmented:
        print("\nWith everybody's own augmentation, on the same cores:")
        print_table(augmented)
        result["augmented"] = summary(options, augmented)
    print(json.dumps(result))


def measured(options: argparse.Namespace, scans: Path, words: Sequence[str] = ()) -> dict[str, Figures]:
    """All sides in turns; the best count of each, because other load on the machine only ever slows them."""
    sides = ["ours", *options.peers]
    counts: dict[str, list[Figures]] = {side: [] for side in sides}
    for turn in range(options.turns):
        for side in sides:
            if any(one.trouble for one in counts[side]):
                continue
            counts[side].append(run_side(options, side, scans, words))
            found = counts[side][-1]
            told = found.trouble or f"{found.patches_s:8.1f} patches/s   {found.worker_mb:6.0f} MB per worker"
            print(f"  turn {turn + 1} of {options.turns}: {side:8} {told}", flush=True)
    return {
        side: next((one for one in found if one.trouble), None) or max(found, key=lambda one: one.patches_s)
        for side, found in counts.items()
    }


def run_side(options: argparse.Namespace, side: str, scans: Path, words: Sequence[str] = ()) -> Figures:
    """One side as a program of its own; ``words`` are further arguments of it."""
    note = options.work / f"{side}.json"
    program = "loader_nnunet.py" if side == "nnunet" else "loader_sides.py"
    python = options.nnunet_python if side == "nnunet" else sys.executable
    command = [python, str(HERE / program), "--side", side, "--scans", str(scans), "--cases", str(options.cases)]
    command += ["--prepared", str(options.work / f"{side}-{options.scan}"), "--seconds", str(options.seconds)]
    command += ["--workers", str(options.workers), "--patch", str(options.patch), "--note", str(note), *words]
    outcome = run_program(command, note)
    if outcome.trouble:
        log = note.with_suffix(".log").read_text(errors="replace")
        missing = "No module named" in log
        return Figures(trouble="isn't installed, left out" if missing and side == "nnunet" else outcome.trouble)
    told: dict[str, Any] = json.loads(note.read_text())
    return Figures(**{name: told[name] for name in ("patches_s", "cpu_ms", "worker_mb", "disk_gb", "trouble")})


def print_table(figures: dict[str, Figures]) -> None:
    """A row per side, as Markdown."""
    ours = figures["ours"]
    print(
        "\n| | patches/s | verse3d is | processor ms per patch | MB per worker | GB on disk |\n|--|--:|--:|--:|--:|--:|"
    )
    for side, found in figures.items():
        name = PEERS.get(side, _OURS)
        if found.trouble:
            print(f"| {name} | {found.trouble} | | | | |")
            continue
        times = f"{ours.patches_s / found.patches_s:.1f} x" if found.patches_s and side != "ours" else ""
        rest = f"{found.cpu_ms:.1f} | {found.worker_mb:.0f} | {found.disk_gb:.2f}"
        print(f"| {name} | {found.patches_s:.1f} | {times} | {rest} |")


def summary(options: argparse.Namespace, figures: dict[str, Figures]) -> dict[str, Any]:
    """All figures, and ours divided by each peer's; None where there is none."""
    names = {"monai": "persistent", "cache": "cache", "nnunet": "nnunet"}
    result: dict[str, Any] = {"cases": options.cases, "scan": options.scan, "workers": options.workers}
    for side, found in figures.items():
        name = names.get(side, side)
        result[f"{name}_patches_s"] = None if found.trouble else round(found.patches_s, 2)
        result[f"{name}_cpu_ms"] = None if found.trouble else round(found.cpu_ms, 2)
        result[f"{name}_worker_mb"] = None if found.trouble else round(found.worker_mb)
        result[f"{name}_disk_gb"] = None if found.trouble else round(found.disk_gb, 3)
        if found.trouble:
            result[f"{name}_trouble"] = found.trouble
    for side in options.peers:
        peer = figures[side]
        usable = not peer.trouble and not figures["ours"].trouble and peer.patches_s > 0
        result[f"ratio_{names[side]}"] = round(figures["ours"].patches_s / peer.patches_s, 2) if usable else None
    return result


if __name__ == "__main__":
    main()
