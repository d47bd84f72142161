"""A batch that is killed twenty times at random moments and started again: every mask is whole, nothing is left."""

import gzip
import json
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import verse3d
from tests import scans
from tests.scans import orientation, spine, tiny_config

CASES, KILLS = 8, 20
# Forked after the imports, so that every kill hits the work itself. Prints how many masks there were after each kill;
# files half-written under names of their own (.verse3d-...) are none.
DRIVER = """
import os, random, signal, sys, time
import torch
torch.set_num_threads(1)
import verse3d
from pathlib import Path
data, model, out, kills, total = (*map(Path, sys.argv[1:4]), int(sys.argv[4]), int(sys.argv[5]))
draw = random.Random(0)
for number in range(kills):
    child = os.fork()
    if child == 0:
        verse3d.predict(data, model=model, out=out, device="cpu", backend="torch", max_ram_gb=8)
        os._exit(0)
    there = sorted(out.glob("case*_msk.nii.gz"))
    ended = os.WEXITED | os.WNOHANG | os.WNOWAIT
    while number % 2 and len(there) < total and sorted(out.glob("case*_msk.nii.gz")) == there:
        if os.waitid(os.P_PID, child, ended):
            break
        time.sleep(0.05)  # every other kill comes after a new mask, on however slow a machine
    time.sleep(draw.uniform(0.02, 0.35))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    print(len(list(out.glob("case*_msk.nii.gz"))), flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs fork and SIGKILL")
def test_twenty_kills_leave_only_whole_and_right_masks(tmp_path):
    data, out = tmp_path / "scans", tmp_path / "out"
    for number in range(CASES):
        grid = orientation((1, 2, 0), (-1, -1, 1), (2.5, 3.0, 4.0), (40 + number, 44, 30))
        spine(number, grid).write(data / f"case{number}_ct.nii.gz")
    model = scans.save_model(tmp_path / "best.pt", tiny_config(grid={"spacing_mm": 3}), seed=1)
    expected = {
        record.mask: np.asarray(nib.load(tmp_path / "expected" / record.mask).dataobj)
        for record in verse3d.predict(
            data, model=model, out=tmp_path / "expected", device="cpu", backend="torch"
        ).records
    }
    assert len(expected) == CASES and any(mask.any() for mask in expected.values())
    command = [sys.executable, "-c", DRIVER, str(data), str(model), str(out), str(KILLS), str(CASES)]
    driver = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[2])
    counts = [int(line) for line in driver.stdout.split()]
    assert len(counts) == KILLS and counts == sorted(counts), "no kill takes a mask away"
    assert counts[1] > 0 and counts[-1] == CASES, "every other one came after a new mask"
    for path in out.glob("case*_msk.nii.gz"):  # whole after the last kill, too
        gzip.decompress(path.read_bytes())
    report = verse3d.predict(data, model=model, out=out, device="cpu", backend="torch")
    assert not report.failures
    assert {record.mask for record in report.records} == set(expected)
    for name, mask in expected.items():
        np.testing.assert_array_equal(np.asarray(nib.load(out / name).dataobj), mask)
    assert scans.leftovers(tmp_path) == []
    listed = json.loads((out / "predictions.json").read_text())["cases"]
    assert sorted(record["mask"] for record in listed) == sorted(expected)
