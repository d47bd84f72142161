"""The command line: one subcommand per function of ``verse3d.api``. Results go to stdout, everything else to stderr."""

import sys
from collections.abc import Sequence

from verse3d.cli import comparison, data, diagnosing, exporting, models, naming, pictures, preparing, slicing
from verse3d.cli.terminal import EXIT_INTERRUPTED, EXIT_TERMINATED, app, complain, err_console, survive_any_name
from verse3d.core.errors import Verse3dError
from verse3d.training.signals import Terminated

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
        app(args=None if argv is None else list(argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Verse3dError as error:
        complain(error)
        return error.exit_code
    except Terminated as stop:
        err_console.print(f"stopped by {stop}", style="yellow")
        return EXIT_TERMINATED
    except KeyboardInterrupt:
        err_console.print("interrupted", style="yellow")
        return EXIT_INTERRUPTED
    return 0


def run() -> None:
    """Entry point of the ``verse3d`` program."""
    sys.exit(main())
