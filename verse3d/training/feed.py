"""From the cases to batches on the training device: workers read, the device augments, the next batch comes early.

worker processes      cut boxes  ->  pack        shared memory
loader's thread       pin
side stream of a GPU      copy -> augment        while the main stream works on the batch before
thread beside a CPU's     copy -> augment        while the step before is computed
"""

import math
import os
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from typing import Self

import torch
from torch.utils.data import DataLoader, Dataset

from verse3d.core.config import RuntimeConfig
from verse3d.core.errors import Verse3dError
from verse3d.core.processes import small_processes, without_main
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.cut import Box, PlannedBox
from verse3d.data.samples.packing import PackedBatch, Packer
from verse3d.data.samples.patches import BatchStream, PatchDataset, Place
from verse3d.training.launch import side_stream

_MOST_WORKERS = 16
_FEW_CORES = 2
Batch = dict[str, torch.Tensor]


def choose_workers(runtime: RuntimeConfig, device: torch.device, sharing: int = 1) -> int:
    """How many processes read patches. A network on the CPU wants the cores for itself.

    Args:
        runtime: says how many, or "auto".
        device: where the network learns.
        sharing: processes of this run on this machine, which share its cores.
    """
    if runtime.workers != "auto":
        return runtime.workers
    # What this process may use, which in a container is less than what the machine has.
    cores = (len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1) // sharing
    if device.type == "cpu":
        return 0 if cores <= _FEW_CORES else 1
    return min(_MOST_WORKERS, max(1, cores - 2))


_Planned = Box | PlannedBox


class _Guarded(Dataset[_Planned | Verse3dError]):
    """Hands an error on as a value: from a worker process PyTorch would only bring its text."""

    def __init__(self, dataset: PatchDataset) -> None:
        self._dataset = dataset

    def __getitem__(self, place: Place) -> _Planned | Verse3dError:
        try:
            return self._dataset.planned(place)
        except Verse3dError as error:
            return error


class _GuardedPacker:
    """Packs a batch, or hands on the first error of its samples."""

    def __init__(self) -> None:
        self._pack = Packer()

    def __call__(self, boxes: Sequence[_Planned | Verse3dError]) -> PackedBatch | Verse3dError:
        # One bad case ends the batch: a batch with a sample less would be another training.
        errors = [box for box in boxes if isinstance(box, Verse3dError)]
        if errors:
            return errors[0]
        try:
            return self._pack([box for box in boxes if not isinstance(box, Verse3dError)])
        except Verse3dError as error:
            return error


