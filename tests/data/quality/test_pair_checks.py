"""A mask on another grid than its scan: told apart by what can be done about it, and repaired only on request."""

import csv
import json
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

import verse3d
from tests.core.grids import affine, save_scan, stored_header
from tests.data.spines import spine_labels
from verse3d.core.errors import GeometryError, OutputError
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_nearest
from verse3d.core.volume import GEOMETRY_FIELDS, read_geometry, read_image, read_labels
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.pairs import placement, read_mask, require_same_grid
from verse3d.data.quality.checks import check_cases
from verse3d.data.quality.fixes import FIXES_FILE, write_fixes

SHAPE = (9, 13, 16)
SPACING_MM = (1.1, 0.9, 2.0)
MATRIX = affine("PIR", SPACING_MM, degrees=(6.0, -9.0, 17.0))
TURNS = ["RAS", "LAS", "AIR", "SRP", "IPL"]


def bright_scan(mask) -> np.ndarray:
    """Noise around 0 HU with bone of 600 HU under the mask."""
    return np.where(mask > 0, 600, 0).astype(np.int16) + np.random.default_rng(0).integers(-90, 90, mask.shape).astype(
        np.int16
    )


def off_centre() -> np.ndarray:
    """A spine that is not symmetric in any direction."""
    mask = np.roll(spine_labels(SHAPE, MATRIX), (-1, 1), axis=(0, 2))
    mask[6:, :, :3] = 0
    return mask


def turned(mask, matrix, axes):
    """The same label map with its axes in another order, by nibabel."""
    image = nib.Nifti1Image(mask, matrix)
    turn = nib.orientations.ornt_transform(nib.io_orientation(matrix), nib.orientations.axcodes2ornt(tuple(axes)))
    image = image.as_reoriented(turn)
    return np.asarray(image.dataobj), image.affine


def write_case(folder: Path, mask, mask_matrix, *, name="a", scan=None, scan_matrix=MATRIX, **codes) -> Case:
    voxels = bright_scan(off_centre()) if scan is None else scan
    image = save_scan(folder / f"{name}.nii.gz", voxels, scan_matrix, **codes)
    return Case(name, name, image, save_scan(folder / f"{name}_seg.nii.gz", mask, mask_matrix, **codes))


def codes(*cases):
    return [(finding.severity, finding.code) for finding in check_cases(CaseIndex(cases)).findings]


def findings(case):
    return check_cases(CaseIndex((case,))).findings


# --- axes


@pytest.mark.parametrize("axes", TURNS)
def test_other_axes_over_the_same_box_are_a_warning_that_names_both(tmp_path, axes):
    (finding,) = findings(write_case(tmp_path, *turned(off_centre(), MATRIX, axes)))
    assert (finding.severity, finding.code) == ("error", "mask-orientation")
    assert f"axes {axes}" in finding.message and "has PIR" in finding.message and "fixes=" in finding.hint


def test_the_same_axes_give_no_finding(tmp_path):
    assert codes(write_case(tmp_path, off_centre(), MATRIX)) == []


def test_other_axes_over_another_box_stay_an_error(tmp_path):
    mask, matrix = turned(off_centre(), MATRIX, "RAS")
    matrix[1, 3] += 3
    assert codes(write_case(tmp_path, mask, matrix)) == [("error", "mask-shape")]


# --- left and right


@pytest.mark.parametrize("axes", ["AIL", "PIL"])
def test_a_header_that_exchanges_left_and_right_in_place_is_suspected_by_what_lies_under_the_mask(tmp_path, axes):
    """The voxels are those of the scan; only the header says otherwise."""
    _, matrix = turned(off_centre(), MATRIX, axes)
    found = findings(write_case(tmp_path, off_centre(), matrix))
    assert [(finding.severity, finding.code) for finding in found] == [
        ("error", "mask-orientation"),
        ("warning", "left-right"),
    ]
    assert "brighter" in found[1].message


