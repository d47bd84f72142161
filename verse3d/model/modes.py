"""Ways to segment a volume. A mode is a value: four functions of the config. This is the only place that knows them."""

from collections.abc import Callable
from dataclasses import dataclass

from monai.inferers import Inferer, SlidingWindowInferer
from monai.losses import DiceCELoss, DiceLoss
from monai.transforms import Compose
from torch import nn

from verse3d.core.config import Config
from verse3d.core.errors import ConfigError
from verse3d.core.labels import label_scheme
from verse3d.data.transforms import patch_sampler
from verse3d.model.networks import build_network


@dataclass(frozen=True)
class Mode:
    """How patches are drawn, learnt from and put together again.

    Attributes:
        name: as in ``--mode``.
        default_config: name of the shipped config used without ``--config``.
        sampler: config -> transform from ``PreparedCase`` to ``{"image": (1, ...), "label": (1, ...)}``.
        network: config -> network from (B, 1, ...) to logits (B, channels, ...).
        inferer: config -> callable (volume (1, 1, I, J, K), network) -> logits (1, channels, I, J, K).
        loss: config -> callable (logits (B, channels, ...), network ids (B, 1, ...)) -> scalar.
    """

    name: str
    default_config: str
    sampler: Callable[[Config], Compose]
    network: Callable[[Config], nn.Module]
    inferer: Callable[[Config], Inferer]
    loss: Callable[[Config], nn.Module]


def _volume_network(config: Config) -> nn.Module:
    channels = label_scheme(config.labels.scheme).output_channels
    return build_network(config.network, spatial_dims=3, output_channels=channels)


def _sliding_window(config: Config) -> Inferer:
    # Outside of the volume is air: 0 on the network grid.
    return SlidingWindowInferer(
        roi_size=config.sampling.patch_voxels,
        sw_batch_size=config.inference.windows_per_batch,
        overlap=config.inference.overlap,
        mode="gaussian",
        padding_mode="constant",
        cval=0.0,
    )


def _overlap_loss(config: Config) -> nn.Module:
    several = label_scheme(config.labels.scheme).output_channels > 1
    activation = {"softmax": True, "to_onehot_y": True, "include_background": False} if several else {"sigmoid": True}
    # batch=True: the overlap is taken over the batch, so that a patch without vertebrae does not weigh like a full one.
    loss: nn.Module = {"dice": DiceLoss, "dice_ce": DiceCELoss}[config.loss.name](batch=True, **activation)
    return loss


MODES: dict[str, Mode] = {
    mode.name: mode for mode in (Mode("3d", "unet3d", patch_sampler, _volume_network, _sliding_window, _overlap_loss),)
}


def get_mode(name: str) -> Mode:
    """The mode of that name.

    Raises:
        ConfigError: there is no such mode.
    """
    if name not in MODES:
        raise ConfigError(f"mode {name!r} is unknown; expected one of {sorted(MODES)}")
    return MODES[name]
