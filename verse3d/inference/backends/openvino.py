"""The network in OpenVINO, checked against PyTorch on the first windows that it is shown."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import torch
from torch import nn

from verse3d.core.logs import logger
from verse3d.core.runtime import Precision
from verse3d.core.wording import first_line
from verse3d.inference.backends.cache import ModelCache, content_sha256
from verse3d.inference.backends.engine import Engine, convert, read_model, versions, write_model
from verse3d.inference.backends.parity import Parity, measure_parity, shows_something
from verse3d.inference.backends.pytorch import TorchBackend, torch_backend
from verse3d.model.checkpoint import Checkpoint

_CPU = torch.device("cpu")
_CHECKED_WINDOWS = 1
_log = logger(__name__)


@dataclass(eq=False)
class _Compiled:
    """A compiled model, where it is kept, and how near it comes to PyTorch: None until that was measured."""

    engine: Engine
    cache: ModelCache
    parity: Parity | None


@dataclass(eq=False)
class OpenVinoBackend:
    """Runs models in OpenVINO. One is converted (or taken from the cache) when the first windows of a shape arrive.

    It is compared with PyTorch on the first windows that show something; until then PyTorch computes. If it differs too
    much, or if OpenVINO fails in any way, a warning is logged and PyTorch computes from then on. Not for several
    threads at once. The network itself is built when it is first needed: a model that is converted and has proven
    itself does without, and so without the seconds that MONAI takes to import.

    Attributes:
        build: gives the network with its weights.
        path: of the checkpoint.
        checkpoint_sha256: of its content.
        number_format: of the forward pass.
        refusal: why PyTorch computes instead, or nothing.
    """

    build: Callable[[], nn.Module]
    path: Path
    checkpoint_sha256: str
    number_format: Precision
    refusal: str = ""
    _models: dict[tuple[int, ...], _Compiled] = field(default_factory=dict)

    @classmethod
    def of(cls, build: Callable[[], nn.Module], checkpoint: Checkpoint, path: Path, precision: Precision) -> Self:
        """The network of a checkpoint that was read from ``path``."""
        return cls(build, path, content_sha256(checkpoint), precision)

    @cached_property
    def network(self) -> nn.Module:
        """On the CPU, in evaluation mode. Raises what ``build`` raises when it is first asked for."""
        return self.build().to(_CPU).eval()

    def make_ready(self, shape: Sequence[int]) -> None:
        """Compile a model that has proven itself; else build the network, which refuses weights that do not fit.

        A model for windows of this shape that was converted, and was near enough to PyTorch, had weights that fit.
        """
        if tuple(shape) in self._models:
            return
        if not self._is_proven(shape):
            _ = self.network
            return
        try:
            self._models[tuple(shape)] = self._compiled(tuple(shape))
        except Exception:  # met again, and told, with the first windows
            _log.debug("OpenVINO cannot be made ready", exc_info=True)

    def _is_proven(self, shape: Sequence[int]) -> bool:
        if not ModelCache.folder_for(self.path).is_dir():
            return False  # so that OpenVINO is not loaded for nothing
        try:
            cache = ModelCache.of(self.path, self.checkpoint_sha256, shape, versions())
        except Exception:  # whatever is wrong with OpenVINO is met and told when it is used
            _log.debug("OpenVINO cannot be loaded", exc_info=True)
            return False
        parity = cache.parity(self.precision)
        return parity is not None and parity.passed

    @property
    def name(self) -> str:
        """Either "openvino", or "torch" once OpenVINO was refused."""
        return "torch" if self.refusal else "openvino"

    @property
    def precision(self) -> str:
        """Number format that OpenVINO and, where it was refused, PyTorch compute in, e.g. "float32"."""
        return str(self.number_format.dtype).removeprefix("torch.")

    @property
    def device(self) -> torch.device:
        """The CPU: OpenVINO runs nowhere else here."""
        return _CPU

    @property
    def has_to_prove_itself(self) -> bool:
        """Whether some converted model was not compared with PyTorch yet, and OpenVINO is not refused."""
        unknown = not self._models or any(model.parity is None for model in self._models.values())
        return not self.refusal and unknown

    @property
    def takes_threads(self) -> bool:
        """No: it divides a window among the cores by itself, and its memory for results is one."""
        return False

    def to(self, device: torch.device) -> "OpenVinoBackend | TorchBackend":
        """Itself on a CPU; on anything else PyTorch."""
        return self if device.type == "cpu" else torch_backend(self.network, device, self.number_format)

    def record(self) -> dict[str, Any]:
        """Name, precision, device, how near each model is to PyTorch (by its input's shape), and why it was refused."""
        known: dict[str, Any] = {"name": self.name, "precision": self.precision, "device": str(self.device)}
        known["parity"] = {}
        for shape, model in self._models.items():
            if model.parity:
                known["parity"]["x".join(map(str, shape))] = model.parity.to_dict()
        if self.refusal:
            known["refusal"] = self.refusal
        return known

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits (B, channels, ...), float32, of float32 windows (B, n, ...): OpenVINO's, or PyTorch's in any doubt."""
        if not self.refusal:
            try:
                logits = self._compute(windows)
            except Exception as error:  # whatever OpenVINO meets, PyTorch does not need it
                _log.debug("OpenVINO failed", exc_info=True)
                self._refuse(f"OpenVINO failed: {type(error).__name__}: {first_line(error)}")
            else:
                if logits is not None:
                    return logits
        return self._torch(windows)

    def _compute(self, windows: torch.Tensor) -> torch.Tensor | None:
        """The logits, or None where PyTorch has to compute: nothing is proven yet, or that it is too far away."""
        windows = windows.to(_CPU, torch.float32)
        shape = tuple(windows.shape[1:])
        if shape not in self._models:
            self._models[shape] = self._compiled(shape)
        model = self._models[shape]
        if model.parity is None:
            # A flat window proves nothing, so the proof waits for one that shows something.
            telling = windows[shows_something(windows)][:_CHECKED_WINDOWS]
            if not len(telling):
                return None
            model.parity = measure_parity(self.network, telling, model.engine(telling), self.number_format)
            model.cache.remember(model.parity)
            _log.debug("OpenVINO against PyTorch: %s", model.parity.figures)
        # Once too far, always too far: the same model would give the same difference again.
        if not model.parity.passed:
            self._refuse(f"OpenVINO is too far from PyTorch: {model.parity.figures}")
            return None
        return model.engine(windows)

    def _compiled(self, shape: tuple[int, ...]) -> _Compiled:
        cache = ModelCache.of(self.path, self.checkpoint_sha256, shape, versions())
        engine = Engine(self._model(cache), shape, self.number_format)
        return _Compiled(engine, cache, cache.parity(self.precision))

    def _model(self, cache: ModelCache) -> Any:  # noqa: ANN401 - an openvino.Model
        if stored := cache.load():
            return read_model(*stored)
        _log.info("converting the model for OpenVINO, once for windows of %s", "x".join(map(str, cache.shape)))
        converted = convert(self.network, cache.shape, quick=True)
        # Read back even now, so that the first run uses the very model that later ones will use.
        if cache.store(lambda folder: write_model(converted, folder)) and (stored := cache.load()):
            try:
                return read_model(*stored)
            except RuntimeError:  # a disk that was full may have taken half of it without a word
                cache.discard()
        return converted

    @cached_property
    def _torch(self) -> TorchBackend:
        return torch_backend(self.network, _CPU, self.number_format)

    def _refuse(self, reason: str) -> None:
        self.refusal = reason
        self._models = {shape: model for shape, model in self._models.items() if model.parity}
        _log.warning("%s; PyTorch computes instead", reason)
