"""VerSe's own tree: named by its grammar, found again by ``index`` with the same cases, subjects and splits."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.data.convert.conftest import GRIDS, tree, write_case
from tests.scans import spine, write_nifti
from verse3d.data.cases import SPLITS, Case, CaseIndex
from verse3d.data.convert import convert_cases, verse_format
from verse3d.data.index.discover import discover
from verse3d.data.pairs import read_mask

RELEASE = Path(__file__).parents[3] / "../shared/data/verse-release-names.tsv"
GRAMMAR = re.compile(
    r"^dataset-(?:(?:verse19)?(?:training|validation|test)|01training|02validation|03test)"
    r"/(?:rawdata|derivatives)/(sub-(?:verse|gl)\d{3})/"
    r"\1(?:_split-verse(\d{3}))?(?:_dir-(ax|iso|sag))?_(ct|seg-vert_msk|seg-subreg_ctd)\.(nii\.gz|json)$"
)


def convert(cases, out, **options):
    return convert_cases(cases, verse_format(cases, out), **options)


def facts(index) -> dict[str, tuple]:
    return {
        case.case: (case.subject, case.split, bool(case.image), bool(case.mask), bool(case.centroids)) for case in index
    }


def plans(*cases: Case) -> list[str]:
    return [plan.name for plan in verse_format(CaseIndex(cases), Path("out")).plans]


def bare(name, subject=None, **fields) -> Case:
    return Case(name, subject or name, Path("/somewhere/x_ct.nii.gz"), Path("/somewhere/x_msk.nii.gz"), **fields)


def test_index_finds_the_same_cases_subjects_and_splits_in_the_tree(cases, tmp_path):
    folder = convert(cases, tmp_path / "out").folder
    expected = {name: (*row[:4], row[3]) for name, row in facts(cases).items()}  # every mask has its centroids
    assert facts(discover([folder])) == expected
    for case in discover([folder]):
        source = next(one for one in cases if one.case == case.case)
        assert np.array_equal(nib.load(case.image).dataobj, nib.load(source.image).dataobj)
        assert np.array_equal(nib.load(case.image).affine, nib.load(source.image).affine)
        if case.mask:
            assert np.array_equal(read_mask(case).array, read_mask(source).array)


def test_the_tree_written_from_the_tree_is_the_same(cases, tmp_path):
    found = discover([convert(cases, tmp_path / "first").folder])  # now with the parts of the release
    one = convert(found, tmp_path / "one").folder
    two = convert(discover([one]), tmp_path / "two").folder
    assert sorted(tree(one)) == sorted(tree(two))


def test_all_names_follow_the_grammar_where_the_cases_do(cases, tmp_path):
    divided = CaseIndex(cases.cases[:5])
    folder = convert(divided, tmp_path / "out").folder
    assert set(tree(folder)) - {"conversion.json"} == {
        path for path in tree(folder) if GRAMMAR.match(path) and path != "conversion.json"
    }
    assert len(tree(folder)) == 5 * 3 + 1


def test_cases_without_a_split_lie_in_a_folder_that_decides_none(cases, tmp_path):
    result = convert(cases, tmp_path / "out")
    assert (result.folder / "dataset-undivided/rawdata/sub-verse920/sub-verse920_ct.nii.gz").exists()
    assert "1 case has no split" in result.notes[0]
    assert {case.case: case.split for case in discover([result.folder])}["sub-verse920"] is None


@pytest.mark.parametrize(
    ("part", "split", "folder"),
    [
        ("verse19training", "train", "dataset-verse19training"),
        ("verse19validation", "validation", "dataset-verse19validation"),
        ("verse20test", "test", "dataset-03test"),
        ("verse19training", "validation", "dataset-02validation"),
        ("verse19test", None, "dataset-undivided"),
        ("../../etc", "train", "dataset-01training"),
        ("", "test", "dataset-03test"),
    ],
)
def test_the_part_of_the_release_is_kept_unless_the_case_was_moved_to_another_split(part, split, folder):
    case = bare("sub-verse004", part=part, split=split)
    [plan] = verse_format(CaseIndex((case,)), Path("out")).plans
    assert {path.split("/")[0] for path in plan.paths} == {folder}


def test_names_of_the_other_releases_become_subject_based_ones():
    assert plans(
        bare("verse401_verse201_CT-iso", "sub-verse401", series="verse201"),
        bare("verse401_verse202_CT", "sub-verse401", series="verse202"),
        bare("GL017_CT_ax", "sub-gl017", series="gl017"),
        bare("verse082_CT-sag", "sub-verse082", series="verse082"),
        bare("verse004", "sub-verse004", series="verse004"),
    ) == [
        "sub-verse401_split-verse201_dir-iso",
        "sub-verse401_split-verse202",
        "sub-gl017_dir-ax",
        "sub-verse082_dir-sag",
        "sub-verse004",
    ]


@pytest.mark.skipif(not RELEASE.is_file(), reason=f"the list of the release's names is not at {RELEASE}")
def test_all_names_of_the_release_become_themselves():
    rows = [line.split("\t") for line in RELEASE.read_text().splitlines() if "rawdata/" in line]
    cases = []
    for ct, mask in rows:
        part, _, subject, name = ct.split("/")
        split = {"ing": "train", "ion": "validation", "est": "test"}[part[-3:]]
        named = {"case": name.removesuffix("_ct.nii.gz"), "subject": subject, "part": part.removeprefix("dataset-")}
        cases.append(Case(image=Path("/in", ct), mask=Path("/in", mask), split=split, **named))
    assert len(rows) == 374
    made = verse_format(CaseIndex(tuple(cases)), Path("out")).plans
    assert [[plan.image, plan.mask] for plan in made] == rows


def test_other_names_begin_with_their_subject_and_no_name_is_given_twice():
    made = plans(
        bare("patient 7"),
        bare("patient-7"),
        bare("before", "anna"),
        bare("after", "anna"),
        bare("After", "anna"),
        bare("sub-anna"),
        bare("x", "sub-verse900"),
        bare("y", "sub-verse900"),
        bare("größe"),
    )
    assert made == [
        "sub-patient7",
        "sub-patient72",
        "sub-anna2_acq-before",
        "sub-anna2_acq-after",
        "sub-anna2_acq-After_run-2",
        "sub-anna",
        "sub-verse900",
        "sub-verse900_run-2",
        "sub-gre",
    ]


def test_subjects_stay_apart_and_together_whatever_they_are_called(tmp_path):
    subjects = {"a 1": "a b", "a 2": "a b", "b": "ab", "c": "sub-ab", "d": "größe"}
    found = CaseIndex(
        tuple(
            write_case(
                tmp_path / "in", name, number, subject=subject, split=SPLITS[number % 3] if number > 1 else "test"
            )
            for number, (name, subject) in enumerate(subjects.items())
        )
    )
    result = convert(found, tmp_path / "out")
    again = {case.case: case for case in discover([result.folder])}
    pairs = [(record.subject, again[record.name].subject) for record in result.cases]
    assert len(set(pairs)) == len(set(subjects.values())) == len({subject for _, subject in pairs})
    assert [again[record.name].split for record in result.cases] == [case.split for case in found]


def test_masks_are_linked_and_corrected_ones_rewritten_with_the_header_of_the_mask(tmp_path):
    plain = write_case(tmp_path / "in", "sub-verse001", 1, split="train")
    corrected = write_case(tmp_path / "in", "sub-verse002", 2, split="train", relabel=((19, 20), (20, 21)))
    result = convert(CaseIndex((plain, corrected)), tmp_path / "out")
    masks = {record.case: result.folder / record.files[1].path for record in result.cases}
    assert masks["sub-verse001"].resolve() == plain.mask.resolve()
    stored, written = nib.load(corrected.mask), nib.load(masks["sub-verse002"])
    assert np.array_equal(written.affine, stored.affine) and written.get_data_dtype() == np.uint8
    values = {19: 20, 20: 21, 28: 28, 0: 0}
    assert np.array_equal(written.dataobj, np.vectorize(values.get)(np.asarray(stored.dataobj)))
    assert result.cases[1].files[1].note == "labels corrected: 19 is 20, 20 is 21"
    centroids = json.loads((result.folder / result.cases[1].files[2].path).read_text())
    assert [point["label"] for point in centroids[1:]] == [28, 20, 21]


def test_uncompressed_files_are_compressed_and_copies_are_no_links(tmp_path):
    case = write_case(tmp_path / "in", "sub-verse001", split="train", ending=".nii")
    other = write_case(tmp_path / "in", "sub-verse002", split="train")
    result = convert(CaseIndex((case, other)), tmp_path / "out", links=False)
    for record, source in zip(result.cases, (case, other), strict=True):
        for file, original in zip(record.files, (source.image, source.mask), strict=False):
            content = (result.folder / file.path).read_bytes()
            assert file.how == ("compressed" if source is case else "copy")
            unpacked = gzip.decompress(content) if source is case else content
            assert unpacked == original.read_bytes()
    assert not any(path.is_symlink() for path in result.folder.rglob("*"))


# --- centroids


@pytest.mark.parametrize("number", range(len(GRIDS)))
def test_missing_centroids_are_the_middle_of_each_label_in_voxels_from_head_to_tail(number, tmp_path):
    case = write_case(tmp_path / "in", "sub-verse001", number, split="train", ids=(20, 28, 19))
    record = convert(CaseIndex((case,)), tmp_path / "out").cases[0].files[2]
    image = nib.load(case.mask)
    mask = np.asarray(image.dataobj)
    expected = [{"direction": list(nib.aff2axcodes(image.affine))}]
    for label in (19, 28, 20):
        i, j, k = np.argwhere(mask == label).mean(axis=0)
        expected.append({"label": label, "X": round(i, 1), "Y": round(j, 1), "Z": round(k, 1)})
    assert json.loads((tmp_path / "out" / record.path).read_text()) == expected
    assert record.how == "computed"


def test_an_empty_mask_has_no_centroids(tmp_path):
    case = write_case(tmp_path / "in", "a", split="train")
    write_nifti(case.mask, np.zeros_like(spine(0).mask), GRIDS[0].affine)
    record = convert(CaseIndex((case,)), tmp_path / "out").cases[0].files[2]
    assert json.loads((tmp_path / "out" / record.path).read_text()) == [{"direction": ["P", "I", "R"]}]


POINT = {"label": 19, "X": 1.5, "Y": 2.0, "Z": 3.0}


@pytest.mark.parametrize(
    ("content", "how"),
    [
        ([{"direction": ["P", "I", "R"]}, POINT], "link"),
        ([{"direction": ["P", "I", "R"]}], "link"),
        ([POINT], "computed"),
        ([{"direction": ["R", "A", "S"]}, POINT], "computed"),
        ([{"direction": ["P", "I", "R"]}, {"label": 19}], "computed"),
        ([{"direction": None}, POINT], "computed"),
        ([], "computed"),
        ({}, "computed"),
        ("no JSON", "computed"),
    ],
)
def test_only_centroids_in_voxels_of_the_same_axes_are_taken_over(tmp_path, content, how):
    case = write_case(tmp_path / "in", "a", split="train")
    (tmp_path / "in" / "a_ctd.json").write_text(content if isinstance(content, str) else json.dumps(content))
    case = replace(case, centroids=tmp_path / "in" / "a_ctd.json")
    record = convert(CaseIndex((case,)), tmp_path / "out").cases[0].files[2]
    assert record.how == how
    written = json.loads((tmp_path / "out" / record.path).read_text())
    assert (written == content) == (how == "link")


# --- bad cases


def test_a_bad_case_is_left_out_whole_and_a_mask_without_scan_is_kept(cases, tmp_path):
    bad = write_case(tmp_path / "in", "sub-verse701", split="train")
    write_nifti(bad.mask, np.full_like(spine(0).mask, 27), GRIDS[0].affine)
    alone = replace(write_case(tmp_path / "in", "sub-verse702", split="train"), image=None)
    result = convert(CaseIndex((bad, alone, *cases)), tmp_path / "out")
    assert [(record.case, "[27] are unknown" in record.reason) for record in result.left_out] == [
        ("sub-verse701", True)
    ]
    found = facts(discover([result.folder]))
    assert "sub-verse701" not in found and found["sub-verse702"] == ("sub-verse702", "train", False, True, True)
