"""The command that writes a model for other programs."""

from pathlib import Path
from typing import Annotated, Literal

import typer

from verse3d.cli.terminal import OverwriteOption, app, bars, out_console

FormatName = Literal["onnx", "openvino", "torchscript"]


@app.command()
def export(
    to: Annotated[FormatName, typer.Option(help="Format to write.")],
    out: Annotated[Path, typer.Option(help="The folder to create.")],
    model: Annotated[
        Path | None, typer.Option(help="A run folder or its best.pt; by default the starter model.")
    ] = None,
    overwrite: OverwriteOption = False,
) -> None:
    """Write a model for other programs, e.g. [bold]verse3d export --model best.pt --to onnx --out model-onnx[/]."""
    from verse3d import api

    with bars():
        result = api.export(model=model, to=to, out=out, overwrite=overwrite)
    out_console.print(f"{', '.join(result.files)} in {result.folder}")
    out_console.print(
        f"a window is {' x '.join(map(str, result.shape))}; compared with PyTorch: {result.parity.figures}"
    )
