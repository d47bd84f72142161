"""The command line: one subcommand per function of ``verse3d.api``. Results go to stdout, everything else to stderr."""

import gc
import sys
from collections.abc import Sequence

from verse3d.cli import comparison, data, diagnosing, exporting, models, naming, pictures, preparing, slicing
from verse3d.cli.program import as_typed_today, in_order_of_use
from verse3d.cli.terminal import EXIT_INTERRUPTED, app, complain, say_goodbye, survive_any_name
from verse3d.core.errors import Verse3dError
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
    except KeyboardInterrupt:
        say_goodbye()
        return EXIT_INTERRUPTED
    return 0


def run() -> None:
    """Entry point of the ``verse3d`` program."""
    let_waiting_threads_sleep()
    code = main()
    # Everything goes with the process. Python would look through it for garbage once more: half a second with PyTorch.
    gc.freeze()
    sys.exit(code)
