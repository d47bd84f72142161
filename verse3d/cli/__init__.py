"""The command line: one subcommand per function of ``verse3d.api``. Results go to stdout, everything else to stderr."""

import atexit
import errno
import logging
import os
import sys
from collections.abc import Sequence

from verse3d.cli import comparison, data, diagnosing, exporting, models, naming, pictures, preparing, slicing
from verse3d.cli.program import as_typed_today, in_order_of_use
from verse3d.cli.terminal import EXIT_INTERRUPTED, app, complain, say_goodbye, survive_any_name
from verse3d.core.errors import OutputError, Verse3dError
from verse3d.core.threads import let_waiting_threads_sleep

in_order_of_use(app)
__all__ = [
    "app",
    "comparison",
    "data",
    "diagnosing",
    "exporting",
    "main",
    "models",
    "naming",
    "pictures",
    "preparing",
    "run",
    "slicing",
]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 wrong usage or config, 3 bad data, 4 bad model, 1 other;
    130 stopped by Ctrl-C, 75 stopped by the cluster and to be started again.

    Args:
        argv: the arguments after the program's name; None takes those of the process.
    """
    survive_any_name()
    try:
        app(args=as_typed_today(sys.argv[1:] if argv is None else argv))
    except SystemExit as stop:
        if stop.code == EXIT_INTERRUPTED:  # typer makes this of a KeyboardInterrupt
            say_goodbye()
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Verse3dError as error:
        complain(error)
        return error.exit_code
    except OSError as error:
        # Where a file cannot be written, that has been said with its name by then.
        if error.errno != errno.ENOSPC or error.filename is not None:
            raise
        full = OutputError(
            "no space left on the device", hint="no file was named: probably the standard output is full"
        )
        complain(full)
        return full.exit_code
    except KeyboardInterrupt:
        say_goodbye()
        return EXIT_INTERRUPTED
    return 0


def run() -> None:
    """Entry point of the ``verse3d`` program."""
    let_waiting_threads_sleep()
    ending = _Ending()
    atexit.register(ending)  # before any library has anything registered: what is first here comes last
    ending.code = main()
    sys.exit(ending.code)


class _Ending:
    """Ends the process when all else is done. Python would first take everything apart that was loaded: with PyTorch a
    tenth of a second, and half a second more to look for garbage.

    Attributes:
        code: with which to end; None if an error that nobody expected ends the program, of which Python tells.
    """

    code: int | None = None

    def __call__(self) -> None:
        if self.code is None:
            return
        logging.shutdown()  # registered when this module was loaded, so it would come later
        try:
            for stream in filter(None, (sys.stdout, sys.stderr)):  # None where it was closed from the beginning
                stream.flush()
        except (OSError, ValueError):  # nobody listens any more; Python has its own ways for that
            return
        os._exit(self.code)
