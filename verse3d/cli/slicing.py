"""The command that writes slices as pictures."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from verse3d.cli.json_output import print_json
from verse3d.cli.tables import table
from verse3d.cli.terminal import (
    EXIT_PARTIAL,
    MORE_SETTINGS,
    DataArgument,
    JsonOption,
    OverwriteOption,
    Plane,
    SetOption,
    SplitOption,
    app,
    bars,
    in_flags,
    merged_overrides,
    out_console,
)
from verse3d.core.escapes import one_line
from verse3d.core.wording import how_many

if TYPE_CHECKING:
    from verse3d.data.samples.slice_writer import SliceReport


@app.command(context_settings=MORE_SETTINGS)
def slices(
    context: typer.Context,
    data: DataArgument,
    out: Annotated[Path, typer.Option(help="Folder for the PNGs.")],
    plane: Annotated[
        Plane | None, typer.Option(help="By default that of the config; as-stored: across the third axis of each file.")
    ] = None,
    size: Annotated[
        int | None, typer.Option(min=1, help="Rows and columns; by default those of the config (250).")
    ] = None,
    only_labelled: Annotated[bool, typer.Option("--only-labelled", help="Only slices with vertebrae.")] = False,
    config: Annotated[str, typer.Option(help="YAML file, or the name of a shipped one.")] = "slices2d",
    set_: SetOption = None,
    split: SplitOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Parallel processes.")] = 2,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write slices as 8-bit PNGs with masks, e.g. [bold]verse3d slices cases.jsonl --out slices --only-labelled[/]."""
    from verse3d import api

    with bars() as progress:
        report = api.slices(
            data,
            out=out,
            plane=plane,
            size=size,
            only_labelled=only_labelled,
            config=config,
            overrides=merged_overrides(set_, context),
            split=split,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        print_json(out_console, report)
    else:
        _print(out_console, report)
    if report.failures:
        raise typer.Exit(EXIT_PARTIAL)


def _print(out: Console, report: "SliceReport") -> None:
    """One row per case, then the errors and a count."""
    rows = table("case", "split", "status", "slices")
    for record in report.records:
        rows.add_row(record.case, record.split, record.status, str(record.slices) if record.slices else "")
    out.print(rows, soft_wrap=False)
    for record in report.failures:
        out.print(f"{one_line(record.case)} has no slices: {in_flags(record.error)}")
    slices = how_many(sum(record.slices for record in report.records), "slice")
    out.print(f"{slices} in {report.folder}")
