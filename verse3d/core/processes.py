"""Starting other processes that load only what they need."""

import contextlib
import multiprocessing
import sys
import threading
from collections.abc import Iterator
from multiprocessing.context import BaseContext
from types import ModuleType

_starting = threading.RLock()


def small_processes(*preloaded: str) -> BaseContext:
    """A way to start processes that do not inherit what this one has loaded.

    Where there is one, a server that has loaded the modules ``preloaded`` (and never more) is copied for each of them;
    else each begins empty. A plain copy of this process would hold all its memory and the locks of its threads.
    """
    if "forkserver" not in multiprocessing.get_all_start_methods():
        return multiprocessing.get_context("spawn")
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(list(preloaded))
    return context


@contextlib.contextmanager
def without_main() -> Iterator[None]:
    """Processes started inside do not run the calling script again, as they otherwise do to find its functions.

    So a script that trains needs no ``if __name__ == "__main__":``, and is not run twice without one.
    """
    with _starting:
        main = sys.modules["__main__"]
        sys.modules["__main__"] = ModuleType("__main__")
        try:
            yield
        finally:
            sys.modules["__main__"] = main
