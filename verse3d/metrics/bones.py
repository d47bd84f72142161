"""What happens inside one bone and at the ends of a scan: mixed names, and Dice within the labelled span.

The labelled span. VerSe leaves vertebrae unlabelled that the field of view cuts, and everything below L5 or L6. A mask
that shows them is not wrong, but Dice over the whole field of view says so. Within the span only voxels count whose
height in the world (third coordinate, mm) lies between the lowest and the highest voxel of any true label, both
included. True voxels all do, so only predicted voxels beyond the ends are taken out.

Mixed bones. Of the voxels of a true vertebra that carry any predicted label, the share that does not carry the most
frequent one. 0: one name in one bone, right or wrong; 0.5: two halves.
"""

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.metrics.occupied import occupied
from verse3d.metrics.overlap import Overlap, dice, joint_counts

MIXED_FROM = 0.1
"""From this share on a bone counts as mixed: a border that is shifted by a voxel stays below."""
_IDS = [label.id for label in VERTEBRAE]


@dataclass(frozen=True)
class BoneScores:
    """Per vertebra of the truth, by VerSe id, in the order of the spine.

    Attributes:
        dice: over the whole field of view; 0 if missed.
        dice_in_span: within the labelled span.
        mixed: the share of another name in the bone; NaN if no voxel of it carries a label.
        union_dice: all vertebrae together, over the whole field of view; NaN if there are none in either map.
        union_dice_in_span: the same within the labelled span.
    """

    dice: dict[int, float]
    dice_in_span: dict[int, float]
    mixed: dict[int, float]
    union_dice: float
    union_dice_in_span: float

    @property
    def mixed_bones(self) -> tuple[int, ...]:
        """Vertebrae with two names in one bone."""
        return tuple(label for label, share in self.mixed.items() if share >= MIXED_FROM)


def score_bones(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], geometry: Geometry) -> BoneScores:
    """Score one case.

    Args:
        prediction: VerSe ids, uint8 (I, J, K).
        truth: VerSe ids, uint8 (I, J, K).
        geometry: the grid of both.

    Raises:
        GeometryError: the shapes differ.
        DataError: a map is neither uint8 nor bool.
    """
    if truth.shape != geometry.shape:
        raise GeometryError(f"a truth of shape {truth.shape} does not lie on a grid of shape {geometry.shape}")
    # Both maps are read once; all that follows is arithmetic on 256 x 256 counts.
    whole = _of_vertebrae(joint_counts(prediction, truth))
    span = labelled_span_mm(truth, geometry)
    inside = whole if span is None else _of_vertebrae(_counts_within(prediction, truth, geometry, span))
    present = [label for label in _IDS if whole[:, label].sum()]
    mixed = {}
    for label in present:
        # Voxels of the bone that carry no label at all are missed, not mixed.
        named = whole[1:, label]
        mixed[label] = 1.0 - float(named.max()) / float(named.sum()) if named.sum() else math.nan
    return BoneScores(
        dice={label: _dice(whole, label) for label in present},
        dice_in_span={label: _dice(inside, label) for label in present},
        mixed=mixed,
        union_dice=_dice(whole, _ANY),
        union_dice_in_span=_dice(inside, _ANY),
    )


def labelled_span_mm(truth: NDArray[np.uint8], geometry: Geometry) -> tuple[float, float] | None:
    """Height in the world of the lowest and the highest true voxel, mm; None if there is none."""
    ends: list[float] = []
    for indices, (labels,) in occupied(truth):
        heights = _heights(geometry, indices[np.isin(labels, _IDS)])
        if heights.size:
            # Each slab brings its own ends; those of the whole lie among them.
            ends += [float(heights.min()), float(heights.max())]
    return (min(ends), max(ends)) if ends else None


def _counts_within(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], geometry: Geometry, span: tuple[float, float]
) -> NDArray[np.int64]:
    """``joint_counts`` of the labelled voxels within the span, with a hair added at the ends for rounding."""
    counts = np.zeros((256, 256), dtype=np.int64)
    for indices, (predicted, true) in occupied(prediction, truth):
        heights = _heights(geometry, indices)
        # The voxels at the ends belong to the span, and their height was computed in another order.
        inside = (heights >= span[0] - 1e-3) & (heights <= span[1] + 1e-3)
        counts += joint_counts(predicted[inside], true[inside])
    return counts


def _heights(geometry: Geometry, indices: NDArray[np.intp]) -> NDArray[np.float64]:
    """The third world coordinate of voxels (n, 3)."""
    heights: NDArray[np.float64] = indices @ geometry.affine[2, :3] + geometry.affine[2, 3]
    return heights


def _of_vertebrae(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """The counts with every id that is no vertebra taken for background, in both maps."""
    kept = np.zeros(len(counts), dtype=bool)
    kept[_IDS] = True
    result = counts.copy()
    # counts[p, t], p predicted and t true; `x` are ids that are no vertebra:
    #
    #      0 1 2 x              0 1 2 x
    #    0 . . . |            0 + + + 0      rows and columns of x are added to those of 0,
    #    1 . . . |     ->     1 + . . 0      and then emptied
    #    2 . . . |            2 + . . 0
    #    x - - - +            x 0 0 0 0
    result[0] += result[~kept].sum(axis=0) - result[0]
    result[:, 0] += result[:, ~kept].sum(axis=1) - result[:, 0]
    others = np.flatnonzero(~kept)[1:]
    result[others], result[:, others] = 0, 0
    return result


_ANY = slice(1, None)
"""All vertebrae together."""


def _dice(counts: NDArray[np.int64], labels: int | slice) -> float:
    both = counts[labels, labels].sum()
    return dice(Overlap(int(both), int(counts[labels].sum()), int(counts[:, labels].sum())))
