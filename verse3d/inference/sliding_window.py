"""A volume segmented window by window while only the planes that windows still touch are held as scores.

The windows come in the order of one axis. Their scores are weighted and summed in the open planes; a plane that no
later window touches is finished: it is given away, and its memory is used again. Classes x volume never exists.
Windows, weights and padding are those of MONAI's ``sliding_window_inference``, so scores are the same within rounding.
"""

import contextlib
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.logs import Progress, no_progress
from verse3d.core.single_threaded import in_order_side_by_side
from verse3d.inference.finite import FiniteCheck
from verse3d.inference.oom_fallback import Placement
from verse3d.inference.open_sums import FinishedPlanes, OpenSums
from verse3d.model.tilings import Region, Tiling


@dataclass(frozen=True)
class StreamSettings:
    """What may be chosen without changing the method.

    Attributes:
        windows_per_batch: shown to the network at once.
        sums_dtype: of the open planes; float16 halves their memory, and rounds the sums to three digits.
        side_by_side: how many batches are computed at the same time, on a CPU, each with its share of the cores.
    """

    windows_per_batch: int = 1
    sums_dtype: torch.dtype = torch.float32
    side_by_side: int = 1


def segment(
    image: NDArray[np.floating],
    tiling: Tiling,
    placement: Placement,
    *,
    settings: StreamSettings,
    take: Callable[[FinishedPlanes], None],
    wanted: Sequence[int] | None = None,
    progress: Progress = no_progress,
) -> float:
    """Segment a prepared volume on the network grid.

    Args:
        image: (I, J, K) grey values 0 ... 1.
        tiling: of the image.
        placement: the networks, and where they run.
        settings: see there.
        take: gets the planes in their order as they are finished. Planes that no window touches are not given.
        wanted: the windows to look at; None means all.
        progress: told about the windows.

    Returns:
        The seconds for which the networks were waited for. (A GPU may still be at work when it is asked for scores.)

    Raises:
        torch.OutOfMemoryError: even one window at a time does not fit, on the CPU.
        NotFiniteError: a network answers NaN or infinity.
    """
    numbers = range(len(tiling.regions)) if wanted is None else wanted
    sweep = _Sweep(image, tiling, placement, settings, progress)
    with torch.inference_mode(), contextlib.closing(sweep.finished_planes(numbers)) as finished:
        for planes in finished:
            sweep.hand_over(planes, take)
    return sweep.seconds


def batches(regions: Sequence[Region], axis: int, numbers: Sequence[int], size: int) -> list[list[int]]:
    """Windows that are shown together: at most ``size``, and not so far apart that many more planes must be open."""
    widest = max((regions[number][axis].stop - regions[number][axis].start for number in numbers), default=0)
    together: list[list[int]] = []
    for number in numbers:
        fits = together and len(together[-1]) < size
        if fits and regions[number][axis].stop - regions[together[-1][0]][axis].start <= max(widest, size):
            together[-1].append(number)
        else:
            together.append([number])
    return together


def open_planes(regions: Sequence[Region], axis: int, groups: Sequence[Sequence[int]]) -> int:
    """How many planes must be open at once for these batches."""
    reached, most = 0, 0
    for group in groups:
        # From the first plane of the first window to the last plane that any window so far has touched
        first = regions[group[0]][axis].start
        reached = max(reached, *(regions[number][axis].stop for number in group))
        most = max(most, reached - first)
    return most


