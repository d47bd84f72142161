"""The name of an input, and what came of it."""

import random
from dataclasses import dataclass
from typing import Literal

from fuzz.target import Input, Room, Target

PAST, INTACT = "past", "intact"
Outcome = Literal["right", "refused", "finding"]


@dataclass(frozen=True)
class Ticket:
    """The name of an input: ``TARGET:SEED:NUMBER``, or ``TARGET:past:NAME``."""

    target: str
    seed: str
    what: str

    def __str__(self) -> str:
        return f"{self.target}:{self.seed}:{self.what}"

    @classmethod
    def parsed(cls, text: str) -> "Ticket":
        """Inverse of ``str``."""
        target, seed, what = text.split(":", 2)
        return cls(target, seed, what)

    @classmethod
    def of_past(cls, target: str, name: str) -> "Ticket":
        """One of the inputs that once went wrong."""
        return cls(target, PAST, name)

    @classmethod
    def of_intact(cls, target: str) -> "Ticket":
        """The undamaged original."""
        return cls(target, PAST, INTACT)

    @property
    def is_intact(self) -> bool:
        """Whether it is an undamaged original."""
        return (self.seed, self.what) == (PAST, INTACT)

    def write(self, target: Target, room: Room) -> Input:
        """Make the input; the same ticket makes the same input, on any machine and in any order."""
        if self.is_intact:
            return target.intact(room)
        if self.seed == PAST:
            return target.past()[self.what](room)
        return target.write(random.Random(str(self)), room)


@dataclass(frozen=True)
class Verdict:
    """What came of an input.

    Attributes:
        ticket: which input.
        outcome: "right", "refused" (a clear error) or "finding".
        words: what was done to the original.
        reason: the error, or what is wrong.
        cpu_s: processor time of reading it.
        memory_mb: how much the worker's resident memory rose.
    """

    ticket: Ticket
    outcome: Outcome
    words: str = ""
    reason: str = ""
    cpu_s: float = 0.0
    memory_mb: float = 0.0
