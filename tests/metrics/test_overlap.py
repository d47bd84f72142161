import math

import numpy as np
import pytest
import SimpleITK as sitk
import torch
from monai.metrics import compute_dice

from tests.metrics.conftest import blobs, turned
from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.metrics import overlap as module
from verse3d.metrics.overlap import Overlap, confusion, dice, joint_counts, volume_difference_ml

IDS = (1, 2, 5, 28)


@pytest.mark.parametrize("seed", range(4))
def test_dice_equals_simpleitk(seed):
    prediction, truth = blobs(seed), blobs(seed + 100)
    oracle = sitk.LabelOverlapMeasuresImageFilter()
    oracle.Execute(sitk.GetImageFromArray(truth), sitk.GetImageFromArray(prediction))
    for label, overlap in confusion(prediction, truth, IDS).items():
        assert dice(overlap) == pytest.approx(oracle.GetDiceCoefficient(label), abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_dice_equals_monai(seed):
    prediction, truth = blobs(seed), blobs(seed + 100)
    one_hot = [torch.from_numpy(np.stack([m == label for label in IDS])[None]).float() for m in (prediction, truth)]
    expected = compute_dice(*one_hot, include_background=True)[0].tolist()
    assert [dice(o) for o in confusion(prediction, truth, IDS).values()] == pytest.approx(expected, abs=1e-6)


def test_every_pair_of_ids_is_counted_whatever_the_memory_order(monkeypatch):
    monkeypatch.setattr(module, "_SLAB_VOXELS", 100)  # many slabs, the last one thinner
    random = np.random.default_rng(0)
    prediction = random.integers(0, 256, (13, 7, 19), dtype=np.uint8)
    truth = np.asfortranarray(random.integers(0, 256, (13, 7, 19), dtype=np.uint8))
    expected = np.zeros((256, 256), dtype=int)
    np.add.at(expected, (prediction.ravel(), truth.ravel()), 1)
    views = [(prediction, truth), (truth.T.T, prediction), (prediction[::-1, :, ::-1], truth[::-1, :, ::-1])]
    for count, (one, other) in enumerate(views):
        np.testing.assert_array_equal(joint_counts(one, other), expected.T if count == 1 else expected)


def test_boolean_masks_are_counted_too():
    mask = np.array([[[True, False, True]]])
    assert confusion(mask, ~mask, [1]) == {1: Overlap(both=0, predicted=2, true=1)}


def test_empty_arrays_count_nothing():
    assert joint_counts(np.zeros((0, 3, 3), np.uint8), np.zeros((0, 3, 3), np.uint8)).sum() == 0


def test_dice_of_nothing_is_undefined_and_of_a_missed_label_zero():
    assert math.isnan(dice(Overlap(0, 0, 0)))
    assert dice(Overlap(0, 0, 12)) == 0.0
    assert dice(Overlap(0, 12, 0)) == 0.0


def test_the_volume_difference_is_prediction_minus_truth_in_ml():
    grid = Geometry((5, 6, 7), turned((0.5, 2.0, 3.0)) @ np.diag([1, -1, 1, 1]))
    assert volume_difference_ml(Overlap(10, 400, 1400), grid) == pytest.approx(-3.0)
    assert volume_difference_ml(Overlap(10, 1400, 400), grid) == pytest.approx(3.0)


def test_different_shapes_are_refused():
    with pytest.raises(GeometryError, match=r"\(2, 3, 4\).*\(4, 3, 2\)"):
        confusion(np.zeros((2, 3, 4), np.uint8), np.zeros((4, 3, 2), np.uint8), [1])


@pytest.mark.parametrize("dtype", [np.float32, np.int16])
def test_other_dtypes_are_refused(dtype):
    good, bad = np.zeros((2, 3, 4), np.uint8), np.zeros((2, 3, 4), dtype)
    with pytest.raises(DataError, match="truth holds"):
        confusion(good, bad, [1])
    with pytest.raises(DataError, match="prediction holds"):
        confusion(bad, good, [1])
