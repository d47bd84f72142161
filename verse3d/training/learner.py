"""Building a learner, and carrying its state into checkpoints and back."""

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from pydantic import Field

from verse3d.core.config import OptimConfig, RuntimeConfig
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.readers import Record, Whole, checked
from verse3d.core.runtime import choose_precision, random_state, restore_random_state
from verse3d.core.wording import brief, how_many
from verse3d.model.modes import Method
from verse3d.training.average import RunningMean
from verse3d.training.ranks import Ranks
from verse3d.training.schedule import MOST_STEPS, build_schedule
from verse3d.training.step import Learner

_ALONE = Ranks()


def build_learner(
    method: Method, optim: OptimConfig, runtime: RuntimeConfig, device: torch.device, ranks: Ranks = _ALONE
) -> Learner:
    """A new network with its optimizer and schedule, as configured; the same weights in all ``ranks``.

    Args:
        method: network, loss and batch size.
        optim: optimizer, rate and its schedule.
        runtime: precision and repeatability.
        device: where it learns.
        ranks: the processes that share the run.

    Raises:
        ConfigError: the batch cannot be divided among the ranks.
    """
    if method.sampling.batch_size < ranks.count:
        raise ConfigError(
            f"a batch of {method.sampling.batch_size} cannot be divided among {ranks.count} processes",
            hint="sampling.batch_size is that of all processes together: raise it, or start fewer of them",
        )
    network = method.network().to(device)
    if device.type == "cuda":
        # Trying which convolution is quickest may choose another one next time, which rounds differently.
        torch.backends.cudnn.benchmark = not runtime.deterministic
        torch.backends.cudnn.deterministic = runtime.deterministic
    precision = choose_precision(runtime.amp, device)
    optimizer = _build_optimizer(network, optim, device)
    ranks.copy_from_first(network)
    return Learner(
        network=network,
        loss=method.loss() if ranks.count == 1 else method.joint_loss(ranks.add_up),
        optimizer=optimizer,
        schedule=build_schedule(optimizer, optim),
        scaler=torch.amp.GradScaler(device.type, enabled=precision.scales_loss),
        average=RunningMean(network, optim.ema_decay) if optim.ema_decay > 0 else None,
        precision=precision,
        device=device,
        clip_grad_norm=optim.clip_grad_norm,
        ranks=ranks,
    )


def _build_optimizer(network: torch.nn.Module, optim: OptimConfig, device: torch.device) -> torch.optim.Optimizer:
    """AdamW (Loshchilov & Hutter 2019) or RMSprop with momentum.

    On a GPU so that a step can be recorded: its counts and its rate lie on the device, where they can be changed.
    """
    on_gpu = device.type == "cuda"
    # A recorded step has its numbers written into it, so what changes (rate, counts) must be read from memory.
    rate = torch.tensor(optim.lr, device=device) if on_gpu else optim.lr
    weights = list(network.parameters())
    if optim.name == "adamw":
        return torch.optim.AdamW(
            weights, lr=rate, weight_decay=optim.weight_decay, fused=on_gpu or None, capturable=on_gpu
        )
    return torch.optim.RMSprop(
        weights, lr=rate, momentum=optim.momentum, weight_decay=optim.weight_decay, capturable=on_gpu
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
        "optimizer": plain_optimizer_state(learner.optimizer),
        "schedule": learner.schedule.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "average": learner.average.state_dict() if learner.average else None,
        "random": random_state(),
    }


_OF_THE_DEVICE = ("fused", "capturable", "foreach")
"""How an optimizer computes on a kind of device; a resumed run keeps its own."""


