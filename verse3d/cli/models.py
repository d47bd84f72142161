"""The commands about models: training, predicting, scoring, and the demo of everything."""

import shlex
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from verse3d.cli import score_tables, tables
from verse3d.cli.json_output import print_json
from verse3d.cli.terminal import (
    EXIT_INTERRUPTED,
    EXIT_PARTIAL,
    EXIT_TERMINATED,
    MORE_SETTINGS,
    BackendName,
    DeviceOption,
    JsonOption,
    ModeName,
    OverwriteOption,
    Partial,
    SchemeName,
    SetOption,
    SplitOption,
    app,
    bars,
    exits_when_terminated,
    is_first_process,
    is_verbose,
    merged_overrides,
    out_console,
)
from verse3d.core.errors import ConfigError

if TYPE_CHECKING:
    from verse3d.api.journey import DemoResult


@app.command(context_settings=MORE_SETTINGS)
def train(
    context: typer.Context,
    data: Annotated[Path, typer.Option(help="An index (cases.jsonl) or a folder.")],
    out: Annotated[Path, typer.Option(help="The run folder.")],
    mode: Annotated[
        ModeName | None, typer.Option(help="3d, or slice by slice; by default that of the config, or 3d.")
    ] = None,
    config: Annotated[str | None, typer.Option(help="YAML file, or the name of a shipped one, e.g. unet3d.")] = None,
    from_model: Annotated[
        Path | None,
        typer.Option("--from", help="Start from the weights of this model; starter: those that come with verse3d."),
    ] = None,
    set_: SetOption = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Continue the run in --out exactly where it stopped.")
    ] = False,
    overwrite: OverwriteOption = False,
    max_minutes: Annotated[
        float | None, typer.Option(help="Stop after this many minutes; the learning rate falls to 0 by then.")
    ] = None,
    max_epochs: Annotated[int | None, typer.Option(min=1, help="Stop after this epoch of the schedule.")] = None,
    fold: Annotated[int | None, typer.Option(help="Validate on this fold of the index, train on the others.")] = None,
    folds: Annotated[bool, typer.Option("--folds", help="Train all folds, into --out/fold0, fold1 ...")] = False,
    print_: Annotated[
        bool, typer.Option("--print", help="With --folds: only print the command for each fold.")
    ] = False,
    store: Annotated[Path | None, typer.Option(help="Folder for prepared cases; beside --data by default.")] = None,
    device: DeviceOption = "auto",
    json: JsonOption = False,
) -> None:
    """Train a network, e.g. [bold]verse3d train --data cases.jsonl --out runs/a[/]."""
    from verse3d import api
    from verse3d.api.folds import FoldsResult
    from verse3d.training.runfolder import fold_folder

    options: dict[str, Any] = {
        "mode": mode,
        "config": config,
        "from_model": from_model,
        "overrides": merged_overrides(set_, context),
        "resume": resume,
        "overwrite": overwrite,
        "max_minutes": max_minutes,
        "max_epochs": max_epochs,
        "store": store,
        "device": device,
    }
    _refuse_fold_options(fold, folds=folds, print_=print_)
    if print_:
        for each in api.folds_of(data):
            words = ["--data", str(data), "--out", str(fold_folder(out, each)), "--fold", str(each)]
            out_console.print(shlex.join(["verse3d", "train", *words, *_as_options(options)]), soft_wrap=True)
        return
    with exits_when_terminated(), bars() as progress:
        options |= {"data": data, "out": out, "progress": progress}
        result = api.train_folds(**options) if folds else api.train(**options, fold=fold)
    runs = list(result.folds.items()) if isinstance(result, FoldsResult) else [(None, result)]
    # Of several processes that share a run one speaks for all.
    if is_first_process() and json:
        print_json(out_console, result)
    elif is_first_process():
        for number, run in runs:
            tables.print_training(out_console, run, fold=number)
    # 130 and 75 say that a run is not finished; 3 that it is, without some of its cases.
    stops = {"interrupted": EXIT_INTERRUPTED, "terminated": EXIT_TERMINATED}
    if code := max(stops.get(run.stopped, EXIT_PARTIAL if run.failures else 0) for _, run in runs):
        raise typer.Exit(code)


def _as_options(options: Mapping[str, Any]) -> list[str]:
    """What was given, as it is written on a command line."""
    words: list[str] = []
    for name, value in options.items():
        # Python reserves ``from``, so the function calls it otherwise.
        flag = "--from" if name == "from_model" else f"--{name.replace('_', '-')}"
        if name == "overrides":
            words += [word for override in value for word in ("--set", override)]
        elif value is True:
            words.append(flag)
        elif value not in (None, False) and (name, value) != ("device", "auto"):
            words += [flag, str(value)]
    return words


def _refuse_fold_options(fold: int | None, *, folds: bool, print_: bool) -> None:
    if folds and fold is not None:
        raise ConfigError("--folds trains all folds, --fold one of them: give one of the two")
    if print_ and not folds:
        raise ConfigError("--print goes with --folds: it names the command of each fold")


