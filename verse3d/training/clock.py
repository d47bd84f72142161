"""What a run knows about time: its limit, its speed, when it will end and when it is to be saved.

Every time is taken from a clock that nobody sets, so a machine whose date jumps changes nothing.
"""

import time
from collections import deque
from dataclasses import dataclass

import torch

from verse3d.core.runtime import peak_rss_mb

_STEPS_FOR_SPEED = 10
"""The first steps start workers and compile, and tell nothing about the rest."""
_SAVING_SHARE = 0.02
"""Of the time, at most, for saving after epochs. On a GPU an epoch can take two seconds, a save half of one."""


class Clock:
    """The time of one call of ``fit``.

    Args:
        started: ``time.monotonic()`` when it was called.
        max_minutes: its limit, or None.
        save_minutes: how often it is saved.
        window: of so many steps the speed is taken; two epochs, so that validation counts.
    """

    def __init__(self, started: float, max_minutes: float | None, save_minutes: float, window: int) -> None:
        self._started = started
        self._limit = max_minutes
        self._save_minutes = save_minutes
        self._saved = time.monotonic()
        self._saving_seconds = 0.0
        self._steps: deque[tuple[int, float]] = deque(maxlen=max(window, _STEPS_FOR_SPEED) + 1)
        self._seen = 0

    @property
    def minutes(self) -> float:
        """Since the call."""
        return (time.monotonic() - self._started) / 60

    @property
    def is_over(self) -> bool:
        """Whether the limit is reached."""
        return self._limit is not None and self.minutes >= self._limit

    @property
    def save_is_due(self) -> bool:
        """Whether the last save was long enough ago."""
        return (time.monotonic() - self._saved) / 60 >= self._save_minutes

    @property
    def epoch_save_is_due(self) -> bool:
        """Whether saving after this epoch, too, takes no more than its share of the time."""
        return time.monotonic() - self._saved >= self._saving_seconds / _SAVING_SHARE

    def saved(self, began: float) -> None:
        """The run was saved just now, from ``time.monotonic() == began`` on."""
        self._saved = time.monotonic()
        self._saving_seconds = self._saved - began

    def stepped(self, step: int) -> None:
        """A step was done."""
        self._seen += 1
        if self._seen >= _STEPS_FOR_SPEED:
            self._steps.append((step, time.monotonic()))

    def last_step(self, total: int) -> float:
        """The step after which the run will end: the last of its plan, or where the limit will be reached.

        Before the speed is known, the last of the plan.
        """
        if self._limit is None or len(self._steps) < 2:
            return total
        # The mean over the window: one slow step, or a validation, changes it little.
        (first, began), (step, now) = self._steps[0], self._steps[-1]
        minutes_per_step = (now - began) / 60 / (step - first)
        # A clock that has not moved says nothing about the speed: then the plan holds.
        left = max(0.0, self._limit - self.minutes) / minutes_per_step if minutes_per_step > 0 else total
        return min(float(total), step + left)


@dataclass(frozen=True)
class Cost:
    """What a call of ``fit`` took.

    Attributes:
        minutes: all of it.
        samples: patches or slices that were learnt from.
        waiting_share: part of the time of the steps that was spent waiting for data; NaN without a step.
        peak_rss_mb: largest resident memory of this process, MB.
        peak_gpu_mb: largest memory of tensors on the GPU, MB; 0 on a CPU.
    """

    minutes: float
    samples: int
    waiting_share: float
    peak_rss_mb: float
    peak_gpu_mb: float

    def __str__(self) -> str:
        words = [f"{self.minutes:.1f} min", f"{self.samples} samples"]
        if self.samples:
            words.append(f"{100 * self.waiting_share:.0f} % of the steps waiting for data")
        words.append(f"peak {self.peak_rss_mb:.0f} MB of memory")
        if self.peak_gpu_mb:
            words.append(f"{self.peak_gpu_mb:.0f} MB on the GPU")
        return ", ".join(words)


def memory_mb(device: torch.device) -> tuple[float, float]:
    """Peaks so far in MB: resident memory of this process, and of tensors on the GPU (0 on a CPU)."""
    on_gpu = torch.cuda.max_memory_allocated(device) / 1e6 if device.type == "cuda" else 0.0
    return peak_rss_mb(), on_gpu
