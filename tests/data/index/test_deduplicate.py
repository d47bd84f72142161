"""Copies of a scan are one case: known by series, else by grey values, and never by chance."""

from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import affine, hounsfield, save_scan
from verse3d.data.cases import Case
from verse3d.data.index.build import IndexOptions, build_index
from verse3d.data.index.deduplicate import content_digest, merge_content, merge_series
from verse3d.data.index.probe import probe

SHAPE = (7, 9, 12)


@pytest.fixture
def scan(tmp_path):
    """Write a scan (and a mask) and return the case."""

    def write(name, array=None, matrix=None, *, mask=False, series="", part="", dtype=np.int16) -> Case:
        voxels = (hounsfield(SHAPE) if array is None else array).astype(dtype)
        matrix = affine("PIR") if matrix is None else matrix
        path = save_scan(tmp_path / f"{name}.nii.gz", voxels, matrix)
        labels = save_scan(tmp_path / f"{name}_seg.nii.gz", np.ones(voxels.shape, np.uint8), matrix) if mask else None
        return Case(name, name, path, labels, series=series, part=part)

    return write


def by_content(*cases: Case):
    return merge_content(cases, {case.image: probe(case.image) for case in cases})


def names(cases) -> list[str]:
    return [case.case for case in cases]


def other(seed: int) -> np.ndarray:
    return hounsfield(SHAPE) + np.random.default_rng(seed).integers(1, 50, SHAPE)


# --- by content


def test_the_same_grey_values_are_one_case_and_the_reason_is_recorded(scan):
    merged, left_out = by_content(scan("a"), scan("b"), scan("c", other(1)))
    assert names(merged) == ["a", "c"]
    (copy,) = left_out
    assert (copy.case, copy.kept, copy.reason) == ("b", "a", "same grey values")
    assert merged[0].notes == (f"kept instead of {copy.path}: same grey values",)


@pytest.mark.parametrize("orientation", ["RAS", "LPI", "ASR"])
def test_a_copy_that_was_turned_is_recognised(scan, orientation):
    original = scan("a", other(2))
    image = nib.load(original.image)
    start, target = nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(orientation)
    turned = image.as_reoriented(nib.orientations.ornt_transform(start, target))
    copy = scan("b", np.asarray(turned.dataobj), turned.affine)
    assert names(by_content(original, copy)[0]) == ["a"]


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_a_copy_in_another_number_type_is_recognised(scan, dtype):
    assert names(by_content(scan("a"), scan("b", dtype=dtype))[0]) == ["a"]


def test_one_voxel_makes_a_difference(scan):
    changed = hounsfield(SHAPE).copy()
    changed[3, 4, 5] += 1
    assert names(by_content(scan("a"), scan("b", changed))[0]) == ["a", "b"]


def test_the_same_values_with_another_spacing_are_another_scan(scan):
    matrix = affine("PIR")
    matrix[:3, :3] *= 1.5
    assert names(by_content(scan("a"), scan("b", None, matrix))[0]) == ["a", "b"]


def test_the_copy_with_a_mask_is_kept(scan):
    merged, left_out = by_content(scan("a"), scan("b", mask=True))
    assert names(merged) == ["b"]
    assert left_out[0].case == "a"


def test_empty_volumes_are_not_copies_of_each_other(scan):
    empty = np.full(SHAPE, -1000)
    assert names(by_content(scan("a", empty), scan("b", empty))[0]) == ["a", "b"]


def test_two_scans_of_the_release_are_never_merged_by_content(scan):
    one, two = (scan(name, series=name, part="verse19training") for name in ("verse004", "verse005"))
    assert names(by_content(one, two)[0]) == ["verse004", "verse005"]
    assert names(by_content(one, two, scan("mine"))[0]) == ["verse004", "verse005"]


def test_a_scan_that_cannot_be_read_is_no_copy(scan):
    good, bad = scan("a"), scan("b")
    bad.image.write_bytes(bad.image.read_bytes()[:-40])
    assert content_digest(bad) == ""
    assert names(by_content(good, bad)[0]) == ["a", "b"]


def test_scans_whose_size_is_unique_are_not_read(scan, monkeypatch):
    cases = scan("a"), scan("b", np.zeros((7, 9, 13)))
    monkeypatch.setattr("verse3d.data.index.deduplicate.content_digest", lambda _: pytest.fail("read"))
    assert names(by_content(*cases)[0]) == ["a", "b"]


# --- by series


def case(name, series, *, mask=True) -> Case:
    scan, labels = Path(f"/{name}.nii.gz"), Path(f"/{name}_seg.nii.gz")
    return Case(name, "sub-verse401", scan, labels if mask else None, series=series)


