"""VerSe's identification rule, shifts, mixed bones and the labelled span, against plain loops on masks."""

import math
from pathlib import Path

import numpy as np
import pytest

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, vertebra
from verse3d.core.volume import read_labels
from verse3d.metrics.bones import labelled_span_mm, score_bones
from verse3d.metrics.identification import identify, mask_centroids, shifted
from verse3d.metrics.occupied import occupied

MASKS = Path(__file__).parents[2] / "../shared/data/masks-only"
REAL = ["sub-verse004", "sub-verse009", "sub-verse010"]
needs_masks = pytest.mark.skipif(not MASKS.is_dir(), reason="the real masks are not here")

OBLIQUE = np.array([[0.1, 0.0, 1.9, -20.0], [-1.9, 0.3, 0.1, 50.0], [-0.3, -2.4, 0.0, 700.0], [0, 0, 0, 1]])


def made_mask() -> tuple[np.ndarray, Geometry]:
    """T11 to L3 in a column along the second axis (feet at its end), odd sizes, oblique, with gaps between them."""
    labels = np.zeros((23, 71, 19), np.uint8)
    for number, name in enumerate(["T11", "T12", "L1", "L2", "L3"]):
        labels[6:17, 8 + 12 * number : 17 + 12 * number, 4:15] = vertebra(name).id
    return labels, Geometry(labels.shape, OBLIQUE)


def by_the_book(prediction: np.ndarray, truth: np.ndarray, affine: np.ndarray) -> dict[str, float]:
    """The official formulas with nothing but loops: centroids, nearest of the shared labels, 20 mm, means."""

    def centroid(mask, label):
        index = np.argwhere(mask == label).mean(axis=0)
        return affine[:3, :3] @ index + affine[:3, 3]

    known = [*range(1, 26), 28]
    true = [label for label in known if (truth == label).any()]
    predicted = [label for label in known if (prediction == label).any()]
    shared = [label for label in true if label in predicted]
    hits, distances = [], []
    for label in shared:
        own = centroid(prediction, label)
        nearest, smallest = None, math.inf
        for other in shared:
            distance = math.dist(own, centroid(truth, other))
            if distance < smallest:
                nearest, smallest = other, distance
        if nearest == label and smallest <= 20:
            hits.append(label)
            distances.append(smallest)
    dices = []
    for label in true:
        a, b = prediction == label, truth == label
        dices.append(2 * (a & b).sum() / (a.sum() + b.sum()))
    return {
        "id_rate": len(hits) / len(true),
        "d_mean": sum(distances) / len(distances) if distances else math.nan,
        "dice": sum(dices) / len(dices),
        "missed": len(set(true) - set(predicted)),
        "extra": len(set(predicted) - set(true)),
    }


def drop(labels, ids):
    labels[labels == ids[1]] = 0


def double(labels, ids):
    labels[labels == ids[1]] = ids[0]  # one name in two bones


def merge(labels, ids):
    labels[np.isin(labels, ids[:3])] = ids[2]


def split(labels, ids):
    index = np.argwhere(labels == ids[0])
    half = index[index[:, 1] > np.median(index[:, 1])]
    labels[tuple(half.T)] = ids[1]


def shift_down(labels, ids):
    for label in sorted(ids, reverse=True):
        labels[labels == label] = label + 1


def partial(labels, ids):
    index = np.argwhere(labels == ids[-1])
    labels[tuple(index[index[:, 1] > np.quantile(index[:, 1], 0.2)].T)] = 0


def moved(labels, ids):
    labels[:] = np.roll(labels, 12, axis=0)


FAULTS = [drop, double, merge, split, shift_down, partial, moved]


@needs_masks
@pytest.mark.parametrize(
    "case", [name if "010" in name else pytest.param(name, marks=pytest.mark.slow) for name in REAL]
)
@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_real_masks_with_faults_score_as_the_official_formulas_say(case, fault):
    whole = read_labels(MASKS / f"{case}_seg-vert_msk.nii.gz")
    # Every other voxel: the plain loops take their time, and the shapes are as real.
    truth = whole.array[::2, ::2, ::2]
    geometry = Geometry(truth.shape, whole.geometry.affine @ np.diag([2, 2, 2, 1]))
    prediction = truth.copy()
    ids = [label.id for label in VERTEBRAE if (truth == label.id).any()]
    fault(prediction, ids)
    expected = by_the_book(prediction, truth, geometry.affine)
    found = identify(mask_centroids(prediction, geometry), mask_centroids(truth, geometry))
    assert found.id_rate == pytest.approx(expected["id_rate"])
    assert found.d_mean_mm == pytest.approx(expected["d_mean"], nan_ok=True)
    assert (len(found.missed), len(found.extra)) == (expected["missed"], expected["extra"])
    bones = score_bones(prediction, truth, geometry)
    assert np.mean(list(bones.dice.values())) == pytest.approx(expected["dice"])


