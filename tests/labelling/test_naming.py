"""Naming synthetic spines with the shipped numbers, scoring names, and fitting numbers to synthetic spines."""

import importlib
import json
import sys
from dataclasses import fields, replace
from pathlib import Path as FilePath

import numpy as np
import pytest

from tests.labelling.spines import LUMBAR, WHOLE, between, centres_of, joined, moved, scores_of, shuffled, spine_of
from verse3d.core.errors import DataError
from verse3d.labelling.crossval import Judged, fold_of, scores_by_folds, threshold
from verse3d.labelling.detections import detections
from verse3d.labelling.fitting import fit_priors
from verse3d.labelling.keypoints import SpineDetections, read_keypoints
from verse3d.labelling.levels import LEVEL_INDEX, LEVELS
from verse3d.labelling.naming import NamedSpine, Reading, _missed, _readings, name_spines
from verse3d.labelling.optimise import Recipe, _batch, _fresh, _gradient, _reading_gradient
from verse3d.labelling.priors import SHIPPED, Priors, as_t12, load_priors, save_priors, shipped_priors
from verse3d.labelling.readings import UNKNOWN, readings_of, true_levels
from verse3d.labelling.scoring import score_names, summarise_names
from verse3d.labelling.sequence import Path

VID = FilePath(__file__).parents[2] / "../shared/data/vid/vid-training.jsonl.gz"
BENCHMARKS = FilePath(__file__).parents[2] / "benchmarks"


def names_in_order(named: NamedSpine) -> list[str]:
    return [named.names.get(row, "") for row in named.order]


@pytest.mark.parametrize(
    ("first", "last"), [("C1", "L5"), ("T8", "L5"), ("C1", "T4"), ("T9", "L3"), ("T10", "L2"), ("C3", "T12")]
)
@pytest.mark.parametrize("scale", [0.85, 1.0, 1.2])
def test_a_clear_spine_is_named_right_whatever_the_order_and_the_size(first, last, scale):
    found, _ = shuffled(spine_of(between(first, last), scale))
    (named,) = name_spines(found)
    assert names_in_order(named) == between(first, last)
    assert not named.missed and not named.upside_down


@pytest.mark.parametrize(("bend", "sideways"), [(0, 50), (60, 0), (50, 40)])
def test_scoliosis_and_kyphosis_change_no_name(bend, sideways):
    (named,) = name_spines(shuffled(spine_of(between("T2", "L5"), bend=bend, sideways=sideways))[0])
    assert names_in_order(named) == between("T2", "L5")


def test_names_move_with_the_patient_and_survive_a_mirror():
    found = moved(spine_of(between("T7", "L4")), np.diag([-1.0, 1.0, 1.0]), np.array([10.0, -300.0, 999.0]))
    assert names_in_order(name_spines(found)[0]) == between("T7", "L4")


def test_nothing_detected_is_no_spine():
    assert name_spines(detections([], [])) == []


@pytest.mark.parametrize("names", [["L3"], ["T12", "L1"]])
def test_one_or_two_vertebrae_get_a_region_and_their_doubts_are_told(names):
    (named,) = name_spines(spine_of(names))
    assert sum(named.chances(named.order[0]).values()) == pytest.approx(1.0)
    assert named.ambiguous or names_in_order(named) == names
    assert len(named.readings) > 1


def test_a_stretch_without_any_border_is_ambiguous_and_the_truth_is_among_the_readings():
    (named,) = name_spines(spine_of(between("T4", "T7")))
    assert named.ambiguous and 0 < named.probability < 1
    assert len({tuple(reading.names.values()) for reading in named.readings}) == len(named.readings) > 1


def test_scores_that_are_not_numbers_leave_names_that_are_doubted():
    found = spine_of(between("T8", "L4"))
    blind = detections(found.centres_mm, np.full((len(found), 3), np.nan))
    (named,) = name_spines(blind)
    assert named.ambiguous
    one_blind = found.regions.copy()
    one_blind[3] = np.nan
    (named,) = name_spines(replace(found, regions=one_blind))
    assert names_in_order(named) == between("T8", "L4")


