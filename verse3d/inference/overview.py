"""The whole scan at 4 mm, shown to each small network once, whatever is wanted of it.

prepared image  ->  4 mm  ->  network  ->  27 probabilities  ->  where the spine is      (any of the networks)
                                                             ->  which level is where    (their mean)
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.logs import logger
from verse3d.inference.scout import FloatArray, ScoutMaps, at_scout_spacing, look, look_for_spine
from verse3d.model.scout import ScoutNetwork

_log = logger(__name__)
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Overview:
    """What small networks say about a whole scan.

    Attributes:
        spine: (I, J, K) at 4 mm, the probability of any vertebra by the network that sees most of it.
        levels: the mean of their probabilities of levels; None if nobody wanted it.
    """

    spine: FloatArray
    levels: ScoutMaps | None = None


def overview(
    networks: Sequence[ScoutNetwork], image: NDArray[np.floating], grid: Geometry, *, levels: bool
) -> Overview:
    """Show a prepared image (I, J, K) on the network ``grid`` to one or several networks.

    Args:
        networks: in evaluation mode, each on its device.
        image: grey values 0 ... 1.
        grid: of the image.
        levels: whether levels are wanted, too; all of the scan times 27 is held for them.
    """
    coarse, geometry = at_scout_spacing(image, grid)
    spine: FloatArray = np.zeros(coarse.shape, np.float32)
    total: FloatArray | None = None
    for network in networks:
        if levels:
            seen, probabilities = _fitting(look, network, coarse)
            # Two maps at most: the sum so far, and the one that is added to it.
            total = probabilities if total is None else np.add(total, probabilities, out=total)
        else:
            seen = _fitting(look_for_spine, network, coarse)
        np.maximum(spine, seen, out=spine)
    if total is None:
        return Overview(spine)
    if len(networks) > 1:
        total /= len(networks)
    return Overview(spine, ScoutMaps(total, geometry))


def _fitting(show: Callable[[ScoutNetwork, FloatArray], T], network: ScoutNetwork, coarse: FloatArray) -> T:
    """What the network says; on the CPU, if its GPU is too small."""
    try:
        return show(network, coarse)
    except torch.OutOfMemoryError:
        if network.head.weight.device.type == "cpu":
            raise
    # Outside of the clause, where what did not fit is free again.
    _log.warning("the GPU's memory does not suffice for the whole scan at 4 mm: the CPU looks at it")
    return show(network.cpu(), coarse)
