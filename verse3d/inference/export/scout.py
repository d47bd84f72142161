"""The scout of an exported model: it sees the whole field of view at 4 mm, so its images may have any size."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import pad

from verse3d.core.labels import VERTEBRAE
from verse3d.data.samples.transforms import PreparedCase
from verse3d.inference.backends.parity import Parity
from verse3d.inference.loading import open_level_networks
from verse3d.inference.scout import at_scout_spacing
from verse3d.model.checkpoint import Checkpoint
from verse3d.model.scout import SCOUT_MM, ScoutNetwork


class AnySize(nn.Module):
    """A scout for images (B, 1, I, J, K) whose sizes are multiples of ``factor``: what is traced takes them all."""

    def __init__(self, scout: ScoutNetwork) -> None:
        super().__init__()
        self.scout, self.factor = scout, scout.factor

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 27, I, J, K)."""
        logits: torch.Tensor = self.scout.head(self.scout.features_of_multiples(image))
        return logits


@dataclass(frozen=True)
class ExportedScout:
    """What was written.

    Attributes:
        files: their names.
        factor: sizes of its images are multiples of this.
        parity: with PyTorch, on a size that is not the one it was written with.
        usable: whether it missed no vertebra of any validation case, so that verse3d crops scans by it.
    """

    files: tuple[str, ...]
    factor: int
    parity: Parity
    usable: bool

    def to_dict(self) -> dict[str, Any]:
        """For ``export.json``."""
        sizes = [f"{self.factor} {axis}" for axis in "ijk"]
        return {
            "files": list(self.files),
            "input": {"name": "image", "dtype": "float32", "shape": ["batch", 1, *sizes]},
            "output": {"name": "logits", "dtype": "float32", "shape": ["batch", 1 + len(VERTEBRAE), *sizes]},
            "activation": "softmax",
            "spacing_mm": SCOUT_MM,
            "channels": ["background", *(label.name for label in VERTEBRAE)],
            "usable": self.usable,
            "parity": self.parity.to_dict(),
        }


def scout_of(checkpoint: Checkpoint, path: Path) -> AnySize | None:
    """The scout in a model file, in evaluation mode; None if it has none.

    Raises:
        CheckpointError: its weights do not fit its config.
    """
    networks = open_level_networks([checkpoint], [path], torch.device("cpu"))
    return AnySize(networks[0]).eval() if networks else None


def scout_images(case: PreparedCase, factor: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A prepared case at 4 mm, float32 (1, 1, I, J, K): all of it, and what remains without one block of each axis.

    Air at the far faces fills both up to multiples of ``factor``, and to two blocks at least.
    """
    grey = torch.from_numpy(at_scout_spacing(case.image[0], case.geometry)[0])
    missing = [max(2 * factor, size + -size % factor) - size for size in grey.shape]
    whole = pad(grey, [length for size in reversed(missing) for length in (0, size)])[None, None]
    i, j, k = (size - factor for size in whole.shape[2:])
    return whole, whole[..., :i, :j, :k].contiguous()
