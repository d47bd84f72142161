"""Large data sets: reading an index of 50,000 cases, and making one from scans whose size must not matter.

    python benchmarks/index.py

Reading is timed in processor seconds, best of three. Then `verse3d index` runs in a process of its own over scans that
differ in nothing but their number of voxels, and the peak of its resident memory is compared.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import nibabel as nib
import numpy as np

from verse3d.data.cases import Case, CaseIndex, read_index, write_index

AFFINE = np.diag([0.8, 0.8, 1.0, 1.0])


def read_seconds(folder: Path, cases: int) -> float:
    """Processor seconds to read an index with scan, mask, centroids and fold in every row."""
    rows = []
    for n in range(cases):
        image, mask, centroids = folder / f"raw/a{n}.nii.gz", folder / f"m/a{n}.nii.gz", folder / f"m/a{n}.json"
        rows.append(Case(f"sub-a{n}", f"sub-a{n}", image, mask, centroids, "train", fold=n % 5))
    path = folder / "large.jsonl"
    write_index(path, CaseIndex(tuple(rows)))
    seconds = []
    for _ in range(3):
        start = time.process_time()
        read_index(path)
        seconds.append(time.process_time() - start)
    return min(seconds)


def index_peak_mb(folder: Path, edge: int, scans: int) -> float:
    """Peak resident MB of `verse3d index` over scans of edge x edge x edge voxels, all of one size and two the same."""
    data = folder / f"edge{edge}"
    data.mkdir()
    random = np.random.default_rng(0)
    for number in range(scans):
        voxels = np.full((edge, edge, edge), number % (scans - 1), np.int16)
        voxels[:4] = random.integers(-1000, 1000, (4, edge, edge)) if number else 7
        nib.save(nib.Nifti1Image(voxels, AFFINE), data / f"scan{number}.nii.gz")
    code = (
        "import resource, sys; from verse3d.cli import main; main(sys.argv[1:]); "
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    command = [sys.executable, "-c", code, "-q", "index", str(data), "-o", str(data / "cases.jsonl")]
    shown = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return int(shown.split()[-1]) * (1 if sys.platform == "darwin" else 1024) / 1e6


def main() -> None:
    """Measure both and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cases", type=int, default=50_000)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        print(f"read_index, {arguments.cases} cases: {read_seconds(folder, arguments.cases):.2f} s of processor time")
        peaks = {edge: index_peak_mb(folder, edge, scans=4) for edge in (32, 256)}
    for edge, peak in peaks.items():
        print(f"verse3d index, 4 scans of {edge}^3 voxels, contents compared: peak {peak:.0f} MB")
    print(f"{(256 / 32) ** 3:.0f} times the voxels: {peaks[256] / peaks[32]:.2f} times the memory")


if __name__ == "__main__":
    main()
