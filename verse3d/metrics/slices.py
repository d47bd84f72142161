"""Slice-wise Dice, the number of slice-by-slice tutorials, and how alike neighbouring slices are.

Everything here looks at one foreground: whatever is not 0. Slices follow the axes of the array, so on an oblique scan
they are the nearest planes, not resampled ones.

Averaging over slices is what 2D studies on VerSe report; Reinke et al. 2024 (doi:10.1038/s41592-023-02150-0) list the
empty reference, which decides most of such an average, among the pitfalls of Dice. The consistency across planes needs
no truth to be computed, but a truth to be judged: real bones change from slice to slice, too.
"""

import math
from dataclasses import dataclass
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from verse3d.core.axes import PLANES, PlaneName
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry


@dataclass(frozen=True)
class SliceScores:
    """One case seen slice by slice. A mean over nothing is NaN.

    Attributes:
        slice_dice_all: mean Dice over all slices, where a slice that is empty in both maps counts as 1. It grows with
            every slice of air in the scan.
        slice_dice_occupied: mean over the slices in which the truth or the prediction holds anything; an invented or
            missed slice counts as 0.
        slice_dice_truth: mean over the slices in which the truth holds anything; invented slices go unnoticed.
        slices: how many there are.
        slices_without_truth: slices in which the truth is empty.
        slices_empty_in_both: slices in which both are empty.
        consistency: mean Dice between neighbouring slices of the prediction, over the pairs that are not both empty.
        consistency_of_truth: the same of the truth.
        consistency_gap: the distance between the two, absolute: 0 for a prediction as smooth as the truth.
    """

    slice_dice_all: float
    slice_dice_occupied: float
    slice_dice_truth: float
    slices: int
    slices_without_truth: int
    slices_empty_in_both: int
    consistency: float
    consistency_of_truth: float
    consistency_gap: float


def axis_across(geometry: Geometry, plane: PlaneName) -> int:
    """The axis of the array (0, 1, 2) that runs across the slices of a plane.

    Sagittal slices are stacked along the axis nearest to left-right, coronal ones along front-back, axial ones along
    head-feet; each axis belongs to one plane, however oblique the scan is.
    """
    # For each axis of the array the world axis it runs along, every one of them once: 0 left-right, 1 front-back, ...
    world_axes = nib.io_orientation(geometry.affine)[:, 0].astype(int).tolist()
    return int(world_axes.index(PLANES.index(plane)))


def slice_dice(
    prediction: NDArray[Any], truth: NDArray[Any], geometry: Geometry, plane: PlaneName = "sagittal"
) -> NDArray[np.float64]:
    """Dice of every slice, along the axis across ``plane``.

    Args:
        prediction: (I, J, K), foreground is not 0.
        truth: likewise.
        geometry: the grid of both.
        plane: which slices.

    Returns:
        (slices,) in the order of the array; NaN where both are empty, 0 where one is. Beside the maps this holds three
        bool copies.

    Raises:
        GeometryError: the shapes of the maps and of the geometry differ.
    """
    axis = axis_across(geometry, plane)
    predicted = _foreground(prediction, geometry)
    true = _foreground(truth, geometry)
    #         both      predicted + true        Dice
    # slice 0   0           0 + 0               undefined
    # slice 1   0          12 + 0               0
    # slice 2  40          50 + 44              80 / 94
    both = _per_slice(predicted & true, axis)
    sum_of_two = _per_slice(predicted, axis) + _per_slice(true, axis)
    return _dice(both, sum_of_two)


def neighbour_dice(mask: NDArray[Any], geometry: Geometry, plane: PlaneName = "sagittal") -> NDArray[np.float64]:
    """Dice between each slice and the next one, along the axis across ``plane``.

    Args:
        mask: (I, J, K), foreground is not 0.
        geometry: its grid.
        plane: which slices.

    Returns:
        (slices - 1,); NaN where both slices are empty. Beside the mask this holds two bool copies.

    Raises:
        GeometryError: the mask does not have the shape of the geometry.
    """
    stack = np.moveaxis(_foreground(mask, geometry), axis_across(geometry, plane), 0)
    voxels = _per_slice(stack, 0)
    return _dice(_per_slice(stack[:-1] & stack[1:], 0), voxels[:-1] + voxels[1:])


def score_slices(
    prediction: NDArray[Any], truth: NDArray[Any], geometry: Geometry, plane: PlaneName = "sagittal"
) -> SliceScores:
    """All slice-wise figures of one case; see ``SliceScores``.

    Raises:
        GeometryError: the shapes of the maps and of the geometry differ.
    """
    dice = slice_dice(prediction, truth, geometry, plane)
    # Three views of the same slices: all, those where either map holds something, those where the truth does.
    in_truth = _per_slice(_foreground(truth, geometry), axis_across(geometry, plane)) > 0
    empty = np.isnan(dice)
    consistency = _mean(neighbour_dice(prediction, geometry, plane))
    of_truth = _mean(neighbour_dice(truth, geometry, plane))
    return SliceScores(
        # Papers on slices count an empty slice that is left empty as right, which lifts the mean; both are told.
        slice_dice_all=_mean(np.where(empty, 1.0, dice)),
        slice_dice_occupied=_mean(dice),
        slice_dice_truth=_mean(dice[in_truth]),
        slices=dice.size,
        slices_without_truth=int(np.count_nonzero(~in_truth)),
        slices_empty_in_both=int(np.count_nonzero(empty)),
        consistency=consistency,
        consistency_of_truth=of_truth,
        consistency_gap=abs(consistency - of_truth),
    )


def _foreground(mask: NDArray[Any], geometry: Geometry) -> NDArray[np.bool_]:
    if mask.shape != geometry.shape:
        raise GeometryError(f"a mask of shape {mask.shape} does not lie on a grid of shape {geometry.shape}")
    return np.asarray(mask != 0)


def _per_slice(mask: NDArray[np.bool_], axis: int) -> NDArray[np.int64]:
    """Foreground voxels of every slice along ``axis``."""
    others = tuple({0, 1, 2} - {axis})
    return np.asarray(mask.sum(axis=others, dtype=np.int64))


def _dice(both: NDArray[np.int64], sum_of_two: NDArray[np.int64]) -> NDArray[np.float64]:
    result = np.full(both.shape, math.nan)
    np.divide(2.0 * both, sum_of_two, out=result, where=sum_of_two > 0)
    return result


def _mean(values: NDArray[np.float64]) -> float:
    """The mean of what is defined; NaN if nothing is."""
    defined = values[~np.isnan(values)]
    return float(defined.mean()) if defined.size else math.nan
