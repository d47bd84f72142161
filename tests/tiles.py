"""Putting answers together the plain way: every window, all scores of the whole volume at once."""

import numpy as np
import torch

from verse3d.core.geometry import Geometry
from verse3d.core.runtime import Precision
from verse3d.inference.aggregator import BinaryAggregator, MulticlassAggregator
from verse3d.inference.backends import torch_backend
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.oom_fallback import Placement
from verse3d.inference.sliding_window import segment

CPU = torch.device("cpu")
FULL = Precision(torch.float32, scales_loss=False)


def whole_scores(tiling, volume, network) -> torch.Tensor:
    """Weighted mean of the scores (channels, I, J, K) of a volume (I, J, K); NaN where no window speaks."""
    total = weight = None
    for number, region in enumerate(tiling.regions):
        with torch.inference_mode():
            scores = network(torch.from_numpy(tiling.cut(np.asarray(volume), number))[None])[0].double()
        answer = tiling.spread(scores, number)
        if total is None:
            total = torch.zeros((len(answer), *tiling.shape), dtype=torch.float64)
            weight = torch.zeros(tiling.shape, dtype=torch.float64)
        weights = tiling.weights(number)
        total[(slice(None), *region)] += answer if weights is None else answer * weights
        weight[region] += 1 if weights is None else weights
    return total / weight


class FunctionBackend:
    """Any function of windows as a backend; remembers how many it saw at once."""

    name, precision, takes_threads = "function", "float32", True

    def __init__(self, function, device=CPU):
        self.function, self.device, self.seen = function, device, []

    def __call__(self, windows):
        self.seen.append(tuple(windows.shape))
        return self.function(windows)

    def to(self, device):
        return FunctionBackend(self.function, device)


def placed(*functions, mirrored=False) -> Placement:
    """Functions or networks, asked together."""
    return Placement(Ensemble([FunctionBackend(function) for function in functions], mirrored))


def placed_network(network) -> Placement:
    return Placement(Ensemble([torch_backend(network.eval(), CPU, FULL)]))


def segmented(image, tiling, placement, *, channels, settings, **options) -> np.ndarray:
    """What the network says on its own grid: the foreground probability, or network ids."""
    grid = Geometry(tiling.shape, np.eye(4))
    if channels == 1:
        answer = BinaryAggregator(grid, grid, 1)
        segment(image, tiling, placement, settings=settings, take=answer.take, **options)
        return answer.probability
    answer = MulticlassAggregator(grid, grid, tiling.axis, np.arange(channels, dtype=np.uint8))
    segment(image, tiling, placement, settings=settings, take=answer.take, **options)
    return answer.mask()
