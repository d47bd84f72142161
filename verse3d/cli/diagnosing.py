"""The command that looks at the installation."""

from dataclasses import asdict
from typing import Annotated

import typer

from verse3d.cli.tables import table
from verse3d.cli.terminal import app, bars, out_console


@app.command()
def doctor(
    model: Annotated[
        str | None, typer.Option(help="Also tell about this model; starter: the model card of those of verse3d.")
    ] = None,
    no_self_test: Annotated[bool, typer.Option("--no-self-test", help="Skip the test on a synthetic scan.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Check the installation and this machine, and say what is missing; include its output in bug reports.

    Takes up to a minute with the self-test. Exit code 1 if verse3d does not work here.
    """
    import json

    from verse3d import api

    with bars() as progress:
        found = api.doctor(model=model, self_test=not no_self_test, progress=progress)
    if json_:
        print(json.dumps(asdict(found), indent=2))
    else:
        rows = table("what", "here")
        for name, value in found.facts.items():
            rows.add_row(name, value)
        out_console.print(rows)
        for advice in found.advice:
            out_console.print(f"{'error' if advice.serious else 'note'}: {advice.what}; {advice.remedy}")
        if found.about_model:
            out_console.print(found.about_model)
        out_console.print("verse3d works here" if found.is_well else "verse3d does NOT work here")
    if not found.is_well:
        raise typer.Exit(1)
