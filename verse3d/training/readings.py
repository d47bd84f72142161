"""Losses and gradient lengths, read off the device some steps late and all in one go, because reading waits."""

import math
from dataclasses import dataclass

import torch

from verse3d.core.errors import TrainingError
from verse3d.training.step import StepResult

GPU_STEPS_PER_READING = 8
"""So a loss that is no number is noticed within ten steps."""


@dataclass(frozen=True)
class Reading:
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


class Readings:
    """Collects the results of steps until they are read.

    Args:
        device: of the learner. On a CPU every step can be read at once.
    """

    def __init__(self, device: torch.device) -> None:
        self.every = 1 if device.type == "cpu" else GPU_STEPS_PER_READING
        self._waiting: list[tuple[int, StepResult]] = []

    def add(self, step: int, result: StepResult) -> None:
        """Keep a result."""
        self._waiting.append((step, result))

    def read(self) -> list[Reading]:
        """All that were kept, in order; waits for the last of these steps to end."""
        if not self._waiting:
            return []
        rows = [torch.stack([result.loss, result.grad_norm]) for _, result in self._waiting]
        values = torch.stack(rows).tolist()
        readings = [
            Reading(step, loss, grad_norm, result.lr)
            for (step, result), (loss, grad_norm) in zip(self._waiting, values, strict=True)
        ]
        self._waiting = []
        return readings


def require_finite(network: torch.nn.Module) -> None:
    """Refuse weights that are no numbers before they are validated or saved.

    Raises:
        TrainingError: a weight, or a running mean of weights or of a normalisation, is not finite.
    """
    floating = [value for value in network.state_dict().values() if value.is_floating_point()]
    sums = torch.stack([value.detach().sum(dtype=torch.float64) for value in floating])
    if not bool(torch.isfinite(sums).all()):
        raise TrainingError(
            "some weights of the network are no longer finite numbers",
            hint="lower optim.lr or set runtime.amp to off; --resume goes on from the last whole epoch",
        )
