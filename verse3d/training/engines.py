"""The ignite engine around our training step: what runs when."""

import logging
import time
from typing import Literal

import torch
from ignite.engine import Engine, Events

from verse3d.core.errors import TrainingError
from verse3d.core.logs import logger
from verse3d.data.samples.patches import BatchStream
from verse3d.training.feed import Feed, choose_workers
from verse3d.training.handlers import EpochEnd, Losses
from verse3d.training.keeping import save_epoch, save_last
from verse3d.training.launch import Launcher, largest_batch
from verse3d.training.learner import best_network
from verse3d.training.monitor import Monitor
from verse3d.training.readings import require_finite
from verse3d.training.session import Session
from verse3d.training.step import Batch, StepResult

_MINUTES_WORTH_COMPILING = 5
Stop = Literal["finished", "time", "epochs", "interrupted"]
_log = logger(__name__)


def run_session(session: Session, monitor: Monitor, started: float) -> Stop:
    """Train until the schedule, a limit or Ctrl-C ends it; every whole epoch is on disk.

    Args:
        session: what to train.
        monitor: where to show it.
        started: ``time.monotonic()`` of the call, for ``max_minutes``.

    Raises:
        TrainingError: the loss, its gradient or a weight is no longer a number, or a batch does not fit the GPU.
        OutputError: a checkpoint cannot be written.
    """
    standing, optim = session.standing, session.config.optim
    if standing.epoch >= optim.epochs:
        _log.info("all %d epochs are done already", optim.epochs)
        return "finished"
    if standing.epoch == 0:
        save_last(session)  # so that even the first epoch can be interrupted
    if session.options.max_epochs is not None and standing.epoch >= session.options.max_epochs:
        return "epochs"
    loop = _Loop(session, monitor, started)
    trainer = loop.engine()
    trainer.load_state_dict(
        {"epoch": standing.epoch, "max_epochs": optim.epochs, "epoch_length": optim.steps_per_epoch}
    )
    try:
        trainer.run(loop.feed, max_epochs=optim.epochs, epoch_length=optim.steps_per_epoch)
    except KeyboardInterrupt:
        standing.restore(loop.on_disk)
        _log.warning("interrupted; go on after epoch %d with `resume`", standing.epoch)
        return "interrupted"
    finally:
        loop.feed.close()
    return loop.stop


def open_feed(session: Session) -> Feed:
    """The batches of the run from its next epoch on."""
    stream = BatchStream(
        length=len(session.dataset),
        batch_size=session.config.sampling.batch_size,
        epoch=session.standing.epoch + 1,
    )
    device = session.learner.device
    workers = choose_workers(session.config.runtime, device)
    _log.info("patches are read %s", f"by worker processes ({workers})" if workers else "in this process")
    return Feed(session.dataset, stream, session.augment, device, workers)


class _Loop:
    """The handlers of one session, and what they share."""

    def __init__(self, session: Session, monitor: Monitor, started: float) -> None:
        self.session = session
        self.started = started
        self.minutes_before = session.standing.minutes
        self.stop: Stop = "finished"
        self.on_disk = session.standing.to_dict()
        self.launch = Launcher(session.learner, session.config.runtime, _steps_to_come(session))
        self.feed = open_feed(session)
        self.losses = Losses(session, monitor)
        self.epoch_end = EpochEnd(session, monitor, self.losses)
        self.epoch_started = started

    def engine(self) -> Engine:
        trainer = Engine(self.step)
        trainer.logger.setLevel(logging.CRITICAL)  # our own log says what happened
        trainer.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.after_batch)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.after_epoch)
        return trainer

    def step(self, _: Engine, batch: Batch) -> StepResult:
        too_large = False
        try:
            result = self.launch(batch)
        except torch.OutOfMemoryError:
            too_large = True  # only outside of this clause are the tensors of the failed step free
        if too_large:
            raise _too_large(self.session, batch)
        self.feed.bring_next()
        return result

    def start_epoch(self, _: Engine) -> None:
        self.losses.start_epoch()
        self.feed.waiting.take()
        self.epoch_started = time.monotonic()

    def after_batch(self, engine: Engine) -> None:
        self.losses.add(engine.state.iteration, engine.state.output)

    def after_epoch(self, engine: Engine) -> None:
        standing = self.session.standing
        self.losses.read_rest()  # waits for the last step
        seconds, waited = time.monotonic() - self.epoch_started, self.feed.waiting.take()
        require_finite(best_network(self.session.learner))
        standing.epoch, standing.step = engine.state.epoch, engine.state.iteration
        self._decide_to_stop(engine)
        last = standing.epoch == self.session.config.optim.epochs or self.stop != "finished"
        loss, validation = self.epoch_end.validated(self._minutes(), last=last)
        standing.minutes = self._minutes()
        self.epoch_end.record(seconds, waited, loss, validation)
        save_epoch(self.session, validation)
        self.on_disk = standing.to_dict()

    def _minutes(self) -> float:
        return self.minutes_before + (time.monotonic() - self.started) / 60

    def _decide_to_stop(self, engine: Engine) -> None:
        options, epoch = self.session.options, self.session.standing.epoch
        minutes = (time.monotonic() - self.started) / 60
        if epoch == self.session.config.optim.epochs:
            return
        if options.max_minutes is not None and minutes >= options.max_minutes:
            self.stop = "time"
        elif options.max_epochs is not None and epoch >= options.max_epochs:
            self.stop = "epochs"
        else:
            return
        _log.info("stopping after epoch %d (%s limit)", epoch, self.stop)
        engine.terminate()


def _steps_to_come(session: Session) -> int:
    """What decides whether compiling pays; the same in every session of a deterministic run."""
    optim, minutes = session.config.optim, session.options.max_minutes
    if session.config.runtime.deterministic:
        return optim.epochs * optim.steps_per_epoch
    if minutes is not None and minutes < _MINUTES_WORTH_COMPILING:
        return 0
    return (optim.epochs - session.standing.epoch) * optim.steps_per_epoch


def _too_large(session: Session, batch: Batch) -> TrainingError:
    """Says which batch would fit, found by trial."""
    asked, device = session.config.sampling.batch_size, session.learner.device
    fits = largest_batch(session.learner, batch)
    if fits:
        return TrainingError(
            f"a batch of {asked} does not fit into the memory of {device}; the largest that does is {fits}",
            hint=f"use `sampling.batch_size={fits}`",
        )
    return TrainingError(
        f"not even a single sample fits into the memory of {device}",
        hint="choose smaller sampling.patch_voxels or network.channels",
    )
