"""A binary mask is known by its header or by what it looks like, and its label 1 is never taken for a C1."""

import json
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
from typer.testing import CliRunner

from tests.scans import PIR, orientation, save_model, spine, tiny_config, turned, use_threshold_network, write_nifti
from verse3d import api
from verse3d.cli import app, main
from verse3d.core.errors import DataError
from verse3d.core.labels import label_scheme
from verse3d.core.readers import checked
from verse3d.core.volume import (
    GEOMETRY_FIELDS,
    made_by_verse3d,
    read_geometry,
    read_labels,
    stored_scheme,
    write_labels,
)
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.convert import convert_cases, nnunet_format, verse_format
from verse3d.data.quality.checks import check_cases
from verse3d.data.quality.fixes import write_fixes
from verse3d.data.quality.survey import survey_cases
from verse3d.data.samples.prepare import Job
from verse3d.data.samples.store import open_store
from verse3d.data.samples.stored import StoredCase
from verse3d.data.samples.transforms import prepare_case
from verse3d.data.schemes import TAKEN_FOR_C1, require_levels, scheme_of
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.report.dataset_stats import CaseStats, summarise, write_table
from verse3d.training.validate import ValidationCase

FLIPPED = orientation((2, 0, 1), (-1, 1, -1), (2.5, 3.0, 4.0), (26, 30, 18))


def mask_of(tmp_path, array, geometry=PIR, name="m.nii.gz"):
    return read_labels(write_nifti(tmp_path / name, array.astype(np.uint8), geometry.affine))


def block(geometry, height_mm, width_mm=20.0, gap_mm=0.0):
    """A block of 1, as high along S-I as said, whatever axis that is; with a gap in the middle if wanted."""
    array = np.zeros(geometry.shape, np.uint8)
    axis = next(number for number, code in enumerate(geometry.axis_codes) if code in "SI")
    sizes = [
        max(1, round((height_mm if number == axis else width_mm) / mm)) for number, mm in enumerate(geometry.spacing_mm)
    ]
    array[tuple(slice(1, 1 + size) for size in sizes)] = 1
    if gap_mm:
        middle, half = 1 + sizes[axis] // 2, max(1, round(gap_mm / 2 / geometry.spacing_mm[axis]))
        array[tuple(slice(middle - half, middle + half) if number == axis else slice(None) for number in range(3))] = 0
    return array


# --- the header


@pytest.mark.parametrize("scheme", ["binary", "vertebrae", None])
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_scheme_is_written_into_the_header_and_read_back(tmp_path, scheme, suffix, kind):
    geometry = turned(PIR)
    scan = write_nifti(
        tmp_path / f"scan{suffix}", np.zeros(geometry.shape, np.int16), geometry.affine, sform=2, kind=kind
    )
    like = read_geometry(scan)[1]
    write_labels(tmp_path / f"m{suffix}", np.ones(geometry.shape, np.uint8), like=like, scheme=scheme)
    header = read_geometry(tmp_path / f"m{suffix}")[1]
    assert stored_scheme(header) == scheme and made_by_verse3d(header)
    assert all(header[name].tobytes() == like[name].tobytes() for name in GEOMETRY_FIELDS)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"another; scheme binary",
        b"verse3d 0.1.0 vertebra labels",
        b"verse3d; scheme other",
        b"verse3d; scheme binary!",
    ],
)
def test_other_header_texts_say_nothing(text):
    header = nib.Nifti1Header()
    header["descrip"] = text
    assert stored_scheme(header) is None


def test_a_header_of_verse3d_says_what_the_only_label_is(tmp_path):
    scan = write_nifti(tmp_path / "s.nii.gz", np.zeros(PIR.shape, np.int16), PIR.affine)
    small = block(PIR, 20)
    for scheme in ("binary", "vertebrae"):
        write_labels(tmp_path / f"{scheme}.nii.gz", small, like=read_geometry(scan)[1], scheme=scheme)
        found = scheme_of(read_labels(tmp_path / f"{scheme}.nii.gz"))
        assert (found.name, found.reason) == (scheme, "its header says so")
    write_labels(tmp_path / "old.nii.gz", small, like=read_geometry(scan)[1])
    assert scheme_of(read_labels(tmp_path / "old.nii.gz")).is_binary


# --- without a header that says it


