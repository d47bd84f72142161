"""What can be watched while a network learns: TensorBoard scalars and pictures."""

import math
from pathlib import Path
from types import TracebackType
from typing import Self

from torch.utils.tensorboard import SummaryWriter

from verse3d.core.escapes import one_line
from verse3d.training.readings import Reading
from verse3d.training.validate import ValidationResult


class Monitor:
    """Writes TensorBoard event files; steps count batches since the start of the run.

    Args:
        folder: where the event files go.
        first_step: the last step of the sessions before; what an interrupted one wrote about later steps is hidden.
    """

    def __init__(self, folder: Path, first_step: int = 0) -> None:
        self._writer = SummaryWriter(str(folder), purge_step=first_step + 1, flush_secs=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._writer.close()

    def step(self, reading: Reading) -> None:
        """Loss, learning rate and gradient length of one batch."""
        self._writer.add_scalar("train/loss", reading.loss, reading.step)
        self._writer.add_scalar("train/lr", reading.lr, reading.step)
        self._writer.add_scalar("train/grad_norm", reading.grad_norm, reading.step)

    def epoch(
        self, step: int, *, mean_loss: float, validation_loss: float, patches_per_s: float, waiting_share: float
    ) -> None:
        """Mean losses and speed of one epoch, and its share of waiting for data; an undefined loss is not shown."""
        if not math.isnan(validation_loss):
            self._writer.add_scalar("validation/loss", validation_loss, step)
        self._writer.add_scalar("train/loss_epoch", mean_loss, step)
        self._writer.add_scalar("train/patches_per_s", patches_per_s, step)
        self._writer.add_scalar("train/waiting_share", waiting_share, step)

    def validation(self, step: int, result: ValidationResult) -> None:
        """Dice of every whole scan and their mean, and the pictures."""
        self._writer.add_scalar("validation/dice_mean", result.mean_dice, step)
        for case, value in result.dice_of.items():
            self._writer.add_scalar(f"validation_dice/{one_line(case)}", value, step)
        for case, picture in result.pictures.items():
            self._writer.add_image(f"validation/{one_line(case)}", picture, step, dataformats="HWC")
        self._writer.flush()
