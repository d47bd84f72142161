"""The raw data set of nnU-Net: contiguous labels on the scan's own grid, folds without leaks, nobody moved silently."""

import gzip
import json
import re
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.core.grids import save_scan
from tests.data.convert.conftest import seen_by_itk, tree, write_case
from tests.scans import PIR, spine, write_nifti
from verse3d.core.errors import ConfigError, DataError, OutputError
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.convert import CaseRecord, FileRecord, convert_cases, nnunet, nnunet_format

TRAINING = [
    "sub-gl003_dir-ax",
    "sub-verse401_split-verse201",
    "sub-verse401_split-verse202",
    "sub-verse500",
]


def convert(cases, out, *, links=True, overwrite=False, **options):
    return convert_cases(cases, nnunet_format(cases, out, **options), links=links, overwrite=overwrite)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(cases, tmp_path) -> Path:
    result = convert(cases, tmp_path / "raw")
    assert not result.left_out
    return result.folder


def test_every_case_lies_where_nnunet_looks_for_it(folder):
    assert folder.name == "Dataset001_VerSe"
    assert names(folder / "imagesTr") == [f"{name}_0000.nii.gz" for name in TRAINING]
    assert names(folder / "labelsTr") == [f"{name}.nii.gz" for name in TRAINING]
    assert names(folder / "imagesTs") == ["sub-verse813_0000.nii.gz", "sub-verse920_0000.nii.gz"]
    assert names(folder / "labelsTs") == ["sub-verse813.nii.gz"]


def test_simpleitk_sees_scan_and_labels_on_the_same_grid_and_exactly_the_voxels_of_the_sources(folder, cases):
    for case in cases:
        subset = "Tr" if case.case in TRAINING else "Ts"
        image, hu = seen_by_itk(folder / f"images{subset}" / f"{case.case}_0000.nii.gz")
        source = nib.load(case.image)
        assert np.array_equal(hu, np.asarray(source.dataobj))
        assert np.abs(image.affine - source.affine).max() < 1e-4
        if case.mask:
            grid, labels = seen_by_itk(folder / f"labels{subset}" / f"{case.case}.nii.gz")
            assert grid == image
            stored = np.asarray(nib.load(case.mask).dataobj)
            assert {28} < set(stored.ravel().tolist())
            assert np.array_equal(labels, np.vectorize(lambda label: 26 if label == 28 else label)(stored))


def test_all_26_vertebrae_get_gapless_ids_and_the_way_back_is_written_down(tmp_path):
    ids = (*range(1, 26), 28)
    array = np.zeros((29, 5, 3), np.uint8)
    for place, label in enumerate(ids):
        array[place, 1:3] = label
    write_nifti(tmp_path / "in" / "a_ct.nii.gz", array.astype(np.int16), PIR.affine)
    write_nifti(tmp_path / "in" / "a_seg.nii.gz", array, PIR.affine)
    case = Case("a", "a", tmp_path / "in" / "a_ct.nii.gz", tmp_path / "in" / "a_seg.nii.gz", split="train")
    folder = convert(CaseIndex((case,)), tmp_path / "raw").folder
    labels = np.asarray(nib.load(folder / "labelsTr" / "a.nii.gz").dataobj)
    assert [int(labels[place, 1, 0]) for place in range(27)] == [*range(1, 27), 0]
    told = json.loads((folder / "dataset.json").read_text())
    assert told["labels"] == {
        "background": 0,
        **{f"C{n}": n for n in range(1, 8)},
        **{f"T{n}": n + 7 for n in range(1, 13)},
        **{f"L{n}": n + 19 for n in range(1, 7)},
        "T13": 26,
    }
    back = np.array([told["file_id_from_label"][str(label)] for label in range(27)])
    assert np.array_equal(back[labels], array)
    rows = re.findall(r"^\| (\d+) \| (\w+) \| (\d+) \|$", (folder / "README.md").read_text(), re.MULTILINE)
    assert {int(label): int(verse) for label, _, verse in rows} == {n: int(back[n]) for n in range(1, 27)}


def test_the_binary_scheme_knows_one_label(cases, tmp_path):
    folder = convert(cases, tmp_path / "raw", scheme="binary", dataset_id=42, name="Bone").folder
    assert folder.name == "Dataset042_Bone"
    for case in cases:
        if case.case in TRAINING:
            labels = np.asarray(nib.load(folder / "labelsTr" / f"{case.case}.nii.gz").dataobj)
            assert np.array_equal(labels, np.asarray(nib.load(case.mask).dataobj) > 0)
    assert json.loads((folder / "dataset.json").read_text())["labels"] == {"background": 0, "vertebrae": 1}
    assert "nnUNetv2_plan_and_preprocess -d 42 " in (folder / "README.md").read_text()


def test_dataset_json_has_what_nnunet_asks_for(folder):
    told = json.loads((folder / "dataset.json").read_text())
    assert told["channel_names"] == {"0": "CT"} and told["file_ending"] == ".nii.gz" and told["numTraining"] == 4
    assert "dataset" not in told


