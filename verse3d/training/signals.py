"""Stopping on request: Ctrl-C, and the signals of a cluster that wants its machine back."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType, TracebackType
from typing import Self

_HANDLED = ("SIGINT", "SIGTERM", "SIGUSR1")
"""Slurm and spot machines send SIGTERM, or what they were told to send; SIGUSR1 is the custom."""


class Terminated(KeyboardInterrupt):
    """The machine is wanted back: a stop like Ctrl-C, except that the run is meant to be resumed.

    Derived from ``KeyboardInterrupt``, so that whatever cleans up after Ctrl-C cleans up here too.
    """


def stop_of(number: int) -> KeyboardInterrupt:
    """The exception that a signal becomes."""
    return KeyboardInterrupt() if number == signal.SIGINT else Terminated(signal.Signals(number).name)


class StopSignals:
    """Turns signals into exceptions, but never in the middle of something that must not be cut in two.

        fetch a batch | step        | fetch | validation         | save
                      [--- held ---]                              [- held -]
                           ^ arrives                ^ arrives: raised at once
                                    ^ raised

    A second Ctrl-C is raised at once, wherever it arrives.

    Args:
        held: hold signals back everywhere except in ``at_once``. Processes that share a run need this: they must all
            stop after the same step.
    """

    def __init__(self, *, held: bool = False) -> None:
        self.received = 0
        """Number of the signal that asks for a stop; 0 if there is none."""
        self._depth = int(held)
        self._raised = False
        self._before: dict[int, signal._HANDLER] = {}

    def __enter__(self) -> Self:
        # Only the main thread may set handlers; in another one the program that owns it decides.
        if threading.current_thread() is threading.main_thread():
            for name in _HANDLED:
                if number := getattr(signal, name, 0):
                    self._before[number] = signal.signal(number, self._arrived)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    @contextmanager
    def held(self) -> Iterator[None]:
        """What happens inside is done whole; a signal that arrives meanwhile is raised when it is over."""
        self._depth += 1
        try:
            yield
        finally:
            self._depth -= 1
        self._raise_if_free()

    @contextmanager
    def at_once(self) -> Iterator[None]:
        """What happens inside may be cut short anywhere."""
        depth, self._depth = self._depth, 0
        try:
            self._raise_if_free()
            yield
        finally:
            self._depth = depth

    def _arrived(self, number: int, _: FrameType | None) -> None:
        impatient = number == signal.SIGINT and self.received == signal.SIGINT
        self.received = self.received or number
        if impatient:
            raise KeyboardInterrupt
        self._raise_if_free()

    def _raise_if_free(self) -> None:
        # Once: what follows, such as the last save, is not to be interrupted by the same signal again.
        if self.received and not self._depth and not self._raised:
            self._raised = True
            raise stop_of(self.received)
