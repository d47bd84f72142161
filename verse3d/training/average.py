"""The running mean of the weights."""

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


class RunningMean(AveragedModel):
    """Exponential mean of weights and buffers, moved by few kernels and without waiting for a GPU.

    PyTorch's own ``AveragedModel`` sends its count to the device at every update, which waits for all work there.
    """

    def __init__(self, network: nn.Module, decay: float) -> None:
        super().__init__(network, use_buffers=True)
        self._decay = decay

    @torch.no_grad()
    def update_parameters(self, model: nn.Module) -> None:
        """Take the model's weights in; the first ones are taken as they are."""
        if int(self.n_averaged) == 0:  # on the CPU
            for mine, new in self._pairs(model):
                mine.copy_(new)
        else:
            self.blend(model)
        self.n_averaged += 1

    @torch.no_grad()
    def blend(self, model: nn.Module) -> None:
        """The part that happens on the device, always the same kernels; whole numbers (counts) are copied."""
        # mean = mean + (1 - decay) * (new - mean), for all weights in one launch; a count cannot be averaged.
        pairs = list(self._pairs(model))
        floating = [pair for pair in pairs if pair[0].is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floating], [new for _, new in floating], 1 - self._decay)
        for mine, new in pairs:
            if not mine.is_floating_point():
                mine.copy_(new)

    def _pairs(self, model: nn.Module) -> list[tuple[torch.Tensor, torch.Tensor]]:
        ours = [*self.module.parameters(), *self.module.buffers()]
        return list(zip(ours, [*model.parameters(), *model.buffers()], strict=True))
