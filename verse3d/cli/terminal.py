"""What all commands share: the program, its two consoles, common options and progress bars."""

import enum
import io
import logging
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.text import Text

from verse3d.cli.flags import Speech
from verse3d.cli.program import Program
from verse3d.core.errors import ConfigError, DataError, Verse3dError
from verse3d.core.escapes import visible
from verse3d.version import __version__

if TYPE_CHECKING:
    from verse3d.core.logs import Progress

app = typer.Typer(
    name="verse3d",
    help="Native 3D segmentation of vertebrae in CT: train, predict and score on whole NIfTI volumes.",
    cls=Program,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
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
            # A control segment is a code that rich made; one in a text came from a file name.
            yield segment if segment.control else Segment(visible(segment.text), segment.style)


# Files and pipes get whole lines.
_width = None if sys.stdout is not None and sys.stdout.isatty() else 500
out_console = SafeConsole(width=_width, soft_wrap=True)
err_console = SafeConsole(stderr=True)


# The library's own types stand beside code that loads NumPy or PyTorch, which asking for help must not wait for. The
# tests compare them.
ModeName = Literal["3d", "2d", "2.5d"]
Plane = Literal["sagittal", "coronal", "axial", "as-stored"]
Device = Literal["auto", "cpu", "cuda"]
BackendName = Literal["auto", "torch", "openvino"]
SplitName = Literal["train", "validation", "test"]
SchemeName = Literal["binary", "vertebrae"]
Partial = Literal["drop", "keep"]
LayoutName = Literal["nnunet", "verse"]


# Typer takes no list of literals.
class ReleaseSplit(enum.StrEnum):
    """Parts of the VerSe release, as its archives are named."""

    training = "training"
    validation = "validation"
    test = "test"


class MirrorName(enum.StrEnum):
    """Servers that hold the VerSe release."""

    s3 = "s3"
    osf = "osf"


DataArgument = Annotated[Path, typer.Argument(help="An index (cases.jsonl) or a folder.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto uses a GPU if there is one.")]
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


_speech = Speech({})


def in_flags(text: str) -> str:
    """A text of the library with the flags of the running command instead of the names of options."""
    return _speech.say(text)


def complain(error: Verse3dError) -> None:
    """Show an error, its hint, and the flag that it is about if neither of them names it."""
    message, hint, flag = in_flags(error.message), in_flags(error.hint), _speech.flag(error.option)
    err_console.print("error:", style="bold red", end=" ")
    err_console.print(message, soft_wrap=True)
    if hint:
        err_console.print(f"  hint: {hint}", soft_wrap=True)
    if flag and flag not in f"{message} {hint}":
        err_console.print(f"  option: {flag}", soft_wrap=True)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"verse3d {__version__}")
        raise typer.Exit


_level = logging.INFO


@app.callback()
def _options(
    context: typer.Context,
    version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show more detail.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Show only results, warnings and errors; no progress bars.")
    ] = False,
) -> None:
    if verbose and quiet:
        raise ConfigError("-v and -q cannot be combined")
    global _level, _speech  # noqa: PLW0603 - set once per call, before any command
    # Typed as any command, but a callback of the program belongs to the group of all of them.
    commands = getattr(context.command, "commands", {})
    options = {name: command.params for name, command in commands.items()}
    _speech = Speech(options, context.invoked_subcommand or "")
    _level = logging.DEBUG if verbose else logging.WARNING if quiet else logging.INFO


def is_verbose() -> bool:
    """Whether the user wants to know more than usual."""
    return _level < logging.INFO


FAREWELLS = {
    "predict": "the masks that are written are whole; the same command goes on with the other scans",
    "train": "verse3d train --resume goes on",
    "prepare": "what is prepared stays; the same command goes on with the other cases",
    "slices": "the cases that are written stay; the same command goes on with the others",
    "download": "the same command goes on where this one stopped",
    "index": "no index was written",
    "convert": "the cases that are written stay; the same command goes on with the others",
    "check": "what was measured is kept beside an index; the same command reads only the rest",
    "stats": "what was measured is kept beside an index; the same command reads only the rest",
    "compare": "the masks that are written stay; the same command goes on with the others",
}


def say_goodbye() -> None:
    """After Ctrl-C: what is done, and how to go on."""
    # Only commands that leave something behind say more.
    more = FAREWELLS.get(_speech.command, "nothing is left half-written")
    err_console.print(f"interrupted: {more}", style="yellow", soft_wrap=True)


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
    from verse3d.api.progress import progress_bars
    from verse3d.core.logs import log_to_terminal

    # Of several processes that share a training the first one speaks; the others only about what ends them.
    level = _level if is_first_process() else logging.ERROR
    log_to_terminal(err_console, level, in_flags)
    with progress_bars(err_console, enabled=level <= logging.INFO) as progress:
        yield progress


MORE_SETTINGS = {"allow_extra_args": True}
"""Lets ``--set a=1 b=2`` mean ``--set a=1 --set b=2``."""


def merged_overrides(first: list[str] | None, context: typer.Context) -> list[str]:
    """All settings of ``--set``, those that follow the first one without a flag of their own, too.

    Raises:
        ConfigError: an argument is no setting.
    """
    # Extra arguments are settings only behind a --set; anything else is a typing error.
    wrong = [text for text in context.args if not first or "=" not in text]
    if wrong:
        raise ConfigError(
            f"unexpected argument {wrong[0]!r}", hint=f"verse3d {context.info_name} --help lists the options"
        )
    return [*(first or []), *context.args]