def restore_learner(learner: Learner, state: dict[str, Any]) -> None:
    """Inverse of ``learner_state``.

    Raises:
        DataError: a part has another shape or kind than this learner's own: PyTorch would take it, and fail a step
            later.
        KeyError, RuntimeError, TypeError, ValueError: a part is missing, or PyTorch refuses it.
    """
    # All is looked at before anything is loaded: a state that is half right must leave the learner as it was.
    _require_same_kind(learner_state(learner), state, "the state", skip=("scaler", "random", *_OF_THE_DEVICE))
    _require_fitting(learner.optimizer, state["optimizer"]["state"])
    learner.schedule.require_sound(state["schedule"])
    _require_finite(state["network"], "the network")
    if learner.average is not None:
        _require_finite(state["average"], "the running mean")
        _require_count(state["average"]["n_averaged"], "the number of steps in the running mean")
    if learner.scaler.is_enabled() and state["scaler"]:
        checked(state["scaler"], _StoredScaler, "the state of the loss scaler")
    learner.network.load_state_dict(state["network"])
    optimizer = learner.optimizer
    # A resumed run may have another rate or weight decay: the config decides, not the file. The kind of device may be
    # another than the one it was saved on, too.
    kept = [{name: value for name, value in group.items() if name != "params"} for group in optimizer.param_groups]
    optimizer.load_state_dict(state["optimizer"])
    for group, own in zip(optimizer.param_groups, kept, strict=True):
        group.update(own)
    _move_counts(optimizer)
    learner.schedule.load_state_dict(state["schedule"])
    if learner.scaler.is_enabled() and state["scaler"]:
        learner.scaler.load_state_dict(state["scaler"])
    if learner.average is not None and state["average"] is not None:
        learner.average.load_state_dict(state["average"])
    restore_random_state(state["random"])


def _require_same_kind(own: object, stored: object, place: str, skip: Sequence[str] = ()) -> None:
    """Compare what both hold, but for keys to ``skip``: devices may change, and with them the number of GPUs."""
    if not _is_like(own, stored):
        raise DataError(f"{place} is {brief(stored)}, expected something like {brief(own)}")
    if isinstance(own, dict) and isinstance(stored, dict):
        # Keys that only one side has are PyTorch's to judge; of "state" an empty optimizer has none yet.
        for key in own.keys() & stored.keys() - {"state", *skip}:
            _require_same_kind(own[key], stored[key], f"{place}.{key}", skip)
    elif isinstance(own, list | tuple) and isinstance(stored, list | tuple):
        if len(own) != len(stored):
            raise DataError(f"{place} has {how_many(len(stored), 'part')}, expected {len(own)}")
        for number, (mine, theirs) in enumerate(zip(own, stored, strict=True)):
            _require_same_kind(mine, theirs, f"{place}.{number}", skip)


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
            place = f"{name} of parameter {number} in the optimizer"
            _require_finite({place: value}, "the state")
            if name == "step":
                _require_count(value, place)
            elif name in _SQUARES and bool((torch.as_tensor(value) < 0).any()):
                raise DataError(f"{place} is a mean of squares and below 0")


_SQUARES = ("exp_avg_sq", "square_avg", "max_exp_avg_sq")
"""What an optimizer takes the root of."""


class _StoredScaler(Record):
    """What ``GradScaler.state_dict`` returns."""

    scale: Annotated[float, Field(gt=0.0, le=2.0**40)]
    growth_factor: Annotated[float, Field(gt=1.0, le=1e6)]
    backoff_factor: Annotated[float, Field(gt=0.0, lt=1.0)]
    growth_interval: Annotated[Whole, Field(ge=1, le=MOST_STEPS)]
    growth_tracker: Annotated[Whole, Field(ge=0, le=MOST_STEPS, alias="_growth_tracker")]


def _require_finite(values: Mapping[str, object], what: str) -> None:
    for name, value in values.items():
        numbers = torch.as_tensor(value)
        if numbers.is_floating_point() and not bool(torch.isfinite(numbers).all()):
            raise DataError(f"{what}: {name} holds values that are no finite numbers")


def _require_count(value: object, what: str) -> None:
    count = float(torch.as_tensor(value))
    if not 0 <= count <= MOST_STEPS:
        raise DataError(f"{what} is {count:g}, expected 0 to {MOST_STEPS:g}")


def _move_counts(optimizer: torch.optim.Optimizer) -> None:
    """The number of steps of each weight lies on the GPU where steps are recorded, else on the CPU."""
    for group in optimizer.param_groups:
        for weight in group["params"]:
            count = optimizer.state.get(weight, {}).get("step")
            if isinstance(count, torch.Tensor):
                device = weight.device if group.get("capturable") else torch.device("cpu")
                optimizer.state[weight]["step"] = count.to(device, torch.float32)


def plain_optimizer_state(optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """The state for a checkpoint: the rate as a number, whatever it is while a network learns."""
    state = optimizer.state_dict()
    # A tensor on a GPU would be read back onto a GPU that need not be there.
    groups = [{**group, "lr": float(group["lr"])} for group in state["param_groups"]]
    return {**state, "param_groups": groups}
