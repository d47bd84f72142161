"""The commands about data: making, finding and checking it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, get_args

import typer

from verse3d.cli import tables
from verse3d.cli.index_tables import print_index
from verse3d.cli.json_output import print_json
from verse3d.cli.terminal import (
    EXIT_PARTIAL,
    DataArgument,
    JsonOption,
    LayoutName,
    MirrorName,
    OverwriteOption,
    ReleaseSplit,
    SchemeName,
    SplitName,
    app,
    bars,
    err_console,
    out_console,
)
from verse3d.core.errors import ConfigError, DataError


@app.command()
def phantom(
    out: Annotated[Path, typer.Argument(help="Folder to fill.")],
    cases: Annotated[int, typer.Option(help="How many scans.")] = 6,
    seed: Annotated[int, typer.Option(help="The same seed gives the same bytes.")] = 0,
    anomalies: Annotated[bool, typer.Option("--anomalies", help="With L6, T13, a collapsed body, a screw ...")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that draw; by default what cores and memory allow.")
    ] = None,
) -> None:
    """Write synthetic spine CTs with masks in VerSe's layout, e.g. [bold]verse3d phantom data --cases 6[/]."""
    from verse3d import api

    with bars() as progress:
        paths = api.phantom(out, cases=cases, seed=seed, anomalies=anomalies, workers=workers, progress=progress)
    for path in paths:
        out_console.print(str(path))


@app.command()
def download(
    out: Annotated[Path, typer.Option(help="Folder for the archives.")],
    years: Annotated[list[int] | None, typer.Option("--years", "--year", help="19 or 20; both unless given.")] = None,
    splits: Annotated[
        list[ReleaseSplit] | None, typer.Option("--splits", "--split", help="All three unless given.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="A web folder that holds the archives, asked instead.")
    ] = None,
    mirrors: Annotated[
        list[MirrorName] | None, typer.Option("--mirrors", "--mirror", help="Whom to ask, in this order.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Compute the hashes of what is there anew.")] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Download again what is there but not as it should be.")
    ] = False,
    json: JsonOption = False,
) -> None:
    """Fetch VerSe (CC BY-SA 4.0, about 50 GB), e.g. [bold]verse3d download --year 19 --split training --out data[/].

    Goes on where it was interrupted. Exit code 3 if an archive is still missing.
    """
    from verse3d import api
    from verse3d.downloads.mirrors import RELEASE_SPLITS, YEARS, by_hand
    from verse3d.downloads.transfer import NO_NETWORK

    with bars() as progress:
        report = api.download(
            out,
            years=years or YEARS,
            splits=[one.value for one in splits or []] or RELEASE_SPLITS,
            base_url=base_url,
            mirrors=[one.value for one in mirrors or []] or None,
            verify=verify,
            overwrite=overwrite,
            progress=progress,
        )
    if report.records and all(NO_NETWORK in " ".join(one.reasons) for one in report.records):
        raise DataError(
            "no server that holds VerSe can be reached: this machine seems to be without a network",
            hint="the same command goes on later; docs/usage.md says how to fetch the archives by hand",
        )
    if json:
        print_json(out_console, report)
    else:
        tables.print_downloads(out_console, report)
    # What has a hint of its own is there, or the disk is full: no mirror is to blame.
    if unavailable := [one.archive for one in report.records if one.status == "failed" and not one.hint]:
        err_console.print(by_hand(unavailable, report.folder), soft_wrap=True)
    if report.failed:
        raise typer.Exit(EXIT_PARTIAL)