def test_corrections_of_the_index_are_applied_before_ids_are_mapped(tmp_path):
    case = write_case(tmp_path / "in", "a", split="train", relabel=((19, 28), (28, 20), (20, 21)))
    folder = convert(CaseIndex((case,)), tmp_path / "raw").folder
    labels = np.asarray(nib.load(folder / "labelsTr" / "a.nii.gz").dataobj)
    stored = np.asarray(nib.load(case.mask).dataobj)
    assert {int(label): set(labels[stored == label].tolist()) for label in (19, 28, 20)} == {
        19: {26},
        28: {20},
        20: {21},
    }


# --- links and copies


def test_scans_are_links_unless_they_must_be_compressed(folder, cases):
    for case in cases:
        image = next(folder.glob(f"images*/{case.case}_0000.nii.gz"))
        assert image.is_symlink() == (case.case != "sub-verse500")
        if image.is_symlink():
            assert image.resolve() == case.image.resolve()
        else:
            assert gzip.decompress(image.read_bytes()) == case.image.read_bytes()
    assert not any(label.is_symlink() for label in folder.glob("labels*/*"))


def test_copies_hold_the_same_bytes_and_there_is_no_link(cases, tmp_path):
    folder = convert(cases, tmp_path / "raw", links=False).folder
    assert not any(path.is_symlink() for path in folder.rglob("*"))
    for case in cases:
        copy = next(folder.glob(f"images*/{case.case}_0000.nii.gz"))
        if case.image.suffix == ".gz":
            assert copy.read_bytes() == case.image.read_bytes()


def test_names_that_programs_stumble_over_are_changed_and_never_given_twice(tmp_path):
    wanted = ["CT spine (2)", "CT_spine_2", "ct spine [2]", "größe", ".hidden", "-x"]
    found = CaseIndex(tuple(write_case(tmp_path / "in", name, split="train") for name in wanted))
    result = convert(found, tmp_path / "raw")
    made = [record.name for record in result.cases]
    assert made == ["CT_spine_2", "CT_spine_2-2", "ct_spine_2-3", "gr_e", "hidden", "x"]
    assert names(result.folder / "labelsTr") == sorted(f"{name}.nii.gz" for name in made)
    told = json.loads((result.folder / "conversion.json").read_text())
    assert [row["case"] for row in told["cases"]] == wanted


# --- folds


def splits(folder: Path):
    return json.loads((folder / "splits_final.json").read_text())


def test_without_folds_the_split_of_the_index_is_the_only_fold(folder):
    assert splits(folder) == [
        {
            "train": ["sub-verse401_split-verse201", "sub-verse401_split-verse202", "sub-verse500"],
            "val": ["sub-gl003_dir-ax"],
        }
    ]


def test_every_fold_of_the_index_is_held_out_once(cases, tmp_path):
    folds = {"sub-verse401": 1, "sub-verse500": 0, "sub-gl003": 2}
    numbered = CaseIndex(tuple(replace(case, fold=folds.get(case.subject)) for case in cases))
    one, two = "sub-verse401_split-verse201", "sub-verse401_split-verse202"
    assert splits(convert(numbered, tmp_path / "raw").folder) == [
        {"train": ["sub-gl003_dir-ax", one, two], "val": ["sub-verse500"]},
        {"train": ["sub-gl003_dir-ax", "sub-verse500"], "val": [one, two]},
        {"train": [one, two, "sub-verse500"], "val": ["sub-gl003_dir-ax"]},
    ]


@given(
    st.lists(st.tuples(st.integers(0, 9), st.sampled_from(["train", "validation", None])), min_size=1, max_size=30),
    st.integers(0, 4),
    st.randoms(use_true_random=False),
)
def test_no_subject_is_ever_on_both_sides_of_a_fold(drawn, folds, random):
    split_of, fold_of = dict(drawn), {subject: random.randrange(folds) if folds else None for subject, _ in drawn}
    records = [
        CaseRecord(f"c{n}", f"c{n}", str(s), split_of[s], fold_of[s], "written", (FileRecord("", "", "link"),))
        for n, (s, _) in enumerate(drawn)
    ]
    subject_of = {record.name: record.subject for record in records}
    made, notes = nnunet._folds(records)
    for fold in made:
        sides = [{subject_of[name] for name in fold[side]} for side in ("train", "val")]
        assert sides[0] and sides[1] and not sides[0] & sides[1]
        assert sorted(fold["train"] + fold["val"]) == sorted(subject_of)
    assert made or any("splits_final.json" in note for note in notes)


