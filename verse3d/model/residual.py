"""The U-Net with residual units of Kerfoot et al. 2019 (doi:10.1007/978-3-030-12029-0_40), as MONAI's ``UNet`` is.

Layers, names of weights and random draws are MONAI's, so weights of either network fit the other; tests hold them side
by side. Built here from PyTorch's layers because MONAI takes seconds and 100 MB to import: as long as the network needs
for a whole scan.
"""

from collections.abc import Callable, Sequence

import torch
from torch import nn

_CONVOLUTION: dict[int, Callable[..., nn.Module]] = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED: dict[int, Callable[..., nn.Module]] = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_NORM: dict[str, dict[int, Callable[..., nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}


class ResidualUNet(nn.Module):
    """(B, input_channels, ...) in, logits (B, output_channels, ...) of the same size out.

    Args:
        spatial_dims: 2 or 3.
        input_channels: of the image.
        output_channels: of the logits.
        channels: widths from the top level to the bottom; the resolution is halved before each but the last.
        residual_units: convolutions in each unit of the contracting path; 0 for plain convolutions without shortcuts.
        norm: "batch" or "instance", both with learnt scale and offset.
        dropout: share of values dropped after each normalisation.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        input_channels: int,
        output_channels: int,
        channels: Sequence[int],
        residual_units: int,
        norm: str,
        dropout: float,
    ) -> None:
        super().__init__()
        layers = _Layers(spatial_dims, residual_units, norm, dropout)
        self.model = layers.level(input_channels, output_channels, channels, is_top=True)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the size of ``image``, which must be a multiple of 2 ** (levels - 1) along each axis."""
        logits: torch.Tensor = self.model(image)
        return logits


class _Layers:
    """Builds the parts of one network, which share these settings."""

    def __init__(self, spatial_dims: int, residual_units: int, norm: str, dropout: float) -> None:
        self._convolution, self._transposed = _CONVOLUTION[spatial_dims], _TRANSPOSED[spatial_dims]
        self._residual_units, self._norm, self._dropout = residual_units, _NORM[norm][spatial_dims], dropout

    def level(self, before: int, after: int, channels: Sequence[int], *, is_top: bool = False) -> nn.Module:
        """A level of the U and all below it.

        ::

            before -> down, halved -> width ---------------- cat -> up, doubled -> after
                                        |                     |
                                        +---- levels below ---+
        """
        width, *below = channels
        # Made from the bottom up, as MONAI does: the order decides which weights are drawn first.
        if len(below) > 1:
            inner, of_inner = self.level(width, width, below), width
        else:
            inner, of_inner = self._down(width, below[0], stride=1), below[0]
        down = self._down(before, width, stride=2)
        return nn.Sequential(down, _Skip(inner), self._up(width + of_inner, after, is_top=is_top))

    def _down(self, before: int, after: int, stride: int) -> nn.Module:
        if not self._residual_units:
            return self._unit(self._convolution(before, after, 3, stride, padding=1), after)
        units = nn.Sequential()
        for number in range(self._residual_units):
            # Only the first one changes width and resolution.
            first = self._convolution(before if number == 0 else after, after, 3, stride if number == 0 else 1, 1)
            units.add_module(f"unit{number}", self._unit(first, after))
        if stride > 1:
            return _Residual(units, self._convolution(before, after, 3, stride, padding=1))
        return _Residual(units, self._convolution(before, after, 1) if before != after else nn.Identity())

    def _up(self, before: int, after: int, *, is_top: bool) -> nn.Module:
        doubled = self._transposed(before, after, 3, stride=2, padding=1, output_padding=1)
        # What gives the logits is neither normalised nor bent.
        if not self._residual_units:
            return self._unit(doubled, 0 if is_top else after)
        up = self._unit(doubled, after)
        units = nn.Sequential()
        units.add_module("unit0", self._unit(self._convolution(after, after, 3, padding=1), 0 if is_top else after))
        return nn.Sequential(up, _Residual(units, nn.Identity()))

    def _unit(self, convolution: nn.Module, normed: int) -> nn.Sequential:
        """A convolution, and what follows it if there are channels to be normed: norm, dropout, activation."""
        unit = nn.Sequential()
        unit.add_module("conv", convolution)
        if normed:
            after = nn.Sequential()
            after.add_module("N", self._norm(normed, affine=True))
            after.add_module("D", nn.Dropout(self._dropout))
            after.add_module("A", nn.PReLU())
            unit.add_module("adn", after)
        return unit


class _Residual(nn.Module):
    """Convolutions, and a shortcut past them."""

    def __init__(self, conv: nn.Module, residual: nn.Module) -> None:
        super().__init__()
        self.conv, self.residual = conv, residual

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        shortcut: torch.Tensor = self.residual(features)
        convolved: torch.Tensor = self.conv(features)
        return convolved + shortcut


class _Skip(nn.Module):
    """Features beside what the levels below make of them."""

    def __init__(self, submodule: nn.Module) -> None:
        super().__init__()
        self.submodule = submodule

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return torch.cat([features, self.submodule(features)], dim=1)
