"""Scoring a network on whole validation scans, on their own grids, and measuring its loss on patches of them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.errors import DataError, NotFiniteError, OutputError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import Label, LabelScheme
from verse3d.core.logs import logger
from verse3d.core.volume import Volume, read_image
from verse3d.core.wording import how_many
from verse3d.data.cases import Case
from verse3d.data.pairs import read_mask
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import PatchDataset
from verse3d.data.samples.source import PatchSource, PatchSources
from verse3d.data.schemes import require_levels
from verse3d.inference.naming import SequenceNaming, named_by_truth
from verse3d.inference.predictor import Predictor
from verse3d.labelling.instances import group_bones
from verse3d.metrics.overlap import confusion, dice
from verse3d.model.modes import Method
from verse3d.training.level_scores import LevelScores
from verse3d.training.step import LossFunction

_log = logger(__name__)
T = TypeVar("T")
ConfusionPainter = Callable[[NDArray[np.int64]], NDArray[np.uint8]]
"""Draws counts (27, 27) by true and by predicted level, the first of which is none, as an RGB picture (H, W, 3)."""
Painter = Callable[[Volume, Mapping[str, NDArray[np.uint8]], Sequence[Label], str], NDArray[np.uint8]]
"""Draws (scan, {name: mask in file ids}, labels, title) as an RGB picture (H, W, 3) uint8."""


@dataclass(frozen=True, eq=False)
class ValidationCase:
    """A whole scan to be segmented and scored. Its voxels are read when they are needed, and not kept.

    Attributes:
        files: the case.
        prepared: the same on the network grid.
        scheme: of the network ids.
        drawn: whether it is shown in pictures.
    """

    files: Case
    prepared: PatchSource
    scheme: LabelScheme
    drawn: bool = False

    @property
    def case(self) -> str:
        """Its name."""
        return self.files.case

    def truth(self) -> NDArray[np.uint8]:
        """(I, J, K) network ids on the grid of the scan.

        Raises:
            DataError: the mask cannot be read, or it is binary and levels are wanted.
        """
        mask = read_mask(self.files)
        if self.scheme.output_channels > 1:
            require_levels(mask, f"labels.scheme {self.scheme.name}")
        return self.scheme.network_from_verse(mask.array)


@dataclass(frozen=True)
class ValidationResult:
    """Dice per case and label, and pictures by case.

    Attributes:
        dice_of: mean over all labels present, by case; NaN if its truth is empty, or the network answered with NaN or
            infinity.
        pictures: by case, (H, W, 3) uint8.
        not_finite: the cases that the network answered with NaN or infinity.
    """

    dice_of: dict[str, float]
    pictures: dict[str, NDArray[np.uint8]]
    not_finite: tuple[str, ...] = ()
    labels_of: dict[str, dict[str, float]] = field(default_factory=dict)
    """By case and by name of each label in its truth."""
    levels_of: dict[str, LevelScores] = field(default_factory=dict)
    """By case, where masks have names: what these are worth."""

    @property
    def label_dice(self) -> dict[str, float]:
        """Mean over the cases that show the label, by its name."""
        found: dict[str, list[float]] = {}
        for scores in self.labels_of.values():
            for name, score in scores.items():
                found.setdefault(name, []).append(score)
        return {name: fmean(scores) for name, scores in found.items()}

    @classmethod
    def merged(cls, parts: Sequence["ValidationResult"], order: Sequence[str]) -> "ValidationResult":
        """One result of those of several processes, with the cases in ``order``."""
        not_finite = {case for part in parts for case in part.not_finite}
        return cls(
            _in_order([part.dice_of for part in parts], order),
            _in_order([part.pictures for part in parts], order),
            tuple(case for case in order if case in not_finite),
            _in_order([part.labels_of for part in parts], order),
            _in_order([part.levels_of for part in parts], order),
        )

    @property
    def mean_dice(self) -> float:
        """Mean over the cases; NaN if no case has a defined Dice, or if the network failed in one of them.

        So an epoch that fails in the hard cases is never taken for the best because of its easy ones.
        """
        if self.not_finite:
            return float("nan")
        defined = [value for value in self.dice_of.values() if not np.isnan(value)]
        return fmean(defined) if defined else float("nan")


def _in_order(parts: Sequence[Mapping[str, T]], order: Sequence[str]) -> dict[str, T]:
    found = {case: value for part in parts for case, value in part.items()}
    return {case: found[case] for case in order if case in found}


class LossBatches:
    """The patches that the validation loss is measured on, always the same and not augmented; none without cases.

    They are cut when they are first wanted, and kept.

    Args:
        cases: to cut from.
        method: says what is cut.
        count: batches to cut.
        seed: of the run.
    """

    def __init__(self, cases: PatchSources, method: Method, *, count: int, seed: int) -> None:
        self._cases, self._method, self._count, self._seed = cases, method, count, seed
        self._batches: list[PackedBatch] | None = None

    def __iter__(self) -> Iterator[PackedBatch]:
        if self._batches is None:
            self._batches = self._cut()
        return iter(self._batches)

    def _cut(self) -> list[PackedBatch]:
        if not len(self._cases) or not self._count:
            return []
        size = self._method.sampling.batch_size
        cut = self._method.cut(augmented=False)
        patches = PatchDataset(self._cases, cut, length=self._count * size, seed=self._seed)
        try:
            boxes = list(patches.epoch(0))
        except OutputError:
            raise
        except DataError as error:
            _log.error("the validation loss cannot be measured: %s", error)
            return []
        return [PackedBatch.of(boxes[first : first + size]) for first in range(0, len(boxes), size)]


def validation_losses(
    predictor: Predictor, loss: LossFunction, augment: Augment, batches: Iterable[PackedBatch]
) -> list[float]:
    """The loss of each batch, computed where the network is."""
    device, losses = predictor.backend.device, []
    with torch.inference_mode():
        for batch in batches:
            samples = augment(batch.on(device))
            # Kept on the device, and read once at the end: each reading would wait for a GPU.
            losses.append(loss(predictor.backend(samples["image"]).float(), samples["label"]))
    return [float(one) for one in torch.stack(losses).cpu()] if losses else []


def first_pictures(cases: Sequence[ValidationCase], paint: Painter) -> dict[str, NDArray[np.uint8]]:
    """The drawn cases with their truth, (H, W, 3) uint8 by case: what a run is about, before it has learnt anything."""
    pictures = {}
    for case in (one for one in cases if one.drawn):
        try:
            masks = {"truth": case.scheme.file_from_network(case.truth())}
            scan = read_image(case.files.image_path())
        except DataError as error:  # a case that cannot be read is told when it is prepared
            _log.debug("%s is not drawn: %s", case.case, error.message)
            continue
        pictures[case.case] = paint(scan, masks, case.scheme.labels, case.case)
    return pictures


def validate(predictor: Predictor, cases: Sequence[ValidationCase], paint: Painter | None) -> ValidationResult:
    """Segment every case, carry the labels to its source grid and compare them with the truth there.

    A case that cannot be prepared is left out, now and at every other time. One that the network answers with NaN or
    infinity has no Dice; it is logged, and the others are done.

    Raises:
        DataError: a scan or mask cannot be read any more.
    """
    dice_of, labels_of, levels_of, pictures, not_finite = {}, {}, {}, {}, []
    for case in cases:
        grid = _grid_if_usable(case)
        if grid is None:
            continue
        # On the grid of the scan, as ``predict`` writes it: Dice on the network grid would flatter.
        image, _ = case.prepared.read((0, 0, 0), grid.shape)
        truth = case.truth()
        try:
            ids, named = _labelled(predictor, image, case, truth)
        except NotFiniteError as error:
            _log.warning("%s has no validation Dice: %s", case.case, error.message)
            dice_of[case.case] = float("nan")
            not_finite.append(case.case)
            continue
        to_file = case.scheme.file_from_network
        if named is not None:
            levels_of[case.case] = LevelScores.of(named, to_file(truth), case.prepared.source)
        # Of each label in the truth, by its name: network ids count the labels from 1.
        labels = case.scheme.labels
        present = [int(label) for label in np.unique(truth) if label]
        counts = confusion(ids, truth, present)
        labels_of[case.case] = {labels[number - 1].name: dice(counts[number]) for number in present}
        dice_of[case.case] = fmean(labels_of[case.case].values()) if labels_of[case.case] else float("nan")
        if paint is not None and case.drawn:
            masks = {"truth": to_file(truth), "prediction": to_file(ids)}
            title = f"{case.case}  Dice {dice_of[case.case]:.3f}"
            scan = read_image(case.files.image_path())
            pictures[case.case] = paint(scan, masks, case.scheme.labels, title)
    if not_finite:
        of_all = f"{len(not_finite)} of {how_many(len(cases), 'validation case')}"
        _log.warning("the network gave NaN or infinity for %s", of_all)
    return ValidationResult(dice_of, pictures, tuple(not_finite), labels_of, levels_of)


def _labelled(
    predictor: Predictor, image: NDArray[np.float16], case: ValidationCase, truth: NDArray[np.uint8]
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """Network ids whose overlap with the truth counts, and VerSe ids as ``predict`` would write them, if it has names.

    They differ where bones are named by their sequence: what a bone's shape is worth must not depend on its name.
    """
    grid, source = case.prepared.geometry, case.prepared.source
    if not predictor.method.by_sequence:
        ids = predictor.network_ids(image, grid, source)
        return ids, case.scheme.file_from_network(ids) if case.scheme.output_channels > 1 else None
    answer, seen = predictor.segment(image, grid, source, predictor.settings)
    parts = answer.mask()
    bones = group_bones(parts, source)
    naming = predictor.naming or SequenceNaming()
    # Over the parts, which nobody needs any more.
    bones.write(naming.name_grouped(bones, source, seen.levels).ids, parts)
    return named_by_truth(bones, truth), parts


def _grid_if_usable(case: ValidationCase) -> Geometry | None:
    try:
        return case.prepared.geometry
    except OutputError:
        raise
    except DataError as error:
        _log.error("%s is left out: %s", case.case, error)
        return None
