"""The ignite engine around our training step, and what happens after every batch and every epoch."""

import logging
import math
import time
from typing import Literal

from ignite.engine import Engine, Events

from verse3d.core.errors import TrainingError
from verse3d.core.logs import logger
from verse3d.inference.predictor import Predictor
from verse3d.model.checkpoint import Checkpoint, save_checkpoint
from verse3d.training.learner import best_network, learner_state
from verse3d.training.monitor import Monitor
from verse3d.training.runfolder import write_history
from verse3d.training.session import Session
from verse3d.training.step import Batch, StepResult, training_step
from verse3d.training.validate import ValidationResult, validate, validation_loss

Stop = Literal["finished", "time", "epochs", "interrupted"]
_log = logger(__name__)


def run_session(session: Session, monitor: Monitor, started: float) -> Stop:
    """Train until the schedule, a limit or Ctrl-C ends it; every whole epoch is on disk.

    Args:
        session: what to train.
        monitor: where to show it.
        started: ``time.monotonic()`` of the call, for ``max_minutes``.

    Raises:
        TrainingError: the loss or its gradient is no longer a number.
        OutputError: a checkpoint cannot be written.
    """
    standing, optim = session.standing, session.config.optim
    if standing.epoch >= optim.epochs:
        _log.info("all %d epochs are done already", optim.epochs)
        return "finished"
    if standing.epoch == 0:
        _save_last(session)  # so that even the first epoch can be interrupted
    if session.options.max_epochs is not None and standing.epoch >= session.options.max_epochs:
        return "epochs"
    loop = _Loop(session, monitor, started)
    trainer = loop.engine()
    trainer.load_state_dict(
        {"epoch": standing.epoch, "max_epochs": optim.epochs, "epoch_length": optim.steps_per_epoch}
    )
    try:
        trainer.run(session.loader, max_epochs=optim.epochs, epoch_length=optim.steps_per_epoch)
    except KeyboardInterrupt:
        standing.restore(loop.on_disk)
        _log.warning("interrupted; go on after epoch %d with --resume", standing.epoch)
        return "interrupted"
    return loop.stop


