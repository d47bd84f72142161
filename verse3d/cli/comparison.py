"""The command that sets trained models against each other."""

from pathlib import Path
from typing import Annotated

import typer

from verse3d.cli import score_tables
from verse3d.cli.json_output import print_json
from verse3d.cli.terminal import (
    EXIT_PARTIAL,
    DeviceOption,
    JsonOption,
    SplitName,
    app,
    bars,
    out_console,
)


@app.command()
def compare(
    runs: Annotated[
        list[str], typer.Argument(help="Run folders or checkpoints: PATH, or NAME=PATH[,PATH ...] for several seeds.")
    ],
    data: Annotated[Path, typer.Option(help="An index (cases.jsonl) or a folder with the true masks.")],
    out: Annotated[Path, typer.Option(help="Folder for the tables, the figure, masks and pictures.")],
    split: Annotated[SplitName | None, typer.Option(help="The cases to compare on; test by default.")] = None,
    allow_different: Annotated[
        bool, typer.Option("--allow-different", help="Compare even if the runs differ in more than their approach.")
    ] = False,
    folds: Annotated[
        bool,
        typer.Option("--folds", help="Runs are folds, or their folder; each is scored on the cases it has not seen."),
    ] = False,
    pictures: Annotated[int, typer.Option(min=0, help="Cases drawn per run.")] = 2,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Compare models on the same scans: [bold]verse3d compare runs/3d runs/2d --data cases.jsonl --out compare[/]."""
    from verse3d import api

    with bars() as progress:
        result = api.compare(
            *runs,
            data=data,
            out=out,
            split=split,
            allow_different=allow_different,
            folds=folds,
            pictures=pictures,
            device=device,
            progress=progress,
        )
    if json:
        print_json(out_console, result)
    else:
        score_tables.print_comparison(out_console, result)
    if result.left_out:
        raise typer.Exit(EXIT_PARTIAL)
