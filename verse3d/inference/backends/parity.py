"""How near another backend comes to PyTorch in float32, and how near it has to come."""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Self

import torch
from torch import nn

from verse3d.core.readers import Number, Record, Text, Whole, checked
from verse3d.core.runtime import Precision
from verse3d.inference.backends.pytorch import torch_backend

RELATIVE_TOLERANCE = 1e-3
"""In float32: largest allowed difference of logits, as a share of 1 + the largest logit."""

DECISION_FACTOR, DECISION_FLOOR = 2.0, 1e-4
"""In bfloat16: voxels may be decided otherwise this much more often than by PyTorch in bfloat16, plus this share."""

LEAST_CONTRAST = 0.1
"""Range of grey values in a window that is worth comparing on."""

_CPU = torch.device("cpu")
_FLOAT32 = Precision(torch.float32, scales_loss=False)


@dataclass(frozen=True)
class Parity:
    """Two computations of the same windows, compared.

    Attributes:
        precision: number format of the one that is judged; the other is PyTorch in float32.
        largest_logit: of PyTorch, without its sign.
        largest_difference: between two logits; NaN if there are such.
        allowed_difference: judged by it in float32 only.
        decided_otherwise: share of voxels with another label.
        allowed_otherwise: judged by it in lower precision only.
        windows: that were compared.
    """

    precision: str
    largest_logit: float
    largest_difference: float
    allowed_difference: float
    decided_otherwise: float
    allowed_otherwise: float
    windows: int

    @property
    def passed(self) -> bool:
        """Whether it is near enough. NaN never is."""
        if self.precision == "float32":
            return self.largest_difference <= self.allowed_difference
        return self.decided_otherwise <= self.allowed_otherwise and self.largest_difference < float("inf")

    @property
    def figures(self) -> str:
        """The numbers that decided, in words."""
        logits = f"logits differ by up to {self.largest_difference:.3g} (largest {self.largest_logit:.3g}"
        if self.precision == "float32":
            return f"{logits}, allowed {self.allowed_difference:.3g})"
        return (
            f"{logits}), {self.decided_otherwise:.3%} of the voxels get another label "
            f"(allowed {self.allowed_otherwise:.3%})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Strict JSON: what is not a number becomes None."""
        plain = asdict(self) | {"passed": self.passed}
        plain["pieces"] = plain.pop("windows")  # their name in files, since the first of them
        for name, value in plain.items():
            # Strict JSON knows neither NaN nor infinity.
            if isinstance(value, float) and not math.isfinite(value):
                plain[name] = None
        return plain

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """Inverse of ``to_dict``: what is None there is not a number.

        Raises:
            DataError: it is no such thing.
        """
        stored: dict[str, Any] = checked(values, _Stored, "the parity").model_dump()
        stored["windows"] = stored.pop("pieces")
        plain: dict[str, Any] = {name: math.nan if value is None else value for name, value in stored.items()}
        return cls(**plain)


class _Stored(Record):
    """A ``Parity`` as JSON holds it."""

    precision: Text
    largest_logit: Number | None
    largest_difference: Number | None
    allowed_difference: Number | None
    decided_otherwise: Number | None
    allowed_otherwise: Number | None
    pieces: Whole


def measure_parity(network: nn.Module, windows: torch.Tensor, logits: torch.Tensor, precision: Precision) -> Parity:
    """Compare logits (B, channels, ...) of windows (B, n, ...) with those that PyTorch computes in float32.

    Args:
        network: on the CPU, in evaluation mode.
        windows: float32 on the CPU.
        logits: by the backend that is judged, on the CPU.
        precision: its number format.
    """
    # float32:   |logits - truth|  against a share of the largest logit
    # bfloat16:  labels that differ from the truth's, against those of PyTorch in bfloat16
    truth = torch_backend(network, _CPU, _FLOAT32)(windows)
    largest = float(truth.abs().max())
    lower = precision.dtype is not torch.float32
    otherwise = _decided_otherwise(torch_backend(network, _CPU, precision)(windows), truth) if lower else 0.0
    return Parity(
        precision=str(precision.dtype).removeprefix("torch."),
        largest_logit=largest,
        largest_difference=float((logits.float() - truth).abs().max()),
        allowed_difference=RELATIVE_TOLERANCE * (1 + largest),
        decided_otherwise=_decided_otherwise(logits, truth),
        allowed_otherwise=DECISION_FACTOR * otherwise + DECISION_FLOOR if lower else 1.0,
        windows=len(windows),
    )


def shows_something(windows: torch.Tensor) -> torch.Tensor:
    """Which of the windows (B, ...) are fit to compare on, bool (B,): their grey values differ like air and tissue.

    In a flat window nothing can go wrong but rounding, which normalisation by a deviation of nearly 0 blows up.
    """
    flat = windows.flatten(1)
    return flat.amax(1) - flat.amin(1) >= LEAST_CONTRAST


def _decided_otherwise(logits: torch.Tensor, truth: torch.Tensor) -> float:
    return float((_decisions(logits) != _decisions(truth)).float().mean())


def _decisions(logits: torch.Tensor) -> torch.Tensor:
    return logits > 0 if logits.shape[1] == 1 else logits.argmax(1, keepdim=True)
