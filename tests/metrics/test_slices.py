"""Slice-wise figures against banal loops, on grids in any order and with nothing in them."""

import itertools
import math

import numpy as np
import pytest

from tests.metrics.conftest import SHAPE, blobs
from tests.scans import all_orientations, orientation, turned
from verse3d.core.axes import PLANES
from verse3d.core.errors import GeometryError
from verse3d.metrics.overlap import confusion, dice
from verse3d.metrics.slices import axis_across, neighbour_dice, score_slices, slice_dice

PLAIN = orientation((0, 1, 2), (1, 1, 1), (0.8, 1.1, 2.5), SHAPE)


def looped_dice(one, other):
    """Dice of two slices, voxel by voxel; None if both are empty."""
    both = ones = others = 0
    for a, b in zip(one.ravel().tolist(), other.ravel().tolist(), strict=True):
        both, ones, others = both + (a > 0 and b > 0), ones + (a > 0), others + (b > 0)
    return 2 * both / (ones + others) if ones + others else None


def looped(prediction, truth, axis):
    """All figures of SliceScores, by going through the slices one by one."""
    slices = [(np.take(prediction, n, axis), np.take(truth, n, axis)) for n in range(truth.shape[axis])]
    values = [looped_dice(a, b) for a, b in slices]

    def mean(found):
        kept = [value for value in found if value is not None]
        return sum(kept) / len(kept) if kept else math.nan

    def neighbours(position):
        return mean(looped_dice(one[position], next_[position]) for one, next_ in itertools.pairwise(slices))

    return {
        "slice_dice_all": mean(1.0 if value is None else value for value in values),
        "slice_dice_occupied": mean(values),
        "slice_dice_truth": mean(value for value, (_, b) in zip(values, slices, strict=True) if b.any()),
        "slices": len(slices),
        "slices_without_truth": sum(not b.any() for _, b in slices),
        "slices_empty_in_both": values.count(None),
        "consistency": neighbours(0),
        "consistency_of_truth": neighbours(1),
        "consistency_gap": abs(neighbours(0) - neighbours(1)),
    }


def assert_equal(scores, expected):
    for name, value in expected.items():
        assert getattr(scores, name) == pytest.approx(value, nan_ok=True), name


@pytest.mark.parametrize("plane", PLANES)
def test_every_figure_is_that_of_a_loop_over_the_slices_on_all_orders_and_flips_of_oblique_axes(plane):
    for number, upright in enumerate(all_orientations((0.8, 1.1, 2.5), (7, 9, 5))):
        grid = turned(upright)
        world_axis = PLANES.index(plane)
        # The axis whose direction has most of the world axis in it: a banal definition for a moderate tilt.
        axis = int(np.argmax(np.abs(grid.affine[world_axis, :3]) / np.array(grid.spacing_mm)))
        prediction, truth = blobs(number, (7, 9, 5), ids=(1, 7)), blobs(number + 50, (7, 9, 5), ids=(20,))
        prediction[:2], truth[-3:], truth[:, :2] = 0, 0, 0
        assert axis_across(grid, plane) == axis
        assert_equal(score_slices(prediction, truth, grid, plane), looped(prediction, truth, axis))


def test_each_axis_belongs_to_one_plane_even_half_way_between_two():
    grid = turned(PLAIN, (44.9, 0.0, 45.1))
    assert sorted(axis_across(grid, plane) for plane in PLANES) == [0, 1, 2]


