"""The handlers of one session around ignite's engine: what runs when.

    epoch   | step step step ... step | validate, write the row, save, unless epochs are as short as saves |
                     ^ every few minutes: save
                     ^ a signal, or the end of the time: stop after this step, and save

What is periodic hangs on ignite's events. Its ready-made handlers do not fit: ``TerminateOnNan`` and ``TimeLimit`` read
the loss, or stop, without saving the batch or validating; ``Checkpoint`` does not read back what it wrote.
"""

import logging
import time
from typing import Literal

import torch
from ignite.engine import Engine, Events

from verse3d.core.logs import logger
from verse3d.data.samples.patches import BatchStream
from verse3d.training.clock import Clock, Cost, memory_mb
from verse3d.training.feed import Feed, choose_workers
from verse3d.training.handlers import EpochEnd, Losses, Validated
from verse3d.training.keeping import save_best, save_last
from verse3d.training.launch import Launcher, too_large
from verse3d.training.monitor import Monitor
from verse3d.training.session import Session
from verse3d.training.signals import StopSignals, Terminated, stop_of
from verse3d.training.step import Batch, StepResult

_MINUTES_WORTH_COMPILING = 5
Stop = Literal["finished", "time", "epochs", "interrupted", "terminated"]
_log = logger(__name__)


def open_feed(session: Session) -> Feed:
    """The batches of the run from its next step on."""
    standing, ranks = session.standing, session.options.ranks
    stream = BatchStream(
        length=len(session.dataset),
        batch_size=session.batch_size,
        epoch=standing.epoch + 1,
        step=standing.step - standing.epoch * session.optim.steps_per_epoch,
        rank=ranks.rank,
        ranks=ranks.count,
    )
    device = session.learner.device
    workers = choose_workers(session.runtime, device, ranks.here)
    _log.debug("patches are read %s", f"by worker processes ({workers})" if workers else "in this process")
    return Feed(session.dataset, stream, session.augment, device, workers)


