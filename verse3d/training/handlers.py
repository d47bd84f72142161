"""What happens after every batch and after every epoch."""

import math
import time
from collections.abc import Sequence

from verse3d.core.errors import TrainingError
from verse3d.core.logs import logger
from verse3d.inference.predictor import Predictor
from verse3d.training.learner import best_network
from verse3d.training.monitor import Monitor
from verse3d.training.pace import validation_fits
from verse3d.training.readings import Reading, Readings
from verse3d.training.runfolder import write_history
from verse3d.training.session import Session
from verse3d.training.step import StepResult
from verse3d.training.validate import ValidationResult, validate, validation_loss

_MUCH_WAITING = 0.1
_log = logger(__name__)


class Losses:
    """Reads losses off the device every few steps, shows them, and stops at one that is no number."""

    def __init__(self, session: Session, monitor: Monitor) -> None:
        self._readings = Readings(session.learner.device)
        self._session = session
        self._monitor = monitor
        self._epoch: list[Reading] = []

    def start_epoch(self) -> None:
        """Forget the epoch before."""
        self._epoch = []

    def add(self, step: int, result: StepResult) -> None:
        """Keep the result of a step, and tell that it was done.

        Raises:
            TrainingError: the loss or gradient of one of the last steps is no longer a number.
        """
        self._look_at(self._readings.add(step, result))
        optim = self._session.config.optim
        epoch = -(-step // optim.steps_per_epoch)  # both count from 1
        loss = f", loss {self._epoch[-1].loss:.3f}" if self._epoch else ""
        what = f"epoch {epoch}/{optim.epochs}{loss}{self._best()}"
        self._session.options.progress(what, step, optim.epochs * optim.steps_per_epoch)

    def read_rest(self) -> None:
        """Read the results that were not read yet; waits for the last step to end.

        Raises:
            TrainingError: a loss or a gradient is no longer a number.
        """
        self._look_at(self._readings.rest())

    def _look_at(self, readings: Sequence[Reading]) -> None:
        skips = self._session.learner.scaler.is_enabled()
        for reading in readings:
            if trouble := reading.trouble(skips_infinite=skips):
                epoch = -(-reading.step // self._session.config.optim.steps_per_epoch)
                raise TrainingError(
                    f"the {trouble} in epoch {epoch}, step {reading.step} (lr {reading.lr:.3g})",
                    hint="lower optim.lr or set runtime.amp to off; `resume` goes on from the last whole epoch",
                )
            self._epoch.append(reading)
            self._monitor.step(reading)

    def means(self) -> tuple[float, float]:
        """Of the epoch so far: loss and gradient length."""
        count = len(self._epoch)
        losses, lengths = (reading.loss for reading in self._epoch), (reading.grad_norm for reading in self._epoch)
        return math.fsum(losses) / count, math.fsum(lengths) / count

    def _best(self) -> str:
        best = self._session.standing.best_dice
        return "" if math.isnan(best) else f", best Dice {best:.3f}"


class EpochEnd:
    """Validates after an epoch, writes its row of the history, and says when training waits for its data.

    Args:
        session: that is trained.
        monitor: where to show it.
        losses: of the epoch.
    """

    def __init__(self, session: Session, monitor: Monitor, losses: Losses) -> None:
        self._session = session
        self._monitor = monitor
        self._losses = losses
        self._epochs_here = 0
        self._warned = False

    def validated(self, minutes: float, *, last: bool) -> tuple[float, ValidationResult | None]:
        """The validation loss, and the score of whole scans if it is time for them.

        Args:
            minutes: that the run took so far.
            last: whether the run ends with this epoch.
        """
        session = self._session
        predictor = self._predictor()
        loss = validation_loss(predictor, session.learner.loss, session.augment, session.loss_batches)
        due = last or (self._planned() and validation_fits(session.standing, session.config, minutes))
        return loss, self._validate(predictor) if due and session.validation else None

    def _planned(self) -> bool:
        return self._session.standing.epoch % self._session.config.validation.every_epochs == 0

    def _predictor(self) -> Predictor:
        learner = self._session.learner
        network = best_network(learner).eval()
        return Predictor.of_network(network, self._session.config, learner.device, learner.precision)

    def _validate(self, predictor: Predictor) -> ValidationResult:
        session, standing = self._session, self._session.standing
        started = time.monotonic()
        result = validate(predictor, session.validation, session.options.paint)
        standing.last_validation_minutes = (time.monotonic() - started) / 60
        standing.validation_minutes += standing.last_validation_minutes
        listed = ", ".join(f"{case} {value:.3f}" for case, value in result.dice_of.items())
        _log.info("epoch %d: validation Dice %.4f (%s)", standing.epoch, result.mean_dice, listed)
        self._monitor.validation(standing.step, result)
        # One more validation, because the run was stopped here, must not change how it goes on.
        if self._planned():
            session.learner.schedule.after_validation(result.mean_dice)
        return result

    def record(self, seconds: float, waited: float, loss: float, validation: ValidationResult | None) -> None:
        """Write the epoch's row of the history and show it.

        Args:
            seconds: that its steps took ...
            waited: ... and of them, waiting for data.
            loss: on the validation patches.
            validation: of whole scans, if there was one.
        """
        standing, steps = self._session.standing, self._session.config.optim.steps_per_epoch
        mean_loss, grad_norm = self._losses.means()
        speed = {
            "patches_per_s": steps * self._session.config.sampling.batch_size / seconds,
            "waiting_share": waited / seconds,
        }
        self._monitor.epoch(standing.step, mean_loss=mean_loss, validation_loss=loss, **speed)
        standing.history.append(
            {
                "epoch": standing.epoch,
                "step": standing.step,
                "train_loss": mean_loss,
                "validation_loss": loss,
                "lr": self._session.learner.schedule.rate,
                "grad_norm": grad_norm,
                **speed,
                "minutes": standing.minutes,
                "validation_dice": validation.mean_dice if validation else math.nan,
            }
        )
        write_history(self._session.folder.history, standing.history)
        told = "epoch %d: loss %.4f, %.2f patches/s, %.0f %% of the time waiting for data"
        _log.info(told, standing.epoch, mean_loss, speed["patches_per_s"], 100 * speed["waiting_share"])
        self._warn_of_waiting(speed["waiting_share"])

    def _warn_of_waiting(self, share: float) -> None:
        """Once, and not of the first epoch, in which the workers start."""
        self._epochs_here += 1
        if self._warned or self._epochs_here == 1 or share <= _MUCH_WAITING:
            return
        self._warned = True
        _log.warning(
            "%.0f %% of an epoch was spent waiting for data: raise runtime.workers (or leave it at auto) if there are "
            "idle cores, keep the prepared cases on a local disk, or choose larger batches",
            100 * share,
        )
