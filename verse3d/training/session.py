"""The state of a run: what it was given, what changes, and what a checkpoint must hold to go on."""

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import ConfigDict, Field

from verse3d.core.config import Config
from verse3d.core.logs import Progress, no_progress
from verse3d.core.readers import Record, Text, checked
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import PatchDataset
from verse3d.training.initial import InitialWeights
from verse3d.training.runfolder import RunFolder
from verse3d.training.scout import ScoutTraining
from verse3d.training.step import Learner
from verse3d.training.validate import Painter, ValidationCase

DRAWS = 2
"""Number of the way in which samples follow from (seed, epoch, position). Stored in ``last.pt``."""


@dataclass(frozen=True)
class FitOptions:
    """How to run, as opposed to what to learn.

    Attributes:
        device: where the network learns.
        resume: go on with the run in the folder.
        overwrite: replace the run in the folder.
        max_minutes: stop after the first epoch that ends later than this; None for no limit.
        max_epochs: stop after this epoch of the schedule; None for all.
        paint: draws validation pictures, or None for none.
        progress: told about every batch.
        store: folder of prepared cases; None for the one that the run used before, or one in the run folder.
        initial: a model to begin with; None for a network as it is drawn. A resumed run goes on with its own weights.
    """

    device: torch.device
    resume: bool = False
    overwrite: bool = False
    max_minutes: float | None = None
    max_epochs: int | None = None
    paint: Painter | None = None
    progress: Progress = no_progress
    store: Path | None = None
    initial: InitialWeights | None = None


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
    """

    # What is undefined is NaN here, so that is allowed.
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(extra="forbid")

    epoch: Annotated[int, Field(ge=0, strict=True)] = 0
    step: Annotated[int, Field(ge=0, strict=True)] = 0
    minutes: Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=True)] = 0.0
    validation_minutes: Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=True)] = 0.0
    last_validation_minutes: Annotated[float, Field(ge=0.0, allow_inf_nan=False, strict=True)] = 0.0
    best_dice: Annotated[float, Field(strict=True)] = math.nan
    best_epoch: Annotated[int, Field(ge=0, strict=True)] = 0
    history: list[dict[str, Annotated[float, Field(strict=True)]]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain numbers for a checkpoint."""
        return asdict(self)

    def restore(self, state: dict[str, Any]) -> None:
        """Undo of ``to_dict``.

        Raises:
            DataError: it is no such state; nothing is changed then.
        """
        checked(state, Standing, "how far the run is")
        for name in (each.name for each in fields(self)):
            setattr(self, name, state.get(name, getattr(self, name)))  # as it was: 1 is not 1.0 in the next last.pt


class StoredRun(Record):
    """What ``last.pt`` holds beside the model, to go on with.

    Attributes:
        cases: names of the cases of the run, by split.
        learner: see ``learner.learner_state``.
        standing: see ``Standing.to_dict``.
        draws: see ``DRAWS``; runs from before it was noted are of the first way.
        scout: see ``ScoutTraining.to_dict``; empty where none learns.
    """

    cases: dict[Literal["train", "validation"], list[Text]]
    learner: dict[str, Any]
    standing: dict[str, Any]
    draws: int = 1
    scout: dict[str, Any] = Field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Session:
    """Everything that one call of ``fit`` works with.

    Attributes:
        config: of the run.
        options: of this call.
        folder: where the files go.
        learner: the network and what trains it.
        dataset: the training samples.
        augment: makes samples of boxes on the device.
        validation: whole scans to validate on.
        loss_batches: unchanging patches of them for the validation loss; gives none if it is not wanted.
        case_names: of the training and the validation cases, by split and in order.
        standing: how far the run is.
        scout: what learns beside the network to find the spine; None if nothing does.
    """

    config: Config
    options: FitOptions
    folder: RunFolder
    learner: Learner
    dataset: PatchDataset
    augment: Augment
    validation: list[ValidationCase]
    loss_batches: Iterable[PackedBatch]
    case_names: dict[str, list[str]]
    standing: Standing = field(default_factory=Standing)
    scout: ScoutTraining | None = None
