"""How long a training takes to its first step on a prepared store, and how its memory depends on the number of cases.

    python benchmarks/train_start.py [--cases 20 374]

Tiny synthetic cases, prepared ahead. ``verse3d.train`` runs as a program of its own until its first step is done;
imports count. Memory is that of the program then. The last line is JSON.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from verse3d.api import prepare
from verse3d.core.files import write_text
from verse3d.data.cases import Case, CaseIndex, write_index

CONFIG = """\
grid: {spacing_mm: 2.0}
network: {channels: [4, 8]}
sampling: {patch_voxels: 32, batch_size: 2}
runtime: {workers: 0}
validation: {pictures: 0}
"""
PROGRAM = """
import os, sys, time
class FirstStep(BaseException): pass
def progress(what, done, total):
    if what.startswith("epoch"):
        rows = dict(row.split(":", 1) for row in open("/proc/self/status") if ":" in row)
        cpu = sum(os.times()[:2])
        print(time.time() - float(sys.argv[1]), cpu, int(rows["VmHWM"].split()[0]) * 1024 / 1e6, flush=True)
        os._exit(0)
import verse3d
verse3d.train(data=sys.argv[2], config=sys.argv[3], out=sys.argv[4], device="cpu", progress=progress)
"""


def main() -> None:
    """Print a row for each number of cases, and all of them as JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, nargs="+", default=[20, 374])
    counts = parser.parse_args().cases
    rows = []
    print("| cases | s to the first step | of them processor s | MB |\n|--:|--:|--:|--:|")
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            seconds, cpu, memory = first_step(Path(folder) / str(count), count)
            rows.append({"cases": count, "seconds": round(seconds, 2), "cpu_s": round(cpu, 2), "mb": round(memory)})
            print(f"| {count} | {seconds:.1f} | {cpu:.1f} | {memory:.0f} |", flush=True)
    print(json.dumps(rows))


def first_step(folder: Path, count: int) -> tuple[float, float, float]:
    """Seconds to the first step of a training on so many cases, processor seconds, and MB of memory then."""
    index, config = folder / "cases.jsonl", folder / "config.yaml"
    write_index(index, CaseIndex(tuple(_case(folder, number) for number in range(count))))
    write_text(config, CONFIG)
    prepare(index, config=config)
    started = time.time()
    command = [sys.executable, "-c", PROGRAM, str(started), str(index), str(config), str(folder / "run")]
    told = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return float(told[0]), float(told[1]), float(told[2])


def _case(folder: Path, number: int) -> Case:
    random = np.random.default_rng(number)
    hu = random.normal(0, 30, (40, 44, 52)).astype(np.int16)
    ids = np.zeros(hu.shape, np.uint8)
    for level in range(4):
        ids[15:25, 15:28, 4 + 12 * level : 12 + 12 * level] = 20 + level
    hu[ids > 0] += 700
    ct, mask = folder / f"{number:03d}_ct.nii.gz", folder / f"{number:03d}_msk.nii.gz"
    folder.mkdir(parents=True, exist_ok=True)
    nib.save(nib.Nifti1Image(hu, np.diag([2.0, 2.0, 2.0, 1.0])), ct)
    nib.save(nib.Nifti1Image(ids, np.diag([2.0, 2.0, 2.0, 1.0])), mask)
    split = "train" if number % 4 else "validation"
    return Case(f"{number:03d}", f"{number:03d}", ct, mask, split=split)


if __name__ == "__main__":
    main()
