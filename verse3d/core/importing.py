"""Importing much at once."""

import contextlib
import gc
from collections.abc import Iterator


@contextlib.contextmanager
def uncollected() -> Iterator[None]:
    """Look for no garbage meanwhile: libraries bring half a million objects, nearly all of which stay.

    Python's collector would look through them again and again while there are more and more of them. Those that are
    there at the end count as old, as if it had: they are looked at when much has changed, and not at once::

        young   ->  older  ->  old          each step is a look at all of them
        young   ------------>  old          here, without any

    May be nested. If the program switched its collector off, it stays off; what it froze stays frozen.
    """
    was_on, has_frozen = gc.isenabled(), gc.get_freeze_count() > 0
    gc.disable()
    try:
        yield
    finally:
        if not has_frozen:
            gc.freeze()
            gc.unfreeze()  # Python gives back what was frozen as old
        if was_on:
            gc.enable()
