"""OpenVINO itself. It is loaded when it is first used, contacts no server, and keeps to PyTorch's threads."""

import copy
import math
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from functools import cache
from importlib import import_module
from pathlib import Path
from threading import RLock
from typing import Any

import numpy as np
import torch
from torch import nn

from verse3d.core.runtime import Precision
from verse3d.model.on_cpu import AtHalfResolution

XML, WEIGHTS = "model.xml", "model.bin"
_TELEMETRY, _CONVERTER = "openvino_telemetry", "openvino.tools.ovc"
_CONVERTING = RLock()
_HINTS = {torch.float32: "f32", torch.bfloat16: "bf16"}


def load_openvino() -> Any:  # noqa: ANN401 - a module without types
    """The package, which would report its own import to its makers if their second package could be found."""
    with _hidden(_TELEMETRY):
        return import_module("openvino")


@contextmanager
def _unreported() -> Iterator[None]:
    """Nothing that is converted meanwhile is reported, even if another part of the program loaded OpenVINO before us.

    Where OpenVINO found its second package when it was loaded, the modules of its converter hold it as ``tm``. They are
    lent what OpenVINO itself puts in the place of a package that is not installed, and get their own one back.
    """
    # Locked, else the first of two threads would give it back while the other one still converts.
    with _CONVERTING, _hidden(_TELEMETRY):
        silent = import_module(f"{_CONVERTER}.telemetry_stub")
        holders: list[Any] = [module for name, module in list(sys.modules.items()) if name.startswith(_CONVERTER)]
        own = [(module, module.tm) for module in holders if hasattr(module, "tm")]
        try:
            for module, _ in own:
                module.tm = silent
            yield
        finally:
            for module, reporter in own:
                module.tm = reporter


@contextmanager
def _hidden(package: str) -> Iterator[None]:
    """As if the package were not installed."""
    # What was loaded before stays loaded afterwards.
    loaded = sys.modules.get(package)
    sys.modules[package] = None  # type: ignore[assignment] # Python's way to say that it cannot be imported
    try:
        yield
    finally:
        del sys.modules[package]
        if loaded is not None:
            sys.modules[package] = loaded


@cache
def openvino_core() -> Any:  # noqa: ANN401 - an openvino.Core
    """The one core of this process, which is never given back.

    OpenVINO's CPU plugin gives the thread that loads it a stack for signals of its own, and unmaps that with the last
    core. If this happens in another thread, the next signal that Python listens to (Ctrl-C, a worker process that
    ends) finds no stack, and the process dies of a segmentation fault (OpenVINO 2026.4).
    """
    return load_openvino().Core()


def traced(network: nn.Module, shape: Sequence[int]) -> Any:  # noqa: ANN401 - TorchScript has no types
    """The network as a TorchScript for windows (B, *shape), B free. It is a copy: the network stays as it is.

    Args:
        network: on the CPU.
        shape: of one window, (n, ...).
    """
    plain = copy.deepcopy(network).eval()
    with torch.inference_mode(False), torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # sizes become constants, which is meant
        return torch.jit.trace(plain, torch.zeros(1, *shape), check_trace=False)  # type: ignore[no-untyped-call]


def convert(network: nn.Module, shape: Sequence[int], *, quick: bool = False, any_size: bool = False) -> Any:  # noqa: ANN401 - an openvino.Model
    """The network as an OpenVINO model of "image" (B, *shape) -> "logits", B free, with float32 weights.

    Args:
        network: on the CPU.
        shape: of one window, (n, ...).
        quick: with layers of few channels at half the resolution, which takes two thirds of the time.
        any_size: all of the shape but its channels is free, too, where the network lets it be.
    """
    with AtHalfResolution() if quick else nullcontext():
        openvino, script = load_openvino(), traced(network, shape)
    with _unreported():
        model = openvino.convert_model(script)
    # -1: any number of windows; the other sizes are fixed if they can be, which makes OpenVINO quicker.
    model.reshape([-1, shape[0], *(-1 if any_size else size for size in shape[1:])])
    model.inputs[0].get_tensor().set_names({"image"})
    model.outputs[0].get_tensor().set_names({"logits"})
    return model


