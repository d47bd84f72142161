"""What every backend offers."""

from collections.abc import Sequence
from typing import Any, Protocol

import torch


class Backend(Protocol):
    """Runs the network on windows: boxes of a volume (3D), or slices between their neighbours (2D)."""

    @property
    def name(self) -> str:
        """What computes: "torch" or "openvino". It becomes "torch" for good when another way was found wrong."""
        ...

    @property
    def precision(self) -> str:
        """Number format of the forward pass: "float32", "bfloat16" or "float16"."""
        ...

    @property
    def device(self) -> torch.device:
        """Where windows are computed and logits are returned."""
        ...

    @property
    def has_to_prove_itself(self) -> bool:
        """Whether PyTorch will compute some windows as well, to compare."""
        ...

    @property
    def takes_threads(self) -> bool:
        """Whether several threads may have windows computed at the same time, and gain by it."""
        ...

    def __call__(self, windows: torch.Tensor) -> torch.Tensor:
        """Logits (B, channels, ...), float32 or bfloat16 on ``device``, of float32 windows (B, n, ...)."""
        ...

    def make_ready(self, shape: Sequence[int]) -> None:
        """Do now what else the first windows of this shape, (n, ...), would have to wait for.

        Raises:
            CheckpointError: the weights do not fit the network of the config.
        """
        ...

    def to(self, device: torch.device) -> "Backend":
        """The same network on another device."""
        ...

    def record(self) -> dict[str, Any]:
        """What is written down about it: plain words and numbers, among them how near it is to PyTorch."""
        ...
