"""Training the scout beside the fine network: now and then a step, as long as it takes no more than its share of time.

::

    fine   |----|----|----|----|----|----|----|----|----|
    scout                    |-|                 |-|         spent / elapsed <= scout.time_share

Which sample a step of the scout learns from depends on its number alone. How many steps there are depends on the time,
or on the fine network's steps where a run is deterministic.
"""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field

from verse3d.core.config import Config
from verse3d.core.errors import DataError, OutputError
from verse3d.core.labels import IGNORED
from verse3d.core.logs import logger
from verse3d.core.readers import Record, checked
from verse3d.core.runtime import channels_last
from verse3d.core.wording import how_many
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.stored import StoredCases
from verse3d.inference.scout import look_for_spine
from verse3d.inference.spine_crop import SpineRegion
from verse3d.model.checkpoint import TrainedNetwork, load_weights
from verse3d.model.modes import Method
from verse3d.model.on_cpu import quick_on
from verse3d.model.scout import SCOUT_MM, USABLE, ScoutNetwork, scout_loss
from verse3d.training.average import RunningMean
from verse3d.training.scout_samples import (
    ScoutSamples,
    Volumes,
    phantom_numbers_for_validation,
    phantom_volumes,
    with_ignored_ends,
)

RATE, WARMUP_STEPS, LONGEST_GRADIENT, DECAY = 3e-3, 20, 5.0, 0.98
_LATER_RATE = 0.2 * RATE
"""For one that begins with what another has learnt: what took thousands of steps is lost in a few large ones."""
_LATER_SHARE = 0.2
"""And of ``scout.time_share``: it can be used from the start, and the time is the fine network's, which cannot."""
FEWEST_STEPS = 50
"""Before so many steps nothing is asked of a scout."""
_FINE_STEPS_PER_STEP = 8
"""Where seconds must not decide."""
_SHORT_SECONDS = 600.0
_FIRST_STEP_SECONDS = 6.0
"""What the first step is taken to last: a phantom is drawn for it."""
_log = logger(__name__)


class StoredScout(Record):
    """What a checkpoint holds of a scout, to go on with."""

    network: dict[str, Any]
    optimizer: dict[str, Any]
    average: dict[str, Any]
    steps: Annotated[int, Field(ge=0, le=10**9, strict=True)]
    seconds: Annotated[float, Field(ge=0.0, strict=True)]
    begun_with: bool = False
    known_to_be_usable: bool = False


