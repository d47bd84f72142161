"""Slices as PNG files: written whole or not at all, restartable, and read back equal to slices cut in memory."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import verse3d
from tests import scans
from tests.scans import tiny_config
from verse3d.core.errors import ConfigError, DataError
from verse3d.core.worker_pool import Failure
from verse3d.data.cases import CaseIndex, write_index
from verse3d.data.samples import slice_writer as slicewriter
from verse3d.data.samples.slice_folder import SliceFolder, read_manifest
from verse3d.data.samples.slice_writer import write_slices
from verse3d.data.samples.slices import SliceCut, cut_slice, grey_values, slice_axis
from verse3d.data.samples.transforms import prepare_case

STILL = dict.fromkeys(("mirror_left_right", "affine", "noise", "blur", "contrast"), 0.0)


def config(**sections):
    return tiny_config("2d", **({"slices": {"size_pixels": [25, 31]}, "augment": STILL} | sections))


def pngs(folder):
    return {path.relative_to(folder).as_posix(): path.stat().st_mtime_ns for path in folder.rglob("*.png")}


@pytest.fixture(scope="module")
def written(dataset, tmp_path_factory):
    """Slices of the small data set; read only."""
    out = tmp_path_factory.mktemp("slices") / "out"
    write_slices(dataset.cases, config(), out)
    return out


@pytest.fixture
def folder(written, tmp_path):
    """A copy to spoil."""
    return shutil.copytree(written, tmp_path / "copy")


@pytest.mark.parametrize("scheme", ["binary", "vertebrae"])
@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial", "as-stored"])
def test_samples_read_from_the_files_equal_samples_cut_from_the_volume(dataset, tmp_path, plane, scheme):
    settings = config(slices={"size_pixels": [25, 31], "plane": plane}, labels={"scheme": scheme})
    write_slices(dataset.cases, settings, tmp_path / "out")
    slices = SliceFolder(tmp_path / "out", "train")
    prepared = {case.case: prepare_case(case, settings) for case in dataset}
    assert len(slices) > 30 and any(item["label"].any() for item in slices)
    for row, item in zip(slices.rows, slices, strict=True):
        case = prepared[row.case]
        image, label = cut_slice(case, slice_axis(plane, case.source), row.index, neighbours=0, size=(25, 31))
        assert torch.equal(item["image"], torch.from_numpy(grey_values(image)))
        assert torch.equal(item["label"], torch.from_numpy(label))


def test_what_a_training_cuts_is_in_the_files(dataset, written):
    from_files = [
        (item["image"].numpy().tobytes(), item["label"].numpy().tobytes()) for item in SliceFolder(written, "train")
    ]
    own = config()  # of a size that no network of this depth could halve: the files hold it all the same
    cut = SliceCut(own.slices, own.augment, own.sampling.foreground_fraction, own.grid.spacing_mm)
    for case in dataset.in_split("train"):
        prepared = prepare_case(case, config())
        for seed in range(10):
            box = cut(prepared, np.random.RandomState(seed))
            assert (grey_values(box.image).tobytes(), box.label.tobytes()) in from_files


def test_every_slice_has_two_grey_files_and_a_line_that_says_where_it_comes_from(dataset, written):
    rows = read_manifest(written)
    assert {row.split for row in rows} == {"train", "validation"}
    assert {name for row in rows for name in (row.image, row.mask)} == set(pngs(written))
    for case in dataset:
        prepared = prepare_case(case, config())
        mine = [row for row in rows if row.case == case.case]
        assert [row.index for row in mine] == list(range(prepared.geometry.shape[0]))
        for row in mine:
            assert (row.split, row.plane, row.axis) == (case.split, "sagittal", "R")
            assert row.original_size == (prepared.geometry.shape[2], prepared.geometry.shape[1])
            assert row.labelled_voxels == int((prepared.label[0, row.index] > 0).sum())
            for name in (row.image, row.mask):
                with Image.open(written / name) as picture:
                    assert (picture.format, picture.mode, picture.size) == ("PNG", "L", (31, 25))
    masks = np.concatenate([np.array(Image.open(written / row.mask)).ravel() for row in rows])
    assert set(np.unique(masks)) == {0, 255}


def test_masks_of_levels_hold_their_verse_ids(dataset, tmp_path):
    write_slices(dataset.cases[:1], config(labels={"scheme": "vertebrae"}), tmp_path)
    found = {int(value) for path in tmp_path.rglob("*_mask.png") for value in np.unique(np.array(Image.open(path)))}
    assert found == {0, 19, 20, 21}


def test_slices_without_vertebrae_can_be_left_out(dataset, written, tmp_path):
    write_slices(dataset.cases, config(), tmp_path, only_labelled=True)
    assert {(row.case, row.index) for row in read_manifest(tmp_path)} == {
        (row.case, row.index) for row in read_manifest(written) if row.labelled_voxels
    }


def test_stored_slices_of_differently_stored_files_show_different_planes(dataset, tmp_path):
    write_slices(dataset.cases, config(slices={"size_pixels": [25, 31], "plane": "as-stored"}), tmp_path)
    assert {row.axis for row in read_manifest(tmp_path)} == {"S", "R"}


@pytest.mark.slow
def test_processes_beside_each_other_write_the_same(dataset, written, tmp_path):
    report = write_slices(dataset.cases, config(), tmp_path, workers=2)
    assert [record.status for record in report.records] == ["written"] * 4
    assert read_manifest(tmp_path) == read_manifest(written)
    for name in pngs(written):
        assert (tmp_path / name).read_bytes() == (written / name).read_bytes()


# --- again


def test_finished_cases_are_kept_and_missing_ones_are_made(dataset, folder):
    shutil.rmtree(folder / "train" / "case1")
    before = pngs(folder)
    report = write_slices(dataset.cases, config(), folder)
    assert {record.case: record.status for record in report.records} == {
        "case0": "kept",
        "case1": "written",
        "case2": "kept",
        "case3": "kept",
    }
    assert before.items() <= pngs(folder).items()
    assert len(SliceFolder(folder, "train")) > 0


def test_a_case_that_lost_a_file_is_made_again(dataset, folder):
    next(folder.glob("train/case0/*_mask.png")).unlink()
    assert write_slices(dataset.cases, config(), folder).records[0].status == "written"
    assert len(SliceFolder(folder, "train")) > 0


def test_a_call_that_is_killed_in_the_middle_of_a_case_leaves_nothing_of_it_and_is_taken_up_again(
    dataset, tmp_path, monkeypatch
):
    save, saved = Image.Image.save, []

    def save_until_killed(picture, path, *arguments, **options):
        saved.append(path)
        if len(saved) == 60:
            raise KeyboardInterrupt
        save(picture, path, *arguments, **options)

    monkeypatch.setattr(Image.Image, "save", save_until_killed)
    with pytest.raises(KeyboardInterrupt):
        write_slices(dataset.cases, config(), tmp_path)
    assert scans.leftovers(tmp_path) == []
    finished = sorted(path.parent.name for path in tmp_path.rglob("slices.json"))
    assert finished and len(finished) < 4
    assert {path.parent.name for path in tmp_path.rglob("*.png")} == set(finished)
    monkeypatch.undo()
    report = write_slices(dataset.cases, config(), tmp_path)
    assert [record.case for record in report.records if record.status == "kept"] == finished
    assert read_manifest(tmp_path)


def test_slices_of_another_kind_are_not_mixed_with_what_is_there(dataset, folder):
    before = pngs(folder)
    other = config(slices={"size_pixels": [25, 31], "plane": "axial"})
    with pytest.raises(DataError, match=r"other settings in slices") as caught:
        write_slices(dataset.cases, other, folder)
    assert caught.value.option == "overwrite" and pngs(folder) == before
    report = write_slices(dataset.cases, other, folder, overwrite=True)
    assert [record.status for record in report.records] == ["written"] * 4
    assert {row.plane for row in read_manifest(folder)} == {"axial"}
    assert len(SliceFolder(folder, "train")) > 0


def test_a_case_cut_otherwise_is_replaced_only_if_wanted(dataset, folder):
    report = write_slices(dataset.cases, config(), folder, only_labelled=True)
    assert all("cut from other files or with other settings" in record.error for record in report.failures)
    assert len(report.failures) == 4
    assert not write_slices(dataset.cases, config(), folder, only_labelled=True, overwrite=True).failures


def test_a_case_that_moved_to_another_split_is_not_written_beside_its_old_slices(dataset, folder):
    moved = CaseIndex((replace(dataset.cases[0], split="validation"), *dataset.cases[1:]))
    (failure,) = write_slices(moved.cases, config(), folder).failures
    assert failure.case == "case0" and "is in the split validation now" in failure.error


# --- bad input


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_bad_case_is_listed_and_the_others_are_written(dataset, tmp_path, workers):
    broken = tmp_path / "broken_ct.nii.gz"
    broken.write_bytes(dataset.cases[0].image.read_bytes()[:500])
    bad = [
        replace(dataset.cases[0], case="gone", image=tmp_path / "gone.nii.gz"),
        replace(dataset.cases[0], case="broken", image=broken),
        replace(dataset.cases[0], case="swapped", mask=dataset.cases[1].mask),
    ]
    report = write_slices([*bad, *dataset.cases[2:]], config(), tmp_path / "out", workers=workers)
    assert [record.status for record in report.records] == ["failed"] * 3 + ["written"] * 2
    gone, damaged, swapped = (record.error for record in report.failures)
    assert "gone.nii.gz does not exist" in gone and "make the index again" in gone
    assert "broken_ct.nii.gz" in damaged
    assert "has shape" in swapped
    assert {row.case for row in read_manifest(tmp_path / "out")} == {"case2", "case3"}
    assert scans.leftovers(tmp_path) == []


def test_a_full_disk_leaves_nothing_of_the_case(dataset, tmp_path, monkeypatch):
    def refuse(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Image.Image, "save", refuse)
    report = write_slices(dataset.cases[:1], config(), tmp_path)
    assert "the disk is full" in report.failures[0].error
    assert list(tmp_path.rglob("*.png")) == scans.leftovers(tmp_path) == []


def test_a_process_that_dies_is_a_failure_of_its_case(dataset, tmp_path, monkeypatch):
    def each(work, jobs, workers, _):
        for position, job in enumerate(jobs):
            dies = job.case.case == "case1"
            yield position, Failure("the process that read it was killed (SIGKILL)", died=True) if dies else work(job)

    monkeypatch.setattr(slicewriter, "each", each)
    (failure,) = write_slices(dataset.cases, config(), tmp_path, workers=2).failures
    assert failure.case == "case1" and "`workers=1`" in failure.error


def test_a_folder_of_something_else_is_not_filled(dataset, tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="not made by verse3d slices"):
        write_slices(dataset.cases, config(), tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_case_folder_of_somebody_else_is_not_replaced(dataset, folder):
    (folder / "train" / "case0" / "slices.json").unlink()
    (failure,) = write_slices(dataset.cases, config(), folder, overwrite=True).failures
    assert "was not made by verse3d slices" in failure.error


@pytest.mark.parametrize("name", ["nowhere", "."])
def test_a_folder_without_a_manifest_is_refused(tmp_path, name):
    with pytest.raises(DataError, match="is no folder of slices"):
        SliceFolder(tmp_path / name, "train")


def test_a_missing_file_is_refused_by_name(folder):
    gone = next(folder.glob("train/case0/*_mask.png"))
    gone.unlink()
    with pytest.raises(DataError, match=rf"lacks these PNGs of its manifest \(1\): train/case0/{gone.name}"):
        SliceFolder(folder, "train")
    assert len(SliceFolder(folder, "validation")) > 0


def test_a_foreign_file_is_refused_by_name(folder):
    shutil.copy(next(folder.glob("train/case0/*_mask.png")), folder / "train" / "holiday.png")
    with pytest.raises(DataError, match=r"its manifest does not list \(1\): train/holiday.png"):
        SliceFolder(folder, "train")


@pytest.mark.parametrize(
    ("mode", "words"),
    [("RGB", "is RGB"), ("RGBA", "transparency"), ("I;16", "is 16-bit grey"), ("1", "1 bit"), ("P", "palette")],
)
@pytest.mark.parametrize("what", ["image", "mask"])
def test_a_picture_that_is_not_8_bit_grey_is_refused_by_name(folder, mode, words, what):
    path = folder / getattr(SliceFolder(folder, "train").rows[3], what)
    with Image.open(path) as picture:
        changed = Image.fromarray(np.array(picture).astype(np.uint16)) if mode == "I;16" else picture.convert(mode)
    changed.save(path)
    with pytest.raises(DataError, match=words) as caught:
        SliceFolder(folder, "train")[3]
    assert str(path) in caught.value.message


@pytest.mark.parametrize("what", ["image", "mask"])
def test_a_picture_of_another_size_is_refused_by_name(folder, what):
    path = folder / getattr(SliceFolder(folder, "train").rows[3], what)
    Image.fromarray(np.zeros((31, 25), np.uint8)).save(path)
    with pytest.raises(DataError, match=rf"{path.name} has 31 x 25 pixels, 25 x 31 belong there"):
        SliceFolder(folder, "train")[3]


@pytest.mark.parametrize("content", [b"", b"no picture at all", "half"], ids=str)
def test_a_damaged_picture_is_refused_by_name(folder, content):
    path = folder / SliceFolder(folder, "train").rows[3].image
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(DataError, match=path.name):
        SliceFolder(folder, "train")[3]


@pytest.mark.parametrize(
    ("scheme", "value", "words"), [("binary", 128, "0 and 255 only"), ("vertebrae", 99, "unknown")]
)
def test_a_mask_with_other_values_is_refused_by_name(dataset, tmp_path, scheme, value, words):
    write_slices(dataset.cases[:1], config(labels={"scheme": scheme}), tmp_path)
    path = tmp_path / SliceFolder(tmp_path, "train").rows[0].mask
    Image.fromarray(np.full((25, 31), value, np.uint8)).save(path)
    with pytest.raises(DataError, match=words) as caught:
        SliceFolder(tmp_path, "train")[0]
    assert path.name in caught.value.message


@pytest.mark.parametrize("line", ["nonsense", "[]", "{}", json.dumps({"case": "a"})])
def test_a_broken_line_of_the_manifest_is_refused_by_number(folder, line):
    manifest = Path(folder / "manifest.jsonl")
    lines = manifest.read_text().splitlines()
    manifest.write_text("\n".join([*lines[:2], line, *lines[2:]]))
    with pytest.raises(DataError, match=r"manifest\.jsonl, line 3 is (damaged|not JSON)"):
        SliceFolder(folder, "train")


@pytest.mark.parametrize("name", ["/", "../x.png", "train/a\0.png", "", "/etc/x.png", "train/../../x.png", "a\\..\\x"])
@pytest.mark.parametrize("key", ["image", "mask"])
def test_a_line_of_the_manifest_whose_file_lies_elsewhere_is_refused(folder, key, name):
    line = json.loads((folder / "manifest.jsonl").read_text().splitlines()[0])
    (folder / "manifest.jsonl").write_text(json.dumps({**line, key: name}) + "\n")
    with pytest.raises(DataError, match=r"manifest\.jsonl, line 1: the file"):
        read_manifest(folder)


def test_slices_whose_pixels_have_a_size_are_written_whole_and_not_stretched(dataset, tmp_path):
    settings = config(slices={"size_pixels": [10, 12], "spacing_mm": 3.0})
    write_slices(dataset.cases, settings, tmp_path / "out")
    slices = SliceFolder(tmp_path / "out", "train")
    prepared = {case.case: prepare_case(case, settings) for case in dataset}
    for row, item in zip(slices.rows, slices, strict=True):
        case = prepared[row.case]
        assert case.geometry.spacing_mm == pytest.approx((4, 3, 3))
        # rows: from the head down, columns: from the front backwards
        expected = case.image[0, row.index, ::-1, ::-1].T.astype(np.float32)
        np.testing.assert_allclose(item["image"][0].numpy(), expected, atol=0.5 / 255 + 1e-6)
        np.testing.assert_array_equal(item["label"][0].numpy(), case.label[0, row.index, ::-1, ::-1].T)
    assert len({item["image"].shape for item in slices}) > 1, "every case has its own size"


def test_slices_that_are_written_whole_have_no_other_size(dataset, tmp_path):
    write_index(tmp_path / "cases.jsonl", dataset)
    settings = {"data": tmp_path / "cases.jsonl", "out": tmp_path / "out", "config": "slices2d-mm"}
    with pytest.raises(ConfigError, match="written whole, so they have no other size") as caught:
        verse3d.slices(**settings, size=64)
    assert caught.value.option == "size" and not (tmp_path / "out").exists()


def test_what_slices_were_cut_from_is_told_as_before_if_they_are_stretched(written):
    """So a folder that was filled before pixels could have a size is kept."""
    cut = json.loads(next(written.rglob("slices.json")).read_text())["made_from"]
    assert cut["settings"]["slices"] == {"plane": "sagittal", "size_pixels": [25, 31], "neighbours": 0}
