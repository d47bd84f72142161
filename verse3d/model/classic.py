"""The U-Net of Ronneberger, Fischer & Brox 2015 (arXiv:1505.04597), built from the paper.

Different from the paper: convolutions keep the size (zero padding) and are followed by a normalisation, so that any
size goes in and the same size comes out. A size that cannot be halved loses its last line on the way down; it gets
a line of zeros in its place on the way up, beside the skipped features, which are complete.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import nn

_CONVOLUTION = {2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}
_POOL = {2: nn.MaxPool2d, 3: nn.MaxPool3d}
_NORM: dict[str, dict[int, Callable[..., nn.Module]]] = {
    "batch": {2: nn.BatchNorm2d, 3: nn.BatchNorm3d},
    "instance": {2: nn.InstanceNorm2d, 3: nn.InstanceNorm3d},
}
_INTERPOLATION = {2: "bilinear", 3: "trilinear"}


class ClassicUNet(nn.Module):
    """(B, input_channels, ...) in, logits (B, output_channels, ...) of the same size out.

    Args:
        spatial_dims: 2 or 3.
        input_channels: of the image.
        output_channels: of the logits.
        channels: widths from the top level to the bottom; 64, 128, 256, 512, 1024 in the paper.
        norm: "batch" or "instance", both with learnt scale and offset.
        upsampling: "transposed" (learnt) or "linear".
        dropout: share of values dropped at the end of the contracting path.
    """

    def __init__(
        self,
        *,
        spatial_dims: int,
        input_channels: int,
        output_channels: int,
        channels: Sequence[int],
        norm: str = "batch",
        upsampling: str = "transposed",
        dropout: float = 0.0,
    ) -> None:
        super().__init__()
        # channels 64, 128, 256:
        #
        #     image -> down[0] 64 ------------------------- skipped -> cat -> merge[1] 64 -> out
        #                | pool                                         | up[1]
        #              down[1] 128 -------- skipped -> cat -> merge[0] 128
        #                | pool                         | up[0]
        #              down[2] 256 ---------------------+
        widths = (input_channels, *channels)
        self.down = nn.ModuleList(_two_convolutions(a, b, spatial_dims, norm) for a, b in pairwise(widths))
        self.pool = _POOL[spatial_dims](kernel_size=2)
        self.dropout = nn.Dropout(dropout)
        upwards = list(pairwise(reversed(channels)))
        self.up = nn.ModuleList(_doubling(a, b, spatial_dims, upsampling) for a, b in upwards)
        self.merge = nn.ModuleList(_two_convolutions(2 * b, b, spatial_dims, norm) for _, b in upwards)
        self.out = _CONVOLUTION[spatial_dims](channels[0], output_channels, kernel_size=1)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits of the size of ``image``, which must be at least 2 ** (levels - 1) along each axis."""
        features = self.down[0](image)
        skipped = []
        for level in self.down[1:]:
            skipped.append(features)
            features = level(self.pool(features))
        features = self.dropout(features)
        for double, merge, skip in zip(self.up, self.merge, reversed(skipped), strict=True):
            features = double(features)
            # Zeros after the last line along every axis that lost one by halving. `pad` counts from the last axis:
            # (0, lack of the last, 0, lack of the one before ...).
            missing = [want - have for want, have in zip(skip.shape[2:], features.shape[2:], strict=True)]
            padded = nn.functional.pad(features, [size for lack in reversed(missing) for size in (0, lack)])
            features = merge(torch.cat([skip, padded], dim=1))
        logits: torch.Tensor = self.out(features)
        return logits


def _two_convolutions(before: int, after: int, spatial_dims: int, norm: str) -> nn.Sequential:
    """3 x 3 convolution, normalisation, ReLU, twice."""
    layers: list[nn.Module] = []
    for width in (before, after):
        convolution = _CONVOLUTION[spatial_dims](width, after, kernel_size=3, padding=1, bias=False)
        nn.init.kaiming_normal_(convolution.weight, nonlinearity="relu")  # the paper's deviation: sqrt(2 / fan-in)
        layers += [convolution, _NORM[norm][spatial_dims](after, affine=True), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers)


def _doubling(before: int, after: int, spatial_dims: int, upsampling: str) -> nn.Module:
    """Twice the resolution, fewer channels."""
    if upsampling == "transposed":
        transposed: nn.Module = _TRANSPOSED[spatial_dims](before, after, kernel_size=2, stride=2)
        return transposed
    return nn.Sequential(
        _CONVOLUTION[spatial_dims](before, after, kernel_size=1),
        nn.Upsample(scale_factor=2, mode=_INTERPOLATION[spatial_dims], align_corners=False),
    )
