"""What is read and checked before anything is named: detections, key-point files, the order along the spine."""

import gzip
import json
from itertools import pairwise

import numpy as np
import pytest

from tests.labelling.spines import WHOLE, between, centres_of, joined, moved, shuffled, spine_of
from verse3d.core.errors import DataError
from verse3d.labelling.detections import detections, region_logits
from verse3d.labelling.features import describe, tangents
from verse3d.labelling.keypoints import read_keypoints, subject_of
from verse3d.labelling.levels import LEVELS, MOST_MISSED, STEPS, anomalies_on, edges, whole_spines
from verse3d.labelling.spine_curve import order_along, split_spines


@pytest.mark.parametrize(
    ("centres", "scores", "words"),
    [
        pytest.param([[0, 0, np.nan]], [[0, 0, 1]], "row 0", id="a position that is NaN"),
        pytest.param([[0, 0, 0], [0, 0, np.inf]], [[0, 0, 1]] * 2, "row 1", id="an infinite position"),
        pytest.param([[0, 0, 0]], [[0, 0, 1]] * 2, "1 centre and 2 rows", id="too many scores"),
        pytest.param([[0, 0, 0]], [[0, 0, 3.5]], "between 0 and 1", id="logits for scores"),
        pytest.param([[0, 0]], [[0, 0, 1]], "rows of three", id="flat points"),
        pytest.param("points", [[0, 0, 1]], "not rows of three numbers", id="words"),
    ],
)
def test_detections_that_make_no_sense_are_refused(centres, scores, words):
    with pytest.raises(DataError, match=words):
        detections(centres, scores)


def test_a_score_that_is_not_a_number_is_no_evidence():
    logits = region_logits(np.array([[np.nan, 0.9, 0.1], [0.0, 1.0, 0.5]]))
    assert logits[0, 0] == 0.0 and logits[0, 1] == pytest.approx(-logits[0, 2])
    assert np.isfinite(logits).all()


@pytest.mark.parametrize(("bend", "sideways"), [(0, 0), (40, 0), (0, 60), (50, 50)])
def test_the_order_follows_straight_and_scoliotic_spines(bend, sideways):
    points = centres_of(WHOLE, bend=bend, sideways=sideways)
    order = np.random.default_rng(1).permutation(len(points))
    assert order[order_along(points[order])].tolist() == list(range(len(points)))


def test_a_kyphosis_that_comes_down_again_keeps_its_order():
    angle = np.linspace(0.0, 1.25 * np.pi, 18)
    arch = np.column_stack([np.zeros(18), 90 * np.cos(angle), 90 * np.sin(angle)])
    legs = np.column_stack([np.zeros(6), np.full(6, 90.0), -30.0 * np.arange(1, 7)])
    points = np.concatenate([arch[::-1], legs])  # the head end hangs at z = -64, lower than the top of the arch
    order = np.random.default_rng(2).permutation(len(points))
    found = order[order_along(points[order])].tolist()
    assert found == list(range(len(points)))
    assert not np.array_equal(np.argsort(-points[:, 2]), np.arange(len(points)))  # sorting by height does not do it


def test_a_point_far_to_the_side_does_not_cut_off_the_neck():
    points = np.concatenate([centres_of(WHOLE), [[85.0, 10.0, -60.0]]])
    order = order_along(points)
    assert [row for row in order if row < len(WHOLE)] == list(range(len(WHOLE)))


@pytest.mark.parametrize("count", [0, 1, 2])
def test_few_points_have_an_order_too(count):
    points = np.array([[0.0, 0.0, 0.0], [0.0, 0.0, 30.0]])[:count]
    assert order_along(points).tolist() == [1, 0][-count:] if count else order_along(points).tolist() == []


def test_doubled_points_do_not_break_the_order():
    points = np.repeat(centres_of(between("T5", "L2")), 2, axis=0)
    assert (np.diff(points[order_along(points)][:, 2]) <= 0).all()


def test_two_patients_beside_each_other_are_two_spines():
    first, second = spine_of(between("T8", "L5")), spine_of(between("T10", "L4"))
    both = joined(first, moved(second, np.eye(3), np.array([350.0, 0.0, 20.0])))
    found, order = shuffled(both)
    spines = [order[rows].tolist() for rows in split_spines(found)]
    assert spines == [list(range(len(first))), list(range(len(first), len(both)))]


def test_three_missed_vertebrae_do_not_cut_a_spine_in_two():
    names = between("T1", "L5")
    kept = [row for row, name in enumerate(names) if name not in ("L1", "L2", "L3")]
    assert len(split_spines(spine_of(names).taken(kept))) == 1


def test_turning_moving_and_mirroring_change_no_feature_but_how_the_end_lies():
    found = spine_of(between("T4", "L5"), bend=30, sideways=20)
    angle = 0.3
    turn = np.array([[1, 0, 0], [0, np.cos(angle), -np.sin(angle)], [0, np.sin(angle), np.cos(angle)]])
    mirror = np.diag([-1.0, 1.0, 1.0])
    plain, turned = describe(found), describe(moved(found, turn, np.array([30.0, -400.0, 1200.0])))
    swapped = moved(found, mirror, np.zeros(3))
    assert describe(swapped) == pytest.approx(plain, abs=1e-9)
    changed = np.flatnonzero(np.abs(plain - turned).max(axis=0) > 1e-6)
    assert len(changed) == 1  # the angle between the lower end and the vertical


