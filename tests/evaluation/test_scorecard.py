"""The scorecard that evaluate writes, centroids as VerSe has them, and the masks of other programs."""

import json
import math

import numpy as np
import pytest

from tests import scans
from tests.scans import PIR, spine
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.data.cases import write_index
from verse3d.data.centroids import read_centroids, write_centroids
from verse3d.data.predictions import MASK_SUFFIX, mask_path
from verse3d.evaluation.case_values import METRICS, OF_NAMES, case_values
from verse3d.evaluation.foreign import TOTALSEGMENTATOR, find_mask, read_foreign_mask, read_label_map
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.evaluation.scorecard import score_card, summarise_cards
from verse3d.metrics.identification import mask_centroids


@pytest.fixture
def truth(tmp_path):
    return scans.write_truth(tmp_path / "data", 2)


def called(mask, **ids):
    result = mask.copy()
    for old, new in ids.items():
        result[mask == int(old[1:])] = new
    return result


def test_evaluate_writes_the_scorecard_the_table_and_the_centroids(tmp_path, truth):
    scans.write_nifti(mask_path(tmp_path / "masks", "c0"), spine(0).mask, PIR.affine)
    wrong = called(spine(1).mask, _19=20, _20=21, _21=22)  # T12 L1 L2 are called L1 L2 L3
    scans.write_nifti(mask_path(tmp_path / "masks", "c1"), wrong, PIR.affine)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())["identification"]
    good, bad = content["cases"]
    assert (good["id_rate"], good["all_right"], good["shift"], good["missed"], good["extra"]) == (1.0, True, 0, [], [])
    assert (bad["id_rate"], bad["shift"], bad["id_rate_shifted"]) == (0.0, -1, 1.0)
    assert (bad["missed"], bad["extra"], bad["d_mean_mm"]) == (["T12"], ["L3"], None)
    assert bad["mean_dice"] == 0.0 and bad["union_dice"] == 1.0
    assert content["summary"]["id_rate"] == 0.5 and content["summary"]["all_right"] == 0.5
    table = (tmp_path / "scores.md").read_text()
    assert "| thoracic | 2 | 50.00 % |" in table and "| lumbar | 4 | 50.00 % |" in table
    assert "c1: moving all names 1 place up identifies 100 % instead of 0 %" in table
    assert result.written[-1] == tmp_path / "scores.md"
    stored = read_centroids(tmp_path / "scores-centroids" / "c0_seg-subreg_ctd.json", PIR)
    expected = mask_centroids(spine(0).mask, PIR)
    assert stored.labels == tuple(expected) and stored.format == "voxel"
    for point, label in zip(stored.world_mm, stored.labels, strict=True):
        assert np.linalg.norm(point - expected[label]) < 0.2


def test_a_comparison_knows_of_names_what_the_scorecard_says(tmp_path, truth):
    scans.write_nifti(mask_path(tmp_path / "masks", "c0"), spine(0).mask, PIR.affine)
    scans.write_nifti(mask_path(tmp_path / "masks", "c1"), called(spine(1).mask, _20=22), PIR.affine)  # L1 is called L3
    costs = {case: {"seconds": 1.0, "peak_rss_mb": 2.0} for case in ("c0", "c1")}
    named = case_values(evaluate_folder(tmp_path / "masks", truth, tmp_path / "named.json"), costs)
    assert [named[case]["id_rate"] for case in costs] == pytest.approx([1.0, 2 / 3])
    assert [named[case]["vertebra_dice"] for case in costs] == pytest.approx([1.0, 2 / 3])
    assert named["c1"]["dice"] == 1.0
    binary = case_values(evaluate_folder(tmp_path / "masks", truth, tmp_path / "one.json", scheme="binary"), costs)
    assert all(math.isnan(values[metric]) for values in binary.values() for metric in OF_NAMES)
    assert all(values.keys() == METRICS.keys() for values in (*named.values(), *binary.values()))


def test_binary_masks_have_no_scorecard(tmp_path, truth):
    for number in range(2):
        united = (spine(number).mask > 0).astype(np.uint8)
        scans.write_nifti(mask_path(tmp_path / "masks", f"c{number}"), united, PIR.affine)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    assert not result.cards and not (tmp_path / "scores.md").exists()
    assert "identification" not in json.loads((tmp_path / "scores.json").read_text())


def test_the_table_does_not_take_the_place_of_the_json(tmp_path, truth):
    with pytest.raises(ConfigError, match="where the table goes"):
        evaluate_folder(tmp_path, truth, tmp_path / "scores.md")


def test_centroids_are_voxel_indices_along_the_axes_of_the_scan(tmp_path):
    geometry = Geometry((20, 30, 40), np.array([[0, 0, 2.0, 5], [-1.5, 0, 0, 9], [0, -1.0, 0, 70], [0, 0, 0, 1]]))
    write_centroids(tmp_path / "c.json", {20: geometry.world_from_index([[3.14, 7.5, 11.0]])[0]}, geometry)
    assert json.loads((tmp_path / "c.json").read_text()) == [
        {"direction": ["P", "I", "R"]},
        {"label": 20, "X": 3.1, "Y": 7.5, "Z": 11.0},
    ]


