"""The commands about data: making, finding and checking it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from verse3d.cli import tables
from verse3d.cli.terminal import (
    EXIT_PARTIAL,
    MORE_SETTINGS,
    OverwriteOption,
    Plane,
    SetOption,
    SplitName,
    SplitOption,
    app,
    bars,
    merged_overrides,
    out_console,
)
from verse3d.core.errors import ConfigError


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    cases: Annotated[int, typer.Option(help="How many scans.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    anomalies: Annotated[bool, typer.Option("--anomalies", help="With L6, T13, a collapsed body, a screw ...")] = False,
) -> None:
    """Write synthetic spine CTs with masks in VerSe's layout, e.g. [bold]verse3d phantom data --cases 6[/]."""
    from verse3d import api

    with bars() as progress:
        paths = api.phantom(out, cases=cases, seed=seed, anomalies=anomalies, progress=progress)
    for path in paths:
        out_console.print(str(path))


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
    out_console.print(rows, soft_wrap=False)


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

    with bars() as progress:
        report = api.check(data, progress=progress)
    tables.print_check(out_console, report)
    if report.worst == "error":
        raise typer.Exit(EXIT_PARTIAL)


@app.command(context_settings=MORE_SETTINGS)
def slices(
    context: typer.Context,
    data: Annotated[Path, typer.Argument(help="An index (cases.jsonl) or a folder.")],
    out: Annotated[Path, typer.Option(help="Folder for the PNGs.")],
    plane: Annotated[
        Plane | None, typer.Option(help="Else that of the config; as-stored: across the third axis of each file.")
    ] = None,
    size: Annotated[int | None, typer.Option(min=1, help="Rows and columns; else those of the config (250).")] = None,
    only_labelled: Annotated[bool, typer.Option("--only-labelled", help="Only slices with vertebrae.")] = False,
    config: Annotated[str, typer.Option(help="YAML file, or the name of a shipped one.")] = "slices2d",
    set_: SetOption = None,
    split: SplitOption = None,
    workers: Annotated[int, typer.Option(min=1, help="Cases that are cut at the same time.")] = 2,
    overwrite: OverwriteOption = False,
) -> None:
    """Write slices as 8-bit PNGs with masks, e.g. [bold]verse3d slices cases.jsonl --out slices --only-labelled[/]."""
    from verse3d import api

    with bars() as progress:
        report = api.slices(
            data,
            out=out,
            plane=plane.value if plane else None,
            size=size,
            only_labelled=only_labelled,
            config=config,
            overrides=merged_overrides(set_, context),
            split=split.value if split else None,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )
    tables.print_slices(out_console, report)
    if report.failures:
        raise typer.Exit(EXIT_PARTIAL)
