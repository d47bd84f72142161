"""The peak of a piece of work is found without setting back the kernel's counter."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="only Linux says what is held now")

PROGRAM = """
import resource, sys, time
from unittest.mock import MagicMock
import numpy as np
sys.modules["torch"] = MagicMock()  # nothing here asks it, and loading it takes seconds
from verse3d.core import peak_memory
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.runtime import peak_rss_mb, rss_mb

looks = []
peak_memory.rss_mb = lambda: looks.append(rss_mb()) or looks[-1]

def hold(mb):
    block = np.ones(int(mb * 1e6), np.uint8)
    seen = len(looks)
    while len(looks) < seen + 3:  # however busy the machine is: the watch has looked while the block was there
        time.sleep(0.01)

with MemoryWatch() as watch:
    start = rss_mb()
    first, whole = watch.peak(), watch.peak()
    hold(300)
    first = first.mb - start
    second = watch.peak()
    hold(100)
    print(first, second.mb - start, whole.mb - start, peak_rss_mb() - start)
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6 - start)
"""


def test_each_peak_is_that_of_its_own_time_and_the_system_still_tells_the_whole():
    run = subprocess.run([sys.executable, "-c", PROGRAM], check=True, capture_output=True, text=True)
    first, second, whole, counted, told = map(float, run.stdout.split())
    assert first == pytest.approx(300, abs=30)
    assert second == pytest.approx(100, abs=30), "lower than an earlier one, so only samples tell"
    assert whole == pytest.approx(300, abs=30)
    assert counted == pytest.approx(300, abs=30) and told >= counted - 30


def test_nothing_in_the_package_sets_the_kernels_counter_back():
    package = Path(__file__).parents[2] / "verse3d"
    assert [path for path in package.rglob("*.py") if "clear_refs" in path.read_text(encoding="utf-8")] == []
