"""One network, or several networks and mirror images whose probabilities are averaged."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from verse3d.inference.backends import Backend


@dataclass(frozen=True, eq=False)
class Ensemble:
    """The networks that segment a window together.

    One network by itself gives logits, which is what MONAI's sliding window blends. Several predictions (of networks,
    or of the mirror image of the patient) are averaged window by window as probabilities, and those are blended.

    Attributes:
        backends: at least one, all with the same channels and windows.
        ask_mirrored: whether every network is also asked about the window with left and right exchanged.
    """

    backends: Sequence[Backend]
    ask_mirrored: bool = False

    @property
    def give_probabilities(self) -> bool:
        """Whether the scores are probabilities, not logits."""
        return self.ask_mirrored or len(self.backends) > 1

    @property
    def device(self) -> torch.device:
        """Where windows are taken and scores are returned."""
        return self.backends[0].device

    def sums_dtype(self, channels: int) -> torch.dtype:
        """The format in which scores are best summed: float16 where they come in bfloat16, else float32.

        bfloat16 has eight binary digits and float16 eleven, so nothing is lost, and the sums of many channels are most
        of the memory of a prediction. A GPU has memory to spare.
        """
        backend = self.backends[0]
        are_short = backend.precision == "bfloat16" and backend.device.type == "cpu"
        return torch.float16 if are_short and channels > 1 and not self.give_probabilities else torch.float32

    def to(self, device: torch.device) -> "Ensemble":
        """The same networks on another device."""
        return Ensemble([backend.to(device) for backend in self.backends], self.ask_mirrored)

    def scores(
        self,
        windows: torch.Tensor,
        mirrored: Callable[[torch.Tensor], torch.Tensor],
        mirrored_back: Callable[[torch.Tensor], torch.Tensor],
    ) -> torch.Tensor:
        """Logits as the backend gives them or float32 probabilities, (B, channels, *spatial) of (B, n, *spatial)."""
        if not self.give_probabilities:
            return self.backends[0](windows)
        # The first prediction becomes the sum, in its own shape and memory; all others are added to it.
        mean = torch.zeros(())
        for backend in self.backends:
            mean = _added(mean, _probabilities(backend(windows)))
            if self.ask_mirrored:
                mean = _added(mean, mirrored_back(_probabilities(backend(mirrored(windows).contiguous()))))
        return mean.div_(len(self.backends) * (1 + self.ask_mirrored))


def _added(total: torch.Tensor, more: torch.Tensor) -> torch.Tensor:
    return total.add_(more) if total.dim() else more.clone()


def _probabilities(logits: torch.Tensor) -> torch.Tensor:
    """Of the one foreground label, or of all channels; NaN where a logit is infinite, which it would hide."""
    values = logits.float()
    # x - x is 0 for a number and NaN for an infinity, which a sigmoid would turn into an innocent 0 or 1.
    known = torch.sigmoid(values) if logits.shape[1] == 1 else torch.softmax(values, 1)
    return known.add_(values - values)