@needs_masks
@pytest.mark.parametrize("case", REAL)
def test_a_real_mask_is_its_own_equal(case):
    truth = read_labels(MASKS / f"{case}_seg-vert_msk.nii.gz")
    centroids = mask_centroids(truth.array, truth.geometry)
    found = identify(centroids, centroids)
    assert (found.id_rate, found.d_mean_mm, found.all_right, found.shift) == (1.0, 0.0, True, 0)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
def test_made_masks_with_faults_score_as_the_official_formulas_say(fault):
    truth, geometry = made_mask()
    prediction = truth.copy()
    fault(prediction, [vertebra(name).id for name in ("T11", "T12", "L1", "L2", "L3")])
    expected = by_the_book(prediction, truth, geometry.affine)
    found = identify(mask_centroids(prediction, geometry), mask_centroids(truth, geometry))
    assert (found.id_rate, len(found.missed), len(found.extra)) == pytest.approx(
        (expected["id_rate"], expected["missed"], expected["extra"])
    )
    assert found.all_right == (expected["id_rate"] == 1 and expected["extra"] == 0)


def test_centroids_are_those_of_the_voxels_in_the_world_in_any_memory_order():
    labels, geometry = made_mask()
    for order in ("C", "F"):
        centroids = mask_centroids(np.array(labels, order=order), geometry)
        assert list(centroids) == [vertebra(name).id for name in ("T11", "T12", "L1", "L2", "L3")]
        for label, centroid in centroids.items():
            index = np.argwhere(labels == label).mean(axis=0)
            assert centroid == pytest.approx(OBLIQUE[:3, :3] @ index + OBLIQUE[:3, 3])


@pytest.mark.parametrize("places", [-2, -1, 1, 2])
def test_a_shift_of_all_names_is_found_and_says_how_to_undo_it(places):
    names = [f"T{number}" for number in range(4, 12)]
    true = {vertebra(name).id: np.array([0.0, 0.0, -25.0 * row]) for row, name in enumerate(names)}
    wrong = {label - places: centroid for label, centroid in true.items()}
    found = identify(wrong, true)
    assert (found.shift, found.id_rate_shifted, found.all_right) == (places, 1.0, False)
    assert found.id_rate == 0.0


def line_of(names: list[str]) -> dict[int, np.ndarray]:
    return {vertebra(name).id: np.array([0.0, 3.0, -25.0 * row]) for row, name in enumerate(names)}


@pytest.mark.parametrize(
    ("predicted", "true"),
    [
        (["T11", "T12", "L1", "L2"], ["T12", "L1", "L2", "L3"]),
        (["T12", "T13", "L1", "L2"], ["T11", "T12", "T13", "L1"]),
        (["T10", "T11", "T12", "L1"], ["T11", "L1", "L2", "L3"]),
        (["L2", "L3", "L4", "L5"], ["L3", "L4", "L5", "L6"]),
    ],
)
def test_shifts_count_the_places_of_the_patient(predicted, true):
    found = identify(line_of(predicted), line_of(true))
    assert found.shift in (-1, 1)
    back = shifted(line_of(predicted), found.shift, line_of(true))
    assert found.id_rate_shifted > found.id_rate
    assert sum(label in back for label in line_of(true)) >= 2


def test_t13_called_l1_is_no_shift_of_the_rest():
    found = identify(line_of(["T11", "T12", "L1", "L2"]), line_of(["T11", "T12", "T13", "L1"]))
    assert found.missed == (28,) and found.extra == (21,)
    assert [vertebra(label).name for label in found.identified][:2] == ["T11", "T12"]


def test_names_that_leave_the_spine_are_dropped_by_a_shift():
    assert shifted(line_of(["C1", "C2"]), -1, line_of(["C1"])).keys() == {1}
    assert shifted(line_of(["L6"]), 1, line_of(["L5"])) == {}


def test_distances_count_up_to_and_including_20_mm():
    true = {20: np.zeros(3)}
    assert identify({20: np.array([0.0, 20.0, 0.0])}, true).id_rate == 1.0
    assert identify({20: np.array([0.0, 20.001, 0.0])}, true).id_rate == 0.0


