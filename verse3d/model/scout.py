"""The scout: a tiny network that sees the whole field of view at 4 mm, and says where the spine and its levels are.

A U-Net of five levels in plain PyTorch (Ronneberger et al. 2015, arXiv:1505.04597; group normalisation: Wu & He 2018,
arXiv:1803.08494)::

    4 mm   8 channels  ----------------------------------------> 8 -> 27 logits
    8 mm    16 channels  ----------------------------------> 16
    16 mm     32 channels  ----------------------------> 32
    32 mm       48 channels  ----------------------> 48
    64 mm         64 channels  ----------------> 64            two convolutions here reach over 0.5 m
"""

from itertools import pairwise

import torch
from torch import nn
from torch.nn.functional import cross_entropy, interpolate, log_softmax, pad

from verse3d.core.labels import IGNORED, VERTEBRAE
from verse3d.data.samples.grid import COARSE_MM

SCOUT = "scout"
"""Its name among the further networks of a model file ..."""
USABLE = "usable"
"""... and the score that says whether it missed nothing of any validation spine: 1 or 0."""
SCOUT_MM = COARSE_MM
"""Spacing of the scout's grid along all axes."""
LEVEL_IDS: tuple[int, ...] = tuple(label.id for label in VERTEBRAE)
"""VerSe ids of the channels 1 ... 26, from head to tail: C1 ... C7, T1 ... T13, L1 ... L6. Channel 0 is background."""
CHANNELS = 1 + len(LEVEL_IDS)

_REGIONS = "".join(label.name[0] for label in VERTEBRAE)
_NEIGHBOUR_SHARE = 0.1
"""How much of a target level goes to each of its neighbours in the same region."""
_BACKGROUND_LOGIT = 6.0
"""Against 26 levels with 0 each: a spine probability of 0.06."""
_GROUP = 4
"""Channels that are normalised together."""


class ScoutNetwork(nn.Module):
    """From grey values (B, 1, I, J, K) 0 ... 1 at 4 mm to logits (B, 27, I, J, K). Any size will do.

    On the way up the channels are reduced before the resolution is doubled, and added to those of the way down, not
    put beside them: at 4 mm never more than ``channels[0]`` of them are held.

    Args:
        channels: of each level; each a multiple of 4. Every level but the first halves the resolution.
    """

    def __init__(self, channels: tuple[int, ...]) -> None:
        super().__init__()
        levels = list(pairwise(channels))
        self.first = _normalised(1, channels[0])
        self.down = nn.ModuleList(
            nn.Sequential(_normalised(above, below, stride=2), _normalised(below, below)) for above, below in levels
        )
        self.narrow = nn.ModuleList(nn.Conv3d(below, above, 1) for above, below in reversed(levels))
        self.up = nn.ModuleList(_normalised(above, above) for above, _ in reversed(levels))
        self.head = nn.Conv3d(channels[0], CHANNELS, 1)
        # At first nothing is spine, as most of what it will see; else that alone is learnt for hundreds of steps.
        self.head.bias = nn.Parameter(torch.tensor([_BACKGROUND_LOGIT, *(0.0,) * len(LEVEL_IDS)]))
        self.factor = 2 ** len(levels)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Logits (B, 27, I, J, K)."""
        logits: torch.Tensor = self.head(self.features(image))
        return logits

    def features(self, image: torch.Tensor) -> torch.Tensor:
        """What the head looks at, (B, channels[0], I, J, K): whoever wants the spine only need not hold 27 logits."""
        i, j, k = image.shape[2:]
        # Air at the far faces up to a multiple of the factor, so that halving and doubling end at the same size.
        padded = pad(image, [length for size in (k, j, i) for length in (0, -size % self.factor)])
        return self.features_of_multiples(padded)[..., :i, :j, :k]

    def features_of_multiples(self, image: torch.Tensor) -> torch.Tensor:
        """``features`` of an image whose sizes are multiples of ``factor``: no step depends on what they are."""
        values: torch.Tensor = self.first(image)
        skipped = []
        for down in self.down:
            skipped.append(values)
            values = down(values)
        for narrow, up in zip(self.narrow, self.up, strict=True):
            wider = interpolate(narrow(values), scale_factor=2, mode="trilinear", align_corners=False)
            values = up(wider.add_(skipped.pop()))
        return values


def scout_loss(logits: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Cross-entropy of (B, 27, I, J, K) logits in two parts: spine or not, and which level within the spine.

    ::

        log p(level) = log p(spine) + log p(level | spine)
                       all voxels      voxels of a known level

    so that a voxel that is "some vertebra, none by itself" (255) teaches the first part only. The target level is
    softened: a neighbour in the same region gets a share, one across C7|T1 or T12|L1 nothing.

    Args:
        logits: of the network.
        ids: (B, 1, I, J, K) uint8: 0, VerSe ids, 255, ``IGNORED``.
    """
    values, labels = logits.float(), ids[:, 0].long()
    # (B, 2, I, J, K): background, and all levels together.
    two = torch.stack([values[:, 0], torch.logsumexp(values[:, 1:], 1)], 1)
    weight = torch.where(labels > 0, _SPINE_WEIGHT, 1.0) * (labels != IGNORED)
    where = cross_entropy(two, (labels > 0).long(), reduction="none")
    where = (where * weight).sum() / weight.sum().clamp(min=1.0)
    known = _LEVEL_OF_ID.to(labels.device)[labels]
    chosen = known >= 0
    if not bool(chosen.any()):
        return where
    # (n, 26) of the n voxels that have a level.
    levels = log_softmax(values[:, 1:].movedim(1, -1)[chosen], 1)
    wanted = _SOFT_TARGETS.to(levels.device)[known[chosen]]
    return where - (wanted * levels).sum(1).mean() * _LEVEL_WEIGHT


_SPINE_WEIGHT = 5.0
"""A missed vertebra costs more than a few windows too many; and of a field of view a fiftieth is spine."""
_LEVEL_WEIGHT = 0.2


def _soft_targets() -> torch.Tensor:
    """(26, 26): what each level's target looks like, rows sum to 1."""
    count = len(LEVEL_IDS)
    targets = torch.eye(count)
    for level in range(count):
        for other in (level - 1, level + 1):
            if 0 <= other < count and _REGIONS[other] == _REGIONS[level]:
                targets[level, other] = _NEIGHBOUR_SHARE
    return targets / targets.sum(1, keepdim=True)


_LEVEL_OF_ID = torch.full((256,), -1)
"""The channel - 1 of each VerSe id; -1 for all that is no level."""
_LEVEL_OF_ID[list(LEVEL_IDS)] = torch.arange(len(LEVEL_IDS))
_SOFT_TARGETS = _soft_targets()


def _normalised(given: int, wanted: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv3d(given, wanted, 3, stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.GroupNorm(wanted // _GROUP, wanted), nn.LeakyReLU(0.01, inplace=True))