def write_model(model: Any, folder: Path) -> None:  # noqa: ANN401 - an openvino.Model
    """``model.xml`` and ``model.bin`` with float32 weights."""
    load_openvino().save_model(model, str(folder / XML), compress_to_fp16=False)


def read_model(xml: bytes, weights: bytes) -> Any:  # noqa: ANN401 - an openvino.Model
    """Inverse of ``write_model``, from memory, so that what was checked is what is read."""
    return openvino_core().read_model(model=xml, weights=weights)


def versions() -> dict[str, str]:
    """What a converted model, and how near it comes to PyTorch, depends on."""
    openvino = load_openvino()
    return {
        "openvino": str(openvino.get_version()),
        "torch": str(torch.__version__),
        "cpu": str(openvino_core().get_property("CPU", "FULL_DEVICE_NAME")),
    }


class Engine:
    """A model compiled for windows of one shape, computed one by one. Not for several threads at once.

    Batches gain nothing on a CPU (measured: docs/performance.md), and windows of a fixed shape are the quickest. Logits
    come in the order and the number format that OpenVINO computes them in: to change both took it a third of the time.

    Args:
        model: an openvino.Model with a free batch; fixed to one window here.
        shape: of a window, (n, ...).
        precision: float32 or bfloat16.
    """

    def __init__(self, model: Any, shape: Sequence[int], precision: Precision) -> None:  # noqa: ANN401
        self._openvino = load_openvino()
        model.reshape([1, *shape])
        settings = {
            "INFERENCE_PRECISION_HINT": _HINTS[precision.dtype],
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
            "ENABLE_CPU_PINNING": False,  # several programs on one machine would all be tied to the same cores
        }
        self._dtype, self._type = precision.dtype, getattr(self._openvino.Type, _HINTS[precision.dtype])
        # The model with its output as it is computed
        layout, along = self._openvino.Layout, "DHW"[-(len(shape) - 1) :]
        steps = self._openvino.preprocess.PrePostProcessor(model)
        steps.output().model().set_layout(layout(f"NC{along}"))
        steps.output().tensor().set_layout(layout(f"N{along}C")).set_element_type(self._type)
        compiled = openvino_core().compile_model(steps.build(), "CPU", settings)
        self._output: list[int] = list(compiled.outputs[0].shape)[1:]
        self._request = compiled.create_infer_request()

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits (B, channels, ...) of float32 windows (B, n, ...). No voxel is copied.

        They are the caller's own, in the precision of the engine; in memory the channels of a voxel lie together.
        """
        # OpenVINO reads and writes PyTorch's own memory, window by window:
        #
        #     windows (B, n, ...)  -> engine ->  logits (B, ..., channels), viewed as (B, channels, ...)
        inputs = windows.contiguous().numpy()
        logits = _room_for((len(windows), *self._output), self._dtype)
        # NumPy knows no bfloat16; the same two bytes go under another name.
        outputs = logits.view(torch.int16 if self._dtype is torch.bfloat16 else self._dtype).numpy()
        for number in range(len(windows)):
            here = slice(number, number + 1)
            self._request.set_input_tensor(self._openvino.Tensor(inputs[here], shared_memory=True))
            self._request.set_output_tensor(self._openvino.Tensor(outputs[here], [1, *self._output], self._type))
            self._request.infer()
        return logits.movedim(-1, 1)


_ALIGNED = 64
"""Bytes: a line of the processor's cache."""


def _room_for(shape: Sequence[int], dtype: torch.dtype) -> torch.Tensor:
    """An empty tensor that begins where a line of the cache does, in memory that is found again once it is freed.

    PyTorch asks the C library (glibc) for aligned memory. For that it looks for more room than it takes in the end, so
    that the room of the last logits is too small for the next ones if anything lies behind it: after 16 windows of 27
    channels 766 MB were free and of no use. Room that is simply a little larger is taken again::

        freed     |===== size + 64 =====|x|      wanted   |===== size + 64 =====|     fits, and the line begins inside
    """
    size = math.prod(shape) * dtype.itemsize
    room = torch.from_numpy(np.empty(size + _ALIGNED, np.uint8))
    first = -room.data_ptr() % _ALIGNED
    return room[first : first + size].view(dtype).view(*shape)
