"""Losses by name. All take logits (B, channels, ...) and network ids (B, 1, ...) uint8, and return a scalar.

MONAI is imported when a loss is built: it takes seconds, and a mode, which names its loss, is needed to predict, too.
"""

import torch
from torch import nn

from verse3d.core.config import Config
from verse3d.core.errors import ConfigError
from verse3d.model.parts import PartsLoss


class BinaryCrossEntropy(nn.Module):
    """Mean binary cross-entropy over all voxels, for one output channel."""

    def forward(self, logits: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
        """Scalar loss of logits (B, 1, ...) against labels (B, 1, ...) of 0 and 1."""
        return nn.functional.binary_cross_entropy_with_logits(logits, label.to(logits.dtype))


def build_loss(config: Config) -> nn.Module:
    """The configured loss; for one foreground label the cross-entropy of ``dice_ce`` is the binary one.

    If vertebrae are named by their sequence, it takes ids of bones (see ``core.labels.BONES``) instead of network ids.

    Raises:
        ConfigError: ``bce`` was chosen for several labels.
    """
    several = config.labels.network_scheme.output_channels > 1
    if config.loss.name == "bce":
        if several:
            raise ConfigError(
                f"loss.name bce tells one label from the rest, labels.scheme {config.labels.scheme} has several",
                hint="use dice_ce",
            )
        return BinaryCrossEntropy()
    from monai.losses import DiceCELoss, DiceLoss

    activation = {"softmax": True, "to_onehot_y": True, "include_background": False} if several else {"sigmoid": True}
    # batch=True: the overlap is taken over the batch, so that a patch without vertebrae does not weigh like a full one.
    loss: nn.Module = {"dice": DiceLoss, "dice_ce": DiceCELoss}[config.loss.name](batch=True, **activation)
    return PartsLoss(loss, config.grid.spacing_mm) if config.labels.by_sequence else loss
