"""What a model can be written as, and how each is loaded again by its own runtime. All weights stay float32.

Every model takes "image" (B, n, ...) and gives "logits" (B, channels, ...): B is free, the other sizes are fixed.
"""

import contextlib
import io
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import torch
from torch import nn

from verse3d.core.errors import ConfigError
from verse3d.inference.backends.engine import WEIGHTS, XML, convert, openvino_core, traced, write_model

FormatName = Literal["onnx", "openvino", "torchscript"]
Run = Callable[[torch.Tensor], torch.Tensor]
ONNX_FILE, TORCHSCRIPT_FILE = "model.onnx", "model.pt"
OPSET = 17


class Write(Protocol):
    """How a network is written."""

    def __call__(self, network: nn.Module, shape: Sequence[int], folder: Path, *, any_size: bool = False) -> None:
        """Write it for windows (B, *shape) into a folder."""
        ...


@dataclass(frozen=True)
class Format:
    """A way to write models.

    Attributes:
        name: as callers ask for it.
        files: that it consists of.
        packages: that it needs, beside PyTorch.
        write: (network, shape of a window, folder) -> files; with ``any_size`` windows may have any other size, too.
        load: folder -> float32 logits of float32 windows, on the CPU.
        example: Python that loads it and computes ``logits`` of a NumPy array ``image``.
    """

    name: FormatName
    files: tuple[str, ...]
    packages: tuple[str, ...]
    write: Write
    load: Callable[[Path], Run]
    example: str


def _write_onnx(network: nn.Module, shape: Sequence[int], folder: Path, *, any_size: bool = False) -> None:
    free = {0: "batch"} | ({axis: f"size{axis - 1}" for axis in range(2, 1 + len(shape))} if any_size else {})
    with _without_chatter():
        torch.onnx.export(
            traced(network, shape),
            (torch.zeros(1, *shape),),
            str(folder / ONNX_FILE),
            input_names=["image"],
            output_names=["logits"],
            dynamic_axes={"image": free, "logits": free},
            opset_version=OPSET,
            dynamo=False,  # the newer exporter needs two packages more
        )


def _load_onnx(folder: Path) -> Run:
    session = import_module("onnxruntime").InferenceSession(str(folder / ONNX_FILE), providers=["CPUExecutionProvider"])
    return lambda windows: torch.from_numpy(session.run(["logits"], {"image": windows.numpy()})[0])


def _write_openvino(network: nn.Module, shape: Sequence[int], folder: Path, *, any_size: bool = False) -> None:
    write_model(convert(network, shape, any_size=any_size), folder)


def _load_openvino(folder: Path) -> Run:
    compiled = openvino_core().compile_model(str(folder / XML), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return lambda windows: torch.from_numpy(compiled({"image": windows.numpy()})["logits"].copy())


def _write_torchscript(network: nn.Module, shape: Sequence[int], folder: Path, *, any_size: bool = False) -> None:
    # What was traced takes any size that no step of it depends on.
    with _without_chatter():
        traced(network, shape).save(str(folder / TORCHSCRIPT_FILE))


def _load_torchscript(folder: Path) -> Run:
    with _without_chatter():
        script = torch.jit.load(str(folder / TORCHSCRIPT_FILE), map_location="cpu")  # type: ignore[no-untyped-call]

    def run(windows: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            logits: torch.Tensor = script(windows)
        return logits

    return run


@contextlib.contextmanager
def _without_chatter() -> Iterator[None]:
    """PyTorch's exporters warn of what is meant, and print."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        yield


_ONNX_EXAMPLE = """\
import onnxruntime
session = onnxruntime.InferenceSession("model.onnx")
(logits,) = session.run(["logits"], {"image": image})
"""
_OPENVINO_EXAMPLE = """\
import openvino
# The hint keeps float32; without it some processors compute in bfloat16.
model = openvino.Core().compile_model("model.xml", "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
logits = model({"image": image})["logits"]
"""
_TORCHSCRIPT_EXAMPLE = """\
import torch
model = torch.jit.load("model.pt", map_location="cpu")
with torch.no_grad():
    logits = model(torch.from_numpy(image)).numpy()
"""

FORMATS: dict[str, Format] = {
    form.name: form
    for form in (
        Format("onnx", (ONNX_FILE,), ("onnx", "onnxruntime"), _write_onnx, _load_onnx, _ONNX_EXAMPLE),
        Format("openvino", (XML, WEIGHTS), ("openvino",), _write_openvino, _load_openvino, _OPENVINO_EXAMPLE),
        Format("torchscript", (TORCHSCRIPT_FILE,), (), _write_torchscript, _load_torchscript, _TORCHSCRIPT_EXAMPLE),
    )
}


def get_format(name: str) -> Format:
    """The format of that name, whose packages are all there.

    Raises:
        ConfigError: there is no such format, or a package is missing.
    """
    if name not in FORMATS:
        raise ConfigError(f"a model cannot be exported to {name!r}; expected one of {', '.join(FORMATS)}")
    missing = [package for package in FORMATS[name].packages if find_spec(package) is None]
    if missing:
        raise ConfigError(
            f"exporting to {name} needs the package{'s' if len(missing) > 1 else ''} {' and '.join(missing)}",
            hint=f"pip install 'verse3d[{name}]'",
        )
    return FORMATS[name]
