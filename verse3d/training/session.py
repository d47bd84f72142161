"""The state of a run: what it was given, what changes, and what a checkpoint must hold to go on."""

import copy
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar

import torch
from pydantic import ConfigDict, Field

from verse3d.core.config import Config, OptimConfig, RuntimeConfig, ValidationConfig
from verse3d.core.errors import DataError
from verse3d.core.logs import Progress, no_progress
from verse3d.core.readers import Record, Text, checked
from verse3d.core.wording import how_many
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import PatchDataset
from verse3d.model.modes import Method
from verse3d.training.initial import InitialScout, InitialWeights
from verse3d.training.ranks import Ranks
from verse3d.training.runfolder import RunFolder
from verse3d.training.schedule import MOST_STEPS
from verse3d.training.scout import ScoutTraining
from verse3d.training.step import Learner
from verse3d.training.validate import ConfusionPainter, Painter, ValidationCase

_ALONE = Ranks()
_Minutes = Annotated[float, Field(ge=0.0, le=1e9, allow_inf_nan=False, strict=True)]
_Count = Annotated[int, Field(ge=0, le=MOST_STEPS, strict=True)]
T = TypeVar("T")
_List = Annotated[list[T], Field(strict=True)]  # else whatever can be iterated is one
_Finite = Annotated[float, Field(allow_inf_nan=False, strict=True)]

DRAWS = 2
"""Number of the way in which samples follow from (seed, epoch, position). Stored in ``last.pt``."""


@dataclass(frozen=True)
class FitOptions:
    """How to run, as opposed to what to learn.

    Attributes:
        device: where the network learns.
        resume: go on with the run in the folder.
        overwrite: replace the run in the folder.
        max_minutes: stop then, wherever that is in an epoch, and validate once more; None for no limit.
        max_epochs: stop after this epoch of the schedule; None for all.
        paint: draws validation pictures, or None for none.
        paint_confusion: draws which level was taken for which, or None for no such picture.
        progress: told about every batch.
        store: folder of prepared cases; None for the one that the run used before, or one in the run folder.
        initial: a model to begin with; None for a network as it is drawn. A resumed run goes on with its own weights.
        initial_scout: a scout to begin with; None for one as it is drawn.
        remarks: sentences for the log of the run, which is not there yet when they are found.
        ranks: the processes that share the run.
    """

    device: torch.device
    resume: bool = False
    overwrite: bool = False
    max_minutes: float | None = None
    max_epochs: int | None = None
    paint: Painter | None = None
    paint_confusion: ConfusionPainter | None = None
    progress: Progress = no_progress
    store: Path | None = None
    initial: InitialWeights | None = None
    initial_scout: InitialScout | None = None
    remarks: tuple[str, ...] = ()
    ranks: Ranks = _ALONE