def test_a_false_detection_beside_the_spine_gets_no_name():
    found = joined(spine_of(between("T8", "L5")), detections([[60.0, 10.0, -110.0]], [[0.03, 0.03, 0.03]]))
    (named,) = name_spines(found)
    assert len(found) - 1 not in named.names
    assert [name for name in names_in_order(named) if name] == between("T8", "L5")


def test_a_missed_vertebra_is_counted_and_named():
    names = between("T8", "L5")
    (named,) = name_spines(spine_of(names).taken([row for row, name in enumerate(names) if name != "L2"]))
    assert names_in_order(named) == [name for name in names if name != "L2"]
    assert list(named.missed) == ["L2"]
    assert np.linalg.norm(np.array(named.missed["L2"]) - spine_of(names).centres_mm[names.index("L2")]) < 3.0


def test_a_patient_without_t12_has_not_missed_it():
    (named,) = name_spines(spine_of([*between("T6", "T11"), *LUMBAR]))
    assert names_in_order(named)[5:7] != ["T11", "L1"] or named.missed == {}
    rows = dict(enumerate([*between("T9", "T11"), *LUMBAR]))
    close, apart = centres_of(list(rows.values())), spine_of(between("T9", "L5")).taken([0, 1, 2, 4, 5, 6, 7, 8])
    assert _missed(rows, close) == {}
    assert list(_missed(rows, apart.centres_mm)) == ["T12"]


def test_a_spine_upside_down_in_its_header_is_read_and_told():
    flipped = moved(spine_of(between("C2", "L4")), np.diag([1.0, 1.0, -1.0]), np.zeros(3))
    (named,) = name_spines(flipped)
    assert named.upside_down
    assert names_in_order(named) == between("C2", "L4")


def test_two_patients_are_named_each_on_their_own():
    second = moved(spine_of(between("T10", "L4")), np.eye(3), np.array([400.0, 0.0, -30.0]))
    found, _ = shuffled(joined(spine_of(between("T7", "L5")), second))
    assert [names_in_order(named) for named in name_spines(found)] == [between("T7", "L5"), between("T10", "L4")]


def test_six_lumbar_vertebrae_are_at_least_among_the_readings():
    names = [*between("T9", "L5"), "L6"]
    (named,) = name_spines(spine_of(names))
    assert any([reading.names.get(row) for row in named.order] == names for reading in named.readings)


def test_whether_the_lowest_one_is_l6_or_the_sacrum_is_a_doubt_and_a_dropped_point_is_none():
    def path(names, score, rows=(0, 1, 2)):
        return Path(rows[: len(names)], tuple(LEVEL_INDEX[name] for name in names), score)

    rows = np.array([5, 6, 7])
    doubted = _readings([path(["L4", "L5", "S1"], 0.0), path(["L4", "L5", "L6"], 0.0), path(["L4", "L5"], -1.0)], rows)
    assert [list(reading.names.values()) for reading in doubted] == [["L4", "L5"], ["L4", "L5", "L6"]]
    assert doubted[0].names == {5: "L4", 6: "L5"}
    weight = np.exp(-1.0)
    assert doubted[0].probability == pytest.approx((1 + weight) / (2 + weight))


def test_the_shipped_numbers_are_small_and_say_where_they_come_from():
    assert SHIPPED.stat().st_size < 200_000
    with np.load(SHIPPED, allow_pickle=False) as stored:
        assert "CC BY-SA 4.0" in str(stored["provenance"]) and "VID" in str(stored["provenance"])


@pytest.mark.skipif(not VID.is_file(), reason="the key points of VID are not here")
def test_real_key_points_get_their_names():
    spines = read_keypoints(VID)[::80]
    scores = summarise_names([score_names(spine, name_spines(spine.found)) for spine in spines])
    assert scores["scans"] == 25
    assert scores["id_rate"] > 0.9 and scores["wrong_and_not_ambiguous"] <= 0.08