def test_mirrored_headers_at_other_places_are_suspected(tmp_path):
    mirrored = MATRIX.copy()
    mirrored[:3, 2] *= -1
    found = codes(write_case(tmp_path, off_centre(), mirrored))
    assert found == [("error", "mask-affine"), ("warning", "left-right")]


def test_a_flip_from_head_to_tail_is_no_exchange_of_left_and_right(tmp_path):
    flipped = MATRIX.copy()
    flipped[:3, 1] *= -1
    found = codes(write_case(tmp_path, off_centre(), flipped))
    assert ("error", "mask-affine") in found and ("warning", "left-right") not in found


@pytest.mark.parametrize(("sign", "expected"), [(-1, ["forms-disagree", "left-right"]), (1, ["forms-disagree"])])
def test_forms_that_mirror_each_other_are_suspected(tmp_path, sign, expected):
    case = write_case(tmp_path, off_centre(), MATRIX)
    image = nib.load(case.image)
    other = MATRIX.copy()
    other[:3, 2] *= sign
    other[:3, 3] += 2.0
    image.set_qform(other, 1)
    image.set_sform(MATRIX, 1)
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), None, image.header), case.image)
    assert [finding.code for finding in findings(case) if finding.severity == "warning"] == expected


# --- shapes


@pytest.mark.parametrize(
    ("crop", "words"),
    [
        (np.s_[:-1], "one voxel less along i (P); the origins agree, the spacings agree"),
        (np.s_[:-1, :-1], "one voxel less along i (P), one voxel less along j (I); the origins agree"),
    ],
)
def test_one_voxel_less_is_an_error_of_its_own_that_names_the_axis(tmp_path, crop, words):
    (finding,) = findings(write_case(tmp_path, off_centre()[crop], MATRIX))
    assert (finding.severity, finding.code) == ("error", "mask-shape-by-one")
    assert words in finding.message


def test_one_voxel_more_says_whether_origins_and_spacings_agree(tmp_path):
    mask = np.pad(off_centre(), ((0, 0), (0, 0), (0, 1)))
    moved = MATRIX.copy()
    moved[0, 3] += 2.5
    (finding,) = findings(write_case(tmp_path, mask, moved))
    assert finding.code == "mask-shape-by-one"
    assert "one voxel more along k (R); the origins lie 2.5 mm apart, the spacings agree" in finding.message


def test_one_voxel_more_over_the_same_box_is_another_spacing():
    scan = Geometry(SHAPE, MATRIX)
    matrix = affine("PIR", (1.1, 0.9, 2.0 * 16 / 17), degrees=(6.0, -9.0, 17.0))
    matrix[:3, 3] = scan.world_from_index([[0, 0, -0.5 + 0.5 * 16 / 17]])[0]
    assert placement(Geometry((9, 13, 17), matrix), scan) == "scaled"


def test_two_voxels_less_are_just_another_shape(tmp_path):
    (finding,) = findings(write_case(tmp_path, off_centre()[:, :-2], MATRIX))
    assert (finding.severity, finding.code) == ("error", "mask-shape")
    assert "fixes=" not in finding.hint


def coarse_case(tmp_path, **changes) -> Case:
    """A mask of twice the voxel size over the box of its scan."""
    grid = Geometry((8, 12, 16), MATRIX)
    half = MATRIX.copy()
    half[:3, :3] *= 2
    half[:3, 3] = grid.world_from_index([[0.5, 0.5, 0.5]])[0]
    mask = spine_labels((4, 6, 8), half, (20,), block=3)
    mask[1:3, 1:4, 1:5] = 20
    fine = mask.repeat(2, 0).repeat(2, 1).repeat(2, 2)
    return replace(write_case(tmp_path, mask, half, scan=bright_scan(fine)), **changes)


def test_another_spacing_over_the_same_box_is_an_error_that_can_be_repaired(tmp_path):
    (finding,) = findings(coarse_case(tmp_path))
    assert (finding.severity, finding.code) == ("error", "mask-shape")
    assert "same box" in finding.hint and "fixes=" in finding.hint