@dataclass
class Standing:
    """How far a run is. Stored in ``last.pt``.

    Attributes:
        epoch: whole epochs trained.
        step: batches trained.
        minutes: time spent, all sessions together.
        validation_minutes: of them, on whole validation scans ...
        last_validation_minutes: ... and the last time.
        best_dice: best mean validation Dice so far; NaN before the first validation.
        best_epoch: when that was.
        history: one row per epoch, as in ``history.csv``.
        losses: of the batches since the last whole epoch ...
        grad_norms: ... their gradients' lengths (infinite where fp16 has skipped a step) ...
        epoch_seconds: ... the time they took ...
        epoch_waited: ... and how much of it was spent waiting for data.
    """

    # What is undefined is NaN here, so that is allowed.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epoch: _Count = 0
    step: _Count = 0
    minutes: _Minutes = 0.0
    validation_minutes: _Minutes = 0.0
    last_validation_minutes: _Minutes = 0.0
    best_dice: Annotated[float, Field(strict=True)] = math.nan
    best_epoch: _Count = 0
    history: _List[dict[str, Annotated[float, Field(strict=True)]]] = field(default_factory=list)
    losses: _List[_Finite] = field(default_factory=list)
    grad_norms: _List[Annotated[float, Field(ge=0.0, strict=True)]] = field(default_factory=list)
    epoch_seconds: _Minutes = 0.0
    epoch_waited: _Minutes = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Inverse of ``to_dict``.

        Raises:
            DataError: it is no such state; nothing is changed then.
        """
        told = checked(state, Standing, "the progress of the run")
        if not math.isnan(told.best_dice) and not 0 <= told.best_dice <= 1:
            raise DataError(f"the progress of the run is damaged: best_dice is {told.best_dice:g}, expected 0 to 1")
        for name in (each.name for each in fields(self)):
            if name in state:  # as it was: 1 is not 1.0 in the next last.pt
                setattr(self, name, copy.deepcopy(state[name]))

    def require_fitting(self, steps_per_epoch: int) -> None:
        """Refuse a step that is in another epoch than the one said.

        Raises:
            DataError: it is.
        """
        inside = self.step - self.epoch * steps_per_epoch
        if not 0 <= inside <= steps_per_epoch:
            raise DataError(
                f"step {self.step} is not in the epoch after epoch {self.epoch}, of {how_many(steps_per_epoch, 'step')}"
            )
        if not len(self.losses) == len(self.grad_norms) == inside:
            raise DataError(
                f"it holds the losses of {how_many(len(self.losses), 'step')} and the gradients of "
                f"{len(self.grad_norms)} since epoch {self.epoch}, expected {inside}"
            )


class StoredRun(Record):
    """What ``last.pt`` holds beside the model, to go on with.

    Attributes:
        cases: names of the cases of the run, by split.
        learner: see ``learner.learner_state``.
        standing: see ``Standing.to_dict``.
        draws: see ``DRAWS``; runs from before it was noted are of the first way.
        others: random states of the processes beside the first, if several have shared the run.
        data: names of the prepared cases, by case: they change with the files.
        code: hash of the program.
        scout: see ``ScoutTraining.to_dict``; empty where none learns.
    """

    cases: dict[Literal["train", "validation"], list[Text]]
    learner: dict[str, Any]
    standing: dict[str, Any]
    draws: int = 1
    others: list[dict[str, Any]] = Field(default_factory=list)
    data: dict[Text, Text] = Field(default_factory=dict)
    code: Text = ""
    scout: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Session:
    """Everything that one call of ``fit`` works with.

    Attributes:
        config: of the run, complete, as it goes into checkpoints.
        method: what it asks for.
        options: of this call.
        folder: where the files go.
        learner: the network and what trains it.
        dataset: the training samples.
        augment: makes samples of boxes on the device.
        validation: whole scans to validate on.
        loss_batches: unchanging patches of them for the validation loss; gives none if it is not wanted.
        case_names: of the training and the validation cases, by split and in order.
        data: names of the prepared cases, by case.
        standing: how far the run is.
        scout: what learns beside the network to find the spine; None if nothing does.
    """

    config: Config
    method: Method
    options: FitOptions
    folder: RunFolder
    learner: Learner
    dataset: PatchDataset
    augment: Augment
    validation: list[ValidationCase]
    loss_batches: Iterable[PackedBatch]
    case_names: dict[str, list[str]]
    data: dict[str, str]
    standing: Standing = field(default_factory=Standing)
    scout: ScoutTraining | None = None

    @property
    def optim(self) -> OptimConfig:
        """How the network learns, and for how long."""
        return self.config.optim

    @property
    def runtime(self) -> RuntimeConfig:
        """Speed and repeatability."""
        return self.config.runtime

    @property
    def validating(self) -> ValidationConfig:
        """When and on what the network is validated."""
        return self.config.validation

    @property
    def batch_size(self) -> int:
        """Samples of a step, in all processes together."""
        return self.method.sampling.batch_size
