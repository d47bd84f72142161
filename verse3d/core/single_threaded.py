"""Independent work on all cores, where PyTorch computes each part in a single thread, or in few.

PyTorch divides every large operation among its own threads. Where a part takes many short operations, its threads wait
for each other more than they compute; it is quicker if every core has a part of its own:

    PyTorch's threads     core 0   |=| |==| |=|      each operation is divided, and everybody waits for the slowest
                          core 1   |=|  |=| |==|
    a part for each       core 0   |=== part 0 ===|== part 2 ==|
                          core 1   |== part 1 ==|=== part 3 ===|
"""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch

from verse3d.core.threads import in_ranges, thread_count

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def in_ranges_single_threaded(work: Callable[[int, int], None], size: int, longest: int) -> None:
    """As ``in_ranges``: calls ``work(start, stop)`` for ranges of 0 ... ``size``, on the CPU and without gradients.

    Raises:
        Exception: whatever ``work`` raises.
    """
    threads = torch.get_num_threads()
    if thread_count() == 1 or size <= longest:
        in_ranges(work, size, longest)
        return

    def in_one(start: int, stop: int) -> None:
        # Both settings belong to the thread that makes them, and these threads end with the work.
        torch.set_num_threads(1)
        with torch.inference_mode():
            work(start, stop)

    try:
        in_ranges(in_one, size, longest)
    finally:
        torch.set_num_threads(threads)  # what threads that begin later start with


def in_order_side_by_side(
    work: Callable[[_Item], _Result], items: Iterable[_Item], at_once: int
) -> Generator[_Result, None, None]:
    """What ``work`` gives for each item, in their order; several are worked on at once, without gradients.

    Each of them has its share of PyTorch's threads, and so has the caller until all results were given. One result may
    wait while the next items are worked on, so ``at_once`` + 1 are there at most. Close it if you leave it early.

    Raises:
        Exception: whatever ``work`` raises, in place of the result.
    """
    threads = torch.get_num_threads()
    share = max(1, threads // at_once)

    def in_share(item: _Item) -> _Result:
        torch.set_num_threads(share)
        with torch.inference_mode():
            return work(item)

    begun: deque[Future[_Result]] = deque()
    with ThreadPoolExecutor(at_once, "beside") as pool:
        try:
            torch.set_num_threads(share)
            for item in items:
                begun.append(pool.submit(in_share, item))
                if len(begun) > at_once:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            try:
                pool.shutdown(cancel_futures=True)  # waits for what is worked on: each sets the number for itself
            finally:
                torch.set_num_threads(threads)
