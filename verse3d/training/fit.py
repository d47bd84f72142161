"""A whole training run: load, learn, validate, keep the best, and be ready to go on after any stop."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from torch.utils.data import DataLoader

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.config import Config
from verse3d.core.errors import CheckpointError, DataError, Verse3dError
from verse3d.core.logs import log_to_file, logger, stop_logging
from verse3d.core.readers import checked
from verse3d.core.runtime import seed_everything
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.patches import PatchDataset
from verse3d.data.transforms import PreparedCase, prepare_case
from verse3d.model.checkpoint import Checkpoint, load_checkpoint
from verse3d.model.modes import get_mode, require_suitable
from verse3d.model.networks import parameter_count
from verse3d.training.engines import Stop, run_session
from verse3d.training.learner import build_learner, restore_learner
from verse3d.training.monitor import Monitor
from verse3d.training.runfolder import RunFolder, resume_folder, start_folder
from verse3d.training.session import FitOptions, Session, Standing, StoredRun
from verse3d.training.validate import ValidationCase, load_validation_case, validation_patches

_log = logger(__name__)
_BAD_STATE: tuple[type[Exception], ...] = (AttributeError, *CASE_ERRORS)
_START_ANEW = "start a new run in another folder; best.pt can still be predicted with"
_Loaded = TypeVar("_Loaded")


@dataclass(frozen=True)
class FitResult:
    """How a run stands after ``fit``.

    Attributes:
        folder: the run folder.
        best: the model to predict with.
        epochs: epochs trained so far.
        best_dice: mean whole-volume validation Dice of ``best``; NaN without validation.
        best_epoch: when that was.
        stopped: "finished", "time" (max_minutes), "epochs" (max_epochs) or "interrupted" (Ctrl-C).
        failures: (case, reason) of every case that could not be used.
    """

    folder: Path
    best: Path
    epochs: int
    best_dice: float
    best_epoch: int
    stopped: Stop
    failures: tuple[tuple[str, str], ...]


def fit(config: Config, index: CaseIndex, out: Path, options: FitOptions) -> FitResult:
    """Train on the "train" cases of ``index``, choose by the "validation" cases, and fill the run folder ``out``.

    Args:
        config: of the run; for a resumed one the same (``optim.epochs`` may grow).
        index: cases with splits.
        out: the run folder.
        options: device, limits, callbacks.

    Raises:
        ConfigError: the config contradicts itself or that of the run to resume.
        DataError: the folder holds a run (or none to resume), or no training case can be read.
        CheckpointError: ``last.pt`` is damaged.
        TrainingError: the loss is no longer a number.
    """
    if options.resume:
        folder = resume_folder(out, config)
    else:
        require_suitable(config)  # before anything is written
        folder = start_folder(out, config, overwrite=options.overwrite)
    handler = log_to_file(folder.log)
    try:
        return _fit(config, index, folder, options)
    except Verse3dError as error:
        _log.error("%s", error)
        raise
    finally:
        stop_logging(handler)


def _fit(config: Config, index: CaseIndex, folder: RunFolder, options: FitOptions) -> FitResult:
    started = time.monotonic()
    seed_everything(config.runtime.seed)
    failures: list[tuple[str, str]] = []
    training = _load("training", index.in_split("train"), lambda case, _: prepare_case(case, config), failures, options)
    validation = _load_validation(config, index, failures, options)
    if not training:
        raise _no_training_case(failures)
    write_index(folder.cases, index)
    session = _session(config, folder, training, validation, options)
    _log_start(session, training)
    standing = session.standing
    with Monitor(folder.tensorboard, standing.step) as monitor:
        stopped = run_session(session, monitor, started)
    return FitResult(
        folder.path, folder.best, standing.epoch, standing.best_dice, standing.best_epoch, stopped, tuple(failures)
    )


def _load(
    what: str,
    cases: Sequence[Case],
    load: Callable[[Case, int], _Loaded],
    failures: list[tuple[str, str]],
    options: FitOptions,
) -> list[_Loaded]:
    """Load all cases; those that cannot be read are logged and listed in ``failures``."""
    loaded = []
    for number, case in enumerate(cases):
        options.progress(f"loading {what} cases", number, len(cases))
        try:
            loaded.append(load(case, number))
        except CASE_ERRORS as error:
            _log.error("%s is left out: %s", case.case, reason_of(error))
            failures.append((case.case, reason_of(error)))
    options.progress(f"loading {what} cases", len(cases), len(cases))
    return loaded


def _load_validation(
    config: Config, index: CaseIndex, failures: list[tuple[str, str]], options: FitOptions
) -> list[ValidationCase]:
    drawn = config.validation.pictures if options.paint else 0

    def load(case: Case, number: int) -> ValidationCase:
        return load_validation_case(case, config, keep_scan=number < drawn)

    cases = _load("validation", index.in_split("validation"), load, failures, options)
    if not cases:
        if config.optim.schedule == "plateau":
            raise DataError(
                "optim.schedule plateau follows the validation, and there is no validation case",
                hint="give the index one (verse3d index --validation 0.2), or use --set optim.schedule=cosine",
            )
        _log.warning("there is no validation case: best.pt will be the last epoch")
    return cases


def _no_training_case(failures: Sequence[tuple[str, str]]) -> DataError:
    if not failures:
        return DataError(
            "the index has no training case with both a scan and a mask", hint="verse3d check shows what was found"
        )
    listed = "\n".join(f"  - {case}: {reason}" for case, reason in failures)
    return DataError(
        f"no training case can be used:\n{listed}",
        hint="verse3d check says more; if the data were moved, make the index again",
    )


def _session(
    config: Config,
    folder: RunFolder,
    training: list[PreparedCase],
    validation: list[ValidationCase],
    options: FitOptions,
) -> Session:
    optim, sampling = config.optim, config.sampling
    dataset = PatchDataset(
        training,
        get_mode(config.mode).sampler(config),
        length=optim.steps_per_epoch * sampling.batch_size,
        seed=config.runtime.seed,
    )
    loader = DataLoader(
        dataset,
        batch_size=sampling.batch_size,
        num_workers=config.runtime.workers,
        pin_memory=options.device.type == "cuda",
    )
    fixed = validation_patches(validation, config)
    session = Session(
        config=config,
        folder=folder,
        learner=build_learner(config, options.device),
        dataset=dataset,
        loader=loader,
        validation=validation,
        # With a generator of its own, because a loader draws from it even if nothing is random.
        validation_loader=DataLoader(fixed, sampling.batch_size, generator=torch.Generator()) if fixed else (),
        case_names={
            "train": [case.case for case in training],
            "validation": [case.case for case in validation],
        },
        options=options,
    )
    if options.resume:
        _restore(session)
    return session


def _restore(session: Session) -> None:
    checkpoint = load_checkpoint(session.folder.last)
    if checkpoint.config.mode != session.config.mode:
        raise CheckpointError(
            f"{session.folder.last} is a model of --mode {checkpoint.config.mode}, "
            f"the run in {session.folder.path} is of --mode {session.config.mode}",
            hint="was it copied from another run?",
        )
    if not checkpoint.training:
        raise CheckpointError(
            f"{session.folder.last} can be predicted with but not trained on", hint="was best.pt copied over last.pt?"
        )
    try:
        state = checked(checkpoint.training, StoredRun, f"what {session.folder.last} says about its training")
    except DataError as error:
        raise CheckpointError(error.message, hint=_START_ANEW) from error
    for split, names in state.cases.items():
        if names != session.case_names[split]:
            raise DataError(
                f"the run in {session.folder.path} used other {split} cases ({', '.join(names) or 'none'})",
                hint=f"resume it with --data {session.folder.cases}",
            )
    try:
        session.standing.restore(state.standing)
        _require_same_epoch(session.standing, checkpoint)
        restore_learner(session.learner, state.learner)
    except _BAD_STATE as error:  # whatever PyTorch makes of a state that is none
        raise CheckpointError(
            f"{session.folder.last} cannot be gone on with, it is damaged or was trained by another version or config: "
            f"{reason_of(error)}",
            hint=_START_ANEW,
        ) from error


def _require_same_epoch(standing: Standing, checkpoint: Checkpoint) -> None:
    """Otherwise a run that is not finished could be taken for one that is, or train an epoch twice."""
    if standing.epoch != checkpoint.epoch:
        raise DataError(
            f"its state is that after epoch {standing.epoch}, its weights are those after epoch {checkpoint.epoch}"
        )


def _log_start(session: Session, training: Sequence[PreparedCase]) -> None:
    learner = session.learner
    _log.info(
        "%s with %.2f million parameters on %s in %s; %d training cases (%.0f MB in memory), %d validation cases",
        session.config.network.name,
        parameter_count(learner.network) / 1e6,
        learner.device,
        str(learner.precision.dtype).removeprefix("torch."),
        len(training),
        sum(case.megabytes for case in training),
        len(session.validation),
    )
    if session.standing.epoch:
        _log.info("resuming after epoch %d of %d", session.standing.epoch, session.config.optim.epochs)
