"""Used by the benchmarks of loading: scans that are about as hard to compress as real ones, and counting of patches."""

import argparse
import json
import multiprocessing
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np

WARM_SECONDS = 3.0
_AIR, _TISSUE, _BONE = -1000, 40, 500


def write_scans(folder: Path, cases: int, shape: tuple[int, int, int]) -> Path:
    """Scans of 1 mm with masks, as ``000_ct.nii`` and ``000_msk.nii``: a noisy body in air, 18 vertebrae along k."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(cases):
        ct, mask = folder / f"{number:03d}_ct.nii", folder / f"{number:03d}_msk.nii"
        if mask.exists():
            continue
        hu, ids = _scan(np.random.default_rng(number), shape)
        nib.save(nib.Nifti1Image(hu, np.eye(4)), ct)
        nib.save(nib.Nifti1Image(ids, np.eye(4)), mask)
    return folder


def _scan(random: np.random.Generator, shape: tuple[int, int, int]) -> tuple[Any, Any]:
    i, j, k = shape
    x, y = np.meshgrid(np.linspace(-1, 1, i), np.linspace(-1, 1, j), indexing="ij")
    body = (x / 0.85) ** 2 + (y / 0.6) ** 2 < 1  # 40 % of a slice, as in a scan of the trunk
    hu = np.empty(shape, np.int16, order="F")
    ids = np.zeros(shape, np.uint8, order="F")
    height = max(2, k // 20)
    for number in range(18):
        start = height + number * height
        ids[i // 2 - i // 16 : i // 2 + i // 16, j // 2 : j // 2 + j // 8, start : start + height - 1] = 8 + number
    for plane in range(k):
        noise = random.standard_normal((i, j), np.float32)
        level = np.where(body, _TISSUE, _AIR) + np.where(ids[:, :, plane] > 0, _BONE, 0)
        hu[:, :, plane] = level + 20 * noise
    return hu, ids


def side_options(about: str | None, sides: Sequence[str]) -> argparse.Namespace:
    """What loader.py tells each side that it starts: where scans, prepared cases and the note lie, and how much."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--side", choices=sides, required=True)
    for name in ("scans", "prepared", "note"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    for name in ("cases", "workers", "patch"):
        parser.add_argument(f"--{name}", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--augment", action="store_true")
    return parser.parse_args()


def count(batches: Iterator[int], seconds: float, note: Path, prepared: Path) -> None:
    """Take patches for so long after a warm-up, and write what it took into the note.

    Args:
        batches: how many patches each batch holds, as it comes.
        seconds: to count.
        note: the JSON file.
        prepared: folder whose size is told.
    """
    start = time.perf_counter()
    while time.perf_counter() - start < WARM_SECONDS:
        next(batches)
    workers = [process.pid for process in multiprocessing.active_children()]
    start, patches, cpu = time.perf_counter(), 0, _cpu_seconds(workers)
    while (taken := time.perf_counter() - start) < seconds:
        patches += next(batches)
    cpu = _cpu_seconds(workers) - cpu
    size = sum(path.stat().st_size for path in prepared.rglob("*") if path.is_file()) if prepared.is_dir() else 0
    figures = {
        "patches_s": patches / taken,
        "cpu_ms": 1e3 * cpu / patches,
        "worker_mb": max(map(_peak_mb, workers), default=0.0),
    }
    note.write_text(json.dumps({"seconds": taken, "disk_gb": size / 1e9, "trouble": "", **figures}))


def _cpu_seconds(workers: Sequence[int | None]) -> float:
    """Of this process and its workers so far."""
    ticks = 0
    for process in workers:
        fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK") + time.process_time()


def _peak_mb(process: int | None) -> float:
    rows = Path(f"/proc/{process}/status").read_text().splitlines()
    return next((float(row.split()[1]) * 1024 / 1e6 for row in rows if row.startswith("VmHWM")), 0.0)
