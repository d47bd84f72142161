"""Losses by name. All take logits (B, channels, ...) and network ids (B, 1, ...) uint8, and return a scalar."""

import torch
from monai.losses import DiceCELoss, DiceLoss
from torch import nn

from verse3d.core.config import Config
from verse3d.core.errors import ConfigError
from verse3d.core.labels import label_scheme


class BinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy over all voxels, for one output channel."""

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits (B, 1, ...) against labels (B, 1, ...) of 0 and 1."""
        return nn.functional.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))


def build_loss(config: Config) -> nn.Module:
    """The configured loss; for one foreground label the cross-entropy of ``dice_ce`` is the binary one.

    Raises:
        ConfigError: ``bce`` was chosen for several labels.
    """
    several = label_scheme(config.labels.scheme).output_channels > 1
    if config.loss.name == "bce":
        if several:
            raise ConfigError(
                f"loss.name bce tells one label from the rest, labels.scheme {config.labels.scheme} has several",
                hint="use dice_ce",
            )
        return BinaryCrossEntropy()
    # Background fills nine tenths of a patch: its Dice is high whatever the network does.
    activation = {"softmax": True, "to_onehot_y": True, "include_background": False} if several else {"sigmoid": True}
    # batch=True: the overlap is taken over the batch, so that a patch without vertebrae does not weigh like a full one.
    loss: nn.Module = {"dice": DiceLoss, "dice_ce": DiceCELoss}[config.loss.name](batch=True, **activation)
    return loss
