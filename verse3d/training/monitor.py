"""What can be watched while a network learns: TensorBoard scalars, pictures, and the settings of the run."""

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from torch.utils.tensorboard import SummaryWriter
from torch.utils.tensorboard.summary import hparams

from verse3d.core.errors import OutputError
from verse3d.core.escapes import one_line
from verse3d.core.files import output_error
from verse3d.training.level_scores import all_right_share, mean_id_rate
from verse3d.training.step_values import StepValues
from verse3d.training.validate import ValidationResult

_FOLLOWED = ("validation/dice_mean", "validation/loss")
"""What TensorBoard compares between runs of different settings."""


def _wait_for_a_later_name(folder: Path) -> None:
    """Wait, for less than a second, until a new event file comes after all others in the order of names.

    TensorBoard reads a folder in that order: ``events.out.tfevents.SECONDS.host.process.NUMBER``, where 10 comes
    before 9. Of a run that goes on in the second in which it stopped it would hide what came in between.
    """
    while next(folder.glob(f"events.out.tfevents.{int(time.time())}.*"), None) is not None:
        time.sleep(0.05)


class Monitor:
    """Writes TensorBoard event files; steps count batches since the start of the run.

    Args:
        folder: where the event files go.
        first_step: the last step of the sessions before; what an interrupted one wrote about later steps is hidden.
        writes: whether anything is written: of several processes that share a run, only the first one does.
    """

    def __init__(self, folder: Path, first_step: int = 0, *, writes: bool = True) -> None:
        self._folder = folder
        self._writer: SummaryWriter | None = None
        if writes:
            with self._refused():
                _wait_for_a_later_name(folder)
                self._writer = SummaryWriter(str(folder), purge_step=first_step + 1, flush_secs=20)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._writer is not None:
            with self._refused(quietly=kind is not None):
                self._writer.close()

    @contextmanager
    def _refused(self, *, quietly: bool = False) -> Iterator[None]:
        """TensorBoard writes in a thread of its own; what met it there is raised by a later call."""
        try:
            yield
        except OutputError:
            raise
        except OSError as error:
            # An error is on its way already; this one would take its place.
            if not quietly:
                raise output_error(self._folder, error) from error

    def start(self, settings: Mapping[str, Any], yaml: str, pictures: Mapping[str, NDArray[np.uint8]]) -> None:
        """The settings of a run, for the comparison of runs and as text, and pictures of what is to be learnt."""
        if self._writer is None:
            return
        with self._refused():
            self._writer.add_text("config", f"```yaml\n{yaml}```", 0)
            # ``add_hparams`` would open a run of its own beside this one.
            for summary in hparams(_flat(settings), dict.fromkeys(_FOLLOWED, 0.0)):
                self._writer.file_writer.add_summary(summary)
            self._add_pictures(self._writer, pictures, 0)
            self._writer.flush()

    def step(self, reading: StepValues) -> None:
        """Loss, learning rate and gradient length of one batch."""
        values = {"loss": reading.loss, "lr": reading.lr, "grad_norm": reading.grad_norm}
        self._add({f"train/{name}": value for name, value in values.items()}, reading.step)

    def epoch(self, step: int, values: Mapping[str, float]) -> None:
        """Mean losses, speed and memory of one epoch, by tag; an undefined one is not shown."""
        self._add({tag: value for tag, value in values.items() if not math.isnan(value)}, step)

    def validation(self, step: int, result: ValidationResult, confusion: NDArray[np.uint8] | None = None) -> None:
        """Dice of every whole scan, of every label, and their mean, what names are worth, and the pictures.

        Args:
            step: of the run.
            result: of the validation.
            confusion: the picture (H, W, 3) of which level was taken for which; None for none.
        """
        values = {"validation/dice_mean": result.mean_dice}
        values |= {f"validation_dice/{one_line(case)}": value for case, value in result.dice_of.items()}
        values |= {f"validation_label/{name}": value for name, value in result.label_dice.items()}
        if result.levels_of:
            scores = result.levels_of.values()
            named = {"id_rate": mean_id_rate(scores), "all_right": all_right_share(scores)}
            values |= {f"validation/{tag}": value for tag, value in named.items() if not math.isnan(value)}
        self._add(values, step)
        if self._writer is not None:
            with self._refused():
                self._add_pictures(self._writer, result.pictures, step)
                if confusion is not None:
                    self._writer.add_image("validation_names/levels", confusion, step, dataformats="HWC")
                self._writer.flush()

    def _add(self, values: Mapping[str, float], step: int) -> None:
        if self._writer is not None:
            with self._refused():
                for tag, value in values.items():
                    self._writer.add_scalar(tag, value, step)

    @staticmethod
    def _add_pictures(writer: SummaryWriter, pictures: Mapping[str, NDArray[np.uint8]], step: int) -> None:
        for case, picture in pictures.items():
            writer.add_image(f"validation/{one_line(case)}", picture, step, dataformats="HWC")


def _flat(values: Mapping[str, Any], place: str = "") -> dict[str, bool | str | float | int]:
    """``{"optim": {"lr": 0.1}}`` as ``{"optim.lr": 0.1}``; lists as text."""
    flat: dict[str, bool | str | float | int] = {}
    for name, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{place}{name}.")
        else:
            flat[f"{place}{name}"] = value if isinstance(value, bool | str | float | int) else str(value)
    return flat
