"""Independent parts of a volume on all cores, where PyTorch computes each part in a single thread.

PyTorch divides every large operation among its own threads. Where a part takes many short operations, its threads wait
for each other more than they compute; it is quicker if every core has a part of its own:

    PyTorch's threads     core 0   |=| |==| |=|      each operation is divided, and everybody waits for the slowest
                          core 1   |=|  |=| |==|
    a part for each       core 0   |=== part 0 ===|== part 2 ==|
                          core 1   |== part 1 ==|=== part 3 ===|
"""

from collections.abc import Callable

import torch

from verse3d.core.threads import in_ranges, thread_count


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
