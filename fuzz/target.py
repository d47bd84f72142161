"""What a target is: how its inputs are made, how they are read, and what may come of it."""

import abc
import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from verse3d.core.errors import DataError, Verse3dError

Dice = random.Random


class WrongAnswerError(Exception):
    """verse3d took an input and made something wrong of it."""


def require(right: bool, otherwise: str) -> None:
    """Raise ``WrongAnswerError`` with those words unless ``right``."""
    if not right:
        raise WrongAnswerError(otherwise)


@dataclass(frozen=True)
class Room:
    """Where one input lives: what is read, and the only folder that may be written to."""

    inputs: Path
    outputs: Path


@dataclass(frozen=True)
class Input:
    """An input that was written.

    Attributes:
        words: what was done to the original, for whoever reads the finding.
        expected: whatever ``read`` needs to know in order to judge the answer.
    """

    words: str
    expected: Any = None


@dataclass(frozen=True)
class Limits:
    """What one input may cost.

    Attributes:
        cpu_s: processor time of reading it; unlike wall time it does not grow while other programs run.
        memory_mb: resident memory on top of what the worker held before.
    """

    cpu_s: float = 4.0
    memory_mb: float = 250.0


class Target(abc.ABC):
    """One door through which untrusted bytes come in. ``__init__`` makes the originals, once per worker."""

    name: ClassVar[str]
    share: ClassVar[int]
    """How many of about 15,000 inputs are its own."""
    limits: ClassVar[Limits] = Limits()
    refusals: ClassVar[tuple[type[Verse3dError], ...]] = (DataError,)
    """The clear errors that are allowed; another of verse3d's own would give another exit code, and is a finding."""

    def __init__(self, originals: Path) -> None:
        """Make what is mutated; ``originals`` is an empty folder that no input can reach by a relative name."""
        self.originals = originals

    @abc.abstractmethod
    def write(self, dice: Dice, room: Room) -> Input:
        """Make an input below ``room.inputs``; every choice comes from ``dice``."""

    @abc.abstractmethod
    def read(self, room: Room, made: Input) -> None:
        """Let verse3d read it, and raise ``WrongAnswerError`` if the answer is not the right one."""

    @abc.abstractmethod
    def intact(self, room: Room) -> Input:
        """The undamaged original, which must be taken: a target whose original is refused tests nothing."""

    def past(self) -> Mapping[str, Callable[[Room], Input]]:
        """Inputs that once went wrong, by name; they open every campaign."""
        return {}
