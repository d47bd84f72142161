"""The labels of an nnU-Net data set become VerSe ids by their names."""

import json

import numpy as np
import pytest

from tests.core.grids import affine, hounsfield, save_scan
from verse3d.data.index.build import IndexOptions, build_index
from verse3d.data.pairs import read_mask

SHAPE = (6, 7, 8)


@pytest.fixture
def dataset(tmp_path):
    """An nnU-Net raw data set with one training and one test case."""

    def write(labels=None, folder="Dataset001_Spine"):
        root = tmp_path / folder
        for name in ("imagesTr", "labelsTr", "imagesTs", "labelsTs"):
            (root / name).mkdir(parents=True)
        mask = np.zeros(SHAPE, np.uint8)
        mask[1], mask[2] = 1, 26
        for number, subset in enumerate(("Tr", "Ts")):
            save_scan(root / f"images{subset}" / f"case{number}_0000.nii.gz", hounsfield(SHAPE, seed=number), affine())
            save_scan(root / f"labels{subset}" / f"case{number}.nii.gz", mask, affine())
        if labels is not None:
            (root / "dataset.json").write_text(labels if isinstance(labels, str) else json.dumps({"labels": labels}))
        return build_index([root], IndexOptions()).cases.cases

    return write


@pytest.mark.parametrize("names", [("L1", "T13"), ("vertebrae_L1", "vertebrae_T13"), ("l1", "vertebra T13")])
def test_labels_become_verse_ids_by_their_names(dataset, names):
    case = dataset({"background": 0, names[0]: 1, names[1]: 26})[0]
    mask = read_mask(case).array
    assert (np.unique(mask[1]).item(), np.unique(mask[2]).item()) == (20, 28)


@pytest.mark.parametrize(
    "labels",
    [
        None,
        {"background": 0, "liver": 1, "T13": 26},
        {"background": 0, "L9": 1},
        {"whole": [1, 2]},
        "no json",
        '"text"',
    ],
)
def test_other_labels_are_left_as_they_are(dataset, labels):
    assert dataset(labels)[0].relabel == ()


def test_the_folder_for_tests_is_the_test_split(dataset):
    assert {case.case: case.split for case in dataset()} == {"case0": "train", "case1": "test"}


def test_a_second_channel_is_left_out_with_a_warning(tmp_path, caplog):
    target = tmp_path / "D" / "imagesTr"
    target.mkdir(parents=True)
    save_scan(target / "a_0000.nii.gz", hounsfield(SHAPE), affine())
    save_scan(target / "a_0001.nii.gz", hounsfield(SHAPE, seed=3), affine())
    assert [case.case for case in build_index([tmp_path / "D"], IndexOptions()).cases] == ["a"]
    assert "a_0001.nii.gz is left out: it is a second channel" in caplog.text