class Feed(Iterator[Batch]):
    """Endless batches ``{"image": (B, n, ...) float32, "label": (B, 1, ...) uint8}`` on the device.

    Args:
        dataset: of the run.
        stream: which samples are in which batch.
        augment: makes them of the boxes.
        device: where they are wanted.
        workers: processes that read; they live as long as the feed.
    """

    def __init__(
        self, dataset: PatchDataset, stream: BatchStream, augment: Augment, device: torch.device, workers: int
    ) -> None:
        self._loader: DataLoader[_Planned | Verse3dError] = DataLoader(
            _Guarded(dataset),
            batch_sampler=stream,
            num_workers=workers,
            collate_fn=_GuardedPacker(),
            pin_memory=device.type == "cuda",
            multiprocessing_context=small_processes(__name__) if workers else None,
            generator=torch.Generator(),  # a loader draws a number even if nothing is random
        )
        self._augment = augment
        self._device = device
        self._packed: Iterator[PackedBatch | Verse3dError] | None = None
        self._ahead: tuple[Batch, torch.cuda.Event] | None = None
        self._beside: Future[Batch] | None = None
        # | step n                              | step n + 1
        # | batch n + 1, in one thread |        | batch n + 2 ...
        self._thread = _single_thread() if device.type == "cpu" else None
        # main stream   | step n        | step n + 1    |
        # side stream   | batch n + 1 | | batch n + 2 | |
        self._side = side_stream(device) if device.type == "cuda" else None
        self.waiting = GpuWaiting() if device.type == "cuda" else CpuWaiting()

    def __iter__(self) -> Self:
        return self

    def __next__(self) -> Batch:
        """The next batch.

        Raises:
            DataError: a case cannot be read any more.
        """
        self.waiting.begin()
        if self._thread is not None:
            batch = (self._beside or self._thread.submit(self._made)).result()
            # While the step is computed: its layers leave a core idle now and then.
            self._beside = self._thread.submit(self._made)
        elif self._side is not None:
            batch, ready = self._ahead or self._brought(self._side)
            here = torch.cuda.current_stream(self._device)
            # The step waits on the GPU for the batch, not this program: it goes on launching.
            here.wait_event(ready)
            for tensor in batch.values():
                tensor.record_stream(here)  # so that its memory is not given away while a step still reads it
        self._ahead = None
        self.waiting.end()
        return batch

    def bring_next(self) -> None:
        """Let the next batch come while the GPU works; called when a step was launched.

        On a CPU, where a step is over by then, it is there: nothing is read while scans are validated.
        """
        self.waiting.working()
        if self._side is not None:
            self._ahead = self._brought(self._side)
        elif self._beside is not None:
            self.waiting.begin()
            wait([self._beside])
            self.waiting.end()

    def close(self) -> None:
        """End the workers."""
        if self._thread is not None:
            self._thread.shutdown(cancel_futures=True)
        self._packed = None  # the loader's iterator ends its processes when it goes

    def _made(self) -> Batch:
        packed = self._next_packed()
        batch = self._augment(packed.on(self._device))
        packed.give_back()  # what the augmentation gave are copies
        return batch

    def _next_packed(self) -> PackedBatch:
        if self._packed is None:
            # Workers are new programs; without this each would run the user's script once more.
            with without_main():
                self._packed = iter(self._loader)
        packed = next(self._packed)
        if isinstance(packed, Verse3dError):
            raise packed
        return packed

    def _brought(self, side: torch.cuda.Stream) -> tuple[Batch, torch.cuda.Event]:
        packed = self._next_packed()
        with torch.cuda.stream(side):
            batch = self._augment(packed.on(self._device))
            ready = _marked()
        return batch, ready


def _single_thread() -> ThreadPoolExecutor:
    """A thread in which PyTorch computes on one core. The setting is each thread's own, but new ones begin with it."""

    def compute_on_one_core() -> None:
        torch.get_num_threads()  # the first question takes what new threads begin with, whatever was set before
        torch.set_num_threads(1)

    threads = torch.get_num_threads()
    pool = ThreadPoolExecutor(1, "feed")
    pool.submit(compute_on_one_core).result()
    torch.set_num_threads(threads)
    return pool


class CpuWaiting:
    """How long training stood still because the next batch was not there."""

    def __init__(self) -> None:
        self._begun = 0.0
        self._seconds = 0.0

    def begin(self) -> None:
        """A batch is asked for."""
        self._begun = time.perf_counter()

    def end(self) -> None:
        """It is there."""
        self._seconds += time.perf_counter() - self._begun

    def working(self) -> None:
        """A step was launched."""

    def take(self) -> float:
        """Seconds since the last call; the clock begins anew."""
        seconds, self._seconds = self._seconds, 0.0
        return seconds


class GpuWaiting(CpuWaiting):
    """The same for a GPU, which works on while the program asks: from the end of a step to the start of the next one.

    Both are marked by events on the GPU, which are read when the epoch is over.
    """

    def __init__(self) -> None:
        super().__init__()
        self._step_end: torch.cuda.Event | None = None
        self._gaps: list[tuple[torch.cuda.Event, torch.cuda.Event]] = []

    def end(self) -> None:
        """The batch is there: mark the moment at which the GPU may go on."""
        if self._step_end is None:  # nothing was launched before, so the time of this program counts
            super().end()
            return
        self._gaps.append((self._step_end, _marked()))

    def working(self) -> None:
        """A step was launched: mark the moment at which the GPU has finished it."""
        self._step_end = _marked()

    def take(self) -> float:
        """Seconds between the marks since the last call, and those on the CPU. Waits for the GPU."""
        # elapsed_time wants both marks passed; the last one is passed last.
        if self._gaps:
            _, last = self._gaps[-1]
            last.synchronize()
        gaps = math.fsum(before.elapsed_time(after) for before, after in self._gaps) / 1000
        self._gaps, self._step_end = [], None
        return gaps + super().take()


def _marked() -> torch.cuda.Event:
    """A mark on the current stream, with the time at which the GPU passes it."""
    event = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    event.record()
    return event
