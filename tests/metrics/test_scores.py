import json
import math
import statistics

import numpy as np
import pytest

from tests.metrics.conftest import SHAPE, blobs
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, label_scheme, vertebra
from verse3d.metrics.overlap import Overlap, dice
from verse3d.metrics.scores import (
    CSV_COLUMNS,
    METRICS,
    CaseScores,
    LabelScore,
    csv_rows,
    score_case,
    scores_to_json_dict,
    summarise,
)
from verse3d.metrics.surface import assd_mm, hd95_mm, surface_distances

NAN = math.nan
BINARY = label_scheme("binary").labels


def values(score: LabelScore) -> list[float]:
    return [getattr(score, metric) for metric in METRICS]


@pytest.fixture
def cases() -> list[CaseScores]:
    return [
        CaseScores("a", {"L1": LabelScore(0.9, 1.0, 0.25, -0.5), "C3": LabelScore(0.1, 9.0, 4.0, 3.0)}),
        CaseScores("b", {"T13": LabelScore(0.0, NAN, NAN, 2.5), "L1": LabelScore(0.7, 4.0, 0.5, 1.0)}),
        CaseScores("c", {"L1": LabelScore(0.0, NAN, NAN, -20.0), "T12": LabelScore(0.5, 2.0, 1.0, 0.0)}),
    ]


@pytest.mark.parametrize("seed", range(3))
def test_each_label_is_scored_as_if_it_were_alone(seed, sheared):
    prediction, truth = blobs(seed), blobs(seed + 7, ids=(1, 2, 3, 28))
    scores = score_case(prediction, truth, sheared, VERTEBRAE)
    assert list(scores) == ["C1", "C2", "C3", "C5", "T13"]
    for name, score in scores.items():
        mine, theirs = prediction == vertebra(name).id, truth == vertebra(name).id
        distances = surface_distances(mine, theirs, sheared)
        overlap = Overlap(int((mine & theirs).sum()), int(mine.sum()), int(theirs.sum()))
        millilitres = (mine.sum() - theirs.sum()) * 0.7 * 2.5 * 1.1 / 1000
        expected = [dice(overlap), hd95_mm(distances), assd_mm(distances), millilitres]
        assert values(score) == pytest.approx(expected, nan_ok=True)


def test_missed_and_invented_labels_have_dice_zero_and_undefined_distances():
    grid = Geometry(SHAPE, np.diag([1.0, 2.0, 5.0, 1.0]))
    prediction, truth = np.zeros((2, *SHAPE), dtype=np.uint8)
    truth[:2, :3, :4] = 8
    prediction[5:9, 5:10, 5:10] = 20
    scores = score_case(prediction, truth, grid, VERTEBRAE)
    assert values(scores["T1"]) == pytest.approx([0.0, NAN, NAN, -0.24], nan_ok=True)
    assert values(scores["L1"]) == pytest.approx([0.0, NAN, NAN, 1.0], nan_ok=True)
    assert list(scores) == ["T1", "L1"]


def test_a_missed_high_id_beside_a_shared_low_id_is_scored(oblique):
    prediction, truth = np.zeros((2, *SHAPE), dtype=np.uint8)
    prediction[3:5], truth[3:5], truth[9:11] = 1, 1, 28
    scores = score_case(prediction, truth, oblique, VERTEBRAE)
    assert values(scores["C1"]) == [1.0, 0.0, 0.0, 0.0]
    assert scores["T13"].dice == 0.0


def test_nothing_in_either_map_is_undefined_for_one_label_and_left_out_for_many(oblique):
    nothing = np.zeros(SHAPE, dtype=np.uint8)
    assert score_case(nothing, nothing, oblique, VERTEBRAE) == {}
    assert np.isnan(values(score_case(nothing, nothing, oblique, BINARY)["vertebrae"])).all()


def test_ids_outside_the_table_count_as_background(oblique):
    truth = blobs(3)
    prediction = np.where(truth == 28, np.uint8(255), truth)
    assert list(score_case(prediction, truth, oblique, [vertebra(1), vertebra(2)])) == ["C1", "C2"]


