"""The commands about data: making, finding and checking it."""

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
    anomalies: Annotated[
        bool, typer.Option("--anomalies", help="Add an L6, a T13, a collapsed body, a screw ...")
    ] = False,
    masks: Annotated[
        list[Path] | None,
        typer.Option(
            "--masks", "--mask", help="Draw the real vertebrae of these VerSe masks: folders, files, an index."
        ),
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parallel processes; by default what cores and memory allow.")
    ] = None,
) -> None:
    """Write synthetic spine CTs with masks in VerSe's layout, e.g. [bold]verse3d phantom data --cases 6[/]."""
    from verse3d import api

    with bars() as progress:
        paths = api.phantom(
            out, cases=cases, seed=seed, anomalies=anomalies, masks=masks or None, workers=workers, progress=progress
        )
    for path in paths:
        out_console.print(str(path))


@app.command()
def download(
    out: Annotated[Path, typer.Option(help="Folder for the archives.")],
    years: Annotated[list[int] | None, typer.Option("--years", "--year", help="19 or 20; both by default.")] = None,
    splits: Annotated[
        list[ReleaseSplit] | None, typer.Option("--splits", "--split", help="All three by default.")
    ] = None,
    base_url: Annotated[
        str | None, typer.Option(metavar="URL", help="Download from this web folder instead of the mirrors.")
    ] = None,
    mirrors: Annotated[
        list[MirrorName] | None, typer.Option("--mirrors", "--mirror", help="Servers to try, in this order.")
    ] = None,
    verify: Annotated[bool, typer.Option("--verify", help="Recompute the hashes of existing files.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Download damaged or unexpected files again.")] = False,
    json: JsonOption = False,
) -> None:
    """Fetch VerSe (CC BY-SA 4.0, about 50 GB), e.g. [bold]verse3d download --year 19 --split training --out data[/].

    Resumes interrupted downloads. Exit code 3 if an archive is still missing.
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
    seed: Annotated[int, typer.Option(help="Seed for dividing cases that have no split.")] = 0,
    validation: Annotated[float, typer.Option(help="Share of subjects for validation.")] = 0.2,
    test: Annotated[float, typer.Option(help="Share of subjects without a split kept for testing.")] = 0.0,
    resplit: Annotated[bool, typer.Option("--resplit", help="Ignore the split of the data set.")] = False,
    assign: Annotated[
        list[str] | None, typer.Option(metavar="CASE=SPLIT", help="Put a case's subject into a split.")
    ] = None,
    folds: Annotated[int, typer.Option(min=0, help="Number of cross-validation folds for the training cases.")] = 0,
    exclude_gl: Annotated[
        bool, typer.Option("--exclude-gl", help="Leave out the gl subjects, whose licence is unclear.")
    ] = False,
    overrides: Annotated[list[Path] | None, typer.Option(help="CSV of corrections: case,action,value,note.")] = None,
    unpack: Annotated[Path | None, typer.Option(help="Unpack zips into this folder first.")] = None,
    automatic: Annotated[
        list[Path] | None, typer.Option(metavar="FOLDER", help="Masks below this folder were made by a program.")
    ] = None,
    missing: Annotated[bool, typer.Option("--missing", help="List every VerSe scan that is missing.")] = False,
    json: JsonOption = False,
) -> None:
    """Find all cases, merge copies, divide by subject, e.g. [bold]verse3d index data -o cases.jsonl --folds 5[/]."""
    from verse3d import api

    assigned: dict[str, Any] = dict(text.rpartition("=")[::2] for text in assign or [])
    wrong = [f"{name}={split}" for name, split in assigned.items() if not name or split not in get_args(SplitName)]
    if wrong:
        raise ConfigError(f"--assign {' '.join(wrong)} is not of the form CASE=train|validation|test")
    with bars() as progress:
        report = api.index(
            *roots,
            out=out,
            seed=seed,
            validation=validation,
            test=test,
            resplit=resplit,
            assign=assigned,
            folds=folds,
            exclude_gl=exclude_gl,
            overrides=overrides or [],
            unpack=unpack,
            automatic=automatic or [],
            progress=progress,
        )
    if json:
        print_json(out_console, report)
    else:
        print_index(out_console, report, out, missing=missing)
    if report.damaged or report.failures or any(archive.refused for archive in report.unpacked):
        raise typer.Exit(EXIT_PARTIAL)


@app.command()
def check(
    data: DataArgument,
    json: Annotated[Path | None, typer.Option("--json", help="Write all findings to this file; - for stdout.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with code 3 on warnings too.")] = False,
    fixes: Annotated[
        Path | None, typer.Option(help="Write masks resampled to their scan's grid, and fixes.csv, here.")
    ] = None,
    facts: Annotated[bool, typer.Option("--facts", help="Show a row for every case, even if there are many.")] = False,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parallel processes; by default what cores and memory allow.")
    ] = None,
    no_cache: Annotated[bool, typer.Option("--no-cache", help="Read everything again and cache nothing.")] = False,
) -> None:
    """Find everything that would spoil training or scores, e.g. [bold]verse3d check cases.jsonl --json out.json[/].

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
    to: Annotated[LayoutName, typer.Option(help="nnU-Net v2 raw data, or VerSe's subject-based layout.")],
    out: Annotated[Path, typer.Option(help="Folder to write to; for nnU-Net, Dataset001_VerSe is created in it.")],
    links: Annotated[bool, typer.Option("--links/--copy", help="Link to unchanged files or copy them.")] = True,
    scheme: Annotated[
        SchemeName | None, typer.Option(help="nnunet only: labels to write; vertebrae by default.")
    ] = None,
    dataset_id: Annotated[int | None, typer.Option(help="nnunet only: number of the data set; 1 by default.")] = None,
    name: Annotated[str | None, typer.Option(help="nnunet only: name of the data set; VerSe by default.")] = None,
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
