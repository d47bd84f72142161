"""A whole training run: load, learn, validate, keep the best, and be ready to go on after any stop."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.config import Config
from verse3d.core.errors import CheckpointError, DataError, OutputError, Verse3dError
from verse3d.core.files import write_text
from verse3d.core.labels import label_scheme
from verse3d.core.logs import log_to_file, logger, stop_logging
from verse3d.core.readers import checked
from verse3d.core.runtime import seed_everything
from verse3d.data.cases import CaseIndex, write_index
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.patches import PatchDataset
from verse3d.data.samples.preparation import preparing
from verse3d.data.samples.prepare import Job
from verse3d.data.samples.store import SampleStore, open_store
from verse3d.data.samples.stored import StoredCases
from verse3d.model.checkpoint import Checkpoint, load_checkpoint
from verse3d.model.modes import get_mode, require_suitable
from verse3d.model.networks import parameter_count
from verse3d.training.engines import Stop, run_session
from verse3d.training.initial import begin_with
from verse3d.training.learner import build_learner, restore_learner
from verse3d.training.monitor import Monitor
from verse3d.training.runfolder import RunFolder, resume_folder, start_folder
from verse3d.training.session import DRAWS, FitOptions, Session, Standing, StoredRun
from verse3d.training.validate import LossBatches, ValidationCase

_log = logger(__name__)
_BAD_STATE: tuple[type[Exception], ...] = (AttributeError, *CASE_ERRORS)
_START_ANEW = "start a new run in another folder; best.pt can still be predicted with"


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
    store = fit_store(folder, options)
    training = [Job.of(store, config.grid, case) for case in index.in_split("train")]
    validation = [Job.of(store, config.grid, case) for case in index.in_split("validation")]
    told = _left_out([*training, *validation])
    if all(job.failure for job in training):
        raise _no_training_case(_left_out(training))
    _consider_validation(config, validation)
    write_index(folder.cases, index)
    session = _session(config, folder, training, validation, options)
    with preparing(_wanted_first(session, training, validation), options.progress):
        _require_training_case(session, training)
        _log_start(session)
        standing = session.standing
        with Monitor(folder.tensorboard, standing.step) as monitor:
            stopped = run_session(session, monitor, started)
    failures = _left_out([*training, *validation], told)
    return FitResult(
        folder.path, folder.best, standing.epoch, standing.best_dice, standing.best_epoch, stopped, failures
    )


def fit_store(folder: RunFolder, options: FitOptions) -> SampleStore:
    """The prepared cases of a run; where they are is noted for a resumed one.

    Raises:
        DataError: the folder holds something else, or the store of a newer version.
        OutputError: it cannot be made.
    """
    noted = folder.store_note.read_text(encoding="utf-8").strip() if folder.store_note.is_file() else ""
    store = open_store(options.store or (Path(noted) if noted and options.resume else folder.store))
    write_text(folder.store_note, f"{store.folder.absolute()}\n")
    return store


def _left_out(jobs: Sequence[Job], told: tuple[tuple[str, str], ...] = ()) -> tuple[tuple[str, str], ...]:
    """(case, reason) of the cases that cannot be prepared; those that were not told before are logged."""
    failures = tuple((job.case.case, reason) for job in jobs if (reason := job.failure))
    for case, reason in failures:
        if (case, reason) not in told:
            _log.error("%s is left out: %s", case, reason)
    return failures


def _consider_validation(config: Config, validation: Sequence[Job]) -> None:
    if all(job.failure for job in validation):
        if config.optim.schedule == "plateau":
            raise DataError(
                "optim.schedule plateau follows the validation, and there is no validation case",
                hint="give the index one (`verse3d.index(validation=0.2)`), or use `optim.schedule=cosine`",
            )
        _log.warning("there is no validation case: best.pt will be the last epoch")


def _wanted_first(session: Session, training: Sequence[Job], validation: Sequence[Job]) -> list[Job]:
    """All cases in the order in which the run will want them."""
    order = [training[number] for number in session.dataset.case_order(session.standing.epoch + 1)]
    soon = min(len(order), len(session.dataset))
    return [*order[:soon], *validation, *order[soon:]]


def _require_training_case(session: Session, training: Sequence[Job]) -> None:
    """Wait for the case of the first patch.

    Raises:
        DataError: no training case can be prepared.
        OutputError: the store cannot be written.
    """
    try:
        session.dataset.cases[session.dataset.case_order(session.standing.epoch + 1)[0]]
    except OutputError:
        raise
    except DataError as error:
        raise _no_training_case(_left_out(training)) from error


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
    config: Config, folder: RunFolder, training: Sequence[Job], validation: Sequence[Job], options: FitOptions
) -> Session:
    cut = get_mode(config.mode).cut(config)
    length = config.optim.steps_per_epoch * config.sampling.batch_size
    scheme, drawn = label_scheme(config.labels.scheme), config.validation.pictures if options.paint else 0
    cut_as = config.labels.trained_on
    whole = StoredCases([] if all(job.failure for job in validation) else validation, cut_as)
    session = Session(
        config=config,
        folder=folder,
        learner=build_learner(config, options.device),
        dataset=PatchDataset(StoredCases(training, cut_as), cut, length=length, seed=config.runtime.seed),
        augment=Augment(cut.size),
        validation=[
            ValidationCase(case.files, case, scheme, drawn=number < drawn) for number, case in enumerate(whole.each())
        ],
        loss_batches=LossBatches(whole, config),
        case_names={
            "train": [job.case.case for job in training],
            "validation": [job.case.case for job in validation],
        },
        options=options,
    )
    if options.resume:
        _restore(session)
    elif options.initial:
        begin_with(session.learner, options.initial, config)
    return session


def _restore(session: Session) -> None:
    checkpoint = load_checkpoint(session.folder.last)
    if checkpoint.config.mode != session.config.mode:
        raise CheckpointError(
            f"{session.folder.last} is a model of mode {checkpoint.config.mode}, "
            f"the run in {session.folder.path} is of mode {session.config.mode}",
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
                hint=f"resume it with `data={session.folder.cases}`",
                option="data",
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
    if state.draws != DRAWS:
        _log.warning("the run was begun by an older verse3d: it goes on, from here with patches drawn in another way")


def _require_same_epoch(standing: Standing, checkpoint: Checkpoint) -> None:
    """Otherwise a run that is not finished could be taken for one that is, or train an epoch twice."""
    if standing.epoch != checkpoint.epoch:
        raise DataError(
            f"its state is that after epoch {standing.epoch}, its weights are those after epoch {checkpoint.epoch}"
        )


def _log_start(session: Session) -> None:
    learner = session.learner
    cases = session.dataset.cases
    failed = sum(bool(case.failure) for case in cases.each()) if isinstance(cases, StoredCases) else 0
    _log.info(
        "%s with %.2f million parameters on %s in %s; %d training cases, %d validation cases",
        session.config.network.name,
        parameter_count(learner.network) / 1e6,
        learner.device,
        str(learner.precision.dtype).removeprefix("torch."),
        len(session.case_names["train"]) - failed,
        len(session.validation),
    )
    if session.standing.epoch:
        _log.info("resuming after epoch %d of %d", session.standing.epoch, session.config.optim.epochs)