def test_axis_order_and_flips_do_not_change_scores(oblique):
    prediction, truth = blobs(1), blobs(2)
    move = np.array([[0, 0, -1, SHAPE[0] - 1], [1, 0, 0, 0], [0, -1, 0, SHAPE[2] - 1], [0, 0, 0, 1.0]])
    turned = [np.asfortranarray(m.transpose(1, 2, 0)[:, ::-1, ::-1]) for m in (prediction, truth)]
    before = score_case(prediction, truth, oblique, VERTEBRAE)
    after = score_case(*turned, Geometry(turned[0].shape, oblique.affine @ move), VERTEBRAE)
    assert list(before) == list(after)
    for name in before:
        assert values(after[name]) == pytest.approx(values(before[name]), nan_ok=True)


def test_shapes_that_differ_are_refused(oblique):
    good, bad = np.zeros(SHAPE, np.uint8), np.zeros(SHAPE[::-1], np.uint8)
    for prediction, truth in [(bad, good), (good, bad), (bad, bad)]:
        with pytest.raises(GeometryError, match="shape"):
            score_case(prediction, truth, oblique, VERTEBRAE)


def test_a_summary_is_the_arithmetic_of_the_statistics_module(cases):
    summary = summarise(cases)
    assert summary["L1"]["dice"] == pytest.approx(
        {
            "mean": statistics.mean([0.9, 0.7, 0.0]),
            "sd": statistics.stdev([0.9, 0.7, 0.0]),
            "median": 0.7,
            "n": 3,
            "undefined": 0,
        }
    )
    assert summary["L1"]["hd95_mm"] == pytest.approx(
        {"mean": 2.5, "sd": statistics.stdev([1.0, 4.0]), "median": 2.5, "n": 2, "undefined": 1}
    )


def test_statistics_of_too_few_values_are_undefined_and_counted(cases):
    summary = summarise(cases)
    nothing = {"mean": NAN, "sd": NAN, "median": NAN, "n": 0, "undefined": 1}
    assert summary["T13"]["assd_mm"] == pytest.approx(nothing, nan_ok=True)
    alone = {"mean": 0.5, "sd": NAN, "median": 0.5, "n": 1, "undefined": 0}
    assert summary["T12"]["dice"] == pytest.approx(alone, nan_ok=True)


def test_labels_are_listed_from_head_to_tail(cases):
    assert list(summarise(cases)) == ["C3", "T12", "T13", "L1"]
    assert list(scores_to_json_dict(cases)["cases"][1]["labels"]) == ["T13", "L1"]
    assert list(summarise([CaseScores("x", {"vertebrae": LabelScore(1.0, 0.0, 0.0, 0.0)})])) == ["vertebrae"]


def test_json_is_strict_and_holds_null_for_undefined(cases):
    read = json.loads(json.dumps(scores_to_json_dict(cases), allow_nan=False))
    assert set(read) == {"cases", "summary"}
    assert read["cases"][1]["case"] == "b"
    assert read["cases"][1]["labels"]["T13"] == {
        "dice": 0.0,
        "hd95_mm": None,
        "assd_mm": None,
        "volume_difference_ml": 2.5,
    }
    assert read["summary"]["T13"]["hd95_mm"] == {"mean": None, "sd": None, "median": None, "n": 0, "undefined": 1}


def test_scores_of_arrays_are_plain_json_numbers(oblique):
    scores = score_case(blobs(1), blobs(2), oblique, VERTEBRAE)
    json.dumps(scores_to_json_dict([CaseScores("x", scores)]), allow_nan=False)


def test_no_cases_make_an_empty_summary():
    assert scores_to_json_dict([]) == {"cases": [], "summary": {}}


def test_csv_rows_leave_undefined_cells_empty_and_keep_every_digit(cases):
    assert CSV_COLUMNS == ("case", "label", "dice", "hd95_mm", "assd_mm", "volume_difference_ml")
    rows = list(csv_rows(cases))
    assert rows[2] == ("b", "T13", "0.0", "", "", "2.5")
    third = [CaseScores("x", {"L1": LabelScore(1 / 3, 0.1, 0.2, 0.3)})]
    assert float(next(csv_rows(third))[2]) == 1 / 3
