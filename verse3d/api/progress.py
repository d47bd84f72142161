"""Progress bars for whoever asks for them: the command line, a terminal, a notebook."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.progress import Progress as Bars

from verse3d.core.logs import Progress, no_progress

_ONE_BAR = ("epoch", "phantom")
"""Kinds of work whose description changes with every step: "epoch 3 of 100"."""


@contextmanager
def progress_bars(console: Console | None = None, *, enabled: bool = True) -> Iterator[Progress]:
    """Bars on standard error, one per kind of work, to be handed to any function of the package.

    Example:
        >>> with verse3d.progress_bars() as progress:  # doctest: +SKIP
        ...     verse3d.check("cases.jsonl", progress=progress)

    Args:
        console: where to draw them; None for standard error.
        enabled: whether to draw at all.
    """
    if not enabled:  # bars of Rich that are switched off still end with an empty line where there is no terminal
        yield no_progress
        return
    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, *times, console=console or Console(stderr=True)) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            # "epoch 3 of 100" and "epoch 4 of 100" are one bar with another text.
            first = what.split(maxsplit=1)[0]
            kind = first if first in _ONE_BAR else what
            if kind not in tasks:
                tasks[kind] = bars.add_task(what, total=total)
            bars.update(tasks[kind], description=what, completed=done, total=total)

        yield show
