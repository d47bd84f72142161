"""Networks by name. All take (B, n, ...) grey values 0 ... 1 and return logits (B, channels, ...) of the same size.

MONAI takes seconds to import, and predicting with a converted model needs no network: so each builder imports its own.
"""

from collections.abc import Callable

from torch import nn

from verse3d.core.config import NetworkConfig
from verse3d.model.classic import ClassicUNet
from verse3d.model.residual import ResidualUNet

_NORMS = {"instance": ("INSTANCE", {"affine": True}), "batch": ("BATCH", {})}


def unet(network: NetworkConfig, *, spatial_dims: int, input_channels: int, output_channels: int) -> nn.Module:
    """The UNet with residual units (Kerfoot et al. 2019, doi:10.1007/978-3-030-12029-0_40), as MONAI's."""
    return ResidualUNet(
        spatial_dims=spatial_dims,
        input_channels=input_channels,
        output_channels=output_channels,
        channels=network.channels,
        residual_units=network.residual_units,
        norm=network.norm,
        dropout=network.dropout,
    )


def dynunet(network: NetworkConfig, *, spatial_dims: int, input_channels: int, output_channels: int) -> nn.Module:
    """The plain network of nnU-Net (Isensee et al. 2021, doi:10.1038/s41592-020-01008-z), without deep supervision."""
    from monai.networks.nets import DynUNet

    levels = len(network.channels)
    model: nn.Module = DynUNet(
        spatial_dims=spatial_dims,
        in_channels=input_channels,
        out_channels=output_channels,
        kernel_size=[3] * levels,
        strides=[1] + [2] * (levels - 1),
        upsample_kernel_size=[2] * (levels - 1),
        filters=list(network.channels),
        norm_name=_NORMS[network.norm],
        dropout=network.dropout or None,
        res_block=network.residual_units > 0,
    )
    return model


def segresnet(network: NetworkConfig, *, spatial_dims: int, input_channels: int, output_channels: int) -> nn.Module:
    """SegResNet (Myronenko 2018, arXiv:1810.11654). Widths double from ``channels[0]``, one level per channel."""
    from monai.networks.nets import SegResNet

    levels = len(network.channels)
    model: nn.Module = SegResNet(
        spatial_dims=spatial_dims,
        in_channels=input_channels,
        out_channels=output_channels,
        init_filters=network.channels[0],
        blocks_down=[1] + [2] * (levels - 1),
        blocks_up=[1] * (levels - 1),
        norm=_NORMS[network.norm],
        dropout_prob=network.dropout or None,
    )
    return model


def classic(network: NetworkConfig, *, spatial_dims: int, input_channels: int, output_channels: int) -> nn.Module:
    """The U-Net of Ronneberger et al. 2015 (arXiv:1505.04597), with normalisation and same padding."""
    return ClassicUNet(
        spatial_dims=spatial_dims,
        input_channels=input_channels,
        output_channels=output_channels,
        channels=network.channels,
        norm=network.norm,
        upsampling=network.upsampling,
        dropout=network.dropout,
    )


_BUILDERS: dict[str, Callable[..., nn.Module]] = {
    "unet": unet,
    "dynunet": dynunet,
    "segresnet": segresnet,
    "classic": classic,
}


def build_network(
    network: NetworkConfig, *, spatial_dims: int, output_channels: int, input_channels: int = 1
) -> nn.Module:
    """The configured network, with weights drawn from PyTorch's random state."""
    return _BUILDERS[network.name](
        network, spatial_dims=spatial_dims, input_channels=input_channels, output_channels=output_channels
    )


def parameter_count(network: nn.Module) -> int:
    """Trainable numbers in the network."""
    return sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
