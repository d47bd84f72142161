"""A network that answers NaN or infinity must not end as an empty mask: noticed window by window, told once.

Looking at every number would take a pass of its own, and a GPU would have to be waited for. So only the sum of a
window's scores is kept, on the device: it is finite if all of them are. It is looked at when planes are given away, for
which a GPU is waited for anyway; a window whose sum is not finite is shown to the network again, to say more about it.
"""

from collections.abc import Sequence

import torch

from verse3d.core.errors import NotFiniteError
from verse3d.model.tilings import Tiling


class FiniteCheck:
    """The sums of the windows that nobody has looked at yet.

    Args:
        tiling: of the volume.
        what: computes, in words, e.g. "openvino in bfloat16".
    """

    def __init__(self, tiling: Tiling, what: str) -> None:
        self._tiling, self._what = tiling, what
        self._unseen: list[tuple[list[int], torch.Tensor]] = []

    def note(self, numbers: Sequence[int], scores: torch.Tensor) -> None:
        """Remember the sums of scores (B, channels, ...) of the windows with these numbers."""
        # Not looked at yet: that would make this program wait for the GPU after every window.
        self._unseen.append((list(numbers), _sums(scores)))

    def suspects(self) -> list[int]:
        """The windows with a sum that is NaN or infinite, in their order; what was looked at is forgotten."""
        unseen, self._unseen = self._unseen, []
        return [
            number
            for numbers, sums in unseen
            for number, finite in zip(numbers, torch.isfinite(sums).tolist(), strict=True)
            if not finite
        ]

    def refuse(self, number: int, scores: torch.Tensor) -> None:
        """Look at the scores (1, channels, ...) of a suspect, computed again.

        Finite numbers that are so large that their sum is infinite are let pass.

        Raises:
            NotFiniteError: some are NaN or infinite, or were the first time.
        """
        # (1, channels, ...) -> (1, ...): a voxel is bad if any of its channels is
        bad = ~torch.isfinite(scores).all(1)
        if not bool(bad.any()) and not bool(torch.isfinite(_sums(scores)).all()):
            return
        spans = zip("ijk", self._tiling.regions[number], strict=True)
        region = ", ".join(f"{name} {along.start}-{along.stop - 1}" for name, along in spans)
        share = f"{float(bad.float().mean()):.2%} of its voxels" if bool(bad.any()) else "not again when asked twice"
        raise NotFiniteError(
            f"the network answers NaN or infinity: first in window {number + 1} of {len(self._tiling.regions)} "
            f"(voxels {region} of the network's grid), {share}; computed by {self._what}",
            hint="no mask is written; the model is damaged, or its numbers overflow in this precision: use another "
            "model, or another device (a GPU computes in fp16 or bf16 where the model's runtime.amp says so)",
        )


def _sums(scores: torch.Tensor) -> torch.Tensor:
    # PyTorch sums bfloat16 in float32 by itself, ten times as fast as if it is told to; backends give no float16.
    return scores.sum(dim=tuple(range(1, scores.dim())))
