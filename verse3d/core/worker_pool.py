"""Worker processes that read cases. One that dies takes its own case with it and nothing else.

``concurrent.futures`` gives up on everything that is under way when one of its processes is killed (as Linux does when
memory runs out) and cannot say which task did it; here every process holds one task at a time, so it can be said.
"""

import contextlib
import multiprocessing
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from threading import Event
from typing import Any

from verse3d.core.logs import logger
from verse3d.core.memory import free_memory_bytes
from verse3d.core.processes import without_main
from verse3d.core.threads import usable_cores

_SPAWN = multiprocessing.get_context("spawn")
"""New processes start empty: a copy of this one could inherit locks that threads (of PyTorch, say) hold."""

_LOOK_SECONDS = 0.2
_WORTH_A_PROCESS_BYTES = 2**28
"""A process takes about a second to start: below this much to read it gains nothing."""
_SHARE_OF_FREE_MEMORY = 0.8
_log = logger(__name__)


@dataclass(frozen=True)
class Failure:
    """Why there is no result: the exception that was raised, or how the process ended."""

    reason: str
    died: bool = False


class CannotStartError(Exception):
    """New processes end before they can work, e.g. because the calling script has no ``__main__`` guard."""


@dataclass(eq=False)
class _Worker:
    process: BaseProcess
    connection: Connection
    ready: bool = False
    task: int | None = None


def affordable_workers(memory: Sequence[float], work: Sequence[float]) -> int:
    """How many processes are worth their start, and find memory for the largest task each.

    Args:
        memory: bytes that each task holds.
        work: bytes that each task reads, decodes and computes on.
    """
    fitting = int(free_memory_bytes() * _SHARE_OF_FREE_MEMORY // max(1, *memory))
    worth = -(-int(sum(work)) // _WORTH_A_PROCESS_BYTES)
    return max(1, min(usable_cores(), len(memory), fitting, worth))


def each(function: Callable[[Any], Any], items: Sequence[Any], workers: int, what: str) -> Iterator[tuple[int, Any]]:
    """(position, result or ``Failure``) as they are finished: by processes, and in this one what those cannot do.

    Args:
        function, items: as for ``each_in_processes``.
        workers: processes; 1 or fewer for none.
        what: is done with the items, for the log: "cases are read".
    """
    waiting = set(range(len(items)))
    if workers > 1:
        try:
            for position, outcome in each_in_processes(function, items, workers):
                waiting.discard(position)
                yield position, outcome
        except CannotStartError as error:
            _log.warning("%s: %s one after the other", error, what)
    left = sorted(waiting)
    for number, outcome in each_here(function, [items[position] for position in left]):
        yield left[number], outcome


def each_here(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """Call ``function`` with every item in this process and give (position, result or ``Failure``)."""
    for number, item in enumerate(items):
        yield number, _outcome(function, item)


def each_in_processes(
    function: Callable[[Any], Any], items: Sequence[Any], workers: int, stop: Event | None = None
) -> Iterator[tuple[int, Any]]:
    """The same in ``workers`` processes, in the order in which they finish.

    All processes are ended when the iterator is closed, exhausted or interrupted.

    Args:
        function: can be imported by name; what it imports is loaded in every process.
        items: can be pickled, as can the results.
        workers: how many at once.
        stop: once it is set (by another thread) no more is done, and what is under way is given up.

    Raises:
        CannotStartError: a process ended before it took its first task; nothing is lost, the rest can be done here.
    """
    tasks = deque(range(len(items)))
    running: list[_Worker] = []
    try:
        while (tasks or any(worker.task is not None for worker in running)) and not (stop and stop.is_set()):
            while len(running) < min(workers, len(tasks) + sum(worker.task is not None for worker in running)):
                running.append(_start(function))
            ready = set(wait([worker.connection for worker in running], _LOOK_SECONDS if stop else None))
            for worker in [worker for worker in running if worker.connection in ready]:
                yield from _hear(worker, running)
                if worker.ready and worker.task is None and tasks and worker in running:
                    worker.task = tasks.popleft()
                    with contextlib.suppress(OSError):  # it has just died: the next round hears of it
                        worker.connection.send((worker.task, items[worker.task]))
    finally:
        for worker in running:
            _end(worker)


def _start(function: Callable[[Any], Any]) -> _Worker:
    ours, theirs = _SPAWN.Pipe()
    process = _SPAWN.Process(target=_serve, args=(theirs, function), daemon=True)
    with without_main():
        process.start()
    theirs.close()  # so that reading from ours ends when the process does
    return _Worker(process, ours)


def _hear(worker: _Worker, running: list[_Worker]) -> Iterator[tuple[int, Any]]:
    try:
        message = worker.connection.recv()
    except (EOFError, OSError):
        running.remove(worker)
        _end(worker)
        if not worker.ready:
            raise CannotStartError(f"a worker process {_ending(worker.process)} on starting") from None
        if worker.task is not None:
            yield worker.task, Failure(f"the process that read it {_ending(worker.process)}", died=True)
        return
    worker.ready = True
    if message is not None:
        worker.task = None
        yield message


def _ending(process: BaseProcess) -> str:
    code = process.exitcode
    if code is not None and code < 0:
        return f"was killed ({signal.Signals(-code).name})"
    return f"ended (exit code {code})"


def _end(worker: _Worker) -> None:
    worker.connection.close()
    if worker.process.is_alive():
        worker.process.join(0 if worker.task is not None else 0.2)
    if worker.process.is_alive():
        worker.process.kill()
    worker.process.join()


def _serve(connection: Connection, function: Callable[[Any], Any]) -> None:
    """The life of a process: say hello, then answer tasks until the other side is gone."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the other side ends us
    connection.send(None)
    while True:
        try:
            number, item = connection.recv()
        except (EOFError, OSError):
            return
        connection.send((number, _outcome(function, item)))


def _outcome(function: Callable[[Any], Any], item: object) -> object:
    try:
        return function(item)
    except Exception as error:  # whatever it is, the other items go on
        return Failure(f"{type(error).__name__}: {error}")
