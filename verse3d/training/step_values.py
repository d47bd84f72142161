"""Losses and gradient lengths, fetched from the device some steps at a time while it works on: nothing waits.

steps    1  2  3  4 | 5  6  7  8 | 9 ...          a GPU
after 4: copy of 1-4 is asked for          after 8: it has long arrived and is read; 5-8 are asked for
"""

import math
from dataclasses import dataclass

import torch

from verse3d.core.errors import TrainingError
from verse3d.training.step import StepResult

SICK_HINT = "lower optim.lr or set runtime.amp to off; the run can be resumed from where it was saved last"

_GPU_STEPS_PER_READING = 4
"""So a loss that is no number is noticed within eight steps."""


@dataclass(frozen=True)
class StepValues:
    """A ``StepResult`` in plain numbers, and which step of the run it was."""

    step: int
    loss: float
    grad_norm: float
    lr: float

    def trouble(self, *, skips_infinite: bool) -> str:
        """What is no number; nothing if all is well.

        Args:
            skips_infinite: whether such a gradient left the weights alone, as with the scaler of fp16.
        """
        if not math.isfinite(self.loss):
            return f"loss became {self.loss}"
        if not math.isfinite(self.grad_norm) and not skips_infinite:
            return f"length of the gradient became {self.grad_norm}"
        return ""


@dataclass(frozen=True, eq=False)
class _Asked:
    """Results on their way from the device.

    Attributes:
        steps: number and rate of each.
        values: (steps, 2) loss and gradient length, on the CPU once ``there`` has passed.
        there: None on a CPU.
    """

    steps: list[tuple[int, float]]
    values: torch.Tensor
    there: torch.cuda.Event | None

    def read(self) -> list[StepValues]:
        if self.there is not None:
            self.there.synchronize()
        rows = zip(self.steps, self.values.tolist(), strict=True)
        return [StepValues(step, loss, grad_norm, lr) for (step, lr), (loss, grad_norm) in rows]


class StepValuesReader:
    """Collects the results of steps until they are read.

    Args:
        device: of the learner. On a CPU every step is read at once.
    """

    def __init__(self, device: torch.device) -> None:
        self._every = 1 if device.type == "cpu" else _GPU_STEPS_PER_READING
        self._kept: list[tuple[int, StepResult]] = []
        self._asked: list[_Asked] = []

    def add(self, step: int, result: StepResult) -> list[StepValues]:
        """Keep a result; the readings that have arrived meanwhile."""
        self._kept.append((step, result))
        if len(self._kept) < self._every:
            return []
        arrived = self._take()
        self._ask()
        return arrived if self._every > 1 else self._take()

    def rest(self) -> list[StepValues]:
        """All that were not read yet; waits for the last step to end."""
        if self._kept:
            self._ask()
        return self._take()

    def _ask(self) -> None:
        results = [result for _, result in self._kept]
        values = torch.stack([torch.stack([one.loss, one.grad_norm]).float() for one in results])
        there = None
        if values.is_cuda:
            # Into pinned memory the copy is a piece of work like any other: it waits its turn, and nobody waits for it.
            values = torch.empty(values.shape, pin_memory=True).copy_(values, non_blocking=True)
            there = torch.cuda.Event()  # type: ignore[no-untyped-call]
            there.record()
        self._asked.append(_Asked([(step, result.lr) for step, result in self._kept], values, there))
        self._kept = []

    def _take(self) -> list[StepValues]:
        readings = [reading for asked in self._asked for reading in asked.read()]
        self._asked = []
        return readings


def require_finite(network: torch.nn.Module) -> None:
    """Refuse weights that are no numbers before they are validated or saved.

    Raises:
        TrainingError: a weight, or a running mean of weights or of a normalisation, is not finite.
    """
    floating = [value for value in network.state_dict().values() if value.is_floating_point()]
    # A sum is finite only if all of its terms are (float64 holds the sum of any float32); one number to wait for.
    sums = torch.stack([value.detach().sum(dtype=torch.float64) for value in floating])
    if not bool(torch.isfinite(sums).all()):
        raise TrainingError(
            "some weights of the network are no longer finite numbers",
            hint=SICK_HINT,
        )
