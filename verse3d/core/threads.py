"""The same work on all cores. NumPy lets go of Python's lock while it computes, so threads are enough."""

import multiprocessing
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

_MOST_THREADS = 8  # what waits for memory is not done sooner by more
_ROUNDS_OF_WAITING = "20000"  # a millisecond or less
_TICKS_OF_WAITING = "20"  # as a power of two: half a millisecond


def usable_cores() -> int:
    """The cores that this process may use, which a batch system or a container may make fewer than there are."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def thread_count() -> int:
    """How many threads may compute at once; one in a worker process, which is itself one of many."""
    if multiprocessing.parent_process() is not None:
        return 1
    return min(usable_cores(), _MOST_THREADS)


def let_waiting_threads_sleep() -> None:
    """Have the threads of libraries give their core away soon when they wait; call it before NumPy is loaded.

    GNU's OpenMP lets PyTorch's spin for some milliseconds first, after every operation. As long as each has a
    core of its own that is as good; beside any other work it takes the core from the very thread that is waited for,
    and a training takes twice to four times as long. OpenBLAS lets those of NumPy and of SciPy spin for a tenth of a
    second each as soon as they are there, on all cores, while the program goes on with its imports. Who has set how
    OpenMP or OpenBLAS waits has decided it.
    """
    os.environ.setdefault("OPENBLAS_THREAD_TIMEOUT", _TICKS_OF_WAITING)
    if not {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = _ROUNDS_OF_WAITING


def in_ranges(work: Callable[[int, int], None], size: int, longest: int | None = None) -> None:
    """Call ``work(start, stop)`` for ranges that make up 0 ... ``size``, on all cores and in no certain order.

    The ranges have at most ``longest`` elements, or are one for each core. The first error is raised after the calls
    under way have ended; the others are not begun.
    """
    threads = thread_count()
    step = longest or max(1, -(-size // threads))
    starts = range(0, size, step)
    stops = [min(start + step, size) for start in starts]
    if threads == 1 or len(starts) == 1:
        for start, stop in zip(starts, stops, strict=True):
            work(start, stop)
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="verse3d") as pool:
        for _ in pool.map(work, starts, stops):
            pass
