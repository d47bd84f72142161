"""One step of learning, on one screen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from verse3d.core.runtime import Precision, channels_last
from verse3d.model.on_cpu import quick_on
from verse3d.training.average import RunningMean
from verse3d.training.ranks import Ranks
from verse3d.training.schedule import Schedule

Batch = Mapping[str, torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
NetworkCall = Callable[[torch.Tensor], torch.Tensor]
"""A network, or the same one compiled."""


@dataclass(frozen=True, eq=False)
class Learner:
    """Everything that changes while a network learns.

    Attributes:
        network: on ``device``.
        loss: (logits (B, C, ...), network ids (B, 1, ...)) -> scalar.
        optimizer: over the parameters of ``network``.
        schedule: learning rate.
        scaler: scales the loss for fp16, does nothing otherwise.
        average: running mean of the weights, or None.
        precision: number format of the forward pass.
        device: where it happens.
        clip_grad_norm: longest gradient allowed; 0 for no limit.
        ranks: the processes that learn from parts of the same batch; ``loss`` is then that of the joint batch.
    """

    network: nn.Module
    loss: LossFunction
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    average: RunningMean | None
    precision: Precision
    device: torch.device
    clip_grad_norm: float
    ranks: Ranks = field(default_factory=Ranks)


@dataclass(frozen=True)
class StepResult:
    """What one batch did. Scalars on the device of the learner: reading them waits for the step to end.

    Attributes:
        loss: of the batch.
        grad_norm: length of the gradient before clipping.
        lr: the rate that was used.
    """

    loss: torch.Tensor
    grad_norm: torch.Tensor
    lr: float


def training_step(learner: Learner, batch: Batch, network: NetworkCall | None = None) -> StepResult:
    """Learn from one batch ``{"image": (B, n, ...) float32, "label": (B, 1, ...) uint8}``.

    Args:
        learner: what changes.
        batch: on any device.
        network: calls the learner's network in a quicker way.
    """
    if not learner.network.training:
        learner.network.train()
    image, label = batch["image"].to(learner.device), batch["label"].to(learner.device)
    lr = learner.schedule.rate
    call = learner.network if network is None else network  # a compiled network has no truth value
    loss, grad_norm = backward(learner, forward(learner, call, image, label))
    learner.schedule.after_step()
    if learner.average is not None:
        learner.average.update_parameters(learner.network)
    return StepResult(loss, grad_norm, lr)


def forward(learner: Learner, network: NetworkCall, image: torch.Tensor, label: torch.Tensor) -> torch.Tensor:
    """The loss of a batch. On CPUs convolutions are quickest with channels last, on GPUs instance norm is not."""
    image = channels_last(image) if learner.device.type == "cpu" else image
    with learner.precision.autocast(learner.device), quick_on(learner.device):
        logits = network(image)
    return learner.loss(logits.float(), label)  # sums over millions of voxels are no job for 16 bits


def backward(learner: Learner, loss: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Change the weights; the loss, and the length of its gradient before clipping."""
    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    learner.ranks.sum_gradients(learner.network)
    learner.scaler.unscale_(learner.optimizer)  # clipping wants true lengths; without fp16 this does nothing
    longest = learner.clip_grad_norm or float("inf")
    grad_norm = nn.utils.clip_grad_norm_(learner.network.parameters(), longest)
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    return loss.detach(), grad_norm
