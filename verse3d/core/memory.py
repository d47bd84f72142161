"""How much memory there is to use."""

import contextlib
import ctypes
import os
from pathlib import Path

_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory_bytes() -> int:
    """Memory that can be used without swapping: what the machine has left, or a container's limit if that is lower.

    Where the system does not say (not Linux), half of the installed memory.
    """
    return min(_free_on_machine(), _free_in_container())


def _free_on_machine() -> int:
    try:
        rows = dict(line.split(":", 1) for line in _MEMINFO.read_text().splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def _free_in_container() -> int:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        return max(0, limit - int((_CGROUP / "memory.current").read_text()))
    except (OSError, ValueError):  # no container, or "max"
        return 2**63


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST_KEPT_BYTES, _KEPT_BYTES = 2**27, 2**29


def keep_freed_memory() -> None:
    """Let the C library hand freed blocks of up to 128 MiB to whoever asks next, not back to the system.

    A network on the CPU asks for and frees its activations again and again, and the system's clearing of every page
    takes up to a third of the time. Whole scans are larger, and are given back. Holds for the whole process; with glibc
    (Linux) only.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_KEPT_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)


def give_back_freed_memory() -> None:
    """Hand back to the system what was freed and kept; whoever asks next gets new pages. With glibc (Linux) only."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
