"""Every finding is triggered by what it is about and by nothing else, and nothing stops the check."""

import gzip
import json
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import affine, hounsfield, save_scan, sheared_grid
from tests.data.spines import ALL_IDS, spine_labels
from verse3d.core.volume import read_image
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.quality.checks import CaseFacts, CheckReport, check_cases, fingerprint

SHAPE = (9, 11, 14)
TILTED = affine("PIR", degrees=(12.0, -9.0, 17.0))


@pytest.fixture
def pair(tmp_path):
    """Write a scan and its mask (clean unless told otherwise) and return the case."""

    def write(name="a", *, scan=None, mask=None, scan_affine=TILTED, mask_affine=TILTED, **codes) -> Case:
        image = save_scan(
            tmp_path / f"{name}.nii.gz", hounsfield(SHAPE) if scan is None else scan, scan_affine, **codes
        )
        labels = spine_labels(SHAPE, mask_affine) if mask is None else mask
        return Case(name, name, image, save_scan(tmp_path / f"{name}_seg.nii.gz", labels, mask_affine, **codes))

    return write


def check(*cases: Case) -> CheckReport:
    return check_cases(CaseIndex(cases))


def codes(*cases: Case) -> list[tuple[str, str]]:
    return [(finding.severity, finding.code) for finding in check(*cases).findings]


def only_finding(case: Case):
    (finding,) = check(case).findings
    return finding


def edit_header(path: Path, **fields) -> None:
    """Change header fields in the file itself, past nibabel's repairs."""
    content = bytearray(gzip.decompress(path.read_bytes()))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))


# --- clean


@pytest.mark.parametrize("orientation", ["RAS", "PIR", "LAS", "ASR"])
@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2)])
def test_a_clean_pair_gives_no_finding(pair, orientation, qform, sform):
    matrix = affine(orientation, degrees=(5, 10, -20))
    report = check(pair(scan_affine=matrix, mask_affine=matrix, qform=qform, sform=sform))
    assert report.findings == ()
    assert report.worst is None


@pytest.mark.parametrize("dtype", [np.int16, np.float32, np.float64, np.int32])
def test_any_number_type_of_hounsfield_units_is_clean(pair, dtype):
    assert codes(pair(scan=hounsfield(SHAPE, dtype))) == []


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32])
def test_any_integer_type_of_labels_is_clean(pair, dtype):
    assert codes(pair(mask=spine_labels(SHAPE, TILTED).astype(dtype))) == []


# --- missing halves


def test_a_scan_without_mask_is_a_note(pair):
    case = pair()
    assert codes(Case("a", "a", case.image)) == [("note", "scan-without-mask")]


def test_a_mask_without_scan_is_a_warning(pair):
    case = pair()
    assert codes(Case("a", "a", None, case.mask)) == [("warning", "mask-without-scan")]


# --- unreadable


@pytest.mark.parametrize("length", [0, 5, 40, 200, 600, -1])
@pytest.mark.parametrize("role", ["scan", "mask"])
def test_a_file_truncated_in_its_header_or_in_its_voxels_is_unreadable(pair, role, length):
    case = pair(scan=hounsfield(SHAPE), mask=np.random.default_rng(0).integers(0, 26, SHAPE).astype(np.uint8))
    path = case.image if role == "scan" else case.mask
    content = path.read_bytes()
    assert len(content) > 700  # random voxels hardly compress: the header ends long before
    path.write_bytes(content[:length])
    (finding,) = (found for found in check(case).findings if found.severity == "error")
    assert (finding.severity, finding.code) == ("error", f"{role}-unreadable")
    assert str(path) in finding.message


@pytest.mark.parametrize("content", [b"just words\n" * 80, gzip.compress(b"just words\n" * 80, mtime=0), bytes(400)])
def test_another_file_that_is_named_like_a_scan_is_unreadable(pair, content):
    case = pair()
    case.image.write_bytes(content)
    assert codes(case) == [("error", "scan-unreadable")]


def test_a_file_that_is_gone_is_unreadable(pair):
    case = pair()
    case.mask.unlink()
    assert codes(case) == [("error", "mask-unreadable")]


def test_a_folder_in_place_of_a_file_is_unreadable(pair):
    case = pair()
    case.image.unlink()
    case.image.mkdir()
    assert codes(case) == [("error", "scan-unreadable")]


