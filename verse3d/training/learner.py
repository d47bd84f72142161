"""Building a learner from a config, and carrying its state into checkpoints and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from verse3d.core.config import Config, OptimConfig
from verse3d.core.errors import DataError
from verse3d.core.runtime import choose_precision, random_state, restore_random_state
from verse3d.core.wording import brief
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
    """Undo of ``learner_state``.

    Raises:
        DataError: a part has another shape or kind than this learner's own: PyTorch would take it, and fail a step
            later.
        KeyError, RuntimeError, TypeError, ValueError: a part is missing, or PyTorch refuses it.
    """
    _require_same_kind(learner_state(learner), state, "the state", skip=("scaler", "random"))
    _require_fitting(learner.optimizer, state["optimizer"]["state"])
    learner.network.load_state_dict(state["network"])
    learner.optimizer.load_state_dict(state["optimizer"])
    learner.schedule.load_state_dict(state["schedule"])
    learner.scaler.load_state_dict(state["scaler"])
    if learner.average is not None and state["average"] is not None:
        learner.average.load_state_dict(state["average"])
    restore_random_state(state["random"])


def _require_same_kind(own: object, stored: object, place: str, skip: Sequence[str] = ()) -> None:
    """Compare what both hold. A scaler is on or off by the device, which may change; so may the number of GPUs."""
    if not _is_like(own, stored):
        raise DataError(f"{place} is {brief(stored)}, expected something like {brief(own)}")
    if isinstance(own, dict) and isinstance(stored, dict):
        for key in own.keys() & stored.keys() - {"state", *skip}:
            _require_same_kind(own[key], stored[key], f"{place}.{key}")
    elif isinstance(own, list | tuple) and isinstance(stored, list | tuple):
        if len(own) != len(stored):
            raise DataError(f"{place} has {len(stored)} parts, expected {len(own)}")
        for number, (mine, theirs) in enumerate(zip(own, stored, strict=True)):
            _require_same_kind(mine, theirs, f"{place}.{number}")


def _is_like(own: object, stored: object) -> bool:
    """Whether a single value is of the kind of our own; what both hold inside is not looked at."""
    if isinstance(own, torch.Tensor):
        return isinstance(stored, torch.Tensor) and (own.shape, own.dtype) == (stored.shape, stored.dtype)
    if isinstance(own, bool | str) or own is None:
        return type(own) is type(stored)
    if isinstance(own, int | float):
        return isinstance(stored, int | float) and not isinstance(stored, bool) and not math.isnan(stored)
    # A state dict, which is an OrderedDict, comes back from a model file as a plain one.
    return isinstance(stored, dict if isinstance(own, dict) else type(own))


def _require_fitting(optimizer: torch.optim.Optimizer, state: Mapping[int, Mapping[str, object]]) -> None:
    """What an optimizer remembers of each parameter (nothing before its first step) has the parameter's shape."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for number, memory in state.items():
        shape = parameters[number].shape
        for name, value in memory.items():
            fits = value.shape in (shape, ()) if isinstance(value, torch.Tensor) else isinstance(value, int | float)
            if not fits:
                raise DataError(f"{name} of parameter {number} in the optimizer does not fit the shape {tuple(shape)}")
