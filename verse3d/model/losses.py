"""Losses by name. All take logits (B, channels, ...) and network ids (B, 1, ...) uint8, and return a scalar.

They are those of MONAI's ``DiceLoss`` and ``DiceCELoss`` (tests compare them), as sums that processes can exchange;
and importing MONAI takes seconds, which every training would wait for.
"""

from collections.abc import Callable

import torch
from torch import nn

from verse3d.core.config import LossConfig
from verse3d.core.errors import ConfigError
from verse3d.core.labelling import LabelsConfig
from verse3d.core.labels import IGNORED
from verse3d.model.parts import PartsLoss

AddUp = Callable[[torch.Tensor], torch.Tensor]
"""The sum of a tensor over all processes that share a batch, whose gradient is that of this process's own part."""


class IgnoringLoss(nn.Module):
    """A loss to which voxels labelled ``IGNORED`` teach nothing.

    They count as background about which the network is sure: overlap, size and cross-entropy of such a voxel are 0,
    and so is its gradient. It still counts where a mean is taken over all voxels, as if all of them were known.

    Args:
        loss: takes logits (B, channels, ...) and network ids (B, 1, ...).
    """

    def __init__(self, loss: nn.Module) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits (B, channels, ...) against network ids (B, 1, ...), ``IGNORED`` among them."""
        ignored, channels = label == IGNORED, logits.shape[1]
        # (1, channels, 1, ...): of one channel a low score is background, of several a high one of the first.
        first = torch.arange(channels, device=logits.device) == 0
        background = torch.where(first & (channels > 1), _SURE, -_SURE).reshape(1, -1, *[1] * (logits.dim() - 2))
        sure = torch.where(ignored, background.to(logits.dtype), logits)
        loss: torch.Tensor = self.loss(sure, label.masked_fill(ignored, 0))
        return loss


_SURE = 1e3
"""A logit whose exponential is 0 or infinite in float32."""


def build_loss(
    loss: LossConfig, labels: LabelsConfig, spacing_mm: tuple[float, float, float], add_up: AddUp | None = None
) -> nn.Module:
    """The configured loss; for one foreground label the cross-entropy of ``dice_ce`` is the binary one.

    If vertebrae are named by their sequence, it takes ids of bones (see ``core.labels.BONES``) instead of network ids.

    Args:
        loss: which one.
        labels: what the network tells apart.
        spacing_mm: of the network grid.
        add_up: how processes that share a batch exchange sums; None for a batch that one process has.

    Raises:
        ConfigError: ``bce`` was chosen for several labels.
    """
    if loss.name == "bce" and labels.network_scheme.output_channels > 1:
        raise ConfigError(
            f"loss.name bce tells one label from the rest, labels.scheme {labels.scheme} has several",
            hint="use dice_ce",
        )
    measured: nn.Module = JointLoss(loss, labels, add_up or _alone)
    if labels.ignores_cut or labels.ignores_automatic_borders:
        measured = IgnoringLoss(measured)
    return PartsLoss(measured, spacing_mm) if labels.by_sequence else measured


def _alone(sums: torch.Tensor) -> torch.Tensor:
    return sums


_SMOOTH = 1e-5  # as MONAI's DiceLoss, so that both give the same


class JointLoss(nn.Module):
    """The configured loss of a batch, whose samples may lie in several processes.

    Background fills nine tenths of a patch, and its Dice is high whatever the network does: it is left out. The overlap
    is taken over the whole batch, so a patch without vertebrae does not weigh like a full one, and it is no mean of
    what each process finds in its own samples:

        process 0   sums of samples 0 2 |
                                        + -> sums of the batch -> Dice, on every process
        process 1   sums of samples 1 3 |

    Args:
        loss, labels: as for ``build_loss``.
        add_up: how sums are exchanged.
    """

    def __init__(self, loss: LossConfig, labels: LabelsConfig, add_up: AddUp) -> None:
        super().__init__()
        self._several = labels.network_scheme.output_channels > 1
        self._name = loss.name
        self._add_up = add_up

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss of the joint batch, from this process's logits (b, C, ...) and labels (b, 1, ...)."""
        parts = []
        if self._name in ("dice", "dice_ce"):
            parts.append(self._dice(logits, label))
        if self._name in ("bce", "dice_ce"):
            parts.append(self._cross_entropy(logits, label))
        return torch.stack(parts).sum()

    def _dice(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Mean over the labels of 1 - Dice, each over all voxels of the joint batch (Milletari et al. 2016)."""
        if self._several:
            share = logits.softmax(1)[:, 1:]  # (b, labels, ...) without the background
            ids = torch.arange(1, logits.shape[1], device=label.device).view(1, -1, *[1] * (label.dim() - 2))
            truth = (label == ids).to(share.dtype)
        else:
            share, truth = logits.sigmoid(), label.to(logits.dtype)
        # All axes but the channels: overlap and size are (labels,), both in one message between processes.
        voxels = [0, *range(2, logits.dim())]
        overlap, size = self._add_up(torch.stack([(share * truth).sum(voxels), (share + truth).sum(voxels)]))
        dice_loss: torch.Tensor = (1 - (2 * overlap + _SMOOTH) / (size + _SMOOTH)).mean()
        return dice_loss

    def _cross_entropy(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Mean over all voxels of the joint batch."""
        if self._several:
            total = nn.functional.cross_entropy(logits, label[:, 0].long(), reduction="sum")
        else:
            total = nn.functional.binary_cross_entropy_with_logits(logits, label.to(logits.dtype), reduction="sum")
        joint, voxels = self._add_up(torch.stack([total, torch.full_like(total, label.numel())]))
        mean: torch.Tensor = joint / voxels
        return mean