@app.command()
def index(
    roots: Annotated[list[Path], typer.Argument(help="Folders (or zips) with scans and masks, as downloaded.")],
    out: Annotated[Path, typer.Option("--out", "-o", help="The list to write.")],
    seed: Annotated[int, typer.Option(help="Decides who is drawn where the data set has no split.")] = 0,
    validation: Annotated[float, typer.Option(help="Share of subjects for choosing the best epoch.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of undivided subjects kept for testing.")] = 0.0,
    resplit: Annotated[bool, typer.Option("--resplit", help="Ignore the split of the data set.")] = False,
    assign: Annotated[
        list[str] | None, typer.Option(metavar="CASE=SPLIT", help="Put a case's subject into a split.")
    ] = None,
    folds: Annotated[int, typer.Option(min=0, help="Number the cases to train on for cross-validation.")] = 0,
    exclude_gl: Annotated[bool, typer.Option("--exclude-gl", help="Leave out the gl subjects (licence).")] = False,
    overrides: Annotated[list[Path] | None, typer.Option(help="CSV of corrections: case,action,value,note.")] = None,
    unpack: Annotated[Path | None, typer.Option(help="Unpack zips into this folder first.")] = None,
    missing: Annotated[bool, typer.Option("--missing", help="Name every scan of VerSe that is not there.")] = False,
    json: JsonOption = False,
) -> None:
    """Find all cases, merge copies, divide by subject, e.g. [bold]verse3d index data -o cases.jsonl --folds 5[/]."""
    from verse3d import api

    with bars() as progress:
        report = api.index(
            *roots,
            out=out,
            seed=seed,
            validation=validation,
            test=test,
            resplit=resplit,
            assign=_assignments(assign or []),
            folds=folds,
            exclude_gl=exclude_gl,
            overrides=overrides or [],
            unpack=unpack,
            progress=progress,
        )
    if json:
        print_json(out_console, report)
    else:
        print_index(out_console, report, out, missing=missing)
    if report.damaged or report.failures or any(archive.refused for archive in report.unpacked):
        raise typer.Exit(EXIT_PARTIAL)


def _assignments(texts: Sequence[str]) -> dict[str, Any]:
    pairs = dict(text.rpartition("=")[::2] for text in texts)
    wrong = [f"{name}={split}" for name, split in pairs.items() if not name or split not in get_args(SplitName)]
    if wrong:
        raise ConfigError(f"--assign {' '.join(wrong)} is not of the form CASE=train|validation|test")
    return pairs


@app.command()
def check(
    data: DataArgument,
    json: Annotated[Path | None, typer.Option("--json", help="File for all findings; - for stdout.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit code 3 also for warnings.")] = False,
    fixes: Annotated[
        Path | None, typer.Option(help="Folder for masks carried over to their scan's grid, and fixes.csv.")
    ] = None,
    facts: Annotated[bool, typer.Option("--facts", help="A row for every case, however many there are.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes that read; by default what cores and memory allow.")
    ] = None,
    no_cache: Annotated[
        bool, typer.Option("--no-cache", help="Read everything again, and keep nothing beside the index.")
    ] = False,
) -> None:
    """Look for everything that would spoil training or scores, e.g. [bold]verse3d check cases.jsonl --json out.json[/].

    Exit code 3 if a case cannot be used.
    """
    from verse3d import api

    with bars() as progress:
        to_file = None if json == Path("-") else json
        report = api.check(data, workers=workers, cache=not no_cache, json=to_file, fixes=fixes, progress=progress)
    if json == Path("-"):
        print_json(out_console, report.to_dict())
    else:
        tables.print_check(out_console, report, facts=facts)
    if report.worst == "error" or (strict and report.worst == "warning"):
        raise typer.Exit(EXIT_PARTIAL)


@app.command()
def convert(
    data: DataArgument,
    to: Annotated[LayoutName, typer.Option(help="nnU-Net v2 raw data, or VerSe's subject-based tree.")],
    out: Annotated[Path, typer.Option(help="Folder; nnU-Net's Dataset001_VerSe is made in it.")],
    links: Annotated[bool, typer.Option("--links/--copy", help="Link to unchanged files, or copy.")] = True,
    scheme: Annotated[SchemeName | None, typer.Option(help="nnunet: what to tell apart; else vertebrae.")] = None,
    dataset_id: Annotated[int | None, typer.Option(help="nnunet: number of the data set; else 1.")] = None,
    name: Annotated[str | None, typer.Option(help="nnunet: name of the data set; else VerSe.")] = None,
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Write an index in another layout, e.g. [bold]verse3d convert cases.jsonl --to nnunet --out nnUNet_raw[/]."""
    from verse3d import api

    with bars() as progress:
        result = api.convert(
            data,
            to=to,
            out=out,
            links=links,
            scheme=scheme,
            dataset_id=dataset_id,
            name=name,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        print_json(out_console, result)
    else:
        tables.print_conversion(out_console, result)
    if result.left_out:
        raise typer.Exit(EXIT_PARTIAL)
