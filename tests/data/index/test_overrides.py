"""Corrections from a CSV do what they say, are recorded, and every mistake in them is named."""

import numpy as np
import pytest

from tests.core.grids import affine, save_scan
from verse3d.core.errors import DataError
from verse3d.data.cases import Case, CaseIndex, read_index, write_index
from verse3d.data.index.overrides import apply_overrides, read_overrides
from verse3d.data.pairs import read_mask


@pytest.fixture
def index(tmp_path) -> CaseIndex:
    mask = np.zeros((4, 5, 6), np.uint8)
    mask[0], mask[1], mask[2] = 19, 20, 21
    path = save_scan(tmp_path / "mask.nii.gz", mask, affine("PIR"))
    scan = tmp_path / "scan.nii.gz"
    return CaseIndex(
        (
            Case("one", "sub-a", scan, path, split="train", series="verse201"),
            Case("two", "sub-a", scan, path, split="train"),
            Case("three", "sub-b", scan, path, split="test"),
        )
    )


@pytest.fixture
def corrected(tmp_path, index):
    """Apply lines of CSV."""

    def apply(*lines: str, header="case,action,value,note") -> dict[str, Case]:
        (tmp_path / "fixes.csv").write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
        return {
            case.case: case for case in CaseIndex(apply_overrides(index, read_overrides(tmp_path / "fixes.csv")).cases)
        }

    return apply


def test_labels_are_replaced_all_at_once_whenever_the_mask_is_read(corrected):
    case = corrected("one,relabel,19>20 20>21 21>22,shifted by one")["one"]
    mask = read_mask(case).array
    assert [np.unique(mask[number]).tolist() for number in range(4)] == [[20], [21], [22], [0]]
    assert case.notes == ("override: relabel 19>20 20>21 21>22 (shifted by one)",)


def test_levels_can_be_named_swapped_and_erased(corrected):
    mask = read_mask(corrected('one,relabel,"T12>L1, L1>T12, 21>0",')["one"]).array
    assert [np.unique(mask[number]).tolist() for number in range(3)] == [[20], [19], [0]]


def test_two_relabellings_follow_each_other(corrected):
    case = corrected("one,relabel,19>20 20>19,", "one,relabel,20>28 21>22,")["one"]
    assert [np.unique(read_mask(case).array[number]).tolist() for number in range(3)] == [[28], [19], [22]]


def test_a_correction_survives_writing_and_reading_the_index(corrected, tmp_path):
    cases = corrected("one,relabel,19>20,")
    write_index(tmp_path / "cases.jsonl", CaseIndex(tuple(cases.values())))
    assert read_index(tmp_path / "cases.jsonl").cases[0].relabel == ((19, 20),)


def test_a_subject_or_a_series_names_its_cases(corrected):
    assert [case.relabel for case in corrected("sub-a,relabel,19>20,").values()] == [((19, 20),), ((19, 20),), ()]
    assert [case.relabel for case in corrected("verse201,relabel,19>20,").values()] == [((19, 20),), (), ()]


def test_a_split_moves_the_whole_subject(corrected):
    cases = corrected("one,split,validation,")
    assert [case.split for case in cases.values()] == ["validation", "validation", "test"]
    assert cases["two"].split_origin == "assigned"


def test_a_case_is_left_out(corrected):
    assert list(corrected("two,exclude,,metal")) == ["one", "three"]


def test_another_mask_is_used_and_earlier_corrections_of_ids_end(corrected, tmp_path):
    save_scan(tmp_path / "better.nii.gz", np.full((4, 5, 6), 7, np.uint8), affine("PIR"))
    case = corrected("one,relabel,19>20,", "one,mask,better.nii.gz,redrawn")["one"]
    assert case.mask == tmp_path / "better.nii.gz"
    assert np.unique(read_mask(case).array).tolist() == [7]


