"""Files that hold no scan or no mask are refused with their name and what is wrong."""

import gzip

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import SHAPE, file_bytes, hounsfield, label_map, save_scan
from tests.core.stored_scans import MATRIX, READERS, SUFFIXES, poke
from verse3d.core.errors import DataError, GeometryError
from verse3d.core.volume import read_image, read_labels


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_mask_that_is_almost_whole_is_refused_with_the_place(tmp_path, dtype):
    labels = label_map().astype(dtype)
    labels[2, 3, 4] = 1.0000001
    path = save_scan(tmp_path / "mask.nii.gz", labels, MATRIX)
    with pytest.raises(DataError, match=r"1 label value is not a whole number, e\.g\. 1\.0000001.* at \(2, 3, 4\)"):
        read_labels(path)


@pytest.mark.parametrize(("value", "dtype"), [(-1, np.int16), (-3, np.float32), (65536, np.int32), (1e20, np.float64)])
def test_impossible_labels_are_refused_with_the_range(tmp_path, value, dtype):
    labels = label_map().astype(dtype)
    labels[0, 0, 0] = value
    with pytest.raises(DataError, match=f"between 0 and 65535, found .*{value:g}".replace("+", r"\+")):
        read_labels(save_scan(tmp_path / "mask.nii.gz", labels, MATRIX))


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_voxels_that_are_no_numbers_are_counted_and_located(tmp_path, read, value, dtype):
    voxels = np.zeros(SHAPE, dtype=dtype)
    voxels[3, 1, 2] = voxels[4, 5, 6] = value
    with pytest.raises(DataError, match=r"2 voxels are NaN or infinite, the first at index \(3, 1, 2\)"):
        read(save_scan(tmp_path / "ct.nii.gz", voxels, MATRIX))


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7, 2), (5, 6, 7, 1, 3)])
def test_files_without_exactly_three_axes_are_refused(tmp_path, read, shape):
    nib.Nifti1Image(np.zeros(shape, dtype=np.int16), MATRIX).to_filename(tmp_path / "ct.nii.gz")
    with pytest.raises(DataError, match=rf"has {len(shape)} axes .*expected 3"):
        read(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize(
    ("dtype", "what"), [([("R", "u1"), ("G", "u1"), ("B", "u1")], r"colours \(R, G, B\)"), (np.complex64, "complex64")]
)
def test_colours_and_complex_numbers_are_refused(tmp_path, read, dtype, what):
    nib.Nifti1Image(np.zeros(SHAPE, dtype=dtype), MATRIX).to_filename(tmp_path / "ct.nii.gz")
    with pytest.raises(DataError, match=f"voxels are {what}, expected one grey value each"):
        read(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("read", READERS)
def test_a_singular_affine_is_refused_with_the_path(tmp_path, read):
    path = save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX)
    poke(path, 280, bytes(16))  # srow_x
    with pytest.raises(GeometryError, match=r"ct\.nii\.gz: the affine is singular"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_an_affine_of_nan_is_refused_with_the_path(tmp_path, read):
    path = save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX)
    poke(path, 280, np.full(4, np.nan, dtype="<f4").tobytes())
    with pytest.raises(GeometryError, match=r"ct\.nii\.gz: the affine holds NaN"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_cut_off_is_refused(tmp_path, read, suffix, share):
    voxels = np.random.default_rng(0).integers(0, 200, (40, 41, 42)).astype(np.uint8)
    path = save_scan(tmp_path / f"ct{suffix}", voxels, MATRIX)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(DataError, match="cannot read") as caught:
        read(path)
    assert "download or export it again" in caught.value.hint


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("content", [b"", b"this is no scan", b"version https://git-lfs.github.com/spec/v1\n" * 20])
def test_a_file_that_is_no_nifti_is_refused(tmp_path, read, suffix, content):
    path = tmp_path / f"ct{suffix}"
    path.write_bytes(content)
    with pytest.raises(DataError, match=rf"cannot read .*ct{suffix}"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_packed_text_is_refused(tmp_path, read):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(b"this is no scan" * 100))
    with pytest.raises(DataError, match=r"cannot read .*ct\.nii\.gz"):
        read(path)


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("place", [0.3, 0.5, 0.99, 0.99997])
@pytest.mark.parametrize("packing", [0, 6])
def test_a_single_wrong_bit_in_a_packed_file_is_noticed(tmp_path, read, place, packing):
    voxels = np.random.default_rng(0).integers(0, 200, (40, 41, 42)).astype(np.uint8)
    path = save_scan(tmp_path / "ct.nii.gz", voxels, MATRIX)
    # Stored without packing the voxels stay readable, so that only the checksum at the very end can tell.
    content = bytearray(gzip.compress(file_bytes(path), compresslevel=packing))
    content[int(len(content) * place)] ^= 4
    path.write_bytes(content)
    with pytest.raises(DataError, match="cannot read"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_missing_files_and_folders_are_told_apart(tmp_path, read):
    (tmp_path / "folder.nii.gz").mkdir()
    with pytest.raises(DataError, match=r"none\.nii\.gz does not exist"):
        read(tmp_path / "none.nii.gz")
    with pytest.raises(DataError, match=r"folder\.nii\.gz is a folder"):
        read(tmp_path / "folder.nii.gz")


@pytest.mark.parametrize("read", READERS)
@pytest.mark.parametrize("name", ["ct.mha", "ct.nii.bz2", "ct.img", "nii.gz"])
def test_other_names_are_refused(tmp_path, read, name):
    (tmp_path / name).write_bytes(b"")
    with pytest.raises(DataError, match=r"neither with \.nii nor with \.nii\.gz"):
        read(tmp_path / name)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_voxels_that_would_begin_before_the_file_are_refused(tmp_path, read, suffix):
    path = save_scan(tmp_path / f"ct{suffix}", label_map(), MATRIX)
    poke(path, 108, np.array([-16], dtype="<f4").tobytes())
    with pytest.raises(DataError, match="cannot read"):
        read(path)


@pytest.mark.parametrize("read", READERS)
def test_another_kind_of_file_under_a_nifti_name_is_called_what_it_is(tmp_path, read):
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(bytes(128) + b"DICM" + bytes(300))
    with pytest.raises(DataError, match="is not NIfTI but a DICOM file") as refused:
        read(path)
    assert "dcm2niix" in refused.value.hint


@pytest.mark.parametrize("read", READERS)
def test_a_file_that_may_not_be_read_is_not_called_damaged(tmp_path, read, monkeypatch):
    path = save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX)
    open_file = type(path).open

    def refuse(self, *args, **options):  # the tests may run as root, who may read everything
        if self == path:
            raise PermissionError(13, "Permission denied", str(path))
        return open_file(self, *args, **options)

    monkeypatch.setattr(type(path), "open", refuse)
    with pytest.raises(DataError, match="may not be read: permission denied"):
        read(path)


@pytest.mark.parametrize("name", ["scan", "scan.txt", "scan.nii.gz"])
def test_what_is_not_there_is_called_so_whatever_its_name_is(tmp_path, name):
    with pytest.raises(DataError, match=f"{name} does not exist"):
        read_image(tmp_path / name)