@pytest.mark.parametrize("shift_voxels", [0.0, 0.45, 0.8])
def test_boxes_agree_to_half_a_voxel_of_the_coarser_grid(shift_voxels):
    fine = Geometry((20, 30, 40), affine("PIR", (1.0, 1.0, 1.0)))
    matrix = affine("PIR", (2.0, 2.0, 2.0))
    matrix[:3, 3] = fine.world_from_index([[0.5 + 2 * shift_voxels, 0.5, 0.5]])[0]
    assert placement(Geometry((10, 15, 20), matrix), fine) == ("apart" if shift_voxels > 0.5 else "scaled")


# --- carrying over


def fix(tmp_path, *cases):
    index = CaseIndex(cases)
    return write_fixes(index, check_cases(index).findings, tmp_path / "fixed")


@pytest.mark.parametrize("axes", TURNS)
@pytest.mark.parametrize(("qform", "sform"), [(1, 1), (1, 0), (0, 2)])
def test_a_turned_mask_comes_out_voxel_for_voxel_on_the_grid_of_its_scan(tmp_path, axes, qform, sform):
    case = write_case(tmp_path, *turned(off_centre(), MATRIX, axes), qform=qform, sform=sform)
    before = case.mask.read_bytes()
    (written,) = fix(tmp_path, case).fixes
    assert (written.case, written.action) == ("a", "regrid")
    assert Path(written.value) == tmp_path / "fixed" / "a_seg-vert_msk.nii.gz"
    assert "exact" in written.note
    repaired = replace(case, mask=Path(written.value))
    np.testing.assert_array_equal(read_labels(repaired.mask).array, off_centre())
    scan, mask = stored_header(case.image), stored_header(repaired.mask)
    assert all(scan[field].tobytes() == mask[field].tobytes() for field in GEOMETRY_FIELDS)
    assert codes(repaired) == []
    assert case.mask.read_bytes() == before


def test_another_spacing_is_resampled_and_says_so(tmp_path):
    case = coarse_case(tmp_path)
    (written,) = fix(tmp_path, case).fixes
    assert "linear vote" in written.note
    mask, grid = read_labels(Path(written.value)), read_geometry(case.image)[0]
    assert mask.geometry == grid
    nearest = resample_nearest(read_labels(case.mask).array, read_labels(case.mask).geometry, grid)
    assert np.mean(mask.array != nearest) < 0.05