def test_the_same_mask_on_another_grid_keeps_the_corrections_of_its_ids(corrected, tmp_path):
    save_scan(tmp_path / "turned.nii.gz", np.full((4, 5, 6), 19, np.uint8), affine("RAS"))
    for lines in (
        ["one,relabel,19>20,", "one,regrid,turned.nii.gz,"],
        ["one,regrid,turned.nii.gz,", "one,relabel,19>20,"],
    ):
        assert np.unique(read_mask(corrected(*lines)["one"]).array).tolist() == [20]


def test_another_mask_after_a_correction_of_ids_is_warned_about(corrected, tmp_path, caplog):
    save_scan(tmp_path / "better.nii.gz", np.full((4, 5, 6), 7, np.uint8), affine("PIR"))
    corrected("one,relabel,19>20,", "one,mask,better.nii.gz,")
    assert "one gets another mask: earlier corrections of its ids no longer apply" in caplog.text


@pytest.mark.parametrize("line", ["one,relabel,T12>L1, L1>L2", "one,relabel,T12>L1,L1>L2,why", "one,relabel,19>20,,,x"])
def test_half_a_correction_is_refused_when_commas_cut_it(corrected, line):
    with pytest.raises(DataError, match="line 2: a value that holds commas must stand in quotes"):
        corrected(line)


def test_a_mask_that_is_none_is_refused_at_once(corrected, tmp_path):
    (tmp_path / "own.nii.gz").write_bytes(b"no mask")
    (tmp_path / "notes.txt").write_text("no mask")
    with pytest.raises(DataError) as caught:
        corrected("one,mask,own.nii.gz,", "one,regrid,notes.txt,", "one,relabel,²>3,")
    assert [line.split(":")[0].strip(" -") for line in caught.value.message.splitlines()[1:]] == [
        "line 2",
        "line 3",
        "line 4",
    ]


def test_a_scan_is_given_to_another_subject(corrected):
    assert corrected("three,subject,sub-c,")["three"].subject == "sub-c"


def test_names_that_the_index_lacks_and_cases_left_out_are_told(index, tmp_path):
    (tmp_path / "fixes.csv").write_text("case,action\nverse999,exclude\ntwo,exclude\n")
    applied = apply_overrides(index, read_overrides(tmp_path / "fixes.csv"))
    assert (applied.unmatched, applied.excluded) == (("verse999",), ("two",))
    assert [case.case for case in applied.cases] == ["one", "three"]


def test_a_correction_that_tears_a_subject_apart_is_refused(corrected):
    with pytest.raises(DataError, match="different splits: sub-a"):
        corrected("three,subject,sub-a,")


def test_all_mistakes_are_listed_at_once_with_their_lines(corrected):
    with pytest.raises(DataError) as caught:
        corrected(
            "one,relabel,19-20,",
            "one,relabel,19>99,",
            "one,relabel,19>20 19>21,",
            "one,relabel,,",
            "one,turn,90,",
            ",exclude,,",
            "one,split,training,",
            "one,mask,nowhere.nii.gz,",
            "one,subject,,",
            "one,exclude,yes,",
            "two,exclude,,",
        )
    lines = caught.value.message.splitlines()
    assert [line.split(":")[0].strip(" -") for line in lines[1:]] == [f"line {number}" for number in range(2, 12)]
    assert "relabel, mask, regrid, split, subject, exclude" in caught.value.hint


def test_a_csv_without_the_columns_is_refused(corrected):
    with pytest.raises(DataError, match=r"fixes\.csv lacks the columns action"):
        corrected("one,exclude", header="case,what")


def test_a_csv_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(DataError, match="cannot read the overrides"):
        read_overrides(tmp_path / "nowhere.csv")
    (tmp_path / "latin.csv").write_bytes("case,action\nö,exclude".encode("latin-1"))
    with pytest.raises(DataError, match="cannot read the overrides"):
        read_overrides(tmp_path / "latin.csv")


def test_an_empty_csv_changes_nothing(corrected, index):
    assert CaseIndex(tuple(corrected().values())) == index