def test_slices_of_air_lift_the_mean_over_all_slices_and_nothing_else():
    truth, prediction = np.zeros((10, 6, 6), np.uint8), np.zeros((10, 6, 6), np.uint8)
    truth[4:6, 1:5, 1:5], prediction[4:6, 1:5, 1:3] = 1, 1
    small = score_slices(prediction, truth, orientation((0, 1, 2), (1, 1, 1), (1, 1, 1), truth.shape))
    wide = np.pad(truth, ((15, 15), (0, 0), (0, 0))), np.pad(prediction, ((15, 15), (0, 0), (0, 0)))
    large = score_slices(wide[1], wide[0], orientation((0, 1, 2), (1, 1, 1), (1, 1, 1), wide[0].shape))
    volume_dice = dice(confusion(prediction, truth, [1])[1])
    assert volume_dice == pytest.approx(2 / 3)
    assert small.slice_dice_all == pytest.approx((8 + 2 * 2 / 3) / 10)
    assert large.slice_dice_all == pytest.approx((38 + 2 * 2 / 3) / 40) and large.slice_dice_all > 0.98
    assert small.slice_dice_occupied == large.slice_dice_occupied == pytest.approx(2 / 3)
    assert (small.slices_without_truth, large.slices_without_truth) == (8, 38)


def test_an_invented_slice_is_noticed_by_the_occupied_mean_and_not_by_that_over_the_truth():
    truth, prediction = np.zeros((5, 3, 3), np.uint8), np.zeros((5, 3, 3), np.uint8)
    truth[1], prediction[1], prediction[3] = 1, 1, 1
    scores = score_slices(prediction, truth, orientation((0, 2, 1), (-1, 1, 1), (1, 2, 3), (5, 3, 3)))
    assert (scores.slice_dice_occupied, scores.slice_dice_truth, scores.slice_dice_all) == (0.5, 1.0, 0.8)


def test_nothing_in_both_is_perfect_over_all_slices_and_undefined_elsewhere():
    empty = np.zeros(SHAPE, np.uint8)
    scores = score_slices(empty, empty, PLAIN)
    assert scores.slice_dice_all == 1.0
    assert scores.slices_empty_in_both == scores.slices_without_truth == scores.slices == SHAPE[0]
    for name in ("slice_dice_occupied", "slice_dice_truth", "consistency", "consistency_of_truth", "consistency_gap"):
        assert math.isnan(getattr(scores, name)), name


def test_an_empty_prediction_has_dice_0_and_an_undefined_consistency():
    truth = blobs(3)
    scores = score_slices(np.zeros(SHAPE, np.uint8), truth, PLAIN)
    assert scores.slice_dice_occupied == scores.slice_dice_truth == 0.0
    assert math.isnan(scores.consistency) and math.isnan(scores.consistency_gap)
    assert scores.consistency_of_truth > 0


def test_slices_that_flicker_are_inconsistent_although_their_dice_is_high():
    truth = np.zeros((8, 10, 10), np.uint8)
    truth[1:7, 2:8, 2:8] = 1
    flickering = truth.copy()
    flickering[1:7:2, 2:5] = 0
    scores = score_slices(flickering, truth, orientation((0, 1, 2), (1, 1, 1), (1, 1, 1), truth.shape))
    assert scores.consistency_of_truth == pytest.approx(5 / 7)
    assert scores.consistency == pytest.approx((0 + 5 * 2 / 3 + 0) / 7)
    assert scores.consistency_gap == pytest.approx(5 / 7 - 10 / 21)


def test_a_single_slice_has_no_neighbour():
    mask = np.ones((1, 4, 5), np.uint8)
    grid = orientation((0, 1, 2), (1, 1, 1), (1, 1, 1), (1, 4, 5))
    assert neighbour_dice(mask, grid).shape == (0,)
    assert math.isnan(score_slices(mask, mask, grid).consistency)


def test_bool_and_wide_labels_are_one_foreground():
    truth, prediction = blobs(1), blobs(2)
    expected = slice_dice(prediction, truth, PLAIN)
    np.testing.assert_array_equal(slice_dice(prediction > 0, truth.astype(np.uint16) * 256, PLAIN), expected)
    np.testing.assert_array_equal(slice_dice(np.asfortranarray(prediction), truth, PLAIN), expected)


@pytest.mark.parametrize("wrong", ["prediction", "truth"])
def test_a_mask_that_is_not_on_the_grid_is_refused(wrong):
    masks = {"prediction": blobs(1), "truth": blobs(2)}
    masks[wrong] = masks[wrong][:-1]
    with pytest.raises(GeometryError, match="does not lie on a grid"):
        score_slices(masks["prediction"], masks["truth"], PLAIN)