def test_priors_survive_a_file(tmp_path):
    save_priors(shipped_priors(), tmp_path / "again.npz")
    again = load_priors(tmp_path / "again.npz")
    for field in fields(Priors):
        assert np.array_equal(getattr(again, field.name), getattr(shipped_priors(), field.name))


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"bias": np.zeros((1, 2))}, "bias", id="a wrong shape"),
        pytest.param({"missed": np.full(4, np.nan)}, "missed", id="not a number"),
        pytest.param({"step_sd": np.zeros(1)}, "no sense", id="no spread"),
        pytest.param({"hidden": np.zeros(3)}, "mean|linear|hidden", id="a flat layer"),
    ],
)
def test_priors_that_do_not_fit_together_are_refused(tmp_path, change, words):
    save_priors(replace(shipped_priors(), **change), tmp_path / "bad.npz")
    with pytest.raises(DataError, match=words):
        load_priors(tmp_path / "bad.npz")


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04broken", b"text"])
def test_a_damaged_file_of_priors_is_refused(tmp_path, content):
    (tmp_path / "bad.npz").write_bytes(content)
    with pytest.raises(DataError, match="cannot read priors"):
        load_priors(tmp_path / "bad.npz")


def test_missing_huge_and_incomplete_files_of_priors_are_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read"):
        load_priors(tmp_path / "none.npz")
    with (tmp_path / "huge.npz").open("wb") as stream:
        stream.truncate(9 << 20)
    with pytest.raises(DataError, match="larger"):
        load_priors(tmp_path / "huge.npz")
    np.savez(tmp_path / "part.npz", mean=np.zeros(3))
    with pytest.raises(DataError, match="cannot read"):
        load_priors(tmp_path / "part.npz")


def spine_with_truth(names: list[str], number: int = 0, noise: float = 1.0) -> SpineDetections:
    random = np.random.default_rng(number)
    found = spine_of(names, scale=float(np.exp(random.normal(0, 0.08))))
    truth = found.centres_mm + random.normal(0, noise, found.centres_mm.shape)
    return SpineDetections(f"s{number}", f"p{number}", found, tuple(names), truth)


def named_as(spine: SpineDetections, names: list[str], ambiguous: bool = False) -> NamedSpine:
    rows = {row: name for row, name in enumerate(names) if name}
    return NamedSpine(tuple(range(len(names))), (Reading(rows, 0.9),), ambiguous, False)


def test_names_are_scored_by_the_nearest_output_within_20_mm():
    spine = spine_with_truth(between("T11", "L2"))
    right = score_names(spine, [named_as(spine, ["T11", "T12", "L1", "L2"])])
    assert (right.vertebrae, right.right, right.all_right, right.ambiguous) == (4, 4, True, False)
    shifted = score_names(spine, [named_as(spine, ["T12", "L1", "L2", "L3"], ambiguous=True)])
    assert (shifted.right, shifted.all_right, shifted.ambiguous) == (0, False, True)
    dropped = score_names(spine, [named_as(spine, ["T11", "T12", "L1", ""])])
    assert (dropped.right, dropped.all_right) == (3, False)  # L2 was detected, so not naming it is a mistake


def test_a_vertebra_without_a_detection_counts_against_the_id_rate_only():
    spine = spine_with_truth(between("T11", "L2"))
    fewer = replace(spine, found=spine.found.taken([0, 1, 2]))
    score = score_names(fewer, [named_as(fewer, ["T11", "T12", "L1"])])
    assert (score.vertebrae, score.right, score.all_right) == (4, 3, True)
    empty = replace(spine, found=detections([], []))
    assert score_names(empty, []).right == 0 and score_names(empty, []).all_right


def test_a_missed_vertebra_counts_where_it_should_lie():
    spine = spine_with_truth(between("C4", "C7"))
    fewer = replace(spine, found=spine.found.taken([0, 1, 3]))
    named = named_as(fewer, ["C4", "C5", "C7"])
    assert score_names(fewer, [named]).right == 3
    told = replace(named, missed=_missed(named.names, fewer.found.centres_mm))
    assert (score_names(fewer, [told]).right, score_names(fewer, [told]).all_right) == (4, True)


def test_shares_are_of_scans_and_of_vertebrae():
    spine = spine_with_truth(between("T11", "L2"))
    scores = [
        score_names(spine, [named_as(spine, ["T11", "T12", "L1", "L2"])]),
        score_names(spine, [named_as(spine, ["T12", "L1", "L2", "L3"])]),
        score_names(spine, [named_as(spine, ["T12", "L1", "L2", "L3"], ambiguous=True)]),
        score_names(spine, [named_as(spine, ["T11", "T12", "L1", ""], ambiguous=True)]),
    ]
    assert summarise_names(scores) == {
        "scans": 4,
        "vertebrae": 16,
        "id_rate": 7 / 16,
        "all_right": 0.25,
        "ambiguous": 0.5,
        "wrong_and_not_ambiguous": 0.25,
    }
    assert summarise_names([])["id_rate"] == 0