def test_folds_of_which_nobody_is_left_are_skipped_and_those_without_a_fold_are_told(cases, tmp_path):
    folds = {"sub-verse401": 0, "sub-verse500": 1, "sub-gl003": 3}
    numbered = [replace(case, fold=folds.get(case.subject)) for case in cases]
    numbered.append(write_case(tmp_path / "in", "extra", split="validation"))
    numbered[3].mask.write_bytes(b"no mask")
    result = convert(CaseIndex(tuple(numbered)), tmp_path / "raw")
    assert [record.case for record in result.left_out] == ["sub-verse500"]
    assert [fold["val"] for fold in splits(result.folder)] == [TRAINING[1:3], TRAINING[:1]]
    assert result.notes == (
        "fold 1 of splits_final.json is fold 3 of the index",
        "1 training cases are in no fold, so nnU-Net uses them with fold 'all' only",
    )


def test_without_anybody_to_validate_on_no_fold_is_invented(cases, tmp_path):
    result = convert(CaseIndex(cases.cases[:2]), tmp_path / "raw")
    assert not (result.folder / "splits_final.json").exists()
    assert "a subject may stand on both sides" in result.notes[0]


def test_a_subject_in_two_folds_is_refused(cases, tmp_path):
    torn = CaseIndex(tuple(replace(case, fold=number) for number, case in enumerate(cases)))
    with pytest.raises(DataError, match="sub-verse401 stand in folds 0 and 1"):
        convert(torn, tmp_path / "raw")
    assert not (tmp_path / "raw").exists()


# --- bad cases


def test_bad_cases_are_left_out_whole_with_the_reason_and_the_others_are_written(cases, tmp_path):
    bad = tmp_path / "bad"
    made = [write_case(bad, name, split="train") for name in ("cut", "shape", "sacrum", "nan", "gone", "shifted")]
    cut, shape, sacrum, nan, gone, shifted = made
    cut.image.write_bytes(cut.image.read_bytes()[:-200])
    write_nifti(shape.mask, spine(0).mask[:-1], PIR.affine)
    write_nifti(sacrum.mask, np.where(spine(0).mask == 19, 26, spine(0).mask), PIR.affine)
    hu = spine(0).hu.astype(np.float32)
    hu[3, 4, 5] = np.nan
    write_nifti(nan.image, hu, PIR.affine)
    gone.image.unlink()
    moved = PIR.affine.copy()
    moved[0, 3] += 2
    write_nifti(shifted.mask, spine(0).mask, moved)
    alone = replace(shape, case="alone", subject="alone", image=None)
    result = convert(CaseIndex((*made, alone, *cases)), tmp_path / "raw")
    reasons = {record.case: record.reason for record in result.left_out}
    assert list(reasons) == ["cut", "shape", "sacrum", "nan", "gone", "shifted", "alone"]
    for name, words in {
        "cut": "cannot read",
        "shape": "has shape",
        "sacrum": "label ids [26] are unknown",
        "nan": "NaN",
        "gone": "does not exist",
        "shifted": "2.0 mm away",
        "alone": "but no CT",
    }.items():
        assert words in reasons[name]
    assert names(result.folder / "imagesTr") == [f"{name}_0000.nii.gz" for name in TRAINING]
    assert names(result.folder / "labelsTr") == [f"{name}.nii.gz" for name in TRAINING]
    told = json.loads((result.folder / "conversion.json").read_text())
    assert {row["case"]: row["reason"] for row in told["cases"] if row["status"] == "left out"} == reasons
    assert json.loads((result.folder / "dataset.json").read_text())["numTraining"] == 4


def test_a_nifti_2_scan_is_left_out_because_itk_does_not_read_it(tmp_path):
    case = write_case(tmp_path / "in", "a", split="train")
    save_scan(case.image, spine(0).hu, PIR.affine, kind=nib.Nifti2Image)
    with pytest.raises(RuntimeError):
        seen_by_itk(case.image)
    [record] = convert(CaseIndex((case,)), tmp_path / "raw").left_out
    assert "NIfTI-2" in record.reason


# --- refusals


@pytest.mark.parametrize("number", [0, -1, 1000])
def test_an_impossible_id_is_refused(cases, tmp_path, number):
    with pytest.raises(ConfigError, match="1 to 999"):
        nnunet_format(cases, tmp_path, dataset_id=number)


@pytest.mark.parametrize("name", ["", "a/b", "../x", "VerSe 20", "_x", "größe"])
def test_an_impossible_name_is_refused(cases, tmp_path, name):
    with pytest.raises(ConfigError, match="does not name a data set"):
        nnunet_format(cases, tmp_path, name=name)


def test_an_id_that_another_data_set_has_is_refused(cases, tmp_path):
    (tmp_path / "raw" / "Dataset001_Liver").mkdir(parents=True)
    with pytest.raises(OutputError, match="Dataset001_Liver with the same id"):
        convert(cases, tmp_path / "raw")
    convert(cases, tmp_path / "raw", dataset_id=2)
    assert names(tmp_path / "raw") == ["Dataset001_Liver", "Dataset002_VerSe"]


def test_the_same_cases_give_the_same_bytes(cases, tmp_path):
    trees = []
    for name in ("one", "two"):
        found = tree(convert(cases, tmp_path / name).folder)
        found.pop("conversion.json")
        trees.append(found)
    assert trees[0] == trees[1]