@pytest.mark.parametrize("geometry", [PIR, turned(PIR), FLIPPED], ids=["PIR", "oblique", "flipped"])
@pytest.mark.parametrize(
    ("array", "reason"),
    [
        (lambda grid: block(grid, 66), "top to bottom"),
        (lambda grid: block(grid, 45, width_mm=40), "ml, more than a C1"),
        (lambda grid: block(grid, 52, gap_mm=10), "above one another"),
    ],
    ids=["tall", "large", "pieces"],
)
def test_a_single_label_that_is_no_atlas_is_binary(tmp_path, geometry, array, reason):
    found = scheme_of(mask_of(tmp_path, array(geometry), geometry))
    assert found.is_binary and reason in found.reason


@pytest.mark.parametrize("geometry", [PIR, turned(PIR), FLIPPED], ids=["PIR", "oblique", "flipped"])
def test_a_single_label_that_can_be_an_atlas_is_taken_for_one(tmp_path, geometry):
    assert not scheme_of(mask_of(tmp_path, block(geometry, 25), geometry)).is_binary


@pytest.mark.parametrize("ids", [(1, 2), (2,), (20, 21), ()], ids=str)
def test_other_labels_or_none_are_vertebrae(tmp_path, ids):
    array = np.zeros(PIR.shape)
    for number, label in enumerate(ids):
        array[:, 3 * number : 3 * number + 2] = label
    assert scheme_of(mask_of(tmp_path, array)).name == "vertebrae"


def test_front_and_back_arch_of_an_atlas_are_no_vertebrae_above_one_another(tmp_path):
    array = np.zeros(PIR.shape)
    array[3:6, 10:14, 5:12] = array[15:19, 10:14, 5:12] = 1  # apart along A-P
    assert not scheme_of(mask_of(tmp_path, array)).is_binary


# --- what follows from it


@pytest.fixture(params=["marked", "old", "foreign"])
def case(request, tmp_path) -> Case:
    """A scan whose mask is binary: as we write it, as we wrote it, and as others do."""
    data = spine(ids=(19, 20, 21))
    image = data.write(tmp_path / "a_ct.nii.gz")
    mask = tmp_path / "a_seg-vert_msk.nii.gz"
    united = (data.mask > 0).astype(np.uint8)
    if request.param == "foreign":
        write_nifti(mask, united, data.geometry.affine)
    else:
        scheme = "binary" if request.param == "marked" else None
        write_labels(mask, united, like=read_geometry(image)[1], scheme=scheme)
    return Case("a", "a", image, mask, split="train")


def truth_of(case: Case, tmp_path) -> Case:
    data = spine(ids=(19, 20, 21))
    data.write(tmp_path / "t_ct.nii.gz", tmp_path / "t_msk.nii.gz")
    return replace(case, mask=tmp_path / "t_msk.nii.gz")


def test_check_says_binary_and_nothing_of_c1(case):
    report = check_cases(CaseIndex((case,)))
    assert report.facts[0].levels == "binary"
    assert [finding.code for finding in report.findings if "mask" in finding.code] == ["mask-binary"]
    assert not any("C1 at" in finding.message or finding.code == "vertebra-cut" for finding in report.findings)


def test_stats_count_its_volume_but_no_level(case, tmp_path):
    (survey,) = survey_cases([case])
    stats = CaseStats(case, survey)
    write_table(tmp_path / "stats.csv", [stats])
    header, row = [line.split(",") for line in (tmp_path / "stats.csv").read_text().splitlines()]
    cells = dict(zip(header, row, strict=True))
    voxels = int((read_labels(case.mask).array > 0).sum())
    assert cells["scheme"] == "binary" and int(cells["labelled_voxels"]) == voxels
    assert float(cells["labelled_ml"]) == pytest.approx(voxels * PIR.voxel_ml, abs=1e-3)
    assert cells["C1_ml"] == cells["levels"] == cells["vertebrae"] == ""
    assert (summarise([stats])[0].vertebrae, summarise([stats])[0].levels) == (0, "")
    assert checked(json.loads(json.dumps(survey.to_dict())), type(survey), "the survey") == survey


def test_a_single_c1_is_named_and_the_doubt_is_told(tmp_path):
    write_nifti(tmp_path / "m.nii.gz", block(PIR, 25), PIR.affine)
    report = check_cases(CaseIndex((Case("a", "a", None, tmp_path / "m.nii.gz"),)))
    assert report.facts[0].levels == "C1"
    assert "mask-only-c1" in [finding.code for finding in report.findings]


