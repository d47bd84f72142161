"""The commands that draw: one case, or a whole data set."""

from pathlib import Path
from typing import Annotated

import typer

from verse3d.cli import tables
from verse3d.cli.json_output import print_json
from verse3d.cli.terminal import EXIT_PARTIAL, DataArgument, JsonOption, OverwriteOption, app, bars, out_console
from verse3d.core.errors import ConfigError


@app.command()
def look(
    scan: Annotated[
        str,
        typer.Argument(metavar="SCAN", help="A NIfTI file, a folder with one case, or the name of a case in --data."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The PNG to write.")],
    mask: Annotated[Path | None, typer.Option(help="A mask on the grid of the scan; a case has its own.")] = None,
    data: Annotated[Path | None, typer.Option(help="An index (cases.jsonl) or a folder that holds the case.")] = None,
    at: Annotated[str | None, typer.Option(metavar="X,Y,Z", help="Cut through this point, world mm (RAS+).")] = None,
    level: Annotated[str | None, typer.Option(help="Cut through this vertebra, e.g. L1.")] = None,
    window: Annotated[
        str | None, typer.Option(metavar="LOW,HIGH", help="Grey values shown as black and white, e.g. -200,1000.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Draw three planes with the mask on them, e.g. [bold]verse3d look ct.nii.gz --mask seg.nii.gz -o look.png[/]."""
    from verse3d import api

    result = api.look(
        scan,
        out=out,
        mask=mask,
        data=data,
        at=None if at is None else _point(at),
        level=level,
        window=None if window is None else _window(window),
        overwrite=overwrite,
    )
    out_console.print(str(result.picture))
    for note in result.notes:
        out_console.print(f"note: {note}")


@app.command()
def stats(
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for stats.csv and the figures.")],
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parallel processes; by default what cores and memory allow.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Read everything again and cache nothing.")] = False,
    json: JsonOption = False,
) -> None:
    """Measure a data set: a table and figures, e.g. [bold]verse3d stats cases.jsonl --out stats[/].

    Exit code 3 if a case could not be used; it is listed.
    """
    from verse3d import api

    with bars() as progress:
        result = api.stats(data, out=out, workers=workers, cache=not no_cache, progress=progress)
    if json:
        print_json(out_console, result)
    else:
        tables.print_stats(out_console, result)
    if result.failures:
        raise typer.Exit(EXIT_PARTIAL)


def _point(text: str) -> tuple[float, float, float]:
    x, y, z = _numbers("--at", text, "12,-40,310")
    return x, y, z


def _window(text: str) -> tuple[float, float]:
    low, high = _numbers("--window", text, "-200,1000")
    return low, high


def _numbers(option: str, text: str, example: str) -> list[float]:
    """As many numbers separated by commas as there are in the example."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    wanted = example.count(",") + 1
    if len(found) != wanted:
        raise ConfigError(f"{option} {text!r} is not {wanted} numbers with commas between them, e.g. {example}")
    return found