def test_unlabelled_ends_become_the_sacrum_and_the_neighbour_above():
    names = ["T9", *between("T10", "L5"), "L6"]
    found = spine_of(names)
    spine = SpineDetections("a", "a", found, tuple(names[1:-1]), found.centres_mm[1:-1])
    assert [LEVELS[level] for level in true_levels(spine, found)] == ["T9", *between("T10", "L5"), "S1"]
    far = SpineDetections("a", "a", found, ("L1",), found.centres_mm[:1] + 300.0)
    assert (true_levels(far, found) == UNKNOWN).all()


@pytest.mark.parametrize("names", [between("T10", "L5"), [*between("T9", "T11"), *LUMBAR], [*LUMBAR, "L6"], ["C4"]])
def test_all_readings_of_a_spine_are_ways_through_the_graph_and_one_is_true(names):
    spine = spine_with_truth(names)
    readings = readings_of(spine, spine.found, true_levels(spine, spine.found), shipped_priors())
    assert [LEVELS[level] for level in readings.levels[readings.truth]] == names
    assert len({tuple(row) for row in readings.levels.tolist()}) == len(readings.levels)
    assert (np.diff(readings.levels, axis=1) > 0).all()
    if len(names) > 4:
        assert readings.distances.argmax() in np.argsort(-readings.distances)[:1]
        assert readings.distances[readings.truth] > np.quantile(readings.distances, 0.5)


def test_levels_out_of_order_have_no_readings():
    spine = spine_with_truth(between("T10", "L2"))
    wrong = np.array([LEVEL_INDEX[name] for name in ("L2", "L1", "T12", "T11", "T10")])
    assert readings_of(spine, spine.found, wrong, shipped_priors()) is None


def test_the_gradient_is_that_of_finite_differences():
    recipe = Recipe(dropout=0.0, units=3)
    spines = [spine_with_truth(between("T10", "L3"), 1), spine_with_truth([*LUMBAR, "L6"], 2)]
    priors = shipped_priors()
    readings = [readings_of(s, s.found, true_levels(s, s.found), priors) for s in spines]
    batch = _batch(readings, priors)
    weights = _fresh(priors, recipe, np.random.default_rng(0))
    weights["output"] *= 10
    gradient = _gradient(batch, weights, np.random.default_rng(0), recipe)

    def loss() -> float:
        hidden = np.maximum(batch.features @ weights["hidden"] + weights["hidden_bias"], 0)
        looks = as_t12(batch.features @ weights["linear"] + weights["bias"] + hidden @ weights["output"])
        total, row = 0.0, 0
        for reading in readings:
            rows = np.arange(row, row + len(reading.features))
            scores = looks[rows[None], reading.levels].sum(1) + reading.distances
            scores = scores + reading.anomalies @ weights["anomalies"]
            nll = np.log(np.exp(scores - scores.max()).sum()) + scores.max() - scores[reading.truth]
            total += recipe.bound * (1 - np.exp(-nll / recipe.bound)) / len(readings)
            row += len(rows)
        return total

    random = np.random.default_rng(3)
    for name, value in weights.items():
        for _ in range(6):
            place = tuple(int(random.integers(0, size)) for size in value.shape)
            if name in ("linear", "bias", "output") and place[-1] == LEVEL_INDEX["T13"]:
                continue
            if name == "anomalies" and place[0] == 0:
                continue  # T13 is held where it is
            kept = value[place]
            value[place] = kept + 1e-5
            above = loss()
            value[place] = kept - 1e-5
            below = loss()
            value[place] = kept
            assert gradient[name][place] == pytest.approx((above - below) / 2e-5, abs=2e-6), (name, place)
    assert _reading_gradient(batch, np.zeros((len(batch.features), 27)), np.zeros(4), 6.0).sum() == pytest.approx(0)


