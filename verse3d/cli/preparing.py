"""The command that prepares cases for training."""

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
    SetOption,
    app,
    bars,
    err_console,
    in_flags,
    merged_overrides,
    out_console,
)
from verse3d.core.errors import ConfigError
from verse3d.core.wording import how_many

if TYPE_CHECKING:
    from verse3d.data.samples.listing import StoredState
    from verse3d.data.samples.preparation import Preparation


@app.command(context_settings=MORE_SETTINGS)
def prepare(
    context: typer.Context,
    data: DataArgument,
    config: Annotated[
        str, typer.Option(help="Config of the training: YAML file, or the name of a shipped one.")
    ] = "unet3d",
    set_: SetOption = None,
    store: Annotated[
        Path | None, typer.Option(help="Folder for the prepared cases; beside the index by default.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Parallel processes; by default what cores and memory allow.")
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="Only list what is prepared.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove entries that the index no longer needs.")] = False,
    json: JsonOption = False,
) -> None:
    """Resample the cases to the network grid once, for all trainings, e.g. [bold]verse3d prepare cases.jsonl[/].

    train does it by itself while it runs. Exit code 3 if a case cannot be prepared.
    """
    from verse3d import api

    if list_ and prune:
        raise ConfigError("--list and --prune cannot be combined")
    if list_ or prune:
        states = api.prune(data, store=store) if prune else api.prepared(data, store=store)
        if json:
            print_json(out_console, states)
        else:
            print_stored(out_console, states, removed=prune)
        return
    overrides = merged_overrides(set_, context)
    with bars() as progress:
        result = api.prepare(data, config=config, overrides=overrides, store=store, workers=workers, progress=progress)
    if json:
        print_json(out_console, result)
    else:
        print_preparation(out_console, result)
    if result.failures:
        raise typer.Exit(EXIT_PARTIAL)


def print_preparation(out: Console, result: "Preparation") -> None:
    """What was done, on stdout; what cannot be done, on stderr."""
    for case, reason in result.failures:
        err_console.print(f"{case}: {in_flags(reason)}", style="red", soft_wrap=True)
    # Repaired ones are among those that were made.
    repaired = f" ({len(result.repaired)} of them were damaged)" if result.repaired else ""
    out.print(
        f"{len(result.made)} prepared{repaired}, {len(result.kept)} were there, {len(result.failures)} failed; "
        f"{result.disk_bytes / 1e6:.1f} MB"
    )


def print_stored(out: Console, states: "list[StoredState]", *, removed: bool) -> None:
    """A row per entry, and what they take together."""
    rows = table("case", "spacing mm", "window HU", "MB", "state")
    for state in states:
        spacing, window = (
            " x ".join(f"{number:g}" for number in numbers) for numbers in (state.spacing_mm, state.window_hu)
        )
        rows.add_row(state.case or state.name, spacing, window, f"{state.disk_bytes / 1e6:.1f}", state.state)
    if states:
        out.print(rows)
    what = f"{how_many(len(states), 'entry', 'entries')} {'removed' if removed else 'in the store'}"
    out.print(f"{what}, {sum(state.disk_bytes for state in states) / 1e6:.1f} MB")
