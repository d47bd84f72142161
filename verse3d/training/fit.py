"""A whole training run: load, learn, validate, keep the best, and be ready to go on after any stop."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from verse3d.core.config import Config
from verse3d.core.errors import ConfigError, DataError, OutputError, Verse3dError
from verse3d.core.files import write_text
from verse3d.core.logs import log_to_file, logger, stop_logging
from verse3d.core.runtime import seed_everything
from verse3d.core.wording import how_many
from verse3d.data.cases import CaseIndex, write_index
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.ignored import Ignored
from verse3d.data.samples.patches import PatchDataset
from verse3d.data.samples.preparation import preparing
from verse3d.data.samples.prepare import Job
from verse3d.data.samples.store import SampleStore, open_store
from verse3d.data.samples.stored import StoredCases
from verse3d.model.modes import Method, require_suitable
from verse3d.model.networks import parameter_count
from verse3d.training.clock import Cost
from verse3d.training.engines import run_session
from verse3d.training.initial import begin_scout_with, begin_with
from verse3d.training.learner import build_learner
from verse3d.training.loop import Stop
from verse3d.training.monitor import Monitor
from verse3d.training.resume import restore
from verse3d.training.runfolder import RunFolder, resume_folder, start_folder
from verse3d.training.scout import scout_of_run
from verse3d.training.session import FitOptions, Session
from verse3d.training.signals import StopSignals
from verse3d.training.validate import LossBatches, ValidationCase, first_pictures

_log = logger(__name__)


@dataclass(frozen=True)
class FitResult:
    """How a run stands after ``fit``.

    Attributes:
        folder: the run folder.
        best: the model to predict with.
        epochs: epochs trained so far.
        best_dice: mean whole-volume validation Dice of ``best``; NaN without validation.
        best_epoch: when that was.
        stopped: "finished", "time" (max_minutes), "epochs" (max_epochs), "interrupted" (Ctrl-C) or "terminated" (the
            machine was wanted back: SIGTERM, SIGUSR1).
        failures: (case, reason) of every case that could not be used.
        cost: what this call took.
    """

    folder: Path
    best: Path
    epochs: int
    best_dice: float
    best_epoch: int
    stopped: Stop
    failures: tuple[tuple[str, str], ...]
    cost: Cost | None = None


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
    _refuse(config, index, options)
    folder = options.ranks.from_first(lambda: _folder(config, out, options))
    # Of several processes the first one writes the log; errors of the others reach the terminal.
    handler = log_to_file(folder.log) if options.ranks.is_first else None
    try:
        for remark in options.remarks:
            _log.info("%s", remark)
        with StopSignals(held=options.ranks.count > 1) as signals:
            return _fit(config, index, folder, options, signals)
    except Verse3dError as error:
        _log.error("%s", error)
        raise
    finally:
        if handler is not None:
            stop_logging(handler)


def _refuse(config: Config, index: CaseIndex, options: FitOptions) -> None:
    """Refuse options that make no sense, before anything is written."""
    minutes, count = options.max_minutes, options.ranks.count
    if minutes is not None and not minutes > 0:
        raise ConfigError(f"`max_minutes` must be above 0, got {minutes:g}", hint="leave it out for no limit")
    if not options.resume:
        require_suitable(config)
    cases = len(index.in_split("train"))
    if 0 < cases < count:
        raise ConfigError(
            f"{count} processes share a run of {how_many(cases, 'training case')}",
            hint=f"start at most {how_many(cases, 'process', 'processes')}",
        )


def _folder(config: Config, out: Path, options: FitOptions) -> RunFolder:
    if options.resume:
        return resume_folder(out, config)
    return start_folder(out, config, overwrite=options.overwrite)


def _fit(config: Config, index: CaseIndex, folder: RunFolder, options: FitOptions, signals: StopSignals) -> FitResult:
    started, ranks = time.monotonic(), options.ranks
    seed_everything(config.runtime.seed)
    store = ranks.from_first(lambda: fit_store(folder, options))
    training = [Job.of(store, config.grid, case) for case in index.in_split("train")]
    validation = [Job.of(store, config.grid, case) for case in index.in_split("validation")]
    told = _left_out([*training, *validation])
    if all(job.failure for job in training):
        raise _no_training_case(_left_out(training))
    _consider_validation(config, validation)
    ranks.from_first(lambda: write_index(folder.cases, index))
    session = _session(config, folder, training, validation, options)
    standing = session.standing
    # In the order in which the run will want them: | cases of the first epoch | validation | all others |
    order = [training[number] for number in session.dataset.case_order(standing.epoch + 1)]
    soon = min(len(order), len(session.dataset))
    wanted = [*order[:soon], *validation, *order[soon:]]
    # Each process prepares its share ahead; a case that is wanted earlier is prepared by who wants it.
    with preparing(ranks.share(wanted), options.progress):
        with signals.at_once():
            _require_training_case(session, training)
        _log_start(session)
        with Monitor(folder.tensorboard, standing.step, writes=ranks.is_first) as monitor:
            if standing.step == 0 and options.paint is not None and ranks.is_first:
                monitor.start(config.to_dict(), config.to_yaml(), first_pictures(session.validation, options.paint))
            ended = run_session(session, monitor, signals, started)
    failures = _left_out([*training, *validation], told)
    return FitResult(
        folder=folder.path,
        best=folder.best,
        epochs=standing.epoch,
        best_dice=standing.best_dice,
        best_epoch=standing.best_epoch,
        stopped=ended.stopped,
        failures=failures,
        cost=ended.cost,
    )


def fit_store(folder: RunFolder, options: FitOptions) -> SampleStore:
    """The prepared cases of a run; where they are is noted for a resumed one.

    Raises:
        DataError: the folder holds something else, or the store of a newer version.
        OutputError: it cannot be made.
    """
    noted = ""
    if folder.store_note.is_file():
        noted = folder.store_note.read_text(encoding="utf-8").strip()
    # What is asked for, else where the run had its cases before, else in its own folder
    before = Path(noted) if noted and options.resume else folder.store
    store = open_store(options.store or before)
    write_text(folder.store_note, f"{store.folder.absolute()}\n")
    return store


def _left_out(jobs: Sequence[Job], told: tuple[tuple[str, str], ...] = ()) -> tuple[tuple[str, str], ...]:
    """(case, reason) of the cases that cannot be prepared; those that were not told before are logged."""
    failures = []
    for job in jobs:
        if reason := job.failure:
            failures.append((job.case.case, reason))
            if failures[-1] not in told:
                _log.error("%s is left out: %s", *failures[-1])
    return tuple(failures)


def _consider_validation(config: Config, validation: Sequence[Job]) -> None:
    if all(job.failure for job in validation):
        if config.optim.schedule == "plateau":
            raise DataError(
                "optim.schedule plateau follows the validation, and there is no validation case",
                hint="give the index one (`verse3d.index(validation=0.2)`), or use `optim.schedule=cosine`",
            )
        _log.warning("there is no validation case: best.pt will be the last epoch")


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
    method, seed = Method(config), config.runtime.seed
    cut, ignored = method.cut(), Ignored(method.ignores_cut, method.ignores_automatic_borders)
    cases = StoredCases(training, method.cut_scheme, ignored)
    usable = [] if all(job.failure for job in validation) else validation
    whole = StoredCases(usable, method.cut_scheme, ignored)
    length = config.optim.steps_per_epoch * config.sampling.batch_size
    dataset = PatchDataset(cases, cut, length=length, seed=seed)
    drawn = config.validation.pictures if options.paint else 0
    session = Session(
        config=config,
        method=method,
        folder=folder,
        learner=build_learner(method, config.optim, config.runtime, options.device, options.ranks),
        dataset=dataset,
        augment=Augment(cut.size),
        validation=[
            ValidationCase(case.files, case, method.scheme, drawn=number < drawn)
            for number, case in enumerate(whole.each())
        ],
        loss_batches=LossBatches(whole, method, count=config.validation.loss_batches, seed=seed),
        case_names={
            "train": [job.case.case for job in training],
            "validation": [job.case.case for job in validation],
        },
        # What tells, when a run goes on, whether a case still teaches what it taught.
        data={
            job.case.case: f"{job.name}, borders ignored"
            if ignored.automatic_borders and job.case.automatic
            else job.name
            for job in (*training, *validation)
        },
        options=options,
        scout=scout_of_run(config, cases, whole, dataset.case_order(1), options.device)
        if options.ranks.is_first
        else None,
    )
    if not options.ranks.is_first:  # so that no two processes drop the same units
        torch.manual_seed(seed + options.ranks.rank)
    if options.resume:
        restore(session)
        return session
    if options.initial:
        begin_with(session.learner, options.initial, method)
    if session.scout is not None and options.initial_scout is not None:
        begin_scout_with(session.scout, options.initial_scout)
    return session


def _log_start(session: Session) -> None:
    learner = session.learner
    cases = session.dataset.cases
    failed = sum(bool(case.failure) for case in cases.each()) if isinstance(cases, StoredCases) else 0
    count = session.options.ranks.count
    _log.info(
        "%s with %.2f million parameters on %s in %s%s; cases: %d for training, %d for validation",
        session.method.architecture.name,
        parameter_count(learner.network) / 1e6,
        learner.device,
        str(learner.precision.dtype).removeprefix("torch."),
        f", {count} processes" if count > 1 else "",
        len(session.case_names["train"]) - failed,
        len(session.validation),
    )
    if session.standing.step:
        epoch, epochs = session.standing.epoch, session.optim.epochs
        _log.info("resuming at step %d, after epoch %d of %d", session.standing.step, epoch, epochs)
