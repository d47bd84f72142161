"""How the learning rate changes during a run. A schedule is told about every step and every validation."""

import math
from typing import Any, Protocol

import torch

from verse3d.core.config import OptimConfig


class Schedule(Protocol):
    """Sets the rate of an optimizer."""

    @property
    def rate(self) -> float:
        """The rate of the next step."""
        ...

    def after_step(self) -> None:
        """A batch was learnt."""
        ...

    def after_validation(self, score: float) -> None:
        """Whole scans were scored; more is better."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        ...

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Undo of ``state_dict``. The plan itself comes from the config: it may have grown longer."""
        ...


class WarmupCosine:
    """Linear up to the full rate, then half a cosine to 0 (Loshchilov & Hutter 2017)."""

    def __init__(self, optimizer: torch.optim.Optimizer, optim: OptimConfig) -> None:
        self._optimizer = optimizer
        self._optim = optim
        self._total = optim.epochs * optim.steps_per_epoch
        self._warmup = min(optim.warmup_steps, self._total // 2)
        self._step = 0
        self.rate = 0.0
        self._set_rate()

    def after_step(self) -> None:
        """See ``Schedule``."""
        self._step += 1
        self._set_rate()

    def after_validation(self, score: float) -> None:
        """The plan does not depend on scores."""

    def state_dict(self) -> dict[str, Any]:
        """See ``Schedule``."""
        return {"step": self._step}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Schedule``."""
        self._step = int(state["step"])
        self._set_rate()

    def _set_rate(self) -> None:
        if self._step < self._warmup:
            share = (self._step + 1) / self._warmup
        else:
            done = (self._step - self._warmup) / max(1, self._total - self._warmup)
            share = 0.5 * (1 + math.cos(math.pi * min(1.0, done)))
        self.rate = self._optim.lr * share
        _set_rate(self._optimizer, self.rate)


class WarmupPlateau:
    """Linear up to the full rate, which falls by a factor when too many validations in a row bring nothing better."""

    def __init__(self, optimizer: torch.optim.Optimizer, optim: OptimConfig) -> None:
        self._optimizer = optimizer
        self._optim = optim
        self._step = 0
        self._share = 1.0
        self._best = -math.inf
        self._fruitless = 0
        self.rate = 0.0
        self._set_rate()

    def after_step(self) -> None:
        """See ``Schedule``."""
        self._step += 1
        self._set_rate()

    def after_validation(self, score: float) -> None:
        """See ``Schedule``. An undefined score is no better one."""
        if score > self._best:
            self._best, self._fruitless = score, 0
            return
        self._fruitless += 1
        if self._fruitless > self._optim.plateau_patience:
            self._share, self._fruitless = self._share * self._optim.plateau_factor, 0
            self._set_rate()

    def state_dict(self) -> dict[str, Any]:
        """See ``Schedule``."""
        return {"step": self._step, "share": self._share, "best": self._best, "fruitless": self._fruitless}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """See ``Schedule``."""
        self._step, self._fruitless = int(state["step"]), int(state["fruitless"])
        self._share, self._best = float(state["share"]), float(state["best"])
        self._set_rate()

    def _set_rate(self) -> None:
        risen = min(1.0, (self._step + 1) / max(1, self._optim.warmup_steps))
        self.rate = self._optim.lr * self._share * risen
        _set_rate(self._optimizer, self.rate)


def _set_rate(optimizer: torch.optim.Optimizer, rate: float) -> None:
    for group in optimizer.param_groups:
        if isinstance(group["lr"], torch.Tensor):
            group["lr"].fill_(rate)  # a recorded step reads it where it lies
        else:
            group["lr"] = rate


def build_schedule(optimizer: torch.optim.Optimizer, optim: OptimConfig) -> Schedule:
    """The configured schedule, at its first step."""
    if optim.schedule == "plateau":
        return WarmupPlateau(optimizer, optim)
    return WarmupCosine(optimizer, optim)
