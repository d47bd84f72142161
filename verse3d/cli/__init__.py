"""The command line: one subcommand per function of ``verse3d.api``. Results go to stdout, everything else to stderr."""

import enum
import logging
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from verse3d.cli import tables
from verse3d.core.errors import ConfigError, DataError, Verse3dError
from verse3d.version import __version__

if TYPE_CHECKING:
    from verse3d.core.runtime import Progress

app = typer.Typer(
    name="verse3d",
    help="Native 3D segmentation of vertebrae in CT: train, predict and score on whole NIfTI volumes.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)
_EXIT_INTERRUPTED = 130
_PARTIAL = DataError.exit_code
"""Exit code when a batch was finished but some of its cases failed."""
# File names may hold [brackets] and :colons:, so nothing that is shown is markup. Files and pipes get whole lines.
_width = None if sys.stdout is not None and sys.stdout.isatty() else 500
_out = Console(width=_width, soft_wrap=True, markup=False, emoji=False, highlight=False)
_err = Console(stderr=True, markup=False, emoji=False, highlight=False)


class Mode(enum.StrEnum):
    """Ways to segment."""

    volume = "3d"


class Device(enum.StrEnum):
    """Where to compute."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


class SplitName(enum.StrEnum):
    """Parts of a data set."""

    train = "train"
    validation = "validation"
    test = "test"


class SchemeName(enum.StrEnum):
    """What is told apart."""

    binary = "binary"
    vertebrae = "vertebrae"


DeviceOption = Annotated[Device, typer.Option(help="Where to compute; auto takes a GPU if there is one.")]
OverwriteOption = Annotated[bool, typer.Option("--overwrite", help="Replace what is there.")]
SplitOption = Annotated[SplitName | None, typer.Option(help="Only the cases of this split.")]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="Change a setting, e.g. --set optim.lr=3e-4.")
]


_MORE_SETTINGS = {"allow_extra_args": True}
"""Lets ``--set a=1 b=2`` mean ``--set a=1 --set b=2``."""


def _overrides(first: list[str] | None, context: typer.Context) -> list[str]:
    wrong = [text for text in context.args if not first or "=" not in text]
    if wrong:
        raise ConfigError(
            f"unexpected argument {wrong[0]!r}", hint=f"verse3d {context.info_name} --help lists the options"
        )
    return [*(first or []), *context.args]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 2 wrong usage or config, 3 bad data, 4 bad model, 1 other.

    Args:
        argv: the arguments after the program's name; None takes those of the process.
    """
    try:
        app(args=None if argv is None else list(argv))
    except SystemExit as stop:
        return stop.code if isinstance(stop.code, int) else int(stop.code is not None)
    except Verse3dError as error:
        _complain(error)
        return error.exit_code
    except KeyboardInterrupt:
        _err.print("interrupted", style="yellow")
        return _EXIT_INTERRUPTED
    return 0


def run() -> None:
    """Entry point of the ``verse3d`` program."""
    sys.exit(main())


def _complain(error: Verse3dError) -> None:
    _err.print("error:", style="bold red", end=" ")
    _err.print(error.message, soft_wrap=True)
    if error.hint:
        _err.print(f"  hint: {error.hint}", soft_wrap=True)


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


@contextmanager
def _bars() -> Iterator["Progress"]:
    """Progress bars on stderr, one per kind of work, and the log above them."""
    from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.progress import Progress as Bars

    from verse3d.core.runtime import log_to_terminal

    columns = (TextColumn("{task.description}", markup=False), BarColumn(24), MofNCompleteColumn())
    log_to_terminal(_err, _level)
    times = (TimeElapsedColumn(), TimeRemainingColumn())
    with Bars(*columns, *times, console=_err, disable=_level > logging.INFO) as bars:
        tasks: dict[str, Any] = {}

        def show(what: str, done: int, total: int) -> None:
            kind = what.split(maxsplit=1)[0] if what.split(maxsplit=1)[0] in ("epoch", "phantom") else what
            if kind not in tasks:
                tasks[kind] = bars.add_task(what, total=total)
            bars.update(tasks[kind], description=what, completed=done, total=total)

        yield show


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    cases: Annotated[int, typer.Option(help="How many scans.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    anomalies: Annotated[bool, typer.Option("--anomalies", help="With L6, T13, a collapsed body, a screw ...")] = False,
) -> None:
    """Write synthetic spine CTs with masks in VerSe's layout, e.g. [bold]verse3d phantom data --cases 6[/]."""
    from verse3d import api

    with _bars() as progress:
        paths = api.phantom(out, cases=cases, seed=seed, anomalies=anomalies, progress=progress)
    for path in paths:
        _out.print(str(path))


@app.command()
def index(
    roots: Annotated[list[Path], typer.Argument(help="Folders with scans and masks.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="The list to write.")],
    seed: Annotated[int, typer.Option(help="Decides who is drawn where the data set has no split.")] = 0,
    validation: Annotated[float, typer.Option(help="Share of subjects for choosing the best epoch.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of undivided subjects kept for testing.")] = 0.0,
    resplit: Annotated[bool, typer.Option("--resplit", help="Ignore the split of the data set.")] = False,
    assign: Annotated[
        list[str] | None, typer.Option(metavar="CASE=SPLIT", help="Put a case's subject into a split.")
    ] = None,
) -> None:
    """Find all cases and divide them by subject, e.g. [bold]verse3d index data -o cases.jsonl[/]."""
    from verse3d import api

    found = api.index(
        *roots,
        out=output,
        seed=seed,
        validation=validation,
        test=test,
        resplit=resplit,
        assign=_assignments(assign or []),
    )
    rows = tables.table("split", "cases", "subjects", "with scan and mask", title=str(output))
    for split in (*SplitName, None):
        chosen = [case for case in found if case.split == split]
        if chosen:
            complete = sum(bool(case.image and case.mask) for case in chosen)
            subjects = len({case.subject for case in chosen})
            rows.add_row(split or "(none)", str(len(chosen)), str(subjects), str(complete))
    _out.print(rows, soft_wrap=False)


def _assignments(texts: Sequence[str]) -> dict[str, Any]:
    pairs = dict(text.rpartition("=")[::2] for text in texts)
    wrong = [f"{name}={split}" for name, split in pairs.items() if not name or split not in list(SplitName)]
    if wrong:
        raise ConfigError(f"--assign {' '.join(wrong)} is not of the form CASE=train|validation|test")
    return pairs


@app.command()
def check(data: Annotated[Path, typer.Argument(help="An index (cases.jsonl) or a folder.")]) -> None:
    """Look for everything that would spoil training or scores. Exit code 3 if a case cannot be used."""
    from verse3d import api

    with _bars() as progress:
        report = api.check(data, progress=progress)
    tables.print_check(_out, report)
    if report.worst == "error":
        raise typer.Exit(_PARTIAL)


@app.command(context_settings=_MORE_SETTINGS)
def train(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="An index (cases.jsonl) or a folder.")],
    out: Annotated[Path, typer.Option(help="The run folder.")],
    mode: Annotated[Mode, typer.Option(help="Way of segmenting.")] = Mode.volume,
    config: Annotated[str | None, typer.Option(help="YAML file, or the name of a shipped one, e.g. unet3d.")] = None,
    set_: SetOption = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on exactly where the run in --out stands.")] = False,
    overwrite: OverwriteOption = False,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after the first epoch that ends later than this.")
    ] = None,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Stop after this epoch of the schedule.")] = None,
    device: DeviceOption = Device.auto,
) -> None:
    """Train a network, e.g. [bold]verse3d train --data cases.jsonl --out runs/a[/]."""
    from verse3d import api

    with _bars() as progress:
        result = api.train(
            data=data,
            out=out,
            mode=mode.value,
            config=config,
            overrides=_overrides(set_, context),
            resume=resume,
            overwrite=overwrite,
            max_minutes=max_minutes,
            max_epochs=max_epochs,
            device=device.value,
            progress=progress,
        )
    tables.print_training(_out, result)
    if result.stopped == "interrupted":
        raise typer.Exit(_EXIT_INTERRUPTED)
    if result.failures:
        raise typer.Exit(_PARTIAL)


@app.command()
def predict(
    scans: Annotated[list[Path], typer.Argument(help="NIfTI files, folders or indexes.")],
    model: Annotated[Path, typer.Option(help="best.pt of a run folder; nothing else is needed.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    split: SplitOption = None,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a mask per scan on its own grid, e.g. [bold]verse3d predict ct.nii.gz --model best.pt --out masks[/]."""
    from verse3d import api

    with _bars() as progress:
        report = api.predict(
            *scans,
            model=model,
            out=out,
            split=split.value if split else None,
            device=device.value,
            overwrite=overwrite,
            progress=progress,
        )
    tables.print_predictions(_out, report)
    if report.failures:
        raise typer.Exit(_PARTIAL)


@app.command()
def evaluate(
    pred: Annotated[Path, typer.Option(help="Folder of masks, as predict writes it.")],
    truth: Annotated[Path, typer.Option(help="An index or a folder with the true masks.")],
    out: Annotated[Path, typer.Option(help="JSON file for the scores; a CSV is written beside it.")],
    split: SplitOption = None,
    scheme: Annotated[SchemeName | None, typer.Option(help="What to tell apart; else as predicted.")] = None,
) -> None:
    """Score masks on the grids of the scans: Dice, HD95, ASSD and volume difference."""
    from verse3d import api

    with _bars() as progress:
        result = api.evaluate(
            pred=pred,
            truth=truth,
            out=out,
            split=split.value if split else None,
            scheme=scheme.value if scheme else None,
            progress=progress,
        )
    tables.print_scores(_out, result)
    if result.failures:
        raise typer.Exit(_PARTIAL)


@app.command(context_settings=_MORE_SETTINGS)
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to fill.")] = Path("runs/demo"),
    cases: Annotated[int, typer.Option(help="How many phantoms.")] = 12,
    seed: Annotated[int, typer.Option(help="Of the phantoms.")] = 0,
    config: Annotated[str, typer.Option(help="Config of the training.")] = "demo3d",
    set_: SetOption = None,
    max_minutes: Annotated[float | None, typer.Option(help="Longest time to train.")] = None,
    device: DeviceOption = Device.auto,
    overwrite: OverwriteOption = False,
) -> None:
    """The whole journey on synthetic scans in under ten minutes: make, check, train, predict, score, look."""
    from verse3d import api

    with _bars() as progress:
        result = api.demo(
            out=out,
            cases=cases,
            seed=seed,
            config=config,
            overrides=_overrides(set_, context),
            max_minutes=max_minutes,
            device=device.value,
            overwrite=overwrite,
            progress=progress,
        )
    tables.print_check(_out, result.findings)
    tables.print_training(_out, result.training)
    tables.print_predictions(_out, result.predictions)
    tables.print_scores(_out, result.evaluation)
    _out.print(f"run folder   {result.training.folder}", highlight=False)
    _out.print(f"masks        {result.predictions.folder}", highlight=False)
    _out.print(f"label file   {result.label_file}", highlight=False)
    _out.print(f"overlay      {result.overlay}", highlight=False)
    _out.print(f"\nwatch the training:  {result.open_tensorboard}", highlight=False)
    _out.print(f"open in ITK-SNAP:    {result.open_itksnap}", highlight=False)


if __name__ == "__main__":
    run()