def test_a_header_that_promises_more_voxels_than_memory_holds_is_unreadable(pair):
    case = pair()
    edit_header(case.image, dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    assert codes(case) == [("error", "scan-unreadable")]


@pytest.mark.parametrize("shape", [(9, 11), (9, 11, 14, 2), (9, 11, 14, 1, 3)])
def test_a_file_that_is_not_three_dimensional_is_unreadable(pair, shape):
    case = pair()
    nib.save(nib.Nifti1Image(np.zeros(shape, np.int16), TILTED), case.image)
    finding = only_finding(case)
    assert finding.code == "scan-unreadable"
    assert str(shape) in finding.message


def test_colours_are_no_scan(pair):
    colours = np.zeros(SHAPE, dtype=[("R", "u1"), ("G", "u1"), ("B", "u1")])
    finding = only_finding(pair(scan=colours))
    assert finding.code == "scan-unreadable"
    assert "RGB" in finding.hint


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("role", ["scan", "mask"])
def test_a_single_voxel_that_is_not_finite_is_found(pair, role, value):
    voxels = {"scan": hounsfield(SHAPE, np.float32), "mask": spine_labels(SHAPE, TILTED).astype(np.float32)}[role]
    voxels[3, 10, 7] = value
    finding = only_finding(pair(**{role: voxels}))
    assert (finding.severity, finding.code) == ("error", f"{role}-unreadable")
    assert "(3, 10, 7)" in finding.message


# --- labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_whole_numbers_stored_as_float_are_accepted_with_a_note(pair, dtype):
    assert codes(pair(mask=spine_labels(SHAPE, TILTED).astype(dtype))) == [("note", "mask-float")]


def test_a_label_that_is_nearly_whole_is_refused(pair):
    mask = spine_labels(SHAPE, TILTED).astype(np.float64)
    mask[1, 2, 3] = 1.0000001
    finding = only_finding(pair(mask=mask))
    assert (finding.severity, finding.code) == ("error", "mask-unreadable")
    assert "1.0000001 at (1, 2, 3)" in finding.message


@pytest.mark.parametrize("value", [-1, 70000])
def test_labels_out_of_range_are_refused(pair, value):
    mask = spine_labels(SHAPE, TILTED).astype(np.int32)
    mask[0, 0, 0] = value
    assert codes(pair(mask=mask)) == [("error", "mask-unreadable")]


@pytest.mark.parametrize("unknown", [[26], [27], [29], [255], [300], [26, 27, 300]])
def test_unknown_label_ids_are_named_counted_and_located(pair, unknown):
    mask = spine_labels(SHAPE, TILTED).astype(np.uint16)
    for number, label in enumerate(unknown):
        mask[4 + number, 5, 6:8] = label
    finding = only_finding(pair(mask=mask))
    assert (finding.severity, finding.code) == ("error", "mask-labels")
    assert (
        f"label ids {unknown} are unknown (2 voxels of {unknown[0]}, the first at index (4, 5, 6))" in finding.message
    )


def test_all_known_label_ids_are_accepted(tmp_path):
    shape, matrix = (7, 9, 80), affine("RAS", degrees=(4, 3, 20))
    mask = spine_labels(shape, matrix, ALL_IDS)
    scan = save_scan(tmp_path / "a.nii", hounsfield(shape), matrix)
    assert codes(Case("a", "a", scan, save_scan(tmp_path / "m.nii", mask, matrix))) == []


def test_an_empty_mask_is_a_warning(pair):
    assert codes(pair(mask=np.zeros(SHAPE, np.uint8))) == [("warning", "mask-empty")]


# --- grids


def test_a_mask_of_another_shape_is_an_error(pair):
    finding = only_finding(pair(mask=spine_labels((9, 11, 12), TILTED)))
    assert (finding.severity, finding.code) == ("error", "mask-shape")
    assert "(9, 11, 12)" in finding.message and "(9, 11, 14)" in finding.message


def test_a_mask_that_is_shifted_by_a_millimetre_is_an_error(pair):
    shifted = TILTED.copy()
    shifted[1, 3] += 1.0
    finding = only_finding(pair(mask_affine=shifted))
    assert (finding.severity, finding.code) == ("error", "mask-affine")
    assert "1.0 mm" in finding.message


def test_a_mask_with_a_flipped_axis_is_an_error_and_its_axes_are_named(pair):
    finding = only_finding(pair(mask_affine=affine("AIR", degrees=(12.0, -9.0, 17.0))))
    assert (finding.severity, finding.code) == ("error", "mask-affine")
    assert "axes AIR against PIR" in finding.message


@pytest.mark.parametrize(("shift_mm", "expected"), [(0.0005, []), (0.05, [("note", "mask-affine")])])
def test_a_shift_below_the_tolerance_is_at_most_a_note(pair, shift_mm, expected):
    shifted = TILTED.copy()
    shifted[0, 3] += shift_mm
    assert codes(pair(mask_affine=shifted)) == expected


def test_other_codes_for_the_same_affine_are_a_note(pair, tmp_path):
    case = pair(qform=1, sform=0)
    save_scan(tmp_path / "a_seg.nii.gz", spine_labels(SHAPE, TILTED), TILTED, qform=0, sform=2)
    finding = only_finding(case)
    assert (finding.severity, finding.code) == ("note", "mask-codes")
    assert "(2, 0)" in finding.message and "(0, 1)" in finding.message


def test_a_sheared_affine_is_a_warning(pair):
    sheared = sheared_grid("PIR", SHAPE).affine
    case = pair(scan_affine=sheared, mask_affine=sheared, qform=0)
    assert codes(case) == [("warning", "affine-skewed")]


@pytest.mark.parametrize("role", ["scan", "mask"])
def test_a_singular_affine_is_an_error(pair, role):
    singular = TILTED.copy()
    singular[:3, 2] = singular[:3, 1]
    case = pair(qform=0)
    edit_header(case.image if role == "scan" else case.mask, srow_x=singular[0], srow_y=singular[1], srow_z=singular[2])
    assert codes(case) == [("error", f"{role}-affine")]


def test_an_affine_that_is_not_finite_is_an_error(pair):
    case = pair(qform=0)
    edit_header(case.image, srow_x=[np.nan, 0, 0, 0])
    assert codes(case) == [("error", "scan-affine")]


def test_a_scan_without_any_orientation_code_is_a_warning(pair):
    plain = np.diag([-1.0, 1.0, 1.0, 1.0])
    assert codes(pair(scan_affine=plain, mask_affine=plain, qform=0, sform=0)) == [("warning", "no-orientation")]


def test_sform_and_qform_that_disagree_are_a_warning_with_the_distance(pair):
    case = pair()
    offset = float(nib.load(case.image).header["qoffset_x"])
    edit_header(case.image, qoffset_x=offset + 2.5)
    finding = only_finding(case)
    assert (finding.severity, finding.code) == ("warning", "forms-disagree")
    assert "2.5 mm apart" in finding.message


@pytest.mark.parametrize("fields", [{"quatern_b": 0.9, "quatern_c": 0.9}, {"qoffset_y": np.nan}])
def test_a_qform_that_makes_no_sense_beside_a_good_sform_is_a_warning(pair, fields):
    case = pair()
    edit_header(case.image, **fields)
    assert codes(case) == [("warning", "forms-disagree")]


# --- grey values


@pytest.mark.parametrize(
    ("voxels", "words"),
    [
        (np.random.default_rng(0).integers(0, 256, SHAPE).astype(np.uint8), "an MR image or an 8-bit picture"),
        (np.random.default_rng(0).integers(0, 700, SHAPE).astype(np.int16), "looks like an MR image"),
        (hounsfield(SHAPE) + np.int16(1024), "HU + 1024"),
        (np.clip(hounsfield(SHAPE), -1024, 100) + np.int16(1024), "HU + 1024"),
        (np.where(np.arange(14) < 10, -1000, hounsfield(SHAPE)).astype(np.int16) + np.int16(1024), "HU + 1024"),
        (np.full(SHAPE, -1000, np.int16), "all voxels have the value -1000"),
        (np.zeros(SHAPE, np.float32), "all voxels have the value 0"),
        (np.random.default_rng(0).normal(0, 1, SHAPE).astype(np.float32), "does not look like a CT"),
        (hounsfield(SHAPE).astype(np.int32) * 30, "does not look like a CT"),
    ],
    ids=["8-bit", "MR", "+1024", "+1024 without bone", "+1024 mostly air", "constant", "zeros", "normalised", "scaled"],
)
def test_grey_values_that_are_no_hounsfield_units_are_a_warning(pair, voxels, words):
    finding = only_finding(pair(scan=voxels))
    assert (finding.severity, finding.code) == ("warning", "hu-range")
    assert words in finding.message


def test_a_large_scan_is_judged_by_a_sample_of_its_voxels(tmp_path):
    scan = save_scan(tmp_path / "a.nii.gz", hounsfield((40, 41, 42)), TILTED)
    eight_bit = save_scan(tmp_path / "b.nii.gz", hounsfield((40, 41, 42)) % 256, TILTED)
    assert codes(Case("a", "a", scan), Case("b", "b", eight_bit))[1:] == [
        ("note", "scan-without-mask"),
        ("warning", "hu-range"),
    ]


# --- duplicates


def test_the_same_voxels_under_another_name_type_header_and_compression_are_duplicates(pair, tmp_path):
    copy = save_scan(tmp_path / "copy.nii", hounsfield(SHAPE, np.float32), affine("RAS"))
    report = check(pair("a"), Case("b", "b", copy))
    assert [(f.case, f.severity, f.code) for f in report.findings] == [
        ("b", "note", "scan-without-mask"),
        ("b", "warning", "duplicate"),
    ]
    assert "the same voxels as case a" in report.findings[1].message


def test_scans_that_differ_in_one_voxel_or_in_shape_are_no_duplicates(tmp_path):
    first = hounsfield(SHAPE)
    other = first.copy()
    other[-1, -1, -1] += 1
    prints = {
        fingerprint(read_image(save_scan(tmp_path / "x.nii", voxels, TILTED)))
        for voxels in (first, other, first.reshape(SHAPE[1], SHAPE[0], SHAPE[2]), first.transpose(1, 0, 2))
    }
    assert len(prints) == 4


# --- the report


def test_nothing_stops_the_check_and_every_case_is_listed(pair, tmp_path):
    bad, good = pair("bad"), pair("good", scan=hounsfield(SHAPE, seed=1))
    bad.image.write_bytes(b"junk")
    bad.mask.write_bytes(b"")
    gone = Case("gone", "gone", tmp_path / "gone.nii.gz", tmp_path / "gone_seg.nii.gz")
    report = check(bad, gone, good)
    assert [facts.case for facts in report.facts] == ["bad", "gone", "good"]
    assert [(finding.case, finding.code) for finding in report.findings] == [
        (name, code) for name in ("bad", "gone") for code in ("scan-unreadable", "mask-unreadable")
    ]
    assert report.worst == "error"
    assert report.facts[:2] == (CaseFacts("bad"), CaseFacts("gone"))


def test_several_things_wrong_with_one_case_are_all_found(pair):
    plain = np.diag([1.0, 1.0, 1.0, 1.0])
    mask = spine_labels(SHAPE, TILTED).astype(np.float32)
    mask[0, 0, 0] = 26
    case = pair(scan=np.full(SHAPE, 5, np.int16), mask=mask, scan_affine=plain, mask_affine=plain, qform=0, sform=0)
    assert {code for _, code in codes(case)} == {"no-orientation", "hu-range", "mask-float", "mask-labels"}


def test_the_worst_severity_counts(pair):
    warned = pair("a", mask=np.zeros(SHAPE, np.uint8))
    assert (
        check(
            warned, Case("b", "b", save_scan(warned.image.with_name("b.nii"), hounsfield(SHAPE, seed=1), TILTED))
        ).worst
        == "warning"
    )
    assert check(Case("a", "a", warned.image)).worst == "note"


def test_the_facts_say_what_a_case_is_made_of(tmp_path):
    matrix = affine("PIR", (1.0, 0.75, 3.0), (4, 5, 6))
    mask = np.zeros(SHAPE, np.uint8)
    mask[1, 1, :3] = (19, 28, 20)
    case = Case(
        "a",
        "a",
        save_scan(tmp_path / "a.nii.gz", hounsfield(SHAPE, np.float32), matrix, qform=1, sform=0),
        save_scan(tmp_path / "m.nii.gz", mask, matrix, qform=1, sform=0),
    )
    assert check(case).facts == (CaseFacts("a", "9x11x14", "1x0.75x3", "PIR", "float32, qform", "T12-L1"),)


@pytest.mark.parametrize(("ids", "levels"), [([], "none"), ([28], "T13"), ([25, 1], "C1-L6"), ([26], "none")])
def test_the_facts_name_the_levels_from_head_to_tail(pair, ids, levels):
    mask = np.zeros(SHAPE, np.uint8)
    mask[0, 0, : len(ids)] = ids
    case = pair(mask=mask)
    assert check(case).facts[0].levels == levels
    assert check(Case("a", "a", None, case.mask)).facts[0].shape == "9x11x14"
    assert check(Case("a", "a", case.image)).facts[0].levels == ""


def test_a_finding_is_one_line_of_json(pair):
    finding = only_finding(pair(mask=np.zeros(SHAPE, np.uint8)))
    text = finding.to_json()
    assert "\n" not in text
    assert json.loads(text) == {
        "case": "a",
        "severity": "warning",
        "code": "mask-empty",
        "message": finding.message,
        "hint": "",
    }


def test_progress_is_told_before_every_case_and_at_the_end(pair):
    heard = []
    cases = CaseIndex((pair("a"), pair("b")))
    check_cases(cases, lambda what, done, total: heard.append((what, done, total)))
    assert heard == [("cases", 0, 2), ("cases", 1, 2), ("cases", 2, 2)]


def test_empty_planes_between_others_do_not_make_a_scan_constant(pair):
    shape = (24, 30, 36)
    scan = hounsfield(shape)
    scan[:, :, ::2] = -1000
    assert "hu-range" not in {code for _, code in codes(pair(scan=scan, mask=np.zeros(shape, np.uint8)))}