def test_summaries_pool_vertebrae_and_count_cases():
    geometry = Geometry((9, 40, 9), np.diag([-2.0, -2.0, -2.0, 1.0]))
    truth = np.zeros(geometry.shape, np.uint8)
    for row, label in enumerate((7, 8, 9)):
        truth[:, 12 * row + 2 : 12 * row + 12] = label
    missing = np.where(truth == 9, 0, truth).astype(np.uint8)
    cards = [score_card(truth, truth, geometry), score_card(missing, truth, geometry)]
    summary = summarise_cards(cards)
    assert (summary["vertebrae"], summary["id_rate"], summary["missed"]) == (6, pytest.approx(5 / 6), 1)
    assert (summary["all_right"], summary["d_mean_mm"], summary["shifted_cases"]) == (0.5, 0.0, 0)
    assert summary["mean_dice_thoracic"]["mean"] == pytest.approx(0.75)
    assert summary["mean_dice_lumbar"]["n"] == 0 and math.isnan(cards[0].region_dice("L"))
    assert summarise_cards([])["cases"] == 0


TO_TOTAL = {right: stored for stored, right in TOTALSEGMENTATOR.items()}


def test_totalsegmentator_counts_from_l5_upwards():
    names = {label.id: label.name for label in VERTEBRAE}
    assert [names[TOTALSEGMENTATOR[stored]] for stored in (27, 31, 32, 43, 44, 50)] == [
        "L5",
        "L1",
        "T12",
        "T1",
        "C7",
        "C1",
    ]
    assert 26 not in TOTALSEGMENTATOR and 25 not in TOTALSEGMENTATOR  # S1 and the sacrum


def test_a_multi_label_file_of_totalsegmentator_is_scored(tmp_path, truth):
    for number in range(2):
        mask = spine(number).mask
        theirs = called(mask, **{f"_{label}": TO_TOTAL[label] for label in (19, 20, 21)})
        theirs[0, 0, 0] = 5  # another organ
        scans.write_nifti(tmp_path / "masks" / f"c{number}.nii.gz", theirs, PIR.affine)
    result = evaluate_folder(
        tmp_path / "masks", truth, tmp_path / "s.json", label_map=read_label_map("TotalSegmentator")
    )
    assert all(card.identification.all_right for card in result.cards.values()) and len(result.cards) == 2
    assert {score.dice for case in result.cases for score in case.labels.values()} == {1.0}


def test_the_command_line_takes_a_label_map_and_prints_the_names_that_are_wrong(tmp_path, truth, capsys):
    write_index(tmp_path / "cases.jsonl", truth)
    for number, mask in enumerate((spine(0).mask, called(spine(1).mask, _19=20, _20=21, _21=22))):
        scans.write_nifti(tmp_path / "masks" / f"c{number}.nii.gz", np.where(mask, mask + 100, 0), PIR.affine)
    (tmp_path / "map.json").write_text(json.dumps({label.name: label.id + 100 for label in VERTEBRAE}))
    command = ["evaluate", "--pred", tmp_path / "masks", "--truth", tmp_path / "cases.jsonl"]
    command += ["--out", tmp_path / "s.json", "--label-map", tmp_path / "map.json"]
    assert main([str(word) for word in command]) == 0
    printed = capsys.readouterr().out
    assert "names by VerSe's rule" in printed and "0 of 3" in printed and "-1" in printed
    assert main([*map(str, command[:-1]), "nowhere.json"]) == 2


@pytest.mark.parametrize("inside", ["c0", "c0/segmentations"])
def test_a_folder_of_one_file_per_structure_is_scored(tmp_path, truth, inside):
    mask = spine(0).mask
    for label, name in ((19, "T12"), (20, "L1"), (21, "L2"), (23, "L4")):
        part = (mask == label).astype(np.uint8)
        scans.write_nifti(tmp_path / "masks" / inside / f"vertebrae_{name}.nii.gz", part, PIR.affine)
    scans.write_nifti(tmp_path / "masks" / inside / "vertebrae_S1.nii.gz", mask * 0 + 1, PIR.affine)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "s.json")
    assert result.scheme == "vertebrae" and result.cards["c0"].identification.all_right


def test_files_of_one_folder_on_different_grids_are_refused(tmp_path):
    mask = spine(0).mask
    scans.write_nifti(tmp_path / "c0" / "vertebrae_L1.nii.gz", mask, PIR.affine)
    scans.write_nifti(tmp_path / "c0" / "vertebrae_L2.nii.gz", mask, PIR.affine @ np.diag([2, 1, 1, 1.0]))
    with pytest.raises(GeometryError, match="another grid"):
        read_foreign_mask(find_mask(tmp_path, "c0", MASK_SUFFIX))
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="no file"):
        read_foreign_mask(tmp_path / "empty")
    assert find_mask(tmp_path, "empty", MASK_SUFFIX) is None


@pytest.mark.parametrize(
    "content",
    [
        {"27": "L5", "28": "vertebrae_L4", "0": "background", "9": "sacrum"},
        {"L5": 27, "L4": 28, "background": 0},
        {"labels": {"background": 0, "L5": 27, "vertebra_L4": 28}, "numTraining": 3},
    ],
)
def test_label_maps_are_read_in_all_their_forms(tmp_path, content):
    (tmp_path / "map.json").write_text(json.dumps(content))
    assert read_label_map(str(tmp_path / "map.json")) == {27: 24, 28: 23}


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ([1, 2], "no label map"),
        ({"labels": 3}, "no label map"),
        ({"1": "liver"}, "names no vertebra"),
        ({"L5": "five"}, "'five'"),
        ({"L5": -1}, "-1"),
        ({"1": "L5", "2": "l5"}, "twice"),
        ({"L5": 1, "L4": 1}, "twice"),
        ({"1": "L9"}, "L9"),
    ],
)
def test_label_maps_that_say_nothing_are_refused(tmp_path, content, words):
    (tmp_path / "map.json").write_text(json.dumps(content))
    with pytest.raises(DataError, match=words):
        read_label_map(str(tmp_path / "map.json"))


def test_an_unknown_label_map_is_refused():
    with pytest.raises(ConfigError, match="neither a file nor"):
        read_label_map("nnunet3")