def test_the_subject_based_copy_is_kept_even_if_it_comes_last():
    merged, left_out = merge_series((case("verse201", "verse201"), case("sub-verse401_split-verse201", "verse201")), {})
    assert names(merged) == ["sub-verse401_split-verse201"]
    assert left_out[0].reason == "same series verse201"


def test_a_complete_copy_beats_a_subject_based_one_without_mask():
    merged, _ = merge_series(
        (case("sub-verse401_split-verse201", "verse201", mask=False), case("verse201", "verse201")), {}
    )
    assert names(merged) == ["verse201"]


def test_cases_without_series_are_never_merged_by_name(tmp_path):
    merged, left_out = merge_series((case("a", ""), case("b", "")), {})
    assert (names(merged), left_out) == (["a", "b"], ())


def test_other_series_of_a_subject_stay(tmp_path):
    merged, _ = merge_series((case("a", "verse201"), case("b", "verse253")), {})
    assert names(merged) == ["a", "b"]


def test_an_index_merges_both_ways_and_says_so(tmp_path):
    for name in "xyz":
        (tmp_path / name).mkdir()
    first = hounsfield(SHAPE)
    save_scan(tmp_path / "x" / "sub-verse004_ct.nii.gz", first, affine("PIR"))
    save_scan(tmp_path / "y" / "verse004.nii.gz", first[::-1], affine("RAS"))
    save_scan(tmp_path / "z" / "renamed.nii.gz", first, affine("PIR"))
    report = build_index([tmp_path], IndexOptions())
    assert names(report.cases) == ["sub-verse004"]
    assert sorted(copy.reason for copy in report.left_out) == ["same grey values", "same series verse004"]
    assert len(report.cases.cases[0].notes) == 2


def test_a_mask_without_scan_is_joined_to_the_scan_of_its_series_that_has_none():
    scan = case("sub-verse401_split-verse201", "verse201", mask=False)
    lone = Case("verse201", "sub-verse401", None, Path("/masks/verse201_seg.nii.gz"), series="verse201")
    ((joined,), left_out) = merge_series((scan, lone), {})
    assert (joined.image, joined.mask, left_out) == (scan.image, lone.mask, ())
    assert joined.notes == ("joined with /masks/verse201_seg.nii.gz: same series verse201",)


def test_a_damaged_copy_gives_way_to_a_whole_one(scan):
    whole, cut = scan("verse201"), scan("sub-verse401_split-verse201")
    cut.image.write_bytes(cut.image.read_bytes()[:-60])
    copies = [replace(copy, series="verse201") for copy in (cut, whole)]
    merged, _ = merge_series(copies, {copy.image: probe(copy.image) for copy in copies})
    assert [kept.image for kept in merged] == [whole.image]


def test_the_kept_copy_stays_who_the_release_says_it_is(scan):
    released = scan("sub-verse401_split-verse201", series="verse201", part="verse19training")
    released = replace(released, subject="sub-verse401", split="train", split_origin="release")
    ((kept,), _) = by_content(scan("foo", mask=True), released)
    assert kept.mask.name == "foo_seg.nii.gz"
    assert (kept.case, kept.subject, kept.series) == ("sub-verse401_split-verse201", "sub-verse401", "verse201")
    assert (kept.part, kept.split, kept.split_origin) == ("verse19training", "train", "release")


def test_who_has_a_scan_in_common_is_one_subject(scan):
    one, again = scan("a1"), scan("b1")
    cases = [replace(one, subject="a"), replace(again, subject="b"), replace(scan("b2", other(5)), subject="b")]
    merged, _ = by_content(*cases)
    assert [(case.case, case.subject) for case in merged] == [("a1", "a"), ("b2", "a")]
    assert "shows a" in merged[1].notes[0]


def test_eight_bit_scans_are_told_apart(scan):
    random = np.random.default_rng(3)
    first = random.integers(0, 200, SHAPE)
    assert names(by_content(scan("a", first, dtype=np.uint8), scan("b", first + 1, dtype=np.uint8))[0]) == ["a", "b"]
    assert names(by_content(scan("c", first, dtype=np.uint8), scan("d", first, dtype=np.uint8))[0]) == ["c"]


@pytest.mark.filterwarnings("error")
def test_a_scan_with_voxels_that_are_no_numbers_is_no_copy(scan):
    holes = hounsfield(SHAPE, np.float32)
    holes[2, 2, 2] = np.nan
    assert names(by_content(scan("a", holes, dtype=np.float32), scan("b", holes, dtype=np.float32))[0]) == ["a", "b"]
