"""How much memory there is to use."""

import contextlib
import ctypes
import math
import mmap
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import MemoryLimitError
from verse3d.core.system import available_memory_bytes

SHARE_OF_FREE = 0.9
"""Without a limit of the user's, so much of the memory that is free may be taken."""
_MEMINFO = Path("/proc/meminfo")
_CGROUP = Path("/sys/fs/cgroup")


def free_memory_bytes() -> int:
    """Memory that can be used without swapping: what the machine has left, or a container's limit if that is lower.

    Where Linux's files are not there (macOS, Windows), what psutil says.
    """
    return min(_free_on_machine(), _free_in_container())


def require_memory(needed: int, what: str) -> None:
    """Refuse to begin something that would not fit: the system kills who takes more than there is.

    Args:
        needed: bytes that will be held at once, beyond what the process holds now.
        what: begins the message, e.g. "reading ct.nii.gz".

    Raises:
        MemoryLimitError: it is more than nine tenths of what is free.
    """
    free = SHARE_OF_FREE * free_memory_bytes()
    if needed > free:
        raise MemoryLimitError(
            f"{what} takes {needed / 1e9:.2f} GB of memory, of which {free / 1e9:.2f} GB may be used now",
            hint="close other programs, or cut the scan to the spine",
        )


def background(shape: Sequence[int]) -> NDArray[np.uint8]:
    """Zeros, uint8, that take no memory but where something is written to them.

    NumPy's own may lie where something else was freed, and are then written one by one: for the mask of a large scan,
    nine tenths of which stay background, that takes a quarter of a second.

    Raises:
        MemoryError: the system does not give so much.
    """
    # Private: pages that are shared are there as soon as they are read.
    private = {} if sys.platform == "win32" else {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS}
    try:
        return np.frombuffer(mmap.mmap(-1, math.prod(shape), **private), np.uint8).reshape(shape)
    except OSError as error:
        raise MemoryError(f"{' x '.join(map(str, shape))} bytes for a mask") from error


def _free_on_machine() -> int:
    try:
        text = _MEMINFO.read_text(encoding="utf-8")
        # "MemAvailable:   12345678 kB"
        rows = dict(line.split(":", 1) for line in text.splitlines())
        return int(rows["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return available_memory_bytes()


def _free_in_container() -> int:
    try:
        limit = int((_CGROUP / "memory.max").read_text())
        used = int((_CGROUP / "memory.current").read_text()) - _cached_in_container()
        return max(0, limit - used)
    except (OSError, ValueError):  # no container, or "max"
        return 2**63


def _cached_in_container() -> int:
    """Files that the kernel keeps because nobody needs the memory; they are counted as used, and given up first."""
    try:
        text = (_CGROUP / "memory.stat").read_text()
        # "inactive_file 12345678"
        rows = dict(line.split(" ", 1) for line in text.splitlines())
        return int(rows["inactive_file"])
    except (OSError, KeyError, ValueError):
        return 0


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
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


def share_freed_memory() -> None:
    """Let threads that begin from now on take what others have freed: each would keep memory of its own else.

    For threads that do the same thing in turn. Where each needs blocks of other sizes, sharing leaves gaps between them
    (0.3 GB more when labels of noise are interpolated). Holds for the whole process; with glibc (Linux) only.
    """
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)


def give_back_freed_memory() -> None:
    """Hand back to the system what was freed and kept; whoever asks next gets new pages. With glibc (Linux) only."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).malloc_trim(0)