class Loop:
    """The handlers, and what they share.

    Args:
        session, monitor, signals, started: as in ``run_session``.
    """

    def __init__(self, session: Session, monitor: Monitor, signals: StopSignals, started: float) -> None:
        self.session, self.standing, self.signals = session, session.standing, signals
        self.steps_per_epoch = session.optim.steps_per_epoch
        self.total = session.optim.epochs * self.steps_per_epoch
        self.stop: Stop = "finished"
        self.clock = Clock(started, session.options.max_minutes, session.runtime.save_minutes, 2 * self.steps_per_epoch)
        self.launch = Launcher(session.learner, session.runtime, _steps_to_come(session))
        self.feed = open_feed(session)
        self.losses = Losses(session, monitor)
        self.epoch_end = EpochEnd(session, monitor, signals)
        # Time and steps of earlier sessions count for the run, but not for the cost of this one.
        self._minutes_before, self._first_step = self.standing.minutes, self.standing.step
        self._seconds = self._waited = 0.0
        self._marked = time.monotonic()
        self._on_disk = self.standing.to_dict()
        self._in_step = False
        self._is_over = False

    def train(self) -> None:
        """Everything, until it ends by itself."""
        optim = self.session.optim
        if self.steps_done == self.steps_per_epoch:  # stopped while the last epoch was validated
            self.finish_epoch()
        self._tell_schedule(self.total)
        if self.stop == "finished" and self.standing.epoch < optim.epochs:
            engine = Engine(self._step)
            engine.logger.setLevel(logging.CRITICAL)  # our own log says what happened
            engine.add_event_handler(Events.ITERATION_COMPLETED, self._after_step)
            engine.add_event_handler(Events.EPOCH_COMPLETED, self._after_epoch)
            # ignite begins in the middle of an epoch, if it is told after which iteration.
            engine.load_state_dict(
                {"iteration": self.standing.step, "max_epochs": optim.epochs, "epoch_length": self.steps_per_epoch}
            )
            self._mark()
            engine.run(self.feed, max_epochs=optim.epochs, epoch_length=self.steps_per_epoch)
        if self.stop == "time" and self.steps_done:
            self.end_in_epoch()

    @property
    def steps_done(self) -> int:
        """Of the epoch that is being trained."""
        return self.standing.step - self.standing.epoch * self.steps_per_epoch

    def _step(self, _: Engine, batch: Batch) -> StepResult:
        fits = True
        with self.signals.held():
            # While a step is half done nothing may be saved: weights would be newer than the step that is counted.
            self._in_step = True
            try:
                result = self.launch(batch)
            except torch.OutOfMemoryError:
                fits = False  # only outside of this clause are the tensors of the failed step free
            if not fits:
                raise too_large(self.session.learner, batch, self.session.batch_size)
            self.standing.step += 1
            self.losses.add(self.standing.step, result)
            if self.session.scout is not None:
                self.session.scout.after_batch(self.standing.step, 60 * self._minutes())
            self._in_step = False
        self.feed.bring_next()
        return result

    def _after_step(self, engine: Engine) -> None:
        self.clock.stepped(self.standing.step)
        last_step, save_is_due = self._agreed()
        self.losses.tell(self.standing.step, last_step)
        self._tell_schedule(last_step)
        if self.steps_done == self.steps_per_epoch:
            return  # the end of the epoch saves, too
        if self._is_over:
            self.stop = "time"
            engine.terminate()
        elif save_is_due:
            self.save()

    def _agreed(self) -> tuple[float, bool]:
        """(last step of the run as far as is known, whether to save), the same in all processes.

        Raises:
            KeyboardInterrupt: one of several processes was asked to stop, so all do, after the same step.
        """
        ranks, clock = self.session.options.ranks, self.clock
        if ranks.is_first:
            own = [self.signals.received, clock.is_over, clock.save_is_due, clock.last_step(self.total)]
        else:
            own = [self.signals.received, 0, 0, 0]
        # Beside zeros the first process's word is the largest; a signal counts whoever received it.
        received, over, save_is_due, last_step = ranks.largest(own)
        self._is_over = bool(over)
        if received and ranks.count > 1:  # a process by itself has raised it already
            raise stop_of(int(received))
        return last_step, bool(save_is_due)

    def _tell_schedule(self, last_step: float) -> None:
        """Where the run will end, if seconds may decide anything at all."""
        if self.session.options.max_minutes is not None and not self.session.runtime.deterministic:
            self.session.learner.schedule.end_at(last_step)

    def _after_epoch(self, engine: Engine) -> None:
        self.finish_epoch()
        if self.stop != "finished":
            engine.terminate()

    def finish_epoch(self) -> None:
        """Validate, then write down and save, all at once, that the epoch was trained."""
        self.losses.read_rest()  # waits for the last step
        self._mark()
        epoch = self.standing.epoch + 1
        self._decide_to_stop(epoch)
        # The last epoch is always validated, or nothing would be known of the network that is kept.
        last = epoch == self.session.optim.epochs or self.stop != "finished"
        validated = self.epoch_end.validated(epoch, self._minutes(), last=last)
        self._agreed()
        if self._is_over and not last:  # validating took the rest of the time
            self.stop = "time"
            if validated.scans is None:
                validated = self.epoch_end.validated(epoch, self._minutes(), last=True)
        with self.signals.held():
            self._commit(epoch, validated)
            if self._saves_epoch(epoch):
                self.save()
        self._mark()  # how fast an epoch is does not depend on what was done between two

    def _saves_epoch(self, epoch: int) -> bool:
        """Whether this epoch is saved, the same in all processes. If not, a run that is killed takes it once more."""
        if self.session.runtime.deterministic or self.stop != "finished" or epoch == self.session.optim.epochs:
            return True
        return self.session.options.ranks.from_first(lambda: self.clock.epoch_save_is_due or self.clock.save_is_due)

    def _decide_to_stop(self, epoch: int) -> None:
        options = self.session.options
        if epoch == self.session.optim.epochs:
            return
        if self._is_over:
            self.stop = "time"
        elif options.max_epochs is not None and epoch >= options.max_epochs:
            self.stop = "epochs"

    def _commit(self, epoch: int, validated: Validated) -> None:
        standing = self.standing
        self._note(validated)
        # One more validation, because the run was stopped here, must not change how it goes on.
        if validated.scans is not None and self.epoch_end.is_planned(epoch):
            self.session.learner.schedule.after_validation(validated.scans.mean_dice)
        row = self.epoch_end.record(epoch, validated)
        standing.history.append(row)
        self.epoch_end.write(standing.history)
        self.epoch_end.warn_of_waiting(row["waiting_share"])
        standing.epoch = epoch
        standing.losses, standing.grad_norms = [], []
        standing.epoch_seconds = standing.epoch_waited = 0.0
        save_best(self.session, epoch, validated.scans)

    def _note(self, validated: Validated) -> None:
        standing = self.standing
        if validated.scans is not None:
            standing.last_validation_minutes = validated.minutes
            standing.validation_minutes += validated.minutes
        standing.minutes = self._minutes()

    def end_in_epoch(self) -> None:
        """Validate in the middle of an epoch, because the time is over. The epoch goes on when the run is resumed."""
        self.losses.read_rest()
        self._mark()
        epoch = self.standing.epoch + 1
        validated = self.epoch_end.validated(epoch, self._minutes(), last=True)
        with self.signals.held():
            self._note(validated)
            # The row stands for the part of the epoch that there is; the whole epoch's will take its place.
            self.epoch_end.write([*self.standing.history, self.epoch_end.record(epoch, validated)])
            save_best(self.session, epoch, validated.scans)
            self.save()

    def save(self) -> None:
        """Write ``last.pt`` as it is after the last step."""
        with self.signals.held():
            self.losses.read_rest()
            self._mark()
            self.standing.minutes = self._minutes()
            if self.stop == "time":
                self.session.learner.schedule.end_at(None)
            began = time.monotonic()
            save_last(self.session)
            self._on_disk = self.standing.to_dict()
            self.clock.saved(began)

    def interrupted(self, stop: KeyboardInterrupt) -> None:
        """Save what is whole: all steps but one that was cut in two, which only a second Ctrl-C does."""
        self.stop = "terminated" if isinstance(stop, Terminated) else "interrupted"
        if self._in_step:
            self.standing.restore(self._on_disk)
        else:
            self.save()
        _log.warning("%s after step %d; the run can be resumed", self.stop, self.standing.step)

    def cost(self) -> Cost:
        """What the session took."""
        samples = (self.standing.step - self._first_step) * self.session.batch_size
        # NaN, not 0: no step was taken, so nothing is known about waiting.
        share = self._waited / self._seconds if self._seconds else float("nan")
        return Cost(self.clock.minutes, max(0, samples), share, *memory_mb(self.session.learner.device))

    def _minutes(self) -> float:
        return self._minutes_before + self.clock.minutes

    def _mark(self) -> None:
        """Add the time since the last mark to that of the epoch's steps, if it has any yet."""
        now, waited = time.monotonic(), self.feed.waiting.take()
        if self.steps_done:
            seconds = now - self._marked
            self.standing.epoch_seconds += seconds
            self.standing.epoch_waited += waited
            self._seconds, self._waited = self._seconds + seconds, self._waited + waited
        self._marked = now


def _steps_to_come(session: Session) -> int:
    """What decides whether compiling pays; the same in every session of a deterministic run."""
    optim, minutes = session.optim, session.options.max_minutes
    if session.runtime.deterministic:
        return optim.epochs * optim.steps_per_epoch
    if minutes is not None and minutes < _MINUTES_WORTH_COMPILING:
        return 0
    return optim.epochs * optim.steps_per_epoch - session.standing.step
