"""Where the spine is, and which level where, as the scout sees it: the whole field of view at 4 mm."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.axismaps import Box, box_of
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_linear
from verse3d.core.runtime import channels_last
from verse3d.model.on_cpu import QuickConvolutions
from verse3d.model.scout import CHANNELS, SCOUT_MM, ScoutNetwork

FloatArray = NDArray[np.float32]
MARGIN_MM = 28.0
"""How far around what the scout takes for spine the fine network looks, too: processes are a voxel thin.

With 20 mm a scout that had learnt for 250 steps lost 7 % of the vertebrae of one of six scans, with 28 mm 0.1 %; of a
phantom's voxels 43 instead of 49 % were skipped then.
"""
SPINE_THRESHOLD = 0.5
"""Spine weighs five times as much as the rest in the loss, so this is where one voxel in six is spine."""
_PLANES, _SHARED_PLANES = 96, 32
"""Of a window along k, 38 cm: longer ones would need more memory than a window of the fine network."""
_BYTES_IN_WINDOW, _ROUNDED_TO = 200, 16
_PLANES_AT_ONCE = 16
"""Whose 27 channels are held at once, where only the spine is wanted."""


@dataclass(frozen=True, eq=False)
class ScoutMaps:
    """What a scout says about a scan.

    Attributes:
        probabilities: (27, I, J, K) float32; channel 0 is background, channel c the level ``LEVEL_IDS[c - 1]``.
        geometry: the grid of I, J, K: RAS, 4 mm, with the first voxel of the network grid.
    """

    probabilities: FloatArray
    geometry: Geometry

    @property
    def spine(self) -> FloatArray:
        """(I, J, K) probability of any vertebra."""
        return np.asarray(1.0 - self.probabilities[0], np.float32)


def look(network: ScoutNetwork, coarse: FloatArray) -> tuple[FloatArray, FloatArray]:
    """The probability of any vertebra (I, J, K), as of ``look_for_spine``, and of all channels (27, I, J, K).

    Args:
        network: in evaluation mode, on its device.
        coarse: (I, J, K) grey values 0 ... 1 of the whole field of view at 4 mm.
    """
    # The share of each window is multiplied in at once, so overlapping windows need no second volume. The channels of a
    # voxel stay side by side, as the network gives them; who takes a part makes it small first.
    spine, probabilities = np.zeros(coarse.shape, np.float32), np.zeros((*coarse.shape, CHANNELS), np.float32)
    weight, bias = _head(network)
    for planes, share, voxels in _shown(network, coarse):
        spine[..., planes] += _shaped(_spine_of(voxels, weight, bias), coarse.shape) * share
        found = _shaped(torch.softmax(torch.nn.functional.linear(voxels, weight, bias).float(), -1), coarse.shape)
        probabilities[:, :, planes] += np.multiply(found, share[:, None], out=found)
    return spine, np.moveaxis(probabilities, -1, 0)


def look_for_spine(network: ScoutNetwork, coarse: FloatArray) -> FloatArray:
    """The probability of any vertebra at every voxel of a scan at 4 mm, both (I, J, K). Holds no 27 channels of it."""
    spine = np.zeros(coarse.shape, np.float32)
    weight, bias = _head(network)
    for planes, share, voxels in _shown(network, coarse):
        spine[..., planes] += _shaped(_spine_of(voxels, weight, bias), coarse.shape) * share
    return spine


def spine_box(maps: ScoutMaps) -> Box | None:
    """The box of the spine on the 4 mm grid, ``MARGIN_MM`` wider on all sides; None if there is no spine."""
    found = box_of(maps.spine > SPINE_THRESHOLD)
    if found is None:
        return None
    margin = int(np.ceil(MARGIN_MM / SCOUT_MM))
    return tuple(
        slice(max(0, along.start - margin), min(size, along.stop + margin))
        for along, size in zip(found, maps.geometry.shape, strict=True)
    )


def at_scout_spacing(image: NDArray[np.floating], geometry: Geometry) -> tuple[FloatArray, Geometry]:
    """A prepared image on the scout's grid (float32), and that grid."""
    grid = geometry.resampled((SCOUT_MM,) * 3)
    return resample_linear(image, geometry, grid), grid


