"""Importing much at once."""

import gc
import threading
from types import TracebackType


class _Uncollected:
    """Whether Python's collector was on, and held anything frozen, before the first of all who are inside came."""

    def __init__(self) -> None:
        self._lock, self._inside, self._was_on, self._has_frozen = threading.Lock(), 0, True, False

    def __enter__(self) -> None:
        # Counted: of two threads that import at once, the first to end would switch it on for both, or neither would.
        with self._lock:
            if not self._inside:
                self._was_on, self._has_frozen = gc.isenabled(), gc.get_freeze_count() > 0
                gc.disable()
            self._inside += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside:
                return
            if not self._has_frozen:
                gc.freeze()
                gc.unfreeze()  # Python gives back what was frozen as old
            if self._was_on:
                gc.enable()


_uncollected = _Uncollected()


def uncollected() -> _Uncollected:
    """Look for no garbage meanwhile: libraries bring half a million objects, nearly all of which stay.

    Python's collector would look through them again and again while there are more and more of them. Those that are
    there at the end count as old, as if it had: they are looked at when much has changed, and not at once::

        young   ->  older  ->  old          each step is a look at all of them
        young   ------------>  old          here, without any

    May be nested, and used by several threads at once. If the program switched its collector off, it stays off; what it
    froze stays frozen.
    """
    return _uncollected
