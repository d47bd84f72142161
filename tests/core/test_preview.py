import gzip

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import affine, hounsfield, label_map, save_scan
from verse3d.core.errors import DataError, GeometryError
from verse3d.core.preview import read_preview
from verse3d.core.volume import read_image, read_labels


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, ">i2"])
def test_an_ordinary_scan_is_what_the_strict_reader_reads(tmp_path, suffix, dtype):
    path = save_scan(tmp_path / f"a{suffix}", hounsfield().astype(dtype), affine("PIR", degrees=(5, 6, 7)))
    found, strict = read_preview(path), read_image(path)
    assert found.volume.geometry == strict.geometry
    np.testing.assert_array_equal(found.values(found.volume.array), strict.array)
    assert found.notes == ()


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_of_several_volumes_the_first_is_read_and_that_is_noted(tmp_path, suffix):
    noise = np.random.default_rng(0).integers(-30000, 30000, (5, 6, 7, 3)).astype(np.int16)
    path = tmp_path / f"a{suffix}"
    nib.save(nib.Nifti1Image(noise, affine("LPS")), path)
    found = read_preview(path)
    np.testing.assert_array_equal(found.volume.array, noise[..., 0])
    assert "3 volumes" in found.notes[0]


def test_a_single_volume_with_four_axes_is_nothing_unusual(tmp_path):
    voxels = hounsfield()
    nib.save(nib.Nifti1Image(voxels[..., None], affine()), tmp_path / "a.nii")
    found = read_preview(tmp_path / "a.nii")
    np.testing.assert_array_equal(found.volume.array, voxels)
    assert found.notes == ()


def test_a_file_of_two_axes_is_a_slice(tmp_path):
    voxels = hounsfield()[:, :, 0]
    nib.save(nib.Nifti1Image(voxels, affine()), tmp_path / "a.nii.gz")
    found = read_preview(tmp_path / "a.nii.gz")
    assert found.volume.geometry.shape == (5, 6, 1)
    np.testing.assert_array_equal(found.volume.array[..., 0], voxels)
    assert "single slice" in found.notes[0]


def test_voxels_that_are_no_numbers_are_kept_and_counted(tmp_path):
    voxels = hounsfield().astype(np.float32)
    voxels[1, 2, 3], voxels[0, 0, 0], voxels[4, 4, 4] = np.nan, np.inf, -np.inf
    found = read_preview(save_scan(tmp_path / "a.nii.gz", voxels, affine()))
    np.testing.assert_array_equal(found.values(found.volume.array), voxels)
    assert found.notes[0].startswith("3 voxels")


def test_scaled_voxels_stay_small_until_their_values_are_asked_for(tmp_path):
    path = save_scan(tmp_path / "a.nii", hounsfield(), affine())
    content = bytearray(path.read_bytes())
    content[112:120] = np.array([2.0, -1024.0], "<f4").tobytes()  # scl_slope, scl_inter
    path.write_bytes(content)
    found = read_preview(path)
    assert found.volume.array.dtype == np.int16
    np.testing.assert_allclose(found.values(found.volume.array[1]), read_image(path).array[1])


def test_an_uncompressed_file_is_mapped(tmp_path):
    found = read_preview(save_scan(tmp_path / "a.nii", hounsfield(), affine()))
    assert isinstance(found.volume.array, np.memmap)


def test_a_header_without_an_orientation_is_noted(tmp_path):
    found = read_preview(save_scan(tmp_path / "a.nii", hounsfield(), affine(), qform=0, sform=0))
    assert "guess" in found.notes[0]


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float64])
def test_labels_are_those_of_the_strict_reader(tmp_path, dtype):
    path = save_scan(tmp_path / "a.nii.gz", label_map().astype(dtype), affine())
    labels = read_preview(path).labels()
    assert labels.dtype == np.uint8
    np.testing.assert_array_equal(labels, read_labels(path).array)


@pytest.mark.parametrize(("value", "words"), [(1.5, "whole number"), (-1.0, "between 0"), (np.nan, "NaN")])
def test_what_is_no_label_map_is_refused_as_labels(tmp_path, value, words):
    voxels = label_map().astype(np.float32)
    voxels[1, 1, 1] = value
    found = read_preview(save_scan(tmp_path / "a.nii.gz", voxels, affine()))
    with pytest.raises(DataError, match=words):
        found.labels()


def test_a_packed_file_with_a_wrong_bit_or_cut_off_is_refused(tmp_path):
    path = save_scan(tmp_path / "a.nii.gz", hounsfield(), affine())
    whole = path.read_bytes()
    for content in (whole[:-3], whole[: len(whole) // 2], whole[:-6] + bytes([whole[-6] ^ 1]) + whole[-5:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match="damaged"):
            read_preview(path)


def test_colours_are_refused(tmp_path):
    colours = np.zeros((3, 4, 5), [("R", "u1"), ("G", "u1"), ("B", "u1")])
    nib.save(nib.Nifti1Image(colours, np.eye(4)), tmp_path / "a.nii.gz")
    with pytest.raises(DataError, match="RGB"):
        read_preview(tmp_path / "a.nii.gz")


def test_a_singular_affine_is_refused_with_the_path(tmp_path):
    image = nib.Nifti1Image(hounsfield(), np.eye(4))
    image.header["sform_code"], image.header["srow_z"] = 1, 0
    content = bytearray(gzip.decompress(gzip.compress(image.to_bytes())))
    content[252:256] = np.array([0, 1], "<i2").tobytes()
    content[280:328] = np.array([1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0], "<f4").tobytes()
    (tmp_path / "flat.nii").write_bytes(content)
    with pytest.raises(GeometryError, match=r"flat\.nii.*singular"):
        read_preview(tmp_path / "flat.nii")
