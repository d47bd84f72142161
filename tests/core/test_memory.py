"""Free memory is what the machine and the container both allow."""

import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from verse3d.core import memory
from verse3d.core.runtime import rss_mb


@pytest.fixture
def system(tmp_path, monkeypatch):
    """Files that stand for the kernel's."""
    monkeypatch.setattr(memory, "_MEMINFO", tmp_path / "meminfo")
    monkeypatch.setattr(memory, "_CGROUP", tmp_path)
    (tmp_path / "meminfo").write_text("MemTotal:       32000000 kB\nMemAvailable:    2000 kB\n")
    return tmp_path


def test_the_machine_says_what_is_available(system):
    assert memory.free_memory_bytes() == 2000 * 1024


@pytest.mark.parametrize(("limit", "used", "free"), [("900000", "400000", 500_000), ("100", "200", 0)])
def test_a_container_may_allow_less(system, limit, used, free):
    (system / "memory.max").write_text(limit + "\n")
    (system / "memory.current").write_text(used + "\n")
    assert memory.free_memory_bytes() == free


@pytest.mark.parametrize("limit", ["max", "99999999999"])
def test_a_container_without_or_with_a_higher_limit_changes_nothing(system, limit):
    (system / "memory.max").write_text(limit)
    (system / "memory.current").write_text("5")
    assert memory.free_memory_bytes() == 2000 * 1024


@pytest.mark.parametrize("content", [None, "", "MemAvailable: much"])
def test_a_system_that_does_not_say_is_taken_for_half_free(system, content):
    if content is None:
        (system / "meminfo").unlink()
    else:
        (system / "meminfo").write_text(content)
    assert memory.free_memory_bytes() > 2**28


def test_this_machine_has_some_memory_left():
    assert 0 < memory.free_memory_bytes() < 2**50


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_freed_memory_is_kept_until_it_is_given_back():
    program = """
import resource
import numpy as np
from pathlib import Path
from verse3d.core.memory import give_back_freed_memory, keep_freed_memory
def rss_mb():  # what the package says of itself would load PyTorch first
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
keep_freed_memory()
before = rss_mb()
np.ones(100_000_000, np.uint8)
kept = rss_mb()
give_back_freed_memory()
print(kept - before, rss_mb() - before)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    kept, left = map(float, run.stdout.split())
    assert kept > 90 and left < 10


@pytest.mark.parametrize("shape", [(1, 1, 1), (3, 5, 7), (4097,)])
def test_a_background_is_an_array_of_zeros_like_any_other(shape):
    made = memory.background(shape)
    assert made.shape == shape and made.dtype == np.uint8 and not made.any()
    made.flat[-1] = 9
    assert made.sum() == 9 and made.flags.c_contiguous


def test_a_background_for_which_there_is_no_memory_is_refused_as_numpy_does():
    with pytest.raises(MemoryError, match=r"^32768 x 32768 x 1048576 bytes for a mask$"):
        memory.background((2**15, 2**15, 2**20))  # a petabyte


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux says what is held now")
def test_a_background_takes_memory_only_where_it_is_written_to():
    before = rss_mb()
    made = memory.background((400, 500, 500))
    made[100] = 1
    assert made.sum() == 250_000
    assert rss_mb() - before < 30


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc can be told")
def test_what_one_thread_has_freed_another_takes_again():
    program = """
import resource, threading
import numpy as np
from pathlib import Path
from verse3d.core.memory import keep_freed_memory, share_freed_memory
def rss_mb():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1e6
keep_freed_memory()
share_freed_memory()
def work():
    for _ in range(4):
        np.ones(30_000_000, np.uint8)
def in_thread():
    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
in_thread()
kept = rss_mb()
work()
in_thread()
print(rss_mb() - kept)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(run.stdout) < 10