@pytest.fixture
def small(tmp_path) -> Case:
    """A scan of one small vertebra whose mask, made by another program, has 1 for it and no mark."""
    data = spine(ids=(1,))
    image = data.write(tmp_path / "a_ct.nii.gz", tmp_path / "a_seg-vert_msk.nii.gz")
    return Case("a", "a", image, tmp_path / "a_seg-vert_msk.nii.gz", split="train")


def test_no_program_prints_c1_for_an_unmarked_mask_of_one_vertebra_without_a_word(small, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr("verse3d.api.statistics.draw_charts", lambda _: {})  # which take longer than the rest
    write_index(tmp_path / "cases.jsonl", CaseIndex((small,)))
    listed = str(tmp_path / "cases.jsonl")
    said, levels = {}, ["--scheme", "vertebrae"]
    for command in (
        ["check", listed],
        ["stats", listed, "--out", str(tmp_path / "stats")],
        ["look", str(small.image), "--mask", str(small.mask), "-o", str(tmp_path / "a.png")],
        ["evaluate", "--pred", str(tmp_path), "--truth", listed, "--out", str(tmp_path / "s.json"), *levels],
    ):
        main(command)
        said[command[0]] = " ".join(capsys.readouterr().out.split())
    assert {name: TAKEN_FOR_C1 in text for name, text in said.items()} == dict.fromkeys(said, True)
    assert f"the prediction of a, the truth of a: {TAKEN_FOR_C1}" in said["evaluate"]
    assert TAKEN_FOR_C1 in (tmp_path / "stats" / "stats.csv").read_text()


def test_a_mask_that_says_its_scheme_or_a_map_that_does_leaves_no_doubt(small, tmp_path):
    data, like = spine(ids=(1,)), read_geometry(small.image)[1]
    write_labels(small.mask, data.mask, like=like, scheme="vertebrae")
    (survey,) = survey_cases([small])
    assert CaseStats(small, survey).doubt == ""
    write_nifti(tmp_path / "out" / "a.nii.gz", data.mask, data.geometry.affine)
    result = evaluate_folder(tmp_path / "out", CaseIndex((small,)), tmp_path / "s.json", label_map={1: 1})
    assert result.scheme == "vertebrae" and result.notes == ()


def test_look_names_no_c1(case, tmp_path):
    drawn = api.look(case.image, mask=case.mask, out=tmp_path / "a.png")
    assert any("binary" in note and "not C1" in note for note in drawn.notes)
    with pytest.raises(DataError, match="the mask is binary"):
        api.look(case.image, mask=case.mask, out=tmp_path / "b.png", level="C1")


def test_a_binary_prediction_has_no_scores_by_level(case, tmp_path):
    truth = truth_of(case, tmp_path)
    result = evaluate_folder(tmp_path, CaseIndex((truth,)), tmp_path / "s.json", scheme="vertebrae")
    ((name, reason),) = result.failures
    assert name == "a" and "is a binary mask" in reason and "scheme binary" in reason
    assert not result.cases


def test_evaluate_exits_with_3_and_says_what_to_do(case, tmp_path):
    write_index(tmp_path / "cases.jsonl", CaseIndex((truth_of(case, tmp_path),)))
    call = [
        "evaluate",
        "--pred",
        str(tmp_path),
        "--truth",
        str(tmp_path / "cases.jsonl"),
        "--out",
        str(tmp_path / "s.json"),
    ]
    done = CliRunner().invoke(app, [*call, "--scheme", "vertebrae"])
    assert done.exit_code == 3
    assert "scheme binary" in " ".join(json.loads((tmp_path / "s.json").read_text())["failures"][0]["error"].split())
    assert CliRunner().invoke(app, call).exit_code == 0


def test_a_binary_truth_has_no_scores_by_level(case, tmp_path):
    data = spine(ids=(19, 20, 21))
    write_nifti(tmp_path / "out" / "a_seg-vert_msk.nii.gz", data.mask, data.geometry.affine)
    result = evaluate_folder(tmp_path / "out", CaseIndex((case,)), tmp_path / "s.json", scheme="vertebrae")
    assert "is a binary mask" in result.failures[0][1]
    assert evaluate_folder(tmp_path / "out", CaseIndex((case,)), tmp_path / "s.json", scheme="binary").failures == ()


def test_the_scheme_of_predictions_is_read_from_their_headers(tmp_path):
    data = spine(ids=(1,))
    image = data.write(tmp_path / "a_ct.nii.gz", tmp_path / "a_msk.nii.gz")
    truth = CaseIndex((Case("a", "a", image, tmp_path / "a_msk.nii.gz"),))
    for scheme in ("binary", "vertebrae"):
        (tmp_path / scheme).mkdir()
        target = tmp_path / scheme / "a_seg-vert_msk.nii.gz"
        write_labels(target, data.mask, like=read_geometry(image)[1], scheme=scheme)
        assert evaluate_folder(tmp_path / scheme, truth, tmp_path / "s.json").scheme == scheme


def test_levels_are_not_learnt_from_binary_masks_but_vertebra_or_not_is(case, tmp_path):
    levels = tiny_config(labels={"scheme": "vertebrae"})
    with pytest.raises(DataError, match=r"is a binary mask(.|\n)*labels.scheme vertebrae"):
        prepare_case(case, levels)
    with pytest.raises(DataError, match=r"is binary \((.|\n)*labels.scheme vertebrae"):
        stored(case, "vertebrae", tmp_path).open()
    with pytest.raises(DataError, match="is a binary mask"):
        ValidationCase(case, stored(case, "binary", tmp_path), label_scheme("vertebrae")).truth()
    assert prepare_case(case, tiny_config()).label.max() == 1
    assert stored(case, "binary", tmp_path).read((0, 0, 0), (200, 200, 200))[1].max() == 1
    assert ValidationCase(case, stored(case, "binary", tmp_path), label_scheme("binary")).truth().max() == 1


def stored(case, scheme, folder):
    """The case as training reads it."""
    return StoredCase(Job.of(open_store(folder / "store"), tiny_config().grid, case), scheme)


def test_a_binary_mask_is_converted_as_such_or_left_out(case, tmp_path):
    index = CaseIndex((case,))
    for form in (nnunet_format(index, tmp_path / "n1"), verse_format(index, tmp_path / "v")):
        (record,) = convert_cases(index, form).left_out
        assert "is a binary mask" in record.reason
    done = convert_cases(index, nnunet_format(index, tmp_path / "n2", scheme="binary"))
    assert not done.left_out
    written = read_labels(next(done.folder.rglob("labelsTr/*.nii.gz")))
    assert stored_scheme(written.header) == "binary"
    assert np.array_equal(written.array, read_labels(case.mask).array)


def test_a_carried_over_mask_keeps_its_scheme(case, tmp_path):
    mask = read_labels(case.mask)
    grid = mask.geometry.reoriented("RAS")
    scan = write_nifti(tmp_path / "ras_ct.nii.gz", np.zeros(grid.shape, np.int16), grid.affine)
    moved = replace(case, image=scan)
    report = write_fixes(CaseIndex((moved,)), check_cases(CaseIndex((moved,))).findings, tmp_path / "fixes")
    assert not report.left
    assert scheme_of(read_labels(tmp_path / "fixes" / "a_seg-vert_msk.nii.gz")).is_binary


@pytest.mark.parametrize("scheme", ["binary", "vertebrae"])
def test_predict_notes_the_scheme_of_its_model(tmp_path, monkeypatch, scheme):
    use_threshold_network(monkeypatch)
    image = spine().write(tmp_path / "a_ct.nii.gz")
    model = save_model(tmp_path / "best.pt", tiny_config(labels={"scheme": scheme}))
    api.predict(image, model=model, out=tmp_path / "out", device="cpu")
    assert stored_scheme(read_geometry(next((tmp_path / "out").glob("*.nii.gz")))[1]) == scheme


def test_a_scan_with_binary_masks_only_is_evaluated_as_binary(case, tmp_path):
    write_index(tmp_path / "cases.jsonl", CaseIndex((truth_of(case, tmp_path),)))
    result = evaluate_folder(tmp_path, CaseIndex((truth_of(case, tmp_path),)), tmp_path / "s.json")
    assert result.scheme == "binary" and not result.failures


def test_the_refusal_says_how_the_scheme_is_known(tmp_path):
    with pytest.raises(DataError, match=r"binary mask \(its only id is 1, and it reaches over \d+ mm") as caught:
        require_levels(mask_of(tmp_path, block(PIR, 66)), "a score")
    assert caught.value.hint