def test_the_table_has_the_columns_that_the_index_reads(tmp_path):
    first = write_case(tmp_path, *turned(off_centre(), MATRIX, "LAS"))
    clean = write_case(tmp_path, off_centre(), MATRIX, name="clean", scan=bright_scan(off_centre()) + np.int16(1))
    report = fix(tmp_path, first, clean)
    with (tmp_path / "fixed" / FIXES_FILE).open(newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows == [{"case": "a", "action": "regrid", "value": "a_seg-vert_msk.nii.gz", "note": report.fixes[0].note}]
    assert sorted(path.name for path in (tmp_path / "fixed").iterdir()) == ["a_seg-vert_msk.nii.gz", FIXES_FILE]


def test_corrections_of_labels_stay_in_the_index(tmp_path):
    case = replace(write_case(tmp_path, *turned(off_centre(), MATRIX, "LAS")), relabel=((19, 18),))
    (written,) = fix(tmp_path, case).fixes
    np.testing.assert_array_equal(read_labels(Path(written.value)).array, off_centre())


def test_nothing_is_written_where_nothing_can_be_repaired(tmp_path):
    report = fix(tmp_path, write_case(tmp_path, off_centre(), MATRIX))
    assert (report.fixes, report.left) == ((), ())
    assert not (tmp_path / "fixed").exists()


def test_nothing_that_exists_is_replaced(tmp_path):
    case = write_case(tmp_path, *turned(off_centre(), MATRIX, "LAS"))
    other = write_case(tmp_path, *turned(off_centre(), MATRIX, "SRP"), name="b")
    target = tmp_path / "fixed" / "a_seg-vert_msk.nii.gz"
    target.parent.mkdir()
    target.write_text("mine")
    report = fix(tmp_path, case, other)
    assert [fix.case for fix in report.fixes] == ["b"]
    assert report.left == (("a", f"{target} exists already and is another mask"),)
    assert target.read_text() == "mine"
    with pytest.raises(OutputError, match=r"fixes\.csv exists already"):
        fix(tmp_path, case)
    with pytest.raises(OutputError, match=r"fixes\.csv exists already"):  # before anything is read
        verse3d.check(tmp_path / "nowhere.jsonl", fixes=tmp_path / "fixed")


def test_fixes_that_ended_before_their_table_was_written_are_gone_on_with(tmp_path):
    case = write_case(tmp_path, *turned(off_centre(), MATRIX, "LAS"))
    first = fix(tmp_path, case)
    (tmp_path / "fixed" / "fixes.csv").unlink()
    written = Path(first.fixes[0].value).stat()
    again = fix(tmp_path, case)
    assert again == first
    assert (tmp_path / "fixed" / "fixes.csv").is_file()
    assert Path(again.fixes[0].value).stat().st_mtime_ns == written.st_mtime_ns


def test_a_mask_whose_header_is_suspected_is_not_carried_over_by_it(tmp_path):
    report = fix(tmp_path, write_case(tmp_path, off_centre(), turned(off_centre(), MATRIX, "AIL")[1]))
    assert report.fixes == ()
    assert "header may be the wrong one" in report.left[0][1]


def test_masks_that_belong_elsewhere_are_left_alone(tmp_path):
    mask, matrix = turned(off_centre(), MATRIX, "LAS")
    short = write_case(tmp_path, off_centre()[:, :-2], MATRIX)
    report = fix(tmp_path, short, write_case(tmp_path, mask.astype(np.uint16) * 200, matrix, name="b"))
    assert report.fixes == ()
    assert [name for name, _ in report.left] == ["a", "b"]
    assert "same box" in report.left[0][1] and "above 255" in report.left[1][1]


def test_training_still_refuses_what_was_not_repaired(tmp_path):
    case = write_case(tmp_path, *turned(off_centre(), MATRIX, "LAS"))
    with pytest.raises(GeometryError):
        require_same_grid(read_image(case.image), read_mask(case))


# --- the job


def test_check_writes_findings_and_fixes_where_told_and_a_cache_beside_the_index(tmp_path):
    case = write_case(tmp_path, *turned(off_centre(), MATRIX, "LAS"))
    listed = tmp_path / "cases.jsonl"
    write_index(listed, CaseIndex((case,)))
    before = set(tmp_path.iterdir())
    report = verse3d.check(listed, json=tmp_path / "out.json", fixes=tmp_path / "fixed")
    assert set(tmp_path.iterdir()) - before == {
        tmp_path / "out.json",
        tmp_path / "fixed",
        tmp_path / "cases.survey.jsonl",
    }
    content = json.loads((tmp_path / "out.json").read_text())
    assert content == {
        "cases": 1,
        "counts": {"error": 1, "warning": 0, "note": 0},
        "findings": [finding.to_dict() for finding in report.findings],
    }
    assert report.fixed is not None and len(report.fixed.fixes) == 1
    assert verse3d.check(listed).findings == report.findings


def test_check_of_a_folder_or_without_cache_writes_nothing(tmp_path):
    case = write_case(tmp_path, off_centre(), MATRIX)
    listed = tmp_path / "cases.jsonl"
    write_index(listed, CaseIndex((case,)))
    before = set(tmp_path.rglob("*"))
    verse3d.check(tmp_path)
    verse3d.check(listed, cache=False)
    assert set(tmp_path.rglob("*")) == before
