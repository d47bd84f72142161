"""Scoring folders of masks: which cases, on which grids, into which files, and what is done about bad ones."""

import csv
import json
import math
from dataclasses import replace

import numpy as np
import pytest

from tests import scans
from tests.scans import PIR, spine, turned
from verse3d.core.errors import ConfigError, DataError, OutputError
from verse3d.core.files import write_json
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.predictions import mask_path
from verse3d.evaluation.score_folder import SLICE_METRICS, evaluate_folder

METRICS = {"dice", "hd95_mm", "assd_mm", "volume_difference_ml"}
STATISTICS = {"mean", "sd", "median", "n", "undefined"}


@pytest.fixture
def truth(tmp_path):
    """Three cases with masks."""
    return scans.write_truth(tmp_path / "data", 3)


def write_masks(folder, change, geometry=PIR):
    for number in range(3):
        scans.write_nifti(mask_path(folder, f"c{number}"), change(spine(number).mask), geometry.affine)


def binary(mask):
    return (mask > 0).astype(np.uint8)


def shifted(mask):
    return np.roll(mask, 1, axis=2)


def test_the_json_holds_every_score_of_every_case_and_their_summary(tmp_path, truth):
    write_masks(tmp_path / "masks", lambda mask: binary(shifted(mask)))
    evaluate_folder(tmp_path / "masks", truth, tmp_path / "new" / "scores.json")
    content = json.loads((tmp_path / "new" / "scores.json").read_text())
    assert content["scheme"] == "binary"
    assert [case["case"] for case in content["cases"]] == ["c0", "c1", "c2"]
    expected = []
    for number, case in enumerate(content["cases"]):
        assert case["labels"].keys() == {"vertebrae"}
        assert case["labels"]["vertebrae"].keys() == METRICS
        true, predicted = spine(number).mask > 0, shifted(spine(number).mask) > 0
        expected.append(2 * (true & predicted).sum() / (true.sum() + predicted.sum()))
        assert case["labels"]["vertebrae"]["dice"] == pytest.approx(expected[-1])
        assert case["labels"]["vertebrae"]["hd95_mm"] == pytest.approx(4.0)
        assert case["labels"]["vertebrae"]["volume_difference_ml"] == 0
    summary = content["summary"]["vertebrae"]
    assert summary.keys() == METRICS
    assert summary["dice"].keys() == STATISTICS
    assert summary["dice"]["mean"] == pytest.approx(np.mean(expected))
    assert summary["dice"]["sd"] == pytest.approx(np.std(expected, ddof=1))
    assert (summary["dice"]["n"], summary["dice"]["undefined"]) == (3, 0)
    assert content["failures"] == []


def test_the_csv_beside_it_holds_one_row_per_case_and_label(tmp_path, truth):
    write_masks(tmp_path / "masks", lambda mask: mask)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    assert result.written == tuple(tmp_path / f"scores.{suffix}" for suffix in ("json", "csv", "md"))
    with (tmp_path / "scores.csv").open() as table:
        listed = list(csv.DictReader(table))
    assert {"case", "label", *METRICS, *SLICE_METRICS} == listed[0].keys()
    assert [row["label"] for row in listed if row["case"] == "c0"] == ["T12", "L1", "L2", "vertebrae"]
    assert {row["dice"] for row in listed} == {"1.0"}


def test_slice_wise_scores_of_all_vertebrae_stand_beside_the_volume_scores(tmp_path, truth):
    write_masks(tmp_path / "masks", shifted)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())["slices"]
    assert content["plane"] == "sagittal"
    for number, listed in enumerate(content["cases"]):
        true, predicted = spine(number).mask > 0, shifted(spine(number).mask) > 0
        # The axes are P, I, R: sagittal slices lie across the last one.
        both, sizes = (true & predicted).sum((0, 1)), true.sum((0, 1)) + predicted.sum((0, 1))
        dice = [2 * b / s if s else 1.0 for b, s in zip(both, sizes, strict=True)]
        assert listed["case"] == f"c{number}"
        assert listed["slices"] == 18
        assert listed["slice_dice_all"] == pytest.approx(np.mean(dice))
        assert listed["slice_dice_occupied"] == pytest.approx(np.mean(np.array(dice)[sizes > 0]))
    means = [case["slice_dice_all"] for case in content["cases"]]
    assert content["summary"]["slice_dice_all"]["mean"] == pytest.approx(np.mean(means))
    assert result.slice_summary["slice_dice_all"]["n"] == 3
    with (tmp_path / "scores.csv").open() as table:
        rows = list(csv.DictReader(table))
    assert {row["slice_dice_all"] for row in rows if row["label"] != "vertebrae"} == {""}
    assert [float(row["slice_dice_all"]) for row in rows if row["label"] == "vertebrae"] == means


