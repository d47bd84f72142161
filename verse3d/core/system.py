"""What differs between operating systems, in one place: locks, other processes, memory, bringing files to the disk.

On Linux and macOS the system is asked itself, through modules that only they have; elsewhere (Windows) psutil is, which
is installed there and not needed here:

    Linux    fcntl, resource, /proc
    macOS    fcntl, resource, psutil
    Windows  no locks, psutil
"""

import os
from importlib import import_module
from pathlib import Path
from typing import IO, Any

_POSIX = os.name == "posix"


def lock(file: int | IO[Any], *, wait: bool) -> bool:
    """Keep a file or folder for this process until it is closed; other programs of verse3d respect that.

    Args:
        file: open; its number or the object.
        wait: until nobody else has it.

    Returns:
        False where the system or the file system knows no such locks.

    Raises:
        BlockingIOError: another process has it, and ``wait`` is off.
    """
    fcntl = _module("fcntl")
    if fcntl is None:
        return False
    try:
        # Given back by the system when the file is closed, and so when the process is killed.
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        raise
    except OSError:
        return False
    return True


def is_running(pid: int) -> bool:
    """Whether there is a process of that number, whosever it is."""
    if not _POSIX:  # there signal 0 would end it
        return bool(_psutil().pid_exists(pid))
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:
        return True  # it runs, and is somebody else's
    return True


def process_start(pid: int) -> float | None:
    """When a process began, in seconds since 1970 (0 if the system does not say); None if there is none."""
    if not is_running(pid):
        return None
    if not _POSIX:
        return _start_elsewhere(pid)
    try:
        # The name, in brackets, may hold anything; behind it stand the state and, 19 fields on, the start in ticks.
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        rows = dict(line.split(" ", 1) for line in Path("/proc/stat").read_text(encoding="utf-8").splitlines())
        booted = float(rows["btime"])
        return None if fields[0] == "Z" else booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, KeyError, IndexError):
        return 0.0


def _start_elsewhere(pid: int) -> float | None:
    psutil = _psutil()
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.NoSuchProcess:
        return None
    except psutil.Error:
        return 0.0


def peak_memory_bytes() -> int:
    """Largest resident memory of this process so far, as the system counts it for a process and its parent."""
    resource = _module("resource")
    if resource is None:
        return int(_psutil().Process().memory_info().peak_wset)
    peak = int(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
    if os.uname().sysname == "Darwin":
        return peak
    return peak * 1024  # Linux counts kilobytes, macOS bytes


def available_memory_bytes() -> int:
    """Memory that can be used without swapping, where Linux's own files do not say; half of all if nothing does."""
    psutil = _module("psutil")
    if psutil is not None:
        return int(psutil.virtual_memory().available)
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2


def flush_folder(path: Path) -> None:
    """Bring the names in a folder to the disk; Windows does it by itself and opens no folder."""
    if not _POSIX:
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def flush_file(path: Path) -> None:
    """Bring a file's content to the disk. It is opened for writing, which Windows wants for that."""
    with path.open("r+b") as handle:
        os.fsync(handle.fileno())


def _module(name: str) -> Any:  # noqa: ANN401 - a module, or None
    """A module that not every system has."""
    try:
        return import_module(name)
    except ImportError:
        return None


def _psutil() -> Any:  # noqa: ANN401 - a module
    return import_module("psutil")