def test_nothing_against_nothing_is_undefined_and_nothing_against_something_is_missed():
    empty = identify({}, {})
    assert math.isnan(empty.id_rate) and math.isnan(empty.d_mean_mm) and empty.all_right
    missed = identify({}, line_of(["L1", "L2"]))
    assert (missed.id_rate, missed.missed, missed.shift) == (0.0, (20, 21), 0)
    invented = identify(line_of(["L1"]), {})
    assert invented.extra == (20,) and not invented.all_right


def test_two_names_in_one_bone_are_mixed_and_a_wrong_one_alone_is_not():
    truth, geometry = made_mask()
    prediction = truth.copy()
    prediction[truth == 20] = 21  # wrong, but one name
    prediction[6:17, 8:12, 4:15] = 19  # 4 of 9 layers of T11 are called T12
    bones = score_bones(prediction, truth, geometry)
    assert bones.mixed[18] == pytest.approx(4 / 9)
    assert bones.mixed[20] == 0.0
    assert bones.mixed_bones == (18,)
    prediction[truth == 22] = 0
    assert math.isnan(score_bones(prediction, truth, geometry).mixed[22])


def test_dice_in_the_labelled_span_leaves_out_what_lies_beyond_its_ends_only():
    truth, geometry = made_mask()
    prediction = truth.copy()
    prediction[6:17, 68:71, 4:15] = 22  # a cut vertebra at the feet end, unlabelled, called L3
    prediction[0:3, 30:40, 0:3] = 23  # an invention beside the spine, within the span
    bones = score_bones(prediction, truth, geometry)
    heights = OBLIQUE[2, 3] + np.tensordot(np.indices(truth.shape).transpose(1, 2, 3, 0), OBLIQUE[2, :3], axes=1)
    low, high = heights[truth > 0].min(), heights[truth > 0].max()
    assert labelled_span_mm(truth, geometry) == pytest.approx((low, high))
    inside = (heights >= low - 1e-3) & (heights <= high + 1e-3)
    for label in (18, 22):
        for kept, measured in ((inside | True, bones.dice), (inside, bones.dice_in_span)):
            a, b = (prediction == label) & kept, truth == label
            assert measured[label] == pytest.approx(2 * (a & b).sum() / (a.sum() + b.sum()))
    assert bones.dice[22] < bones.dice_in_span[22]
    assert bones.union_dice < bones.union_dice_in_span < 1.0  # the invention still counts


def test_ids_that_are_no_vertebra_are_background_in_both_maps():
    truth, geometry = made_mask()
    truth[0, 0, :4], prediction = 26, truth.copy()
    prediction[truth == 18] = 200
    bones = score_bones(prediction, truth, geometry)
    assert list(bones.dice) == [18, 19, 20, 21, 22]
    assert bones.dice[18] == 0.0 and math.isnan(bones.mixed[18])
    named = np.isin(prediction, [19, 20, 21, 22])
    true = np.isin(truth, [18, 19, 20, 21, 22])
    assert bones.union_dice == pytest.approx(2 * (named & true).sum() / (named.sum() + true.sum()))


@pytest.mark.parametrize("order", ["C", "F"])
def test_occupied_voxels_are_all_that_any_map_holds_slab_by_slab(order, monkeypatch):
    monkeypatch.setattr("verse3d.metrics.occupied._SLAB_VOXELS", 500)
    random = np.random.default_rng(0)
    one, other = (
        np.array(random.integers(0, 30, (7, 11, 13)) * (random.random((7, 11, 13)) < 0.2), np.uint8, order=order)
        for _ in range(2)
    )
    pieces = list(occupied(one, other))
    assert len(pieces) > 1
    indices = np.concatenate([index for index, _ in pieces])
    assert sorted(map(tuple, indices.tolist())) == sorted(map(tuple, np.argwhere((one > 0) | (other > 0)).tolist()))
    for index, (first, second) in pieces:
        assert np.array_equal(first, one[tuple(index.T)]) and np.array_equal(second, other[tuple(index.T)])


def test_an_empty_truth_has_no_span_and_no_bones():
    truth, geometry = made_mask()
    bones = score_bones(truth, truth * 0, geometry)
    assert bones.dice == {} and bones.union_dice == 0.0 and labelled_span_mm(truth * 0, geometry) is None


def test_masks_off_their_grid_are_refused():
    labels, geometry = made_mask()
    with pytest.raises(GeometryError, match="does not lie"):
        mask_centroids(labels[1:], geometry)
    with pytest.raises(GeometryError, match="does not lie"):
        score_bones(labels[1:], labels[1:], geometry)
    with pytest.raises(GeometryError, match="different shapes"):
        score_bones(labels[1:], labels, geometry)
