"""Scoring a network on whole validation scans, on their own grids, and measuring its loss on patches of them."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.config import AugmentConfig, Config
from verse3d.core.errors import NotFiniteError
from verse3d.core.labels import Label, label_scheme
from verse3d.core.logs import logger
from verse3d.core.resample import resample_vote
from verse3d.core.volume import Volume, read_image
from verse3d.data.cases import Case
from verse3d.data.pairs import read_mask, require_same_grid
from verse3d.data.patches import PatchDataset
from verse3d.data.schemes import require_levels
from verse3d.data.transforms import PreparedCase, prepare_image_float16
from verse3d.inference.predictor import Predictor
from verse3d.metrics.overlap import confusion, dice
from verse3d.model.modes import get_mode
from verse3d.training.step import Batch, LossFunction

Painter = Callable[[Volume, Mapping[str, NDArray[np.uint8]], Sequence[Label], str], NDArray[np.uint8]]
"""Draws (scan, {name: mask in file ids}, labels, title) as an RGB picture (H, W, 3) uint8."""

_log = logger(__name__)
_NO_AUGMENTATION = AugmentConfig(mirror_left_right=0, affine=0, noise=0, blur=0, contrast=0)


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
    """Mean Dice over all labels present, per case and over the cases, and pictures by case.

    Attributes:
        dice_of: by case; NaN if its truth is empty, or the network answered with NaN or infinity.
        pictures: by case, (H, W, 3) uint8.
        not_finite: the cases that the network answered with NaN or infinity.
    """

    dice_of: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]]
    not_finite: tuple[str, ...] = ()

    @property
    def mean_dice(self) -> float:
        """Mean over the cases; NaN if no case has a defined Dice, or if the network failed in one of them.

        So an epoch that fails in the hard cases is never taken for the best because of its easy ones.
        """
        if self.not_finite:
            return float("nan")
        defined = [value for value in self.dice_of.values() if not np.isnan(value)]
        return fmean(defined) if defined else float("nan")


def load_validation_case(case: Case, config: Config, *, keep_scan: bool) -> ValidationCase:
    """Read a case and carry its scan to the network grid.

    Raises:
        DataError: a file is missing, damaged or holds unknown labels, a mask is binary and levels are learnt,
            or scan and mask lie on different grids.
    """
    scan, mask = read_image(case.image_path()), read_mask(case)
    require_same_grid(scan, mask)
    if config.labels.scheme != "binary":
        require_levels(mask, f"labels.scheme {config.labels.scheme}")
    truth = label_scheme(config.labels.scheme).network_from_verse(mask.array)
    image, grid = prepare_image_float16(scan, config.grid)
    label = resample_vote(truth, scan.geometry, grid)
    prepared = PreparedCase.of(case.case, image[None], label[None], grid, scan.geometry)
    return ValidationCase(prepared, truth, scan if keep_scan else None)


def validation_patches(cases: Sequence[ValidationCase], config: Config) -> PatchDataset | None:
    """The patches that the validation loss is measured on, always the same and not augmented; none without cases."""
    length = config.validation.loss_batches * config.sampling.batch_size
    if not cases or not length:
        return None
    still = config.model_copy(update={"augment": _NO_AUGMENTATION})
    sampler = get_mode(config.mode).sampler(still)
    return PatchDataset([case.prepared for case in cases], sampler, length=length, seed=config.runtime.seed)


def validation_loss(predictor: Predictor, loss: LossFunction, batches: Iterable[Batch]) -> float:
    """Mean loss over batches; NaN if there are none."""
    with torch.inference_mode():
        losses = [float(loss(predictor.forward(batch["image"]), batch["label"])) for batch in batches]
    return fmean(losses) if losses else float("nan")


def validate(predictor: Predictor, cases: Sequence[ValidationCase], paint: Painter | None) -> ValidationResult:
    """Segment every case, carry the labels to its source grid and compare them with the truth there.

    A case that the network answers with NaN or infinity has no Dice; it is logged, and the others are done.
    """
    dice_of, pictures, not_finite = {}, {}, []
    for case in cases:
        try:
            ids = predictor.network_ids(case.prepared.image[0], case.prepared.geometry, case.prepared.source)
        except NotFiniteError as error:
            _log.warning("%s has no validation Dice: %s", case.case, error.message)
            dice_of[case.case] = float("nan")
            not_finite.append(case.case)
        except CASE_ERRORS as error:  # training goes on without its score
            _log.error("%s is not validated: %s", case.case, reason_of(error))
            dice_of[case.case] = float("nan")
            continue
        dice_of[case.case] = _mean_dice(ids, case.truth)
        if paint is not None and case.scan is not None:
            to_file = predictor.scheme.file_from_network
            masks = {"truth": to_file(case.truth), "prediction": to_file(ids)}
            title = f"{case.case}  Dice {dice_of[case.case]:.3f}"
            pictures[case.case] = paint(case.scan, masks, predictor.scheme.labels, title)
    if not_finite:
        _log.warning("%d of %d validation cases were answered with NaN or infinity", len(not_finite), len(cases))
    return ValidationResult(dice_of, pictures, tuple(not_finite))


def _mean_dice(ids: NDArray[np.uint8], truth: NDArray[np.uint8]) -> float:
    """Mean over the labels that are in the truth; NaN if there are none."""
    present = [int(label) for label in np.unique(truth) if label]
    scores = [dice(counts) for counts in confusion(ids, truth, present).values()]
    return fmean(scores) if scores else float("nan")
