"""On which device the networks and the sums are, and how they give way when its memory does not suffice."""

import torch

from verse3d.core.logs import logger
from verse3d.core.wording import how_many
from verse3d.inference.ensemble import Ensemble
from verse3d.model.tilings import Tiling

_CPU = torch.device("cpu")
_log = logger(__name__)


class Placement:
    """Where the work is done. It gives way for good, except that every volume tries its sums on the GPU again.

    Attributes:
        ensemble: the networks.
        windows_at_once: how many windows they have been found to manage at once; None before any trouble.
        sums_device: where the sums of scores are held.
    """

    def __init__(self, ensemble: Ensemble) -> None:
        self.ensemble = ensemble
        self.windows_at_once: int | None = None
        self.sums_device = ensemble.device

    def start_volume(self) -> None:
        """The sums of a new volume may fit again."""
        self.sums_device = self.ensemble.device

    def scores(self, windows: torch.Tensor, tiling: Tiling) -> torch.Tensor:
        """Scores of windows from the CPU; they are left on the device of the networks."""
        return self.ensemble.scores(windows.to(self.ensemble.device), tiling.mirrored, tiling.mirrored_back)

    def give_way(self, error: torch.OutOfMemoryError, asked: int) -> None:
        """Take the next smaller step: fewer windows at once, the sums on the CPU, at last the network on the CPU.

        Raises:
            torch.OutOfMemoryError: there is no smaller step.
        """
        # many windows -> fewer -> one -> sums on the CPU -> network on the CPU -> give up
        if asked > 1:
            self.windows_at_once = asked // 2
            _log.warning("the GPU's memory does not suffice: going on with %s at once", how_many(asked // 2, "window"))
        elif self.sums_device.type != "cpu":
            self.sum_on_cpu()
        elif self.ensemble.device.type != "cpu":
            self.ensemble = self.ensemble.to(_CPU)
            _log.warning("the GPU's memory does not suffice for one window: going on with the CPU")
        else:
            raise error
        # PyTorch keeps freed blocks for itself; what comes next needs them in other sizes.
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def sum_on_cpu(self) -> None:
        """Hold the sums of this volume on the CPU, where its planes are resampled, too."""
        self.sums_device = _CPU
        _log.warning("the GPU's memory does not suffice: the scores of this scan are summed on the CPU")