def varied_spines(count: int) -> list[SpineDetections]:
    random = np.random.default_rng(7)
    spines = []
    for number in range(count):
        start = int(random.integers(0, 15))
        end = int(random.integers(start + 6, len(WHOLE) + 1)) if start + 6 < len(WHOLE) else len(WHOLE)
        spines.append(spine_with_truth(WHOLE[start:end], number))
    return spines


@pytest.mark.slow  # it fits
def test_numbers_fitted_to_synthetic_spines_name_others_of_their_kind():
    spines = varied_spines(90)
    priors = fit_priors(spines[:70], Recipe(members=1, units=8, epochs=12, parts=0))
    scores = [score_names(spine, name_spines(spine.found, priors)) for spine in spines[70:]]
    assert summarise_names(scores)["id_rate"] > 0.9


def test_too_few_spines_to_fit_are_refused():
    with pytest.raises(DataError, match="too few"):
        fit_priors(varied_spines(5))


def test_patients_stay_in_one_fold_and_all_folds_are_used():
    assert fold_of("sub-verse400") == fold_of("sub-verse400")
    assert {fold_of(f"patient {number}") for number in range(100)} == set(range(5))


def test_each_fold_is_judged_with_the_threshold_of_the_others():
    spine = spine_with_truth(between("T11", "L2"))

    def judged(probability: float) -> Judged:
        named = named_as(spine, ["T11", "T12", "L1", "L2"])
        return Judged(spine, (replace(named, readings=(Reading(named.names, probability),)),))

    low, high = [judged(0.2)] * 4, [judged(0.9)] * 4
    assert threshold(high, 0.1) == pytest.approx(0.9)
    flags = [score.ambiguous for score in scores_by_folds([low, high], 0.1)]
    assert flags == [True] * 4 + [False] * 4


def line_of(spine: SpineDetections) -> str:
    turn = np.array([-1.0, -1.0, 1.0])
    return json.dumps(
        {
            "id": spine.id,
            "source": spine.subject,
            "truth": [
                {"level": level, "world_dicom_mm": (centre * turn).tolist()}
                for level, centre in zip(spine.levels, spine.centres_mm, strict=True)
            ],
            "detections": [
                {"world_dicom_mm": (centre * turn).tolist(), "segment_probabilities_ctl": scores.tolist()}
                for centre, scores in zip(spine.found.centres_mm, spine.found.regions, strict=True)
            ],
            "pedicle_detections": [
                {"side": side, "world_dicom_mm": (point * turn).tolist()}
                for side, points in (
                    ("left", spine.found.left_pedicles_mm),
                    ("right", spine.found.right_pedicles_mm),
                )
                for point in points
            ],
        }
    )


def test_the_benchmark_ends_with_one_json_object(tmp_path, monkeypatch, capsys):
    spines = [spine_with_truth(between("T8", "L5"), number) for number in range(3)]
    path = tmp_path / "spines.jsonl"
    path.write_text("\n".join([*map(line_of, spines), json.dumps({"id": "e", "truth": [], "detections": []})]))
    monkeypatch.syspath_prepend(BENCHMARKS)
    monkeypatch.setattr(sys, "argv", ["naming.py", "--keypoints", str(path)])
    importlib.import_module("naming").main()
    scores = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert list(scores) == ["scans", "vertebrae", "id_rate", "all_right", "ambiguous", "wrong_and_not_ambiguous"]
    assert (scores["scans"], scores["vertebrae"], scores["id_rate"], scores["all_right"]) == (4, 30, 1.0, 1.0)
    sys.argv += ["--leave-out", spines[1].subject, "e"]
    importlib.import_module("naming").main()
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["scans"] == 2
    sys.argv += ["nobody"]
    with pytest.raises(SystemExit, match="no spine is of nobody"):
        importlib.import_module("naming").main()


def test_readings_and_chances_come_from_the_same_paths():
    found = detections(centres_of(between("T5", "T9")), scores_of(between("T5", "T9")))
    (named,) = name_spines(found)
    assert sum(reading.probability for reading in named.readings) == pytest.approx(1.0)
    for row in named.order:
        assert next(iter(named.chances(row))) in {reading.names.get(row, "") for reading in named.readings}
