"""The command about names of vertebrae."""

from pathlib import Path
from typing import Annotated

import typer

from verse3d.cli.json_output import print_json
from verse3d.cli.terminal import JsonOption, app, out_console


@app.command(context_settings={"ignore_unknown_options": True})
def relabel(
    out: Annotated[Path, typer.Argument(help="Folder written by predict.")],
    case: Annotated[str, typer.Option(help="The case, as named in predictions.json.")],
    shift: Annotated[int, typer.Option(help="Places towards the feet; negative: towards the head.")] = 0,
    undo: Annotated[bool, typer.Option("--undo", help="Undo the latest correction.")] = False,
    json: JsonOption = False,
) -> None:
    """Shift all level names of a predicted mask, e.g. [bold]verse3d relabel masks --case sub-1_ct --shift 1[/]."""
    from verse3d import api

    done = api.relabel(out, case=case, shift=shift, undo=undo)
    if json:
        print_json(out_console, done)
        return
    out_console.print(f"mask         {done.mask}")
    out_console.print(f"before       {', '.join(done.before) or 'no names'}")
    out_console.print(f"after        {', '.join(done.after) or 'no names'}")
    out_console.print(f"corrections  {done.corrections}")