def test_features_of_nothing_and_of_one_are_finite():
    assert describe(spine_of([])).shape[0] == 0
    assert np.isfinite(describe(spine_of(["L3"]))).all()
    assert tangents(np.zeros((2, 3))).tolist() == [[0, 0, -1]] * 2


def test_the_graph_holds_the_nine_spines_of_the_literature():
    spines = {tuple(LEVELS[level] for level in spine) for spine in whole_spines()}
    thoracic = [11, 12, 13]
    assert {(sum(n[0] == "T" for n in spine), sum(n[0] == "L" for n in spine)) for spine in spines} == {
        (t, n) for t in thoracic for n in (4, 5, 6)
    }
    assert all(len([name for name in spine if name[0] == "C"]) == 7 for spine in spines)
    assert len(spines) == 9


def test_every_edge_is_a_stretch_of_a_whole_spine_and_every_stretch_is_an_edge():
    stretches = {
        spine[start:end]
        for spine in whole_spines()
        for start in range(len(spine))
        for end in range(start + 2, min(len(spine), start + MOST_MISSED + 2) + 1)
    }
    assert set(edges().ways) == stretches
    assert all(
        edges().start[number] == way[0] and edges().end[number] == way[-1] for number, way in enumerate(edges().ways)
    )
    assert all((LEVELS[a], LEVELS[b]) in STEPS for way in stretches for a, b in pairwise(way))


def test_anomalies_are_counted_once_each():
    by_name = {tuple(LEVELS[level] for level in spine): anomalies_on(spine).tolist() for spine in whole_spines()}
    regular = next(spine for spine in by_name if "T12" in spine and "T13" not in spine and spine[-2] == "L5")
    assert by_name[regular] == [0, 0, 0, 0]
    assert sorted(map(sum, by_name.values())) == [0, 1, 1, 1, 1, 2, 2, 2, 2]


LINE = {
    "id": "a",
    "source": "verse19/x/sub-verse012/scan.mha",
    "truth": [{"level": "L1", "world_dicom_mm": [1, 2, 3]}],
    "detections": [{"world_dicom_mm": [1.5, 2.5, 3.5], "segment_probabilities_ctl": [0.1, 0.2, 0.9]}],
    "pedicle_detections": [{"side": "left", "world_dicom_mm": [20, 30, 3]}],
}


@pytest.mark.parametrize("packed", [False, True])
def test_key_points_are_read_as_ras(tmp_path, packed):
    path = tmp_path / "spines.jsonl"
    text = (json.dumps(LINE) + "\n\n").encode()
    path.write_bytes(gzip.compress(text) if packed else text)
    (spine,) = read_keypoints(path)
    assert (spine.id, spine.subject, spine.levels) == ("a", "sub-verse012", ("L1",))
    assert spine.centres_mm.tolist() == [[-1, -2, 3]]
    assert spine.found.centres_mm.tolist() == [[-1.5, -2.5, 3.5]]
    assert spine.found.left_pedicles_mm.tolist() == [[-20, -30, 3]] and len(spine.found.right_pedicles_mm) == 0


@pytest.mark.parametrize(
    ("change", "words"),
    [
        pytest.param({"truth": [{"level": "L9", "world_dicom_mm": [1, 2, 3]}]}, "L9", id="unknown level"),
        pytest.param({"truth": [{"level": "S1", "world_dicom_mm": [1, 2, 3]}]}, "S1", id="the sacrum"),
        pytest.param({"truth": None}, "does not describe", id="no truth"),
        pytest.param({"detections": [{"world_dicom_mm": [1, 2, 3]}]}, "segment_probabilities", id="no scores"),
        pytest.param({"pedicle_detections": [{"side": "up", "world_dicom_mm": [1, 2, 3]}]}, "up", id="no such side"),
        pytest.param(
            {"detections": [{"world_dicom_mm": [1, 2, None], "segment_probabilities_ctl": [0, 0, 1]}]},
            "not a number",
            id="a position that is missing",
        ),
    ],
)
def test_a_line_that_describes_no_spine_is_named(tmp_path, change, words):
    path = tmp_path / "spines.jsonl"
    path.write_text(json.dumps(LINE) + "\n" + json.dumps(LINE | change))
    with pytest.raises(DataError, match=words) as caught:
        read_keypoints(path)
    assert "line 2" in str(caught.value)


@pytest.mark.parametrize("content", [b"\x1f\x8bbroken", b"\xff\xfe\x00", b"{not json", b"[1, 2]"])
def test_a_damaged_file_is_refused(tmp_path, content):
    (tmp_path / "spines.jsonl").write_bytes(content)
    with pytest.raises(DataError, match=r"spines\.jsonl"):
        read_keypoints(tmp_path / "spines.jsonl")


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match="nowhere"):
        read_keypoints(tmp_path / "nowhere.jsonl")


@pytest.mark.parametrize(
    ("source", "subject"),
    [
        ("verse20/01_training/rawdata/sub-gl195/sub-gl195_dir-ax_ct.mha", "sub-gl195"),
        ("COLONOG/COLO4/CTC-297/scan one/5.0-NA", "CTC-297"),
        ("Pancreas-CT/data/PANCREAS_0077.nii.gz", "Pancreas-CT/data/PANCREAS_0077.nii.gz"),
        ("COLONOG", "COLONOG"),
    ],
)
def test_scans_of_a_patient_share_a_subject(source, subject):
    assert subject_of(source) == subject