class _Loop:
    """The handlers of one session."""

    def __init__(self, session: Session, monitor: Monitor, started: float) -> None:
        self.session = session
        self.monitor = monitor
        self.started = started
        self.minutes_before = session.standing.minutes
        self.stop: Stop = "finished"
        self.on_disk = session.standing.to_dict()
        self.losses: list[float] = []
        self.grad_norms: list[float] = []
        self.epoch_started = started

    def engine(self) -> Engine:
        trainer = Engine(self.step)
        trainer.logger.setLevel(logging.CRITICAL)  # our own log says what happened
        trainer.add_event_handler(Events.EPOCH_STARTED, self.start_epoch)
        trainer.add_event_handler(Events.ITERATION_COMPLETED, self.after_batch)
        trainer.add_event_handler(Events.EPOCH_COMPLETED, self.after_epoch)
        return trainer

    def step(self, _: Engine, batch: Batch) -> StepResult:
        return training_step(self.session.learner, batch)

    def start_epoch(self, engine: Engine) -> None:
        self.session.dataset.set_epoch(engine.state.epoch)
        self.losses, self.grad_norms = [], []
        self.epoch_started = time.monotonic()

    def after_batch(self, engine: Engine) -> None:
        result: StepResult = engine.state.output
        optim, step = self.session.config.optim, engine.state.iteration
        sick = self._what_is_not_finite(result)
        if sick:
            raise TrainingError(
                f"the {sick} in epoch {engine.state.epoch}, step {step} (lr {result.lr:.3g})",
                hint="lower optim.lr or set runtime.amp to off; --resume goes on from the last whole epoch",
            )
        self.losses.append(result.loss)
        self.grad_norms.append(result.grad_norm)
        self.monitor.step(step, result)
        what = f"epoch {engine.state.epoch}/{optim.epochs}, loss {result.loss:.3f}{self._best()}"
        self.session.options.progress(what, step, optim.epochs * optim.steps_per_epoch)

    def _what_is_not_finite(self, result: StepResult) -> str:
        if not math.isfinite(result.loss):
            return f"loss became {result.loss}"
        # The scaler of fp16 skips such steps; without one they have spoilt the weights.
        if not math.isfinite(result.grad_norm) and not self.session.learner.scaler.is_enabled():
            return f"length of the gradient became {result.grad_norm}"
        return ""

    def _best(self) -> str:
        best = self.session.standing.best_dice
        return "" if math.isnan(best) else f", best Dice {best:.3f}"

    def after_epoch(self, engine: Engine) -> None:
        standing = self.session.standing
        seconds = time.monotonic() - self.epoch_started
        standing.epoch, standing.step = engine.state.epoch, engine.state.iteration
        self._decide_to_stop(engine)
        predictor = self._predictor()
        loss = validation_loss(predictor, self.session.learner.loss, self.session.validation_loader)
        validation = self._validate(predictor) if self._validation_is_due() else None
        standing.minutes = self.minutes_before + (time.monotonic() - self.started) / 60
        self._record(seconds, loss, validation)
        self._save(validation)
        self.on_disk = standing.to_dict()

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

    def _validation_is_due(self) -> bool:
        epoch, config = self.session.standing.epoch, self.session.config
        last = epoch == config.optim.epochs or self.stop != "finished"
        return bool(self.session.validation) and (last or epoch % config.validation.every_epochs == 0)

    def _predictor(self) -> Predictor:
        learner = self.session.learner
        network = best_network(learner).eval()
        return Predictor.of_network(network, self.session.config, learner.device, learner.precision)

    def _validate(self, predictor: Predictor) -> ValidationResult:
        session = self.session
        result = validate(predictor, session.validation, session.options.paint)
        listed = ", ".join(f"{case} {value:.3f}" for case, value in result.dice_of.items())
        _log.info("epoch %d: validation Dice %.4f (%s)", session.standing.epoch, result.mean_dice, listed)
        self.monitor.validation(session.standing.step, result)
        # One more validation, because the run was stopped here, must not change how it goes on.
        if session.standing.epoch % session.config.validation.every_epochs == 0:
            session.learner.schedule.after_validation(result.mean_dice)
        return result

    def _record(self, seconds: float, validation_loss: float, validation: ValidationResult | None) -> None:
        standing, sampling = self.session.standing, self.session.config.sampling
        mean_loss = math.fsum(self.losses) / len(self.losses)
        patches_per_s = len(self.losses) * sampling.batch_size / seconds
        self.monitor.epoch(
            standing.step, mean_loss=mean_loss, validation_loss=validation_loss, patches_per_s=patches_per_s
        )
        standing.history.append(
            {
                "epoch": standing.epoch,
                "step": standing.step,
                "train_loss": mean_loss,
                "validation_loss": validation_loss,
                "lr": float(self.session.learner.optimizer.param_groups[0]["lr"]),
                "grad_norm": math.fsum(self.grad_norms) / len(self.grad_norms),
                "patches_per_s": patches_per_s,
                "minutes": standing.minutes,
                "validation_dice": validation.mean_dice if validation else math.nan,
            }
        )
        write_history(self.session.folder.history, standing.history)
        _log.info("epoch %d: loss %.4f, %.2f patches/s", standing.epoch, mean_loss, patches_per_s)

    def _save(self, validation: ValidationResult | None) -> None:
        session, standing = self.session, self.session.standing
        if not session.validation:
            standing.best_epoch = standing.epoch
            save_checkpoint(session.folder.best, _checkpoint(session, {}))
        elif validation is not None and _better(validation.mean_dice, standing.best_dice):
            standing.best_dice, standing.best_epoch = validation.mean_dice, standing.epoch
            scores = {"validation_dice": validation.mean_dice}
            save_checkpoint(session.folder.best, _checkpoint(session, scores))
        _save_last(session)


def _better(new: float, best: float) -> bool:
    """An undefined Dice is better than nothing and worse than any number."""
    return math.isnan(best) or (not math.isnan(new) and new > best)


def _checkpoint(session: Session, scores: dict[str, float]) -> Checkpoint:
    weights = best_network(session.learner).state_dict()
    return Checkpoint(session.config, weights, session.standing.epoch, scores)


def _save_last(session: Session) -> None:
    standing = session.standing
    state = {
        "learner": learner_state(session.learner),
        "standing": standing.to_dict(),
        "cases": session.case_names,
    }
    weights = best_network(session.learner).state_dict()
    scores = {} if math.isnan(standing.best_dice) else {"best_validation_dice": standing.best_dice}
    save_checkpoint(session.folder.last, Checkpoint(session.config, weights, standing.epoch, scores, state))
