"""Beginning a training with the weights of another model."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from verse3d.core.config import Config, GridConfig
from verse3d.core.errors import CheckpointError
from verse3d.core.logs import logger
from verse3d.core.wording import listed
from verse3d.model.checkpoint import TrainedNetwork, load_checkpoint
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


def begin_with(learner: Learner, initial: InitialWeights, grid: GridConfig) -> None:
    """Put the weights into a new learner. Layers of another size (other labels) stay as drawn, and are named.

    ``grid`` is what the learner will see: weights that were learnt on another one begin worse, which is said.

    Raises:
        CheckpointError: the model is of another network.
    """
    as_drawn = _load_fitting(learner.network, initial)
    if learner.average is not None:  # otherwise the mean would begin with the network as it was drawn
        learner.average.module.load_state_dict(learner.network.state_dict())
    _log.info("begins with the weights of %s%s", initial.path, f", but for {listed(as_drawn, 3)}" if as_drawn else "")
    for name, old, new in (
        ("grid.spacing_mm", initial.config.grid.spacing_mm, grid.spacing_mm),
        ("grid.window_hu", initial.config.grid.window_hu, grid.window_hu),
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


def _load_fitting(network: nn.Module, initial: InitialWeights) -> list[str]:
    """Load the tensors that have the network's own shape; names of the others."""
    own = network.state_dict()
    same = {name: new for name, new in initial.network.items() if name in own and own[name].shape == new.shape}
    share = sum(weight.numel() for weight in same.values()) / max(1, sum(weight.numel() for weight in own.values()))
    if own.keys() != initial.network.keys() or share < _LEAST_SHARE:
        raise CheckpointError(
            f"the weights in {initial.path} are of another network: "
            f"{initial.config.network.name} {list(initial.config.network.channels)}, {initial.config.mode}; "
            f"{share:.0%} of the numbers to learn are in it",
            hint="leave the config out to train the model's own network, or set network and mode as it has them",
        )
    network.load_state_dict({**own, **same})
    return [name for name in own if name not in same]