@dataclass(eq=False)
class _Sweep:
    """One pass along a volume."""

    image: NDArray[np.floating]
    tiling: Tiling
    placement: Placement
    settings: StreamSettings
    progress: Progress
    sums: OpenSums | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        self.regions = self.tiling.regions
        backend = self.placement.ensemble.backends[0]
        self.check = FiniteCheck(self.tiling, f"{backend.name} in {backend.precision} on {backend.device}")

    def finished_planes(self, numbers: Sequence[int]) -> Generator[FinishedPlanes, None, None]:
        """The planes in their order; each lot is good until the next is asked for."""
        axis, total, done = self.tiling.axis, len(numbers), 0
        groups = batches(self.regions, axis, numbers, self.settings.windows_per_batch)
        planes = open_planes(self.regions, axis, groups)
        self.progress("windows", 0, total)
        with contextlib.closing(self._computed_ahead(groups)) as ahead:
            for group, scores in zip(groups, ahead, strict=True):
                yield from self._finish(self.regions[group[0]][axis].start)
                if scores is None:
                    self._look_at(group, planes)
                else:
                    self._add(group, scores, planes)
                done += len(group)
                self.progress("windows", done, total)
        yield from self._finish(self.tiling.shape[axis])

    def _computed_ahead(self, groups: Sequence[Sequence[int]]) -> Generator[torch.Tensor | None, None, None]:
        """The scores of each batch where several are computed at once; None for each that is still to be looked at.

        ::

            core 0          window 0   window 2   window 4 ...       a small window leaves two cores waiting for each
            core 1          window 1   window 3   window 5 ...       other after every layer; so each has its own
            this thread            add 0 1    add 2 3 ...
        """
        at_once = min(self.settings.side_by_side, len(groups))  # a single window has all cores
        if at_once < 2 or self.placement.ensemble.device.type != "cpu":
            yield from (None for _ in groups)
            return

        def scores_of(group: Sequence[int]) -> torch.Tensor:
            return self.placement.scores(self._cut(group), self.tiling)

        with contextlib.closing(in_order_side_by_side(scores_of, groups, at_once)) as computed:
            while (scores := self._waited_for(computed)) is not None:
                yield scores

    def _waited_for(self, computed: Iterator[torch.Tensor]) -> torch.Tensor | None:
        start = time.perf_counter()
        scores = next(computed, None)
        self.seconds += time.perf_counter() - start
        return scores

    def _finish(self, until: int) -> Iterator[FinishedPlanes]:
        """The planes before ``until``, if all that was added to them is finite."""
        if self.sums is None:
            return
        for planes in self.sums.finish(until):
            for number in self.check.suspects():
                window = torch.from_numpy(self.tiling.cut(self.image, number))[None]
                self.check.refuse(number, self.placement.scores(window, self.tiling))
            yield planes

    def hand_over(self, planes: FinishedPlanes, take: Callable[[FinishedPlanes], None]) -> None:
        """Give planes away, from the CPU if a GPU lacks the memory to resample them; ``take`` is then called again.

        Raises:
            torch.OutOfMemoryError: they were on the CPU already.
        """
        try:
            take(planes)
        except torch.OutOfMemoryError:
            if planes.scores.device.type == "cpu":
                raise
        else:
            return
        # Outside of the clause, where what did not fit is free again.
        self.placement.sum_on_cpu()
        take(planes.on_cpu())
        self._opened().move(self.placement.sums_device)

    def _look_at(self, group: Sequence[int], planes: int) -> None:
        windows, done = self._cut(group), 0
        while done < len(group):
            part = group[done : done + (self.placement.windows_at_once or len(group))]
            try:
                all_scores = self._spread(self._scores(windows[done : done + len(part)]), part, planes)
            except torch.OutOfMemoryError as error:
                self.placement.give_way(error, len(part))
                if self.sums is not None:
                    self.sums.move(self.placement.sums_device)
                continue
            self._sum_up(part, all_scores)
            done += len(part)

    def _cut(self, group: Sequence[int]) -> torch.Tensor:
        cut = [torch.from_numpy(self.tiling.cut(self.image, number))[None] for number in group]
        return cut[0] if len(cut) == 1 else torch.cat(cut)

    def _scores(self, windows: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        scores = self.placement.scores(windows, self.tiling)
        self.seconds += time.perf_counter() - start
        return scores

    def _add(self, group: Sequence[int], scores: torch.Tensor, planes: int) -> None:
        self._sum_up(group, self._spread(scores, group, planes))

    def _sum_up(self, part: Sequence[int], all_scores: Iterable[torch.Tensor]) -> None:
        for number, scores in zip(part, all_scores, strict=True):
            self._opened().add(self.regions[number], scores, self.tiling.weights(number))

    def _spread(self, scores: torch.Tensor, part: Sequence[int], planes: int) -> list[torch.Tensor]:
        """All that needs new memory; what is added afterwards is never added twice."""
        self.check.note(part, scores)
        if self.sums is None:
            first = self.regions[part[0]][self.tiling.axis].start
            self.sums = OpenSums(
                self.tiling, slice(first, first + planes), self.settings.sums_dtype, self.placement, like=scores
            )
        self._opened().widen_for(scores)
        spread = [self.tiling.spread(one, number) for number, one in zip(part, scores, strict=True)]
        return [self._opened().taken(one) for one in spread]

    def _opened(self) -> OpenSums:
        if self.sums is None:
            raise RuntimeError("no plane is open")
        return self.sums
