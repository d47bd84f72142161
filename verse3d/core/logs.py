"""What is told while something runs: log records and progress. Loads no PyTorch."""

import logging
from collections.abc import Callable
from pathlib import Path

from rich.console import Console
from rich.logging import RichHandler

from verse3d.core.escapes import visible

_LOGGER = "verse3d"
Progress = Callable[[str, int, int], None]
"""Called with what is being done, how much of it is done, and how much there is."""


def no_progress(what: str, done: int, total: int) -> None:
    """Show nothing."""


def logger(name: str) -> logging.Logger:
    """The logger of a module: silent until ``log_to_terminal`` or ``log_to_file`` is called."""
    return logging.getLogger(f"{_LOGGER}.{name.removeprefix('verse3d.')}")


logging.getLogger(_LOGGER).addHandler(logging.NullHandler())


class _SafeFormatter(logging.Formatter):
    """Records in which names from files act on no terminal; lines after the first are indented, so none looks new."""

    def __init__(self, pattern: str, reword: Callable[[str], str] = str) -> None:
        super().__init__(pattern)
        self._reword = reword

    def format(self, record: logging.LogRecord) -> str:
        return visible(self._reword(super().format(record))).replace("\n", "\n    ")


def log_to_terminal(console: Console, level: int, reword: Callable[[str], str] = str) -> None:
    """Show log records of ``level`` and above on ``console`` (standard error, in the CLI). Replaces an earlier one.

    Args:
        console: where to.
        level: the least that is shown, as ``logging`` counts.
        reword: makes of a record what is shown, e.g. with flags for the names of options.
    """
    root = logging.getLogger(_LOGGER)
    # Or a notebook that calls it twice would show each record twice.
    for handler in [handler for handler in root.handlers if isinstance(handler, RichHandler)]:
        root.removeHandler(handler)
    shown = RichHandler(level, console, show_path=False, show_time=False, markup=False, rich_tracebacks=False)
    shown.setFormatter(_SafeFormatter("%(message)s", reword))
    root.addHandler(shown)
    root.setLevel(logging.DEBUG)


def log_to_file(path: Path) -> logging.Handler:
    """Append records to ``path`` until the returned handler is closed with ``stop_logging``."""
    handler = logging.FileHandler(path, encoding="utf-8", errors="backslashreplace")
    handler.setFormatter(_SafeFormatter("%(asctime)s %(levelname)s %(message)s"))
    handler.setLevel(logging.INFO)
    root = logging.getLogger(_LOGGER)
    root.setLevel(logging.DEBUG)
    root.addHandler(handler)
    return handler


def stop_logging(handler: logging.Handler) -> None:
    """Take a handler of ``log_to_file`` off again."""
    logging.getLogger(_LOGGER).removeHandler(handler)
    handler.close()
