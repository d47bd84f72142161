"""Scoring a network on whole validation scans, on their own grids, and measuring its loss on patches of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.config import Config, without_augmentation
from verse3d.core.labels import Label, label_scheme
from verse3d.core.resample import resample_vote
from verse3d.core.volume import Volume, read_image
from verse3d.data.cases import Case
from verse3d.data.pairs import read_mask, require_same_grid
from verse3d.data.patches import PatchDataset
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.transforms import PreparedCase, prepare_image_float16
from verse3d.inference.predictor import Predictor
from verse3d.metrics.overlap import confusion, dice
from verse3d.model.modes import get_mode
from verse3d.training.step import LossFunction

Painter = Callable[[Volume, Mapping[str, NDArray[np.uint8]], Sequence[Label], str], NDArray[np.uint8]]
"""Draws (scan, {name: mask in file ids}, labels, title) as an RGB picture (H, W, 3) uint8."""

@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A whole scan ready to be segmented and scored.

    Attributes:
        prepared: the case on the network grid.
        truth: (I, J, K) uint8 network ids on the source grid.
        scan: the scan itself if it is to be drawn, else None.
    """

    prepared: PreparedCase
    truth: NDArray[np.uint8]
    scan: Volume | None

    @property
    def case(self) -> str:
        """Its name."""
        return self.prepared.case


@dataclass(frozen=True)
class ValidationResult:
    """Mean Dice over all labels present, per case and over the cases, and pictures by case."""

    dice_of: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]]

    @property
    def mean_dice(self) -> float:
        """Mean over the cases; NaN if no case has a defined Dice."""
        defined = [value for value in self.dice_of.values() if not np.isnan(value)]
        return fmean(defined) if defined else float("nan")


def load_validation_case(case: Case, config: Config, *, keep_scan: bool) -> ValidationCase:
    """Read a case and carry its scan to the network grid.

    Raises:
        DataError: a file is missing, damaged or holds unknown labels; or scan and mask lie on different grids.
    """
    scan, mask = read_image(case.image_path()), read_mask(case)
    require_same_grid(scan, mask)
    truth = label_scheme(config.labels.scheme).network_from_verse(mask.array)
    image, grid = prepare_image_float16(scan, config.grid)
    label = resample_vote(truth, scan.geometry, grid)
    prepared = PreparedCase.of(case.case, image[None], label[None], grid, scan.geometry)
    return ValidationCase(prepared, truth, scan if keep_scan else None)


def loss_batches(cases: Sequence[ValidationCase], config: Config) -> list[PackedBatch]:
    """The patches that the validation loss is measured on, always the same and not augmented; none without cases."""
    count, size = config.validation.loss_batches, config.sampling.batch_size
    if not cases or not count:
        return []
    cut = get_mode(config.mode).cut(without_augmentation(config))
    patches = PatchDataset([case.prepared for case in cases], cut, length=count * size, seed=config.runtime.seed)
    boxes = list(patches.epoch(0))
    return [PackedBatch.of(boxes[first : first + size]) for first in range(0, len(boxes), size)]


def validation_loss(
    predictor: Predictor, loss: LossFunction, augment: Augment, batches: Iterable[PackedBatch]
) -> float:
    """Mean loss over batches, computed where the network is; NaN if there are none."""
    device, losses = predictor.backend.device, []
    with torch.inference_mode():
        for batch in batches:
            samples = augment(batch.on(device))
            losses.append(loss(predictor.backend(samples["image"]).float(), samples["label"]))
    return float(torch.stack(losses).mean()) if losses else float("nan")


def validate(predictor: Predictor, cases: Sequence[ValidationCase], paint: Painter | None) -> ValidationResult:
    """Segment every case, carry the labels to its source grid and compare them with the truth there."""
    dice_of, pictures = {}, {}
    for case in cases:
        ids = predictor.network_ids(case.prepared.image[0], case.prepared.geometry, case.prepared.source)
        dice_of[case.case] = _mean_dice(ids, case.truth)
        if paint is not None and case.scan is not None:
            to_file = predictor.scheme.file_from_network
            masks = {"truth": to_file(case.truth), "prediction": to_file(ids)}
            pictures[case.case] = paint(
                case.scan, masks, predictor.scheme.labels, f"{case.case}  Dice {dice_of[case.case]:.3f}"
            )
    return ValidationResult(dice_of, pictures)


def _mean_dice(ids: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Mean over the labels that are in the truth; NaN if there are none."""
    present = [int(label) for label in np.unique(truth) if label]
    scores = [dice(counts) for counts in confusion(ids, truth, present).values()]
    return fmean(scores) if scores else float("nan")