def scout_megabytes(geometry: Geometry) -> float:
    """What ``look_for_spine`` takes at most for a volume on the network grid ``geometry``, MB (measured)."""
    i, j, k = geometry.resampled((SCOUT_MM,) * 3).shape
    i, j, planes = (size + -size % _ROUNDED_TO for size in (i, j, _windows(k)[1]))
    head = i * j * _PLANES_AT_ONCE * CHANNELS * 4 * 3  # logits, probabilities, and these on the CPU
    return float(i * j * planes * _BYTES_IN_WINDOW + head + i * j * k * 4 * 4) / 1e6


def _spine_of(voxels: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
    """1 - the background's softmax, (n,), of what the head sees, (n, 8).

    Whether levels are wanted, too, or not: always by this sum, so that it moves no crop by a rounding.
    """
    # A channel's voxels side by side, (27, n): exp and sums are quick along long rows.
    logits = torch.addmm(bias[:, None], weight, voxels.T).float()
    # The softmax is 1 / sum of exp(logit - its own). Where that is infinite there is surely spine.
    logits -= logits[0].clone()
    return 1.0 - logits.exp_().sum(0).reciprocal_()


def _shaped(values: torch.Tensor, shape: tuple[int, ...]) -> FloatArray:
    """(I J K', ...) as (I, J, K', ...) on the CPU."""
    i, j, _ = shape
    return np.asarray(values.cpu().numpy().reshape(i, j, -1, *values.shape[1:]))


def _head(network: ScoutNetwork) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (27, 8) and biases (27,) of its last layer, which reaches over one voxel, so it is a matrix product."""
    bias = network.head.bias
    assert bias is not None  # the layer was built with one
    return network.head.weight.detach().flatten(1), bias.detach()


def _shown(network: ScoutNetwork, coarse: FloatArray) -> Iterator[tuple[slice, FloatArray, torch.Tensor]]:
    """Some planes along k, how much their window counts there (K',), and what the head sees, (I J K', 8)."""
    shares = _window_shares(coarse.shape[2])
    device = network.head.weight.device
    for first, share in shares:
        window = np.ascontiguousarray(coarse[None, None, :, :, first : first + share.size], np.float32)
        # One window with few channels is what PyTorch's own plain loop would compute, in a third more of the time.
        with torch.inference_mode(), QuickConvolutions():
            features = network.features(channels_last(torch.from_numpy(window).to(device)))
            # (8, I, J, K) of the whole window -> (I, J, K', 8) of some planes
            voxels = features[0].permute(1, 2, 3, 0)
            for start in range(0, share.size, _PLANES_AT_ONCE):
                part = slice(start, min(start + _PLANES_AT_ONCE, share.size))
                shown = voxels[:, :, part].reshape(-1, voxels.shape[-1])
                yield slice(first + part.start, first + part.stop), share[part], shown


def _windows(size: int) -> tuple[int, int]:
    """How many windows cover so many planes, and how long each is.

    As few as share at least so many planes with each other, and no longer than that needs: the network rounds its
    size up to 16 planes anyway. 125 planes are two windows of 80, not of 96, which are seen in five sixths of the time.
    """
    count = 1 + max(0, -(-(size - _PLANES) // (_PLANES - _SHARED_PLANES)))
    needed = -(-(size + (count - 1) * _SHARED_PLANES) // count)
    return count, min(size, needed + -needed % _ROUNDED_TO, _PLANES)


def _window_shares(size: int) -> list[tuple[int, FloatArray]]:
    """The first plane of every window, and how much it counts at each of its planes; shares sum to 1 everywhere.

    ::

        [1 1 1 1 1 1 .8 .6 .4 .2]
                    [.2 .4 .6 .8 1 1 1 1 1 1]
    """
    count, length = _windows(size)
    starts = np.linspace(0, size - length, count).astype(int).tolist()
    total, weighted = np.zeros(size, np.float32), []
    for first in starts:
        plane = np.arange(length)
        # 1 2 3 ... 32 32 32 ... 3 2 1, then divided by the sum of all windows at each plane
        weight = np.minimum(np.minimum(plane, length - 1 - plane) + 1, _SHARED_PLANES).astype(np.float32)
        total[first : first + length] += weight
        weighted.append((first, weight))
    return [(first, weight / total[first : first + weight.size]) for first, weight in weighted]
