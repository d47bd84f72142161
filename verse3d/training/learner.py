"""Building a learner from a config, and carrying its state into checkpoints and back."""

from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from verse3d.core.config import Config, OptimConfig
from verse3d.core.runtime import choose_precision, random_state, restore_random_state
from verse3d.model.modes import get_mode
from verse3d.training.schedule import build_schedule
from verse3d.training.step import Learner


def build_learner(config: Config, device: torch.device) -> Learner:
    """A fresh network with its optimizer and schedule, as configured."""
    mode = get_mode(config.mode)
    network = mode.network(config).to(device)
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True
    precision = choose_precision(config.runtime.amp, device)
    optim = config.optim
    optimizer = _build_optimizer(network, optim)
    average = None
    if optim.ema_decay > 0:
        mean = get_ema_multi_avg_fn(optim.ema_decay)  # type: ignore[no-untyped-call]
        average = AveragedModel(network, multi_avg_fn=mean, use_buffers=True)
    return Learner(
        network=network,
        loss=mode.loss(config),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, optim),
        scaler=torch.amp.GradScaler(device.type, enabled=precision.scales_loss),
        average=average,
        precision=precision,
        device=device,
        clip_grad_norm=optim.clip_grad_norm,
    )


def _build_optimizer(network: torch.nn.Module, optim: OptimConfig) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or RMSprop with momentum."""
    if optim.name == "adamw":
        return torch.optim.AdamW(network.parameters(), lr=optim.lr, weight_decay=optim.weight_decay)
    return torch.optim.RMSprop(
        network.parameters(), lr=optim.lr, momentum=optim.momentum, weight_decay=optim.weight_decay
    )


def best_network(learner: Learner) -> torch.nn.Module:
    """The network to validate and keep: the running mean if there is one."""
    if learner.average is None:
        return learner.network
    module: torch.nn.Module = learner.average.module
    return module


def learner_state(learner: Learner) -> dict[str, Any]:
    """What a checkpoint needs, beside the validated weights, to go on exactly."""
    return {
        "network": learner.network.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": learner.average.state_dict() if learner.average else None,
        "random": random_state(),
    }


def restore_learner(learner: Learner, state: dict[str, Any]) -> None:
    """Undo of ``learner_state``."""
    learner.network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.schedule.load_state_dict(state["schedule"])
    learner.scaler.load_state_dict(state["scaler"])
    if learner.average is not None and state["average"] is not None:
        learner.average.load_state_dict(state["average"])
    restore_random_state(state["random"])
