"""Which channel has the largest score: 27 times 25 million numbers for a large scan, so it is worth some thought."""

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.threads import in_ranges

_VOXELS_AT_ONCE = 2**14
"""So that the scores of all channels stay in the processor's cache."""


def best_channel(scores: torch.Tensor) -> torch.Tensor:
    """The channel with the largest score, uint8 (I, J, K) of (channels, I, J, K).

    Of equal ones the first. Where a score is NaN it is 0.
    """
    result = torch.empty(scores.shape[1:], dtype=torch.uint8, device=scores.device)
    # Rows along I: a few, so that a part of (channels, rows, J, K) fits the cache.
    rows = max(1, _VOXELS_AT_ONCE // max(1, scores.shape[2] * scores.shape[3]))
    if scores.device.type != "cpu":
        # Of equal ones a GPU takes any, unless it is asked who has the largest score; and NaN is larger than all.
        for start in range(0, scores.shape[1], 16 * rows):
            part = scores[:, start : start + 16 * rows]
            result[start : start + 16 * rows] = (part == part.amax(0)).to(torch.uint8).argmax(0)
        return result
    # Channels lie side by side in memory, so each voxel is one short run: PyTorch's own maximum is quick at these.
    if scores.stride(0) == 1:
        for start in range(0, scores.shape[1], 16 * rows):
            part = scores[:, start : start + 16 * rows]
            best = part.max(0)
            result[start : start + 16 * rows] = best.indices.masked_fill_(best.values.isnan(), 0)
        return result

    chosen = result.numpy()

    def choose(start: int, stop: int) -> None:
        chosen[start:stop] = _chosen(scores[:, start:stop])

    in_ranges(choose, scores.shape[1], rows)
    return result


def _chosen(scores: torch.Tensor) -> NDArray[np.uint8]:
    """The same on the CPU: the largest score first, then who has it.

    Both are vectorised on every processor, which argmax over channels is not. Every channel has a rank, the first the
    highest, so that the largest rank among those who have the largest score is that of the first of them:

        scores    3.0  1.0  3.0        is the largest   1  0  1
        ranks       3    2    1        times rank       3  0  1    ->  rank 3  ->  channel 0
    """
    known = scores.float().numpy()
    ranks = np.arange(len(known), 0, -1, dtype=np.uint8)[:, None, None, None]
    is_best = known == known.max(0)
    rank = (is_best.view(np.uint8) * ranks).max(0)  # 0 where nobody equals the largest score, which is NaN there
    chosen: NDArray[np.uint8] = np.uint8(len(known)) - rank
    chosen[rank == 0] = 0
    return chosen
