"""Beginning a training with the weights of another model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from verse3d.core.config import Config
from verse3d.core.errors import CheckpointError
from verse3d.core.logs import logger
from verse3d.core.wording import listed
from verse3d.model.checkpoint import TrainedNetwork, load_checkpoint
from verse3d.model.modes import Method
from verse3d.model.scout import SCOUT
from verse3d.training.scout import ScoutTraining
from verse3d.training.step import Learner

_LEAST_SHARE = 0.5
"""Of the network's numbers that a model has to bring; with fewer it is another network, not a head start."""
_log = logger(__name__)


@dataclass(frozen=True, eq=False)
class InitialWeights:
    """A trained model to begin with.

    Attributes:
        path: of its file.
        config: how it was trained.
        network: its weights by name, float32.
        scout: the scout in that file, if there is one.
    """

    path: Path
    config: Config
    network: Mapping[str, torch.Tensor]
    scout: "InitialScout | None" = None


@dataclass(frozen=True, eq=False)
class InitialScout:
    """A trained scout to begin with, of the model file ``path``."""

    path: Path
    trained: TrainedNetwork


def read_initial(path: Path) -> InitialWeights:
    """The weights in a model file.

    Raises:
        CheckpointError: it is missing, damaged, unsafe or of another version.
    """
    checkpoint = load_checkpoint(path)
    scout = checkpoint.networks.get(SCOUT)
    return InitialWeights(
        path, checkpoint.config, checkpoint.network, None if scout is None else InitialScout(path, scout)
    )


def begin_with(learner: Learner, initial: InitialWeights, method: Method) -> None:
    """Put the weights into a new learner. Layers of another size (other labels) stay as drawn, and are named.

    ``method`` is what the learner learns: weights that were learnt on another grid begin worse, which is said.

    Raises:
        CheckpointError: the model is of another network; says what differs.
    """
    as_drawn = _load_fitting(learner.network, initial, method)
    if learner.average is not None:  # otherwise the mean would begin with the network as it was drawn
        learner.average.module.load_state_dict(learner.network.state_dict())
    _log.info("begins with the weights of %s%s", initial.path, f", but for {listed(as_drawn, 3)}" if as_drawn else "")
    for name, old, new in (
        ("grid.spacing_mm", initial.config.grid.spacing_mm, method.grid.spacing_mm),
        ("grid.window_hu", initial.config.grid.window_hu, method.grid.window_hu),
    ):
        if old != new:
            _log.warning("%s is %s, the weights were learnt at %s: expect a worse start", name, list(new), list(old))


def begin_scout_with(scout: ScoutTraining, initial: InitialScout) -> None:
    """Let a new scout go on from another one, if that has its size and sees the same grey values; otherwise say so."""
    theirs = initial.trained.config
    for what, given, wanted in (
        ("channels", theirs.scout.channels, scout.config.scout.channels),
        ("window_hu", theirs.grid.window_hu, scout.config.grid.window_hu),
    ):
        if given != wanted:
            _log.warning("the scout begins anew: that of %s has %s %s, not %s", initial.path, what, [*given], [*wanted])
            return
    scout.begin_with(initial.trained, initial.path)
    _log.info("the scout begins with that of %s", initial.path)


def _load_fitting(network: nn.Module, initial: InitialWeights, method: Method) -> list[str]:
    """Load the tensors that have the network's own shape; names of the others."""
    own = network.state_dict()
    same = {name: new for name, new in initial.network.items() if name in own and own[name].shape == new.shape}
    share = sum(weight.numel() for weight in same.values()) / max(1, sum(weight.numel() for weight in own.values()))
    if own.keys() != initial.network.keys() or share < _LEAST_SHARE:
        raise _another_network(initial, method, share)
    network.load_state_dict({**own, **same})
    return [name for name in own if name not in same]


def _another_network(initial: InitialWeights, method: Method, share: float) -> CheckpointError:
    """An error that names the settings in which the networks differ, as they are and as they should be."""
    found, wanted = _network_settings(Method(initial.config)), _network_settings(method)
    different = {name: value for name, value in found.items() if value != wanted[name]}
    # A file may hold other weights than its config tells of.
    told = [f"{name} is {value} there and {wanted[name]} here" for name, value in different.items()]
    told = told or [f"only {share:.0%} of the numbers to learn are in it"]
    own = "leave `config` away to train the model's own network"
    # Without blanks, so that it can be typed as it stands.
    to_set = " ".join(f"`{name}={value.replace(' ', '')}`" for name, value in different.items())
    return CheckpointError(
        f"the weights in {initial.path} are of another network: {', '.join(told)}",
        hint=f"{own}, or set {to_set}" if different else own,
        option="from_model",
    )


def _network_settings(method: Method) -> dict[str, str]:
    """What decides which weights a network has, as it is typed."""
    network = method.settings["network"]
    named = {f"network.{key}": value for key, value in network.items() if key != "dropout"}
    return {"mode": method.mode, **{name: str(value) for name, value in named.items()}}
