"""Items on their way through three stages: one is worked on while the next is read and the last is written.

::

    thread "read"     read 1   read 2   read 3
    this thread                work 1   work 2   work 3
    thread "write"                      write 1  write 2  write 3

No more than three items are under way, so memory is bounded. An error ends the way of its own item only.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Generic, Self, TypeVar

_Item = TypeVar("_Item")
_Read = TypeVar("_Read")
_Worked = TypeVar("_Worked")
_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Stages(Generic[_Item, _Read, _Worked, _Result]):
    """What is done with every item.

    Attributes:
        read, work, write: each gets what the one before gave; the last gives the result.
        ended: the result of an item at which a stage raised one of ``expected``; called while it is handled.
        expected: other exceptions end everything.
    """

    read: Callable[[_Item], _Read]
    work: Callable[[_Read], _Worked]
    write: Callable[[_Worked], _Result]
    ended: Callable[[_Item, Exception], _Result]
    expected: tuple[type[Exception], ...]


def one_by_one(
    items: Sequence[_Item], stages: Stages[_Item, _Read, _Worked, _Result]
) -> Generator[_Result, None, None]:
    """The results in the order of the items, each finished before the next is begun."""
    for item in items:
        yield _Way(item, stages).through(stages.read).through(stages.work).through(stages.write).state


def overlapped(
    items: Sequence[_Item], stages: Stages[_Item, _Read, _Worked, _Result]
) -> Generator[_Result, None, None]:
    """The results in the order of the items, see above. Closing it early waits for what is being written."""
    with _threads() as (reader, writer):
        # At most one future in each list: one item is read, one is worked on, one is written.
        writing: list[Future[_Way]] = []
        reading = [reader.submit(_Way(item, stages).through, stages.read) for item in items[:1]]
        for number in range(len(items)):
            # The next one is read while this one is worked on ...
            way = reading.pop().result()
            reading += [
                reader.submit(_Way(item, stages).through, stages.read) for item in items[number + 1 : number + 2]
            ]
            way.through(stages.work)
            while writing:
                yield writing.pop().result().state
            # ... and written while the next one is worked on.
            writing.append(writer.submit(way.through, stages.write))
        while writing:
            yield writing.pop().result().state


class _Way:
    """One item on its way; ``state`` is what the last stage gave, at the end the result."""

    def __init__(self, item: Any, stages: Stages[Any, Any, Any, Any]) -> None:  # noqa: ANN401 - changes on its way
        self._item, self._stages, self._has_ended = item, stages, False
        self.state = item

    def through(self, stage: Callable[[Any], Any]) -> Self:
        """Do the next stage, unless an earlier one has ended the way."""
        if not self._has_ended:
            try:
                self.state = stage(self.state)
            except self._stages.expected as error:
                self.state, self._has_ended = self._stages.ended(self._item, error), True
        return self


@contextlib.contextmanager
def _threads() -> Iterator[tuple[Executor, Executor]]:
    """One that reads and one that writes; at the end what has not been begun is left."""
    with ThreadPoolExecutor(1, "read") as reader, ThreadPoolExecutor(1, "write") as writer:
        try:
            yield reader, writer
        finally:
            reader.shutdown(wait=False, cancel_futures=True)
