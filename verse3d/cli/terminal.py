"""What all commands share: the program, its two consoles, common options and progress bars."""

import enum
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from verse3d.core.errors import ConfigError, DataError, Verse3dError
from verse3d.core.escapes import visible
from verse3d.version import __version__

if TYPE_CHECKING:
    from verse3d.core.logs import Progress

app = typer.Typer(
    name="verse3d",
    help="Native 3D segmentation of vertebrae in CT: train, predict and score on whole NIfTI volumes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 75
"""Exit code when a cluster wanted its machine back: everything is saved, start the same job again (EX_TEMPFAIL)."""
EXIT_PARTIAL = DataError.exit_code
"""Exit code when a batch was finished but some of its cases failed."""


class SafeConsole(Console):
    """A console on which no text that is shown can act on the terminal: control characters are seen as escapes.

    File names may hold [brackets] and :colons:, too, so nothing that is shown is markup.
    """

    def __init__(self, *, stderr: bool = False, width: int | None = None, soft_wrap: bool = False) -> None:
        super().__init__(stderr=stderr, width=width, soft_wrap=soft_wrap, markup=False, emoji=False, highlight=False)

    def render_str(self, text: str, **options: Any) -> Text:  # noqa: ANN401 - as Console's
        """Escape before the layout, so that columns fit what is seen."""
        return super().render_str(visible(text), **options)

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """Escape whatever came another way; codes that rich makes itself (styles, the moves of bars) are kept apart."""
        for segment in super().render(renderable, options):
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


# Files and pipes get whole lines.
_width = None if sys.stdout is not None and sys.stdout.isatty() else 500
out_console = SafeConsole(width=_width, soft_wrap=True)
err_console = SafeConsole(stderr=True)


class Mode(enum.StrEnum):
    """Ways to segment."""

    volume = "3d"
    slices = "2d"
    thick_slices = "2.5d"


class Plane(enum.StrEnum):
    """Ways to slice."""

    sagittal = "sagittal"
    coronal = "coronal"
    axial = "axial"
    as_stored = "as-stored"


class Device(enum.StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class Backend(enum.StrEnum):
    """What runs a network."""

    auto = "auto"
    torch = "torch"
    openvino = "openvino"


class SplitName(enum.StrEnum):
    """Parts of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


class ReleaseSplit(enum.StrEnum):
    """Parts of the VerSe release, as its archives are named."""

    training = "training"
    validation = "validation"
    test = "test"


class MirrorName(enum.StrEnum):
    """Servers that hold the VerSe release."""

    s3 = "s3"
    osf = "osf"


class SchemeName(enum.StrEnum):
    """What is told apart."""

    binary = "binary"
    vertebrae = "vertebrae"


class LayoutName(enum.StrEnum):
    """What an index can be written as."""

    nnunet = "nnunet"
    verse = "verse"


DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU if there is one.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
SplitOption = Annotated[SplitName | None, typer.Option(help="Only the cases of this split.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set optim.lr=3e-4.")
]


def survive_any_name() -> None:
    """Let characters that the terminal's encoding lacks be shown as escapes rather than end the program."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def complain(error: Verse3dError) -> None:
    err_console.print("error:", style="bold red", end=" ")
    err_console.print(error.message, soft_wrap=True)
    if error.hint:
        err_console.print(f"  hint: {error.hint}", soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"verse3d {__version__}")
        raise typer.Exit


_level = logging.INFO


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Log more.")] = False,
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Log warnings and errors; no progress bars.")] = False,
) -> None:
    if verbose and quiet:
        raise ConfigError("-v and -q exclude each other")
    global _level  # noqa: PLW0603 - set once per call, before any command
    _level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO


def is_first_process() -> bool:
    """Whether this process is by itself, or the first of several that torchrun has started."""
    return os.environ.get("RANK", "0") == "0"


@contextmanager
def exits_when_terminated() -> Iterator[None]:
    """The exit code of a program whose machine was wanted back; Typer would take it for Ctrl-C."""
    from verse3d.training.signals import Terminated

    try:
        yield
    except Terminated as stop:
        err_console.print(f"stopped by {stop}", style="yellow")
        raise typer.Exit(EXIT_TERMINATED) from None


@contextmanager
def bars() -> Iterator["Progress"]:
    """Progress bars on stderr, one per kind of work, and the log above them."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from verse3d.core.logs import log_to_terminal

    # Of several processes that share a training the first one speaks; the others only about what ends them.
    level = _level if is_first_process() else logging.ERROR
    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    log_to_terminal(err_console, level)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, *times, console=err_console, disable=level > logging.INFO) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            kind = what.split(maxsplit=1)[0] if what.split(maxsplit=1)[0] in ("epoch", "phantom") else what
            if kind not in tasks:
                tasks[kind] = bars.add_task(what, total=total)
            bars.update(tasks[kind], description=what, completed=done, total=total)

        yield show


MORE_SETTINGS = {"allow_extra_args": True}
"""Lets ``--set a=1 b=2`` mean ``--set a=1 --set b=2``."""


def merged_overrides(first: list[str] | None, context: typer.Context) -> list[str]:
    wrong = [text for text in context.args if not first or "=" not in text]
    if wrong:
        raise ConfigError(
            f"unexpected argument {wrong[0]!r}", hint=f"verse3d {context.info_name} --help lists the options"
        )
    return [*(first or []), *context.args]