@app.command()
def predict(
    scans: Annotated[list[Path], typer.Argument(help="NIfTI files, folders or indexes.")],
    out: Annotated[Path, typer.Option(help="Folder for the masks.")],
    model: Annotated[
        list[Path] | None,
        typer.Option(help="A run folder or its best.pt; several are averaged; by default the starter model."),
    ] = None,
    split: SplitOption = None,
    device: DeviceOption = "auto",
    backend: Annotated[BackendName, typer.Option(help="What runs the network.")] = "auto",
    max_ram_gb: Annotated[float | None, typer.Option(help="Memory limit; by default what is free.")] = None,
    tta: Annotated[
        bool, typer.Option("--tta", help="Also predict the mirror image and average; takes twice as long.")
    ] = False,
    no_skip_air: Annotated[bool, typer.Option("--no-skip-air", help="Also search windows of air.")] = False,
    partial: Annotated[
        Partial, typer.Option(help="What to do with vertebrae cut off by the scan (models that name by sequence).")
    ] = "drop",
    parts: Annotated[int, typer.Option(min=1, help="Divide the scans among this many jobs.")] = 1,
    part: Annotated[int, typer.Option(min=0, help="Which of these jobs this is, from 0.")] = 0,
    one_by_one: Annotated[
        bool, typer.Option("--one-by-one", help="Do not read or write other scans while the network runs.")
    ] = False,
    overwrite: OverwriteOption = False,
    no_preview: Annotated[bool, typer.Option("--no-preview", help="Do not draw a picture of each new mask.")] = False,
    json: JsonOption = False,
) -> None:
    """Write a mask per scan on its own grid, e.g. [bold]verse3d predict ct.nii.gz --out masks[/]."""
    from verse3d import api

    with bars() as progress:
        report = api.predict(
            *scans,
            model=model,
            out=out,
            split=split,
            device=device,
            backend=backend,
            tta=tta,
            skip_air=not no_skip_air,
            partial=partial,
            max_ram_gb=max_ram_gb,
            parts=parts,
            part=part,
            one_by_one=one_by_one,
            overwrite=overwrite,
            preview=not no_preview,
            progress=progress,
        )
    if json:
        print_json(out_console, report.records)
    else:
        tables.print_predictions(out_console, report, details=is_verbose())
    if report.failures:
        raise typer.Exit(EXIT_PARTIAL)


@app.command()
def evaluate(
    pred: Annotated[Path, typer.Option(help="Folder of masks, as predict writes it.")],
    truth: Annotated[Path, typer.Option(help="An index or a folder with the true masks.")],
    out: Annotated[Path, typer.Option(help="JSON file for the scores; a CSV is written beside it.")],
    split: SplitOption = None,
    scheme: Annotated[
        SchemeName | None, typer.Option(help="binary, or single vertebrae; by default as predicted.")
    ] = None,
    label_map: Annotated[
        str | None,
        typer.Option(help="JSON of id: level, nnU-Net's dataset.json, or totalsegmentator; else VerSe's ids."),
    ] = None,
    pictures: Annotated[
        Path | None, typer.Option(help="Folder for a picture per case and the loss curve of the model.")
    ] = None,
    json: JsonOption = False,
) -> None:
    """Score masks on the grids of the scans: Dice (by volume and by slice), HD95, ASSD and volume difference."""
    from verse3d import api

    with bars() as progress:
        result = api.evaluate(
            pred=pred,
            truth=truth,
            out=out,
            split=split,
            scheme=scheme,
            label_map=label_map,
            pictures=pictures,
            progress=progress,
        )
    if json:
        print_json(out_console, result)
    else:
        score_tables.print_scores(out_console, result)
    if result.failures:
        raise typer.Exit(EXIT_PARTIAL)


@app.command(context_settings=MORE_SETTINGS)
def demo(
    context: typer.Context,
    out: Annotated[Path, typer.Option(help="Folder to fill.")] = Path("runs/demo"),
    cases: Annotated[int, typer.Option(help="How many phantoms.")] = 12,
    seed: Annotated[int, typer.Option(help="Seed of the phantoms.")] = 0,
    config: Annotated[str, typer.Option(help="Config of the training.")] = "demo3d",
    against: Annotated[str, typer.Option(help="Config of a second model to compare with, or none.")] = "demo2d",
    set_: SetOption = None,
    max_minutes: Annotated[float | None, typer.Option(help="Longest time for each training.")] = None,
    device: DeviceOption = "auto",
    overwrite: OverwriteOption = False,
    json: JsonOption = False,
) -> None:
    """Run everything on synthetic scans, in 3D and 2D: generate, check, train, predict, score, compare."""
    from verse3d import api

    with bars() as progress:
        result = api.demo(
            out=out,
            cases=cases,
            seed=seed,
            config=config,
            against=None if against == "none" else against,
            overrides=merged_overrides(set_, context),
            max_minutes=max_minutes,
            device=device,
            overwrite=overwrite,
            progress=progress,
        )
    if json:
        print_json(out_console, result)
    else:
        _print_demo(result)


def _print_demo(result: "DemoResult") -> None:
    """What every step found, then where it lies."""
    tables.print_check(out_console, result.findings)
    tables.print_training(out_console, result.training)
    tables.print_predictions(out_console, result.predictions)
    score_tables.print_scores(out_console, result.evaluation)
    if result.comparison:
        score_tables.print_comparison(out_console, result.comparison)
    out_console.print(f"run folder   {result.training.folder}", highlight=False)
    out_console.print(f"masks        {result.predictions.folder}", highlight=False)
    out_console.print(f"label file   {result.label_file}", highlight=False)
    out_console.print(f"overlay      {result.overlay}", highlight=False)
    out_console.print(f"all of it    {result.page.absolute().as_uri()}", highlight=False)
    out_console.print(f"\nwatch the training:  {result.open_tensorboard}", highlight=False)
    out_console.print(f"open in ITK-SNAP:    {result.open_itksnap}", highlight=False)
