"""A trained model with what is known about its training, from the checkpoint and the files of the run beside it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from verse3d.core.config import Config
from verse3d.core.errors import CheckpointError
from verse3d.data.cases import CaseIndex, read_index
from verse3d.model.checkpoint import load_checkpoint, load_weights
from verse3d.model.modes import Method
from verse3d.model.networks import parameter_count
from verse3d.training.runfolder import RunFolder, read_history, run_folder_of


@dataclass(frozen=True, eq=False)
class TrainedModel:
    """What a comparison needs to know about a model.

    Attributes:
        path: the checkpoint, absolute.
        config: of the run.
        parameters: trainable numbers.
        epoch: of the weights.
        history: one row per epoch of the run; empty if the run folder is not known.
        cases: the index with the split that was used, or None if the run folder is not known.
    """

    path: Path
    config: Config
    parameters: int
    epoch: int
    history: tuple[Mapping[str, float], ...] = ()
    cases: CaseIndex | None = None

    @property
    def minutes(self) -> float:
        """Time that the whole run took, validation included; NaN if unknown."""
        return self._last("minutes")

    @property
    def steps(self) -> float:
        """Batches of the whole run; NaN if unknown."""
        return self._last("step")

    @property
    def samples(self) -> float:
        """Patches or slices that the whole run learnt from; NaN if unknown."""
        return self.steps * self.config.sampling.batch_size

    @property
    def voxels(self) -> float:
        """Labelled voxels (pixels of slices as the network sees them) in these samples; NaN if unknown."""
        return math.nan if math.isnan(self.samples) else self.samples * sample_voxels(self.config)

    def _last(self, column: str) -> float:
        return self.history[-1].get(column, math.nan) if self.history else math.nan


def load_trained(path: Path) -> TrainedModel:
    """Read a run folder (its ``best.pt``) or a checkpoint; the files of a run are looked for beside the checkpoint.

    Raises:
        CheckpointError: there is no model, or it is damaged, unsafe or of another version.
        DataError: a file of the run folder is damaged.
    """
    file = RunFolder(path).best if path.is_dir() else path
    if path.is_dir() and not file.is_file():
        raise CheckpointError(f"the run folder {path} holds no {file.name}", hint="pass a run that was trained")
    checkpoint = load_checkpoint(file)
    network = checkpoint.method.network()
    load_weights(network, checkpoint.network, file)
    model = TrainedModel(file.absolute(), checkpoint.config, parameter_count(network), checkpoint.epoch)
    folder = run_folder_of(file)
    if folder is None:
        return model
    cases = read_index(folder.cases) if folder.cases.is_file() else None
    history = tuple(read_history(folder.history))
    return TrainedModel(model.path, model.config, model.parameters, model.epoch, history, cases)


def sample_voxels(config: Config) -> int:
    """Labelled voxels in one training sample."""
    return int(np.prod(Method(config).cut().size))