def test_undefined_slice_wise_scores_are_null_and_counted(tmp_path, truth):
    write_masks(tmp_path / "masks", lambda mask: binary(mask * 0))
    evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    content = json.loads((tmp_path / "scores.json").read_text())["slices"]
    assert content["cases"][0]["consistency"] is None and content["cases"][0]["slice_dice_occupied"] == 0.0
    assert content["summary"]["consistency"]["undefined"] == 3
    with (tmp_path / "scores.csv").open() as table:
        assert [row["consistency"] for row in csv.DictReader(table)] == ["", "", ""]


def test_masks_with_levels_are_scored_level_by_level_and_all_together(tmp_path, truth):
    def one_too_low(mask):
        return np.where(mask == 21, 22, mask).astype(np.uint8)

    write_masks(tmp_path / "masks", one_too_low)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    dice = {name: score.dice for name, score in result.cases[0].labels.items()}
    assert dice == {"T12": 1.0, "L1": 1.0, "L2": 0.0, "L3": 0.0, "vertebrae": 1.0}
    assert math.isnan(result.cases[0].labels["L2"].hd95_mm)
    assert json.loads((tmp_path / "scores.json").read_text())["summary"]["L2"]["hd95_mm"] == {
        "mean": None,
        "sd": None,
        "median": None,
        "n": 0,
        "undefined": 3,
    }


def test_what_is_told_apart_is_what_the_predictions_say_or_what_is_asked_for(tmp_path, truth):
    write_masks(tmp_path / "masks", lambda mask: mask)
    out = tmp_path / "scores.json"
    assert evaluate_folder(tmp_path / "masks", truth, out).scheme == "vertebrae"
    assert evaluate_folder(tmp_path / "masks", truth, out, scheme="binary").cases[0].labels.keys() == {"vertebrae"}
    write_json(tmp_path / "masks" / "predictions.json", {"scheme": "binary", "cases": []})
    assert evaluate_folder(tmp_path / "masks", truth, out).scheme == "binary"
    with pytest.raises(ConfigError, match="sagittal"):
        evaluate_folder(tmp_path / "masks", truth, out, scheme="sagittal")