class ScoutTraining:
    """A scout, what trains it, and how reliable it was found.

    Args:
        config: of the run; its mode has a scout.
        samples: what it learns from.
        validation: read the volumes of each validation case; a case that cannot be read raises ``DataError``.
        device: where it learns.
    """

    def __init__(
        self, config: Config, samples: ScoutSamples, validation: Sequence[Callable[[], Volumes]], device: torch.device
    ) -> None:
        self.config, self._samples, self._validation, self._device = config, samples, validation, device
        # Its weights are drawn aside, so that the fine network is the same with and without a scout.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(config.runtime.seed)
            self._network = Method(config).scout().to(device)
        self._optimizer = torch.optim.AdamW(self._network.parameters(), lr=RATE, weight_decay=1e-4)
        self._average = RunningMean(self._network, DECAY)
        self.steps, self.seconds = 0, 0.0
        self._last_step_seconds = _FIRST_STEP_SECONDS
        self.assessed: TrainedNetwork | None = None
        self._begun_with = self._known_to_be_usable = False

    @property
    def network(self) -> ScoutNetwork:
        """The running mean of the weights, which is what is kept."""
        return cast(ScoutNetwork, self._average.module)

    def begin_with(self, stored: TrainedNetwork, path: Path) -> None:
        """Go on from the weights of another scout with the same channels, that of the model file ``path``.

        Raises:
            CheckpointError: the weights are those of another network.
        """
        load_weights(self._network, stored.network, path)
        self._average.module.load_state_dict(self._network.state_dict())
        self._begun_with = True
        self._known_to_be_usable = bool(stored.scores.get(USABLE))

    def after_batch(self, fine_steps: int, elapsed_seconds: float) -> None:
        """Take a step if it is time for one.

        Args:
            fine_steps: that the run took so far.
            elapsed_seconds: that the run took so far, all sessions together.
        """
        if self.config.runtime.deterministic:
            due = fine_steps % _FINE_STEPS_PER_STEP == 0
        else:
            due = self.seconds + self._last_step_seconds <= self._share_of_time(elapsed_seconds) * elapsed_seconds
        if due:
            started = self._now()
            self.step()
            self._last_step_seconds = self._now() - started
            self.seconds += self._last_step_seconds

    def _share_of_time(self, elapsed_seconds: float) -> float:
        share = self.config.scout.time_share
        if self._begun_with:
            return _LATER_SHARE * share
        # Twice the share at first: early validations want to know whether it may be trusted.
        return 2 * share if elapsed_seconds < _SHORT_SECONDS else share

    def step(self, rate: float = 1.0) -> float:
        """Learn from one step's samples, one after the other because they differ in size; their mean loss.

        A loss or a gradient that is no number changes nothing: the fine network must not suffer from its scout.

        Args:
            rate: share of the usual learning rate, for trainings whose end is known.
        """
        self._network.train()
        self._optimizer.zero_grad(set_to_none=True)
        samples, losses = self._samples.step(self.steps), []
        for sample in samples:
            batch = Augment(sample.size)(PackedBatch.of([sample.box]).on(self._device))
            # Channels last is what a CPU's convolutions are quick at.
            image = channels_last(batch["image"]) if self._device.type == "cpu" else batch["image"]
            with quick_on(self._device):
                logits = self._network(image)
            loss = scout_loss(logits, batch["label"])
            torch.autograd.backward(loss / len(samples))
            losses.append(loss.detach())
        for group in self._optimizer.param_groups:
            group["lr"] = (_LATER_RATE if self._begun_with else RATE) * rate * min(1.0, (self.steps + 1) / WARMUP_STEPS)
        # One sample after the other, gradients add up: samples differ in size and make no common batch.
        length = torch.nn.utils.clip_grad_norm_(self._network.parameters(), LONGEST_GRADIENT)
        mean = float(torch.stack(losses).mean())
        if math.isfinite(mean) and math.isfinite(float(length)):
            self._optimizer.step()
            self._average.update_parameters(self._network)
        self.steps += 1
        return mean

    def assess(self) -> None:
        """Find out whether it misses any part of a validation spine, and of two phantoms that it has never seen."""
        if self.steps < FEWEST_STEPS and not self._begun_with:
            return
        network = self.network.eval()
        missed, cases = 0, 0
        for read in self._validation:
            try:
                image, ids = read()
            except OutputError:
                raise
            except DataError:  # it is left out of the validation, too, and said to be
                continue
            missed += self._missed(network, image, ids)
            cases += 1
        # Drawing takes seconds, and of a scout that is still the one that was found usable nothing new would be learnt.
        for number in phantom_numbers_for_validation() if self.steps or not self._known_to_be_usable else ():
            missed += self._missed(network, *phantom_volumes(self.config.runtime.seed, number, self.config.grid))
        # A single missed voxel is enough: what the scout leaves out no other network will see.
        usable = cases > 0 and missed == 0
        scores = {USABLE: float(usable), "missed_voxels": float(missed), "validation_cases": float(cases)}
        weights = {name: value.detach().cpu().clone() for name, value in network.state_dict().items()}
        # The run's config, but with what the scout tells apart: levels.
        labels = self.config.labels.model_copy(update={"scheme": "vertebrae"})
        config = self.config.model_copy(update={"labels": labels})
        self.assessed = TrainedNetwork(config, weights, self.steps, scores)
        voxels, spines = how_many(int(missed), "voxel"), how_many(int(cases), "validation spine")
        _log.info("scout after %s: %s of %s missed", how_many(self.steps, "step"), voxels, spines)

    def to_dict(self) -> dict[str, Any]:
        """What a checkpoint must hold to go on."""
        return {
            "network": self._network.state_dict(),
            "optimizer": self._optimizer.state_dict(),
            "average": self._average.state_dict(),
            "steps": self.steps,
            "seconds": self.seconds,
            "begun_with": self._begun_with,
            "known_to_be_usable": self._known_to_be_usable,
        }

    def restore(self, state: Mapping[str, Any], assessed: TrainedNetwork | None) -> None:
        """Inverse of ``to_dict``.

        Args:
            state: as read from a file.
            assessed: the scout beside it in that file.

        Raises:
            DataError: it is no such state.
            KeyError, RuntimeError, TypeError, ValueError: PyTorch refuses a part of it.
        """
        stored = checked(state, StoredScout, "the state of the scout")
        self._network.load_state_dict(stored.network)
        self._optimizer.load_state_dict(stored.optimizer)
        self._average.load_state_dict(stored.average)
        self.steps, self.seconds, self.assessed = stored.steps, stored.seconds, assessed
        self._begun_with, self._known_to_be_usable = stored.begun_with, stored.known_to_be_usable

    def _missed(self, network: ScoutNetwork, image: NDArray[np.float16], ids: NDArray[np.uint8]) -> int:
        """How many labelled voxels at 4 mm lie where ``predict`` would not look."""
        # Where it is unknown whether there is a vertebra, none can be missed.
        spine = (ids > 0) & (ids != IGNORED)
        region = SpineRegion.of(look_for_spine(network, image.astype(np.float32)), (SCOUT_MM,) * 3)
        return int(np.count_nonzero(spine if region is None else spine & ~region.near))

    def _now(self) -> float:
        """The time when all that was asked of the device is done."""
        if self._device.type == "cuda":
            # Launching takes no time on a GPU; without waiting every step would seem free.
            torch.cuda.synchronize(self._device)
        return time.monotonic()


def scout_of_run(
    config: Config, training: StoredCases, validation: StoredCases, order: Sequence[int], device: torch.device
) -> ScoutTraining | None:
    """The scout that learns beside the network of a run; None if the mode or the config wants none.

    Args:
        config: of the run.
        training, validation: its cases.
        order: numbers of the training cases, in the order in which they will be prepared.
        device: of the run.
    """
    if not config.scout.enabled or not Method(config).has_scout:
        return None

    def read(number: int) -> Volumes:
        image, ids = training[order[number]].read_coarse_levels()
        return image, with_ignored_ends(ids)

    samples = ScoutSamples(config.runtime.seed, config.grid, len(order), read)
    return ScoutTraining(config, samples, [case.read_coarse_levels for case in validation.each()], device)
