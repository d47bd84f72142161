"""One step of learning, on one screen."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from verse3d.core.runtime import Precision, channels_last
from verse3d.training.schedule import Schedule

Batch = Mapping[str, torch.Tensor]
LossFunction = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


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
    """

    network: nn.Module
    loss: LossFunction
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    scaler: torch.amp.GradScaler
    average: AveragedModel | None
    precision: Precision
    device: torch.device
    clip_grad_norm: float


@dataclass(frozen=True)
class StepResult:
    """What one batch did. ``grad_norm`` is the length before clipping, ``lr`` the rate that was used."""

    loss: float
    grad_norm: float
    lr: float


def training_step(learner: Learner, batch: Batch) -> StepResult:
    """Learn from one batch ``{"image": (B, n, ...) float32, "label": (B, 1, ...) uint8}``."""
    learner.network.train()
    image = channels_last(batch["image"].to(learner.device, non_blocking=True))
    label = batch["label"].to(learner.device, non_blocking=True)

    with learner.precision.autocast(learner.device):
        logits = learner.network(image)
    loss = learner.loss(logits.float(), label)

    learner.optimizer.zero_grad(set_to_none=True)
    learner.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
    learner.scaler.unscale_(learner.optimizer)
    longest = learner.clip_grad_norm or float("inf")
    grad_norm = nn.utils.clip_grad_norm_(learner.network.parameters(), longest)
    lr = float(learner.optimizer.param_groups[0]["lr"])
    learner.scaler.step(learner.optimizer)
    learner.scaler.update()
    learner.schedule.after_step()
    if learner.average is not None:
        learner.average.update_parameters(learner.network)
    return StepResult(float(loss.detach()), float(grad_norm), lr)
