"""What happens after every batch and after every epoch."""

import copy
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from verse3d.core.errors import TrainingError
from verse3d.core.logs import logger
from verse3d.inference.naming import SequenceNaming
from verse3d.inference.predictor import Predictor
from verse3d.model.scout import ScoutNetwork
from verse3d.training.bad_batch import keep_bad_batch
from verse3d.training.clock import memory_mb
from verse3d.training.learner import best_network
from verse3d.training.level_scores import joint_confusion, mean_id_rate
from verse3d.training.monitor import Monitor
from verse3d.training.pace import validation_fits
from verse3d.training.ranks import Ranks
from verse3d.training.runfolder import write_history
from verse3d.training.session import Session
from verse3d.training.signals import StopSignals, Terminated
from verse3d.training.step import StepResult
from verse3d.training.step_values import SICK_HINT, StepValues, StepValuesReader
from verse3d.training.validate import ValidationResult, validate, validation_losses

_MUCH_WAITING = 0.1
_log = logger(__name__)


class Losses:
    """Reads losses off the device every few steps, shows them, and stops at one that is no number."""

    def __init__(self, session: Session, monitor: Monitor) -> None:
        self._readings = StepValuesReader(session.learner.device)
        self._session = session
        self._monitor = monitor

    def add(self, step: int, result: StepResult) -> None:
        """Keep the result of a step.

        Raises:
            TrainingError: the loss or gradient of one of the last steps is no longer a number.
        """
        self._look_at(self._readings.add(step, result))

    def tell(self, step: int, last_step: float) -> None:
        """Tell how far the run is, and where it will end."""
        standing, optim = self._session.standing, self._session.optim
        # Rounded up: step 1 is in epoch 1, and so is the last step of it.
        epoch = -(-step // optim.steps_per_epoch)  # both count from 1
        loss = f", loss {standing.losses[-1]:.3f}" if standing.losses else ""
        best = "" if math.isnan(standing.best_dice) else f", best Dice {standing.best_dice:.3f}"
        what = f"epoch {epoch}/{optim.epochs}{loss}{best}"
        self._session.options.progress(what, step, max(step, round(last_step)))

    def read_rest(self) -> None:
        """Read the results that were not read yet; waits for the last step to end.

        Raises:
            TrainingError: a loss or a gradient is no longer a number.
        """
        self._look_at(self._readings.rest())

    def _look_at(self, readings: Sequence[StepValues]) -> None:
        skips, standing = self._session.learner.scaler.is_enabled(), self._session.standing
        for reading in readings:
            if trouble := reading.trouble(skips_infinite=skips):
                epoch = -(-reading.step // self._session.optim.steps_per_epoch)
                raise TrainingError(
                    f"the {trouble} in epoch {epoch}, step {reading.step} (lr {reading.lr:.3g}); "
                    f"{keep_bad_batch(self._session, reading)}",
                    hint=SICK_HINT,
                )
            standing.losses.append(reading.loss)
            standing.grad_norms.append(reading.grad_norm)
            self._monitor.step(reading)


@dataclass(frozen=True)
class Validated:
    """What validating has found.

    Attributes:
        loss: on the validation patches; NaN without any.
        scans: of whole scans; None if they were not validated.
        minutes: that whole scans took; 0 if they were not validated.
    """

    loss: float
    scans: ValidationResult | None
    minutes: float


class EpochEnd:
    """Validates after an epoch, writes its row of the history, and says when training waits for its data.

    Nothing that is saved changes while it validates, so a stop meanwhile is a stop before it.

    Args:
        session: that is trained.
        monitor: where to show it.
        signals: may cut a validation short.
    """

    def __init__(self, session: Session, monitor: Monitor, signals: StopSignals) -> None:
        self._session = session
        self._monitor = monitor
        self._signals = signals
        self._loss = session.method.loss()
        self._epochs_here = 0
        self._warned = False

    def validated(self, epoch: int, minutes: float, *, last: bool) -> Validated:
        """The validation loss, and the score of whole scans if it is time for them.

        Args:
            epoch: that was trained, or is being trained.
            minutes: that the run took so far.
            last: whether the run ends here.
        """
        session = self._session
        ranks = session.options.ranks
        # What a normalisation has seen differs between processes; whole scans are segmented as rank 0 has seen it.
        ranks.copy_from_first(session.learner.network, buffers_only=True)
        sections = session.validating, session.optim, session.runtime
        fits = ranks.from_first(lambda: validation_fits(session.standing, minutes, *sections))
        due = bool(session.validation) and (last or (self.is_planned(epoch) and fits))
        scout = self._level_network() if due else None
        parts = _together(ranks, self._signals, lambda: self._own_part(due=due, scout=scout))
        batches = max(len(part[0]) for part in parts)
        # Interleaved again: of ranks 0 and 1 batches 0 2 4 and 1 3 become 0 1 2 3 4, as if one had done them all.
        losses = [part[0][number] for number in range(batches) for part in parts if number < len(part[0])]
        loss = math.fsum(losses) / len(losses) if losses else math.nan
        if not due:
            return Validated(loss, None, 0.0)
        order = [case.case for case in session.validation]
        scans = ValidationResult.merged([part[1] for part in parts if part[1] is not None], order)
        return Validated(loss, scans, max(part[2] for part in parts))

    def is_planned(self, epoch: int) -> bool:
        """Whether whole scans are to be validated after this epoch, time allowing."""
        return epoch % self._session.validating.every_epochs == 0

    def _level_network(self) -> ScoutNetwork | None:
        """What sees levels, where names follow from them; it learns in the first process, and all look through it."""
        session = self._session
        ranks, device = session.options.ranks, session.learner.device
        if not session.method.by_sequence:
            return None
        # A copy in the memory of the CPU can be sent, wherever it learns.
        network = ranks.from_first(
            lambda: None if session.scout is None else copy.deepcopy(session.scout.network).to("cpu")
        )
        return None if network is None else network.to(device).eval()

    def _own_part(self, *, due: bool, scout: ScoutNetwork | None) -> tuple[list[float], ValidationResult | None, float]:
        """This process's share of the patches' losses and, if they are due, of the whole scans; minutes of these."""
        session, ranks = self._session, self._session.options.ranks
        learner = session.learner
        network = best_network(learner).eval()
        predictor = Predictor.of_network(network, session.method, learner.device, learner.precision)
        batches = ranks.share(list(session.loss_batches))
        losses = validation_losses(predictor, self._loss, session.augment, batches)
        if not due:
            return losses, None, 0.0
        started = time.monotonic()
        if session.method.by_sequence:
            predictor = replace(predictor, naming=SequenceNaming([scout] if scout else []))
        result = validate(predictor, ranks.share(session.validation), session.options.paint)
        return losses, result, (time.monotonic() - started) / 60

    def record(self, epoch: int, validated: Validated) -> dict[str, float]:
        """Show an epoch, or as much of it as was trained, and return its row of the history."""
        session, standing = self._session, self._session.standing
        done = len(standing.losses)
        speed = {
            "patches_per_s": done * session.batch_size / max(standing.epoch_seconds, 1e-9),
            "waiting_share": standing.epoch_waited / max(standing.epoch_seconds, 1e-9),
        }
        row = {
            "epoch": epoch,
            "step": standing.step,
            # fsum is exact, so the order in which losses were added does not matter.
            "train_loss": math.fsum(standing.losses) / done,
            "validation_loss": validated.loss,
            "lr": session.learner.schedule.rate,
            "grad_norm": math.fsum(standing.grad_norms) / done,
            **speed,
            "minutes": standing.minutes,
            "validation_dice": validated.scans.mean_dice if validated.scans else math.nan,
        }
        self._show(row, validated.scans)
        return row

    def _show(self, row: dict[str, float], scans: ValidationResult | None) -> None:
        step = int(row["step"])
        rss_mb, gpu_mb = memory_mb(self._session.learner.device)
        self._monitor.epoch(
            step,
            {
                "train/loss_epoch": row["train_loss"],
                "validation/loss": row["validation_loss"],
                "train/patches_per_s": row["patches_per_s"],
                "train/waiting_share": row["waiting_share"],
                "memory/rss_mb": rss_mb,
                **({"memory/gpu_mb": gpu_mb} if gpu_mb else {}),
            },
        )
        if scans is not None:
            paint = self._session.options.paint_confusion
            drawn = paint and scans.levels_of and self._session.options.ranks.is_first
            picture = paint(joint_confusion(scans.levels_of.values())) if paint and drawn else None
            self._monitor.validation(step, scans, picture)
        words = [f"loss {row['train_loss']:.4f}"]
        if not math.isnan(row["validation_loss"]):
            words.append(f"validation loss {row['validation_loss']:.4f}")
        if scans is not None:
            words.append(f"validation Dice {scans.mean_dice:.4f}")
            if scans.levels_of:
                words.append(f"id-rate {mean_id_rate(scans.levels_of.values()):.4f}")
        words += [f"{row['patches_per_s']:.2f} patches/s", f"{100 * row['waiting_share']:.0f} % waiting for data"]
        _log.info("epoch %d: %s", row["epoch"], ", ".join(words))

    def write(self, rows: Sequence[dict[str, float]]) -> None:
        """Write ``history.csv``."""
        if self._session.options.ranks.is_first:
            write_history(self._session.folder.history, rows)

    def warn_of_waiting(self, share: float) -> None:
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


_Part = tuple[list[float], ValidationResult | None, float]


def _together(ranks: Ranks, signals: StopSignals, work: Callable[[], _Part]) -> list[_Part]:
    """What each process finds. A signal ends the work of the process that it reaches, and then that of all."""
    part: _Part | None = None
    stop: KeyboardInterrupt | None = None
    try:
        with signals.at_once():
            part = work()
    except KeyboardInterrupt as error:
        if ranks.count == 1:
            raise
        stop = error
    # Told before anything is raised: a process that left alone would let the others wait for ever.
    told = ranks.gather((part, stop is not None, isinstance(stop, Terminated)))
    if any(stopped for _, stopped, _ in told):
        raise Terminated if any(terminated for *_, terminated in told) else KeyboardInterrupt
    return [part for part, *_ in told if part is not None]