def test_masks_of_zeros_and_ones_are_taken_for_binary_ones(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    assert evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json").scheme == "binary"


def test_a_prediction_on_another_grid_is_a_failure_and_the_rest_is_scored(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    scans.write_nifti(mask_path(tmp_path / "masks", "c1"), binary(spine(1).mask), turned(PIR).affine)
    smaller = binary(spine(2).mask)[:-1]
    scans.write_nifti(mask_path(tmp_path / "masks", "c2"), smaller, PIR.affine)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    assert [case.case for case in result.cases] == ["c0"]
    assert [case for case, _ in result.failures] == ["c1", "c2"]
    assert all("grid" in reason for _, reason in result.failures)
    listed = json.loads((tmp_path / "scores.json").read_text())["failures"]
    assert [failure["case"] for failure in listed] == ["c1", "c2"]


def test_a_damaged_prediction_is_a_failure_whether_or_not_the_scheme_is_known(tmp_path, truth):
    for scheme in (None, "binary"):
        write_masks(tmp_path / "masks", binary)
        mask_path(tmp_path / "masks", "c0").write_text("no mask")
        result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json", scheme=scheme)
        assert [case for case, _ in result.failures] == ["c0"]
        assert len(result.cases) == 2


def test_a_mask_with_a_float_dtype_counts_if_it_holds_whole_numbers_only(tmp_path, truth):
    write_masks(tmp_path / "masks", lambda mask: binary(mask).astype(np.float64))
    almost = binary(spine(1).mask) * np.float32(1.0000001)
    scans.write_nifti(mask_path(tmp_path / "masks", "c1"), almost, PIR.affine)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json", scheme="binary")
    assert [case.case for case in result.cases] == ["c0", "c2"]
    assert "whole numbers" in result.failures[0][1]


@pytest.mark.parametrize("label", [26, 27, 300])
def test_a_truth_with_an_unknown_label_is_a_failure_that_names_it(tmp_path, truth, label):
    write_masks(tmp_path / "masks", binary)
    wrong = spine(0).mask.astype(np.uint16)
    wrong[0, 0, 0] = label
    scans.write_nifti(truth.cases[0].mask, wrong, PIR.affine)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    [(case, reason)] = result.failures
    assert case == "c0" and f"[{label}]" in reason
    assert len(result.cases) == 2


def test_a_failed_prediction_is_a_failure_even_if_an_old_mask_lies_there(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    mask_path(tmp_path / "masks", "c2").unlink()
    records = [{"case": f"c{n}", "status": status} for n, status in enumerate(("written", "failed", "failed"))]
    write_json(tmp_path / "masks" / "predictions.json", {"scheme": "binary", "cases": records})
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    assert [case.case for case in result.cases] == ["c0"]
    assert [case for case, _ in result.failures] == ["c1", "c2"]


def test_a_mask_that_was_listed_but_is_gone_is_a_failure(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    mask_path(tmp_path / "masks", "c2").unlink()
    write_json(tmp_path / "masks" / "predictions.json", {"cases": [{"case": "c2", "status": "written"}]})
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    assert "missing" in dict(result.failures)["c2"]


def test_cases_without_a_truth_or_without_a_prediction_are_left_out(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    mask_path(tmp_path / "masks", "c2").unlink()
    cases = CaseIndex((*truth, Case("other", "other", truth.cases[0].image)))
    result = evaluate_folder(tmp_path / "masks", cases, tmp_path / "scores.json")
    assert [case.case for case in result.cases] == ["c0", "c1"]
    assert not result.failures


def test_an_empty_prediction_and_an_empty_truth_are_scored_for_what_they_are(tmp_path, truth):
    write_masks(tmp_path / "masks", np.zeros_like)
    scans.write_nifti(truth.cases[1].mask, np.zeros_like(spine(1).mask), PIR.affine)
    result = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    missed, nothing, _ = (case.labels["vertebrae"] for case in result.cases)
    assert missed.dice == 0 and math.isnan(missed.hd95_mm) and missed.volume_difference_ml < 0
    assert math.isnan(nothing.dice)
    summary = json.loads((tmp_path / "scores.json").read_text())["summary"]["vertebrae"]
    assert (summary["dice"]["n"], summary["dice"]["undefined"]) == (2, 1)


def test_a_folder_without_any_fitting_mask_is_refused(tmp_path, truth):
    with pytest.raises(DataError, match="no folder"):
        evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    (tmp_path / "masks").mkdir()
    with pytest.raises(DataError, match="no mask") as caught:
        evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    assert "CASE_seg-vert_msk.nii.gz" in caught.value.hint


def test_scores_go_neither_into_the_csv_nor_below_a_file(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    with pytest.raises(ConfigError, match="CSV"):
        evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.csv")
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError):
        evaluate_folder(tmp_path / "masks", truth, tmp_path / "file" / "scores.json")


def predicted_by(folder, model, scheme="binary"):
    """What ``predict`` leaves beside masks that a model made of all three cases."""
    records = [{"case": f"c{number}", "status": "written", "models": [str(model)]} for number in range(3)]
    (folder / "predictions.json").write_text(json.dumps({"scheme": scheme, "cases": records}))


def learnt_from(folder, truth, **splits):
    """A run folder's list of cases; its scans lie elsewhere by now, so that only names tell."""
    folder.mkdir()
    gone = [replace(case, image=folder / "gone" / f"{case.case}.nii.gz", mask=folder / "gone.nii") for case in truth]
    index = CaseIndex(tuple(replace(case, split=splits[case.case]) for case in gone if case.case in splits))
    write_index(folder / "cases.jsonl", index)
    return folder / "best.pt"


def test_scores_of_cases_that_the_model_was_trained_on_come_with_a_note(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    model = learnt_from(tmp_path / "run", truth, c0="train", c1="validation", c2="test")
    predicted_by(tmp_path / "masks", model)
    found = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json")
    assert [note.partition(":")[0] for note in found.notes] == [
        f"{model} was trained on c0",
        f"the best epoch of {model} was chosen by c1",
    ]
    assert json.loads((tmp_path / "scores.json").read_text())["notes"] == list(found.notes)


def test_other_people_under_the_same_names_are_no_cases_of_the_training(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    model = learnt_from(tmp_path / "run", truth, c0="train", c1="train", c2="train")
    for number in range(3):
        spine(number + 10).write(tmp_path / "run" / "gone" / f"c{number}.nii.gz", tmp_path / f"{number}_msk.nii.gz")
    predicted_by(tmp_path / "masks", model)
    assert evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json").notes == ()


@pytest.mark.parametrize("known", [False, True])
def test_of_a_model_without_a_list_of_cases_nothing_is_said_and_a_damaged_list_is_named(tmp_path, truth, known):
    write_masks(tmp_path / "masks", binary)
    (tmp_path / "run").mkdir()
    if known:
        (tmp_path / "run" / "cases.jsonl").write_text("{damaged")
    predicted_by(tmp_path / "masks", tmp_path / "run" / "best.pt")
    notes = evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json").notes
    assert len(notes) == known and all("unknown" in note and "cases.jsonl" in note for note in notes)


def test_progress_tells_every_case(tmp_path, truth):
    write_masks(tmp_path / "masks", binary)
    heard = []
    evaluate_folder(tmp_path / "masks", truth, tmp_path / "a.json", progress=lambda *call: heard.append(call))
    assert heard == [("cases", done, 3) for done in range(4)]


def test_scores_against_a_truth_that_a_program_made_say_so(tmp_path, truth):
    write_masks(tmp_path / "masks", shifted)
    some = CaseIndex(tuple(replace(case, automatic=case.case != "c1") for case in truth))
    found = evaluate_folder(tmp_path / "masks", some, tmp_path / "scores.json")
    assert found.notes == ("a program made the truth of c0, c2: these scores say how alike two programs are",)
    assert evaluate_folder(tmp_path / "masks", truth, tmp_path / "scores.json").notes == ()
