"""From folders as downloaded to an index, step by step, and back from the findings of the check."""

import nibabel as nib
import numpy as np
import pytest

import verse3d
from tests.core.grids import affine, hounsfield, label_map, save_scan
from verse3d.core.errors import DataError
from verse3d.core.volume import read_image
from verse3d.data.building import IndexOptions, build_index
from verse3d.data.cases import read_index
from verse3d.data.pairs import read_mask, require_same_grid

SHAPE = (9, 11, 14)


def turned(path, codes):
    """The same file with its voxels stored along other axes."""
    image = nib.load(path)
    start, target = nib.io_orientation(image.affine), nib.orientations.axcodes2ornt(codes)
    other = image.as_reoriented(nib.orientations.ornt_transform(start, target))
    voxels = np.asarray(other.dataobj)
    return save_scan(path, voxels, other.affine)


def test_a_turned_mask_is_carried_over_on_request_and_used_through_the_overrides(tmp_path):
    data, fixes = tmp_path / "data", tmp_path / "fixes"
    data.mkdir()
    scan = save_scan(data / "a.nii.gz", hounsfield(SHAPE), affine("PIR"))
    wanted = label_map(SHAPE)
    mask = turned(save_scan(data / "a_seg.nii.gz", wanted, affine("PIR")), "RAS")
    before = mask.read_bytes()

    verse3d.index(data, out=tmp_path / "cases.jsonl")
    report = verse3d.check(tmp_path / "cases.jsonl", fixes=fixes)
    assert "mask-orientation" in {finding.code for finding in report.findings}

    verse3d.index(data, out=tmp_path / "fixed.jsonl", overrides=[fixes / "fixes.csv"])
    (case,) = read_index(tmp_path / "fixed.jsonl")
    assert case.mask.parent == fixes
    assert "override: mask" in case.notes[0]
    require_same_grid(read_image(scan), read_mask(case))
    assert np.array_equal(read_mask(case).array, wanted)
    assert mask.read_bytes() == before
    codes = {finding.code for finding in verse3d.check(tmp_path / "fixed.jsonl").findings}
    assert not codes & {"mask-orientation", "mask-shape", "mask-affine"}


def test_layouts_are_told_apart_and_may_be_mixed(tmp_path):
    names = [
        "verse/dataset-01training/rawdata/sub-verse500/sub-verse500_ct.nii.gz",
        "miccai/verse501_CT-iso.nii.gz",
        "nnunet/imagesTr/x_0000.nii.gz",
        "one/case7/ct.nii.gz",
        "flat/images/y.nii.gz",
        "z.nii.gz",
    ]
    for number, name in enumerate(names):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        save_scan(tmp_path / name, hounsfield(SHAPE, seed=number), affine("PIR"))
    layouts = build_index([tmp_path], IndexOptions()).layouts
    assert layouts == {
        "VerSe subject-based": 1,
        "VerSe MICCAI": 1,
        "nnU-Net raw": 1,
        "one folder per case": 1,
        "folders of images and labels": 1,
        "side by side": 1,
    }


def test_an_index_without_the_gl_subjects_must_hold_others(tmp_path):
    save_scan(tmp_path / "GL003.nii.gz", hounsfield(SHAPE), affine("PIR"))
    with pytest.raises(DataError, match="without the gl subjects no case is left"):
        build_index([tmp_path], IndexOptions(exclude_gl=True))


def test_progress_counts_the_headers(tmp_path):
    for name in "abc":
        save_scan(tmp_path / f"{name}.nii.gz", hounsfield(SHAPE), affine("PIR"))
    told = []
    build_index([tmp_path], IndexOptions(), lambda *step: told.append(step))
    assert told == [("headers", number, 3) for number in range(4)]
