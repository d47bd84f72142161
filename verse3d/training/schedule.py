"""How the learning rate changes during a run. A schedule is told about every step and every validation.

    rate
      |   /‾‾‾\\__                 warm-up, then half a cosine down to 0 at the last step of the plan, or, if the
      |  /       \\___             time is limited, at the step at which it will be over
      | /            \\______
      +----------------------> step

Own code and not ``LambdaLR``: a recorded step reads its rate where it lies on the GPU, the plan may grow when a run is
resumed, and its end moves while the speed becomes known.
"""

import math
from collections.abc import Mapping
from typing import Annotated, Any, Protocol

import torch
from pydantic import Field

from verse3d.core.config import OptimConfig
from verse3d.core.readers import Record, Whole, checked

MOST_STEPS = 10**12
_Steps = Annotated[Whole, Field(ge=0, le=MOST_STEPS)]
_PLACE = "the state of the schedule"


class _StoredCosine(Record):
    step: _Steps
    done: Annotated[float, Field(ge=0.0, le=1.0, strict=True)] | None = None


class _StoredPlateau(Record):
    step: _Steps
    share: Annotated[float, Field(gt=0.0, le=1.0, strict=True)]
    best: Annotated[float, Field(le=1.0, allow_inf_nan=True, strict=True)]
    fruitless: _Steps


class Schedule(Protocol):
    """Sets the rate of an optimizer.

    Attributes:
        step: batches learnt.
    """

    step: int

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

    def end_at(self, step: float | None) -> None:
        """The run will end about there, earlier than planned, because its time is limited; None once it has."""
        ...

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        ...

    def require_sound(self, state: Mapping[str, Any]) -> None:
        """Refuse what ``state_dict`` cannot have returned.

        Raises:
            DataError: a number is missing, of another kind, or outside of what is possible.
        """
        ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Inverse of ``state_dict``. The plan itself comes from the config: it may have grown longer."""
        ...


class WarmupCosine:
    """Linear up to the full rate, then half a cosine to 0 (Loshchilov & Hutter 2017)."""

    def __init__(self, optimizer: torch.optim.Optimizer, optim: OptimConfig) -> None:
        self._optimizer = optimizer
        self._optim = optim
        self._total = optim.epochs * optim.steps_per_epoch
        self._warmup = min(optim.warmup_steps, self._total // 2)
        self._end: float | None = None
        self._done: float | None = None
        self.step = 0
        self.rate = 0.0
        self._set_rate()

    def after_step(self) -> None:
        """Move on by a step."""
        if self._end is not None and self._done is not None and self.step >= self._warmup:
            # The rest of the way in equal steps: with a fixed end this is the cosine as it was planned, and when the
            # end moves, the rate bends towards it without a jump.
            self._done = min(1.0, self._done + (1 - self._done) / max(1.0, self._end - self.step))
        self.step += 1
        self._set_rate()

    def after_validation(self, score: float) -> None:
        """Do nothing: the plan does not depend on scores."""

    def end_at(self, step: float | None) -> None:
        """Reach 0 there rather than at the end of the plan; None forgets it, so that a resumed run follows the plan."""
        # Forgotten, because a run that is resumed without a limit has all of its plan before it.
        if step is None:
            self._end = self._done = None
            return
        if self._done is None:
            self._done = self._planned()
        if self.step < self._warmup:
            self._warmup = min(self._warmup, max(1, int(step) // 2))
        self._end = step

    def state_dict(self) -> dict[str, Any]:
        """The step, and if the time is limited the share of the cosine that is done."""
        return {"step": self.step} if self._end is None else {"step": self.step, "done": self._done}

    def require_sound(self, state: Mapping[str, Any]) -> None:
        """Refuse what ``state_dict`` cannot have returned."""
        checked(dict(state), _StoredCosine, _PLACE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; how far the cosine is counts only if a limit is set again."""
        stored = checked(dict(state), _StoredCosine, _PLACE)
        self.step = stored.step
        self._done, self._end = stored.done, None
        self._set_rate()

    def _planned(self) -> float:
        """Share of the cosine that is done by the plan of the config."""
        return min(1.0, max(0.0, self.step - self._warmup) / max(1, self._total - self._warmup))

    def _set_rate(self) -> None:
        if self.step < self._warmup:
            # + 1: the very first step already learns something.
            share = (self.step + 1) / self._warmup
        else:
            done = self._planned() if self._end is None or self._done is None else self._done
            # 1 at the end of the warm-up, 0.5 half-way, 0 at the end
            share = 0.5 * (1 + math.cos(math.pi * done))
        self.rate = self._optim.lr * share
        _set_rate(self._optimizer, self.rate)


class WarmupPlateau:
    """Linear up to the full rate, which falls by a factor when too many validations in a row bring nothing better."""

    def __init__(self, optimizer: torch.optim.Optimizer, optim: OptimConfig) -> None:
        self._optimizer = optimizer
        self._optim = optim
        self._share = 1.0
        self._best = -math.inf
        self._fruitless = 0
        self.step = 0
        self.rate = 0.0
        self._set_rate()

    def after_step(self) -> None:
        """Move on by a step."""
        self.step += 1
        self._set_rate()

    def after_validation(self, score: float) -> None:
        """Lower the rate if there were too many without a better score. An undefined score is no better one."""
        if score > self._best:
            self._best, self._fruitless = score, 0
            return
        self._fruitless += 1
        if self._fruitless > self._optim.plateau_patience:
            self._share, self._fruitless = self._share * self._optim.plateau_factor, 0
            self._set_rate()

    def end_at(self, step: float | None) -> None:
        """Do nothing: the rate follows the validation, not the time."""

    def state_dict(self) -> dict[str, Any]:
        """The step, and what the validations have decided so far."""
        return {"step": self.step, "share": self._share, "best": self._best, "fruitless": self._fruitless}

    def require_sound(self, state: Mapping[str, Any]) -> None:
        """Refuse what ``state_dict`` cannot have returned."""
        checked(dict(state), _StoredPlateau, _PLACE)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there."""
        stored = checked(dict(state), _StoredPlateau, _PLACE)
        self.step, self._fruitless = stored.step, stored.fruitless
        self._share, self._best = stored.share, stored.best
        self._set_rate()

    def _set_rate(self) -> None:
        # warm-up       ____
        #              /    |____            a factor lower after too many fruitless validations
        #             /          |____
        risen = min(1.0, (self.step + 1) / max(1, self._optim.warmup_steps))
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
