"""What a network without names learns: bone beside another vertebra, and core, which is all other bone.

    vertebra A   A A A A A          core  2 2 2 2 2     A core ends where another vertebra is near, so two cores
                 A A A A . B B B    ->    2 2 2 1 . 1 2 2   never touch, and connected cores are single bones.
    vertebra B           . B B B                  . 1 2 2

Eroding every vertebra from all sides, as others do, was tried, too: it leaves 0.1 to 0.5 ml of a cervical vertebra,
and parts lumbar arches from their bodies.
"""

from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import max_pool1d

from verse3d.core.labels import BONES, IGNORED

VERTEBRA, CORE = 1, 2
NEAR_MM = 3.0
"""Bone with another vertebra within this distance along every axis is no core."""


def parts_of(ids: torch.Tensor, spacing_mm: Sequence[float]) -> torch.Tensor:
    """The parts of vertebrae, uint8 (B, 1, ...): 0 background, 1 vertebra, 2 core.

    Args:
        ids: which bone each voxel belongs to, uint8 (B, 1, ...), as ``BONES`` counts; 0 is none, ``IGNORED`` stays.
        spacing_mm: of the axes after the second.
    """
    ignored = ids == IGNORED
    ids = ids.masked_fill(ignored, 0)
    own = ids.to(torch.float32)
    # Background is no neighbour: it must not win where the smallest id is looked for.
    largest, smallest = own, torch.where(own > 0, own, torch.inf)
    for axis, spacing in enumerate(spacing_mm, start=2):
        reach = max(1, round(NEAR_MM / spacing))
        largest, smallest = _largest_near(largest, axis, reach), -_largest_near(-smallest, axis, reach)
    alone = (largest == own) & (smallest == own) & (ids != BONES.undecided)
    parts = (ids > 0).to(torch.uint8) + (alone & (ids > 0)).to(torch.uint8)
    return parts.masked_fill(ignored, IGNORED)


def _largest_near(values: torch.Tensor, axis: int, reach: int) -> torch.Tensor:
    """The largest value within ``reach`` voxels along one axis; a cube is one axis after the other."""
    lines = values.movedim(axis, -1)
    pooled = max_pool1d(lines.reshape(-1, 1, lines.shape[-1]), 2 * reach + 1, stride=1, padding=reach)
    return pooled.reshape(lines.shape).movedim(-1, axis)


class PartsLoss(nn.Module):
    """A loss against the parts of the bones in a batch, made where the batch is, after augmentation.

    Args:
        loss: takes logits (B, 3, ...) and parts (B, 1, ...).
        spacing_mm: of the axes of a sample.
    """

    def __init__(self, loss: nn.Module, spacing_mm: Sequence[float]) -> None:
        super().__init__()
        self.loss, self.spacing_mm = loss, tuple(spacing_mm)

    def forward(self, logits: torch.Tensor, bones: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits (B, 3, ...) against bones (B, 1, ...) of ``BONES``."""
        loss: torch.Tensor = self.loss(logits, parts_of(bones, self.spacing_mm))
        return loss
