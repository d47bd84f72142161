"""What is read is what is stored, in the world's place, without a second copy in memory."""

import gzip
import tracemalloc
from functools import cache

import nibabel as nib
import numpy as np
import pytest
import torch

from tests.core.grids import SHAPE, affine, file_bytes, hounsfield, label_map, save_scan, stored_header
from tests.core.stored_scans import MATRIX, SUFFIXES, poke
from verse3d.core.errors import DataError
from verse3d.core.nifti_header import nifti_stem
from verse3d.core.volume import read_geometry, read_image, read_labels


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.uint16, np.int32, np.float32])
def test_a_scan_comes_back_with_voxels_dtype_and_grid(tmp_path, suffix, dtype):
    voxels = hounsfield(dtype=np.int16).astype(dtype)
    path = save_scan(tmp_path / f"ct{suffix}", voxels, MATRIX)
    volume = read_image(path)
    assert volume.array.dtype == dtype
    np.testing.assert_array_equal(volume.array, voxels)
    np.testing.assert_array_equal(volume.geometry.affine, nib.load(path).affine)
    np.testing.assert_allclose(volume.geometry.affine, MATRIX, atol=1e-4)
    assert volume.path == path
    geometry, header = read_geometry(path)
    assert geometry == volume.geometry
    assert header == volume.header


def test_float64_scans_become_float32(tmp_path):
    voxels = hounsfield(dtype=np.float64) + 0.25
    volume = read_image(save_scan(tmp_path / "ct.nii.gz", voxels, MATRIX))
    assert volume.array.dtype == np.float32
    np.testing.assert_array_equal(volume.array, voxels.astype(np.float32))


def test_scaled_scans_become_hounsfield_units(tmp_path):
    image = nib.Nifti1Image(hounsfield(), MATRIX)
    image.header.set_slope_inter(0.5, -1024)
    path = tmp_path / "ct.nii.gz"
    image.to_filename(path)
    poke(path, 112, np.array([0.5, -1024], dtype="<f4").tobytes())  # nibabel scales the voxels while saving
    stored = np.frombuffer(file_bytes(path)[352:], dtype="<i2").reshape(SHAPE, order="F")
    volume = read_image(path)
    assert volume.array.dtype == np.float32
    np.testing.assert_allclose(volume.array, stored * 0.5 - 1024)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", [">i2", ">f4", ">i4"])
def test_big_endian_scans_are_read_into_arrays_that_torch_takes(tmp_path, suffix, dtype):
    voxels = hounsfield(dtype=dtype)
    image = nib.Nifti1Image(voxels, MATRIX, nib.Nifti1Header(endianness=">"))
    image.set_data_dtype(dtype)
    image.to_filename(tmp_path / f"ct{suffix}")
    volume = read_image(tmp_path / f"ct{suffix}")
    assert volume.header.endianness == ">"
    np.testing.assert_array_equal(torch.from_numpy(volume.array).numpy(), voxels)


@pytest.mark.parametrize("level", [0, 1, 9])
@pytest.mark.parametrize("read", [read_image, read_labels])
def test_files_that_packing_hardly_shrinks_are_read(tmp_path, read, level):
    voxels = np.random.default_rng(0).integers(0, 65535, (20, 21, 22)).astype(np.uint16)
    path = tmp_path / "noise.nii.gz"
    path.write_bytes(gzip.compress(nib.Nifti1Image(voxels, affine()).to_bytes(), level))
    np.testing.assert_array_equal(read(path).array, voxels)


def test_nifti2_scans_are_read(tmp_path):
    voxels = hounsfield()
    volume = read_image(save_scan(tmp_path / "ct.nii.gz", voxels, MATRIX, kind=nib.Nifti2Image))
    assert isinstance(volume.header, nib.Nifti2Header)
    np.testing.assert_array_equal(volume.array, voxels)


@pytest.mark.parametrize("codes", [(1, 0), (0, 2), (0, 0), (2, 1)])
def test_the_grid_is_the_one_that_nibabel_sees_whatever_the_form_codes(tmp_path, codes):
    qform, sform = codes
    path = save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX, qform=qform, sform=sform)
    np.testing.assert_array_equal(read_geometry(path)[0].affine, nib.load(path).affine)


@pytest.mark.filterwarnings("ignore")
def test_the_header_is_kept_as_stored_without_repairs(tmp_path):
    path = save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX, qform=0, sform=1)
    poke(path, 76, np.array([0, -0.7], dtype="<f4").tobytes())  # qfac 0 and a negative spacing
    for header in (read_image(path).header, read_geometry(path)[1]):
        assert header["pixdim"].tobytes() == stored_header(path)["pixdim"].tobytes()


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int32, np.int64, np.float32, np.float64, ">i2"])
def test_whole_number_masks_of_any_dtype_become_uint8(tmp_path, dtype):
    labels = label_map()
    image = nib.Nifti1Image(labels.astype(dtype), MATRIX, dtype=np.dtype(dtype))
    image.to_filename(tmp_path / "mask.nii.gz")
    volume = read_labels(tmp_path / "mask.nii.gz")
    assert volume.array.dtype == np.uint8
    np.testing.assert_array_equal(volume.array, labels)


def test_ids_above_255_become_uint16(tmp_path):
    labels = label_map().astype(np.int32)
    labels[1, 2, 3] = 300
    volume = read_labels(save_scan(tmp_path / "mask.nii.gz", labels, MATRIX))
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array, labels)


def test_a_stem_is_the_name_without_its_suffix(tmp_path):
    assert nifti_stem(tmp_path / "sub-verse500_dir-ax_ct.nii.gz") == "sub-verse500_dir-ax_ct"
    assert nifti_stem(tmp_path / "a.b.nii") == "a.b"
    assert nifti_stem(tmp_path / "CT.NII.GZ") == "CT"


STORED = ["u1", "i1", "<i2", ">i2", "<u2", ">u2", "<i4", ">i4", "<i8", ">u8", "<f4", ">f4", "<f8", ">f8"]
SCALES = [(1, 0), (1, -1024), (0.5, 0), (0.1, -3.7), (-2, 5), (float("nan"), 0)]


def raw_file(path, stored, scale, kind=nib.Nifti1Image):
    """A file with just these stored voxels and this scale, of the byte order of its voxels."""
    order = ">" if stored.dtype.byteorder == ">" else "<"
    header = kind.header_class(endianness=order)
    header.set_data_dtype(stored.dtype)
    header.set_data_shape(stored.shape)
    header.set_sform(MATRIX, 1)
    header["scl_slope"], header["scl_inter"] = scale
    header["magic"] = header.single_magic
    header["vox_offset"] = offset = len(header.binaryblock) + 36
    content = header.binaryblock.ljust(offset, b"\0") + stored.tobytes(order="F")
    path.write_bytes(gzip.compress(content, 1) if path.name.endswith(".gz") else content)
    return path


@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", STORED)
def test_every_voxel_has_bit_for_bit_the_value_that_nibabel_gives_it(tmp_path, monkeypatch, kind, suffix, dtype):
    monkeypatch.setattr("verse3d.core.nifti_bytes._CHUNK_VOXELS", 23)  # many chunks, the last one not full
    monkeypatch.setattr("verse3d.core.nifti_bytes._CHUNK_BYTES", 100)
    stored = (hounsfield() % 120).astype(dtype)
    if stored.dtype.kind == "f":
        stored += np.asarray(1 / 3, dtype)
    for number, scale in enumerate(SCALES):
        path = raw_file(tmp_path / f"{number}{suffix}", stored, scale, kind)
        theirs = np.asanyarray(nib.load(path, mmap=False).dataobj)
        expected = theirs.astype(np.float32) if theirs.dtype.kind == "f" else theirs
        ours = read_image(path).array
        assert ours.dtype == expected.dtype.newbyteorder("=")
        np.testing.assert_array_equal(ours, expected, strict=False)
        assert ours.tobytes() == expected.astype(ours.dtype).tobytes()


@pytest.mark.parametrize("scale", [(1, 0), (2, 0), (1, 300)])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("dtype", STORED)
def test_labels_of_any_dtype_and_scale_are_those_that_nibabel_reads(tmp_path, monkeypatch, suffix, dtype, scale):
    monkeypatch.setattr("verse3d.core.nifti_bytes._CHUNK_VOXELS", 23)
    path = raw_file(tmp_path / f"mask{suffix}", label_map().astype(dtype), scale)
    ours = read_labels(path).array
    assert ours.dtype == (np.uint16 if scale[1] else np.uint8)
    np.testing.assert_array_equal(ours, nib.load(path, mmap=False).get_fdata())


def test_an_id_above_255_in_a_late_chunk_keeps_all_earlier_ones(tmp_path, monkeypatch):
    monkeypatch.setattr("verse3d.core.nifti_bytes._CHUNK_VOXELS", 64)
    labels = label_map().astype(np.int16)
    labels[-1, -1, -2] = 40_000 - 2**16 + 2**15  # 7232
    volume = read_labels(save_scan(tmp_path / "mask.nii.gz", labels, MATRIX))
    assert volume.array.dtype == np.uint16
    np.testing.assert_array_equal(volume.array, labels)


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_several_gzip_streams_in_one_file_are_one_scan(tmp_path, read):
    voxels = label_map((40, 41, 42))
    content = file_bytes(save_scan(tmp_path / "ct.nii", voxels, MATRIX))
    parts = [gzip.compress(content[start : start + 9000], 1 + start % 9) for start in range(0, len(content), 9000)]
    (tmp_path / "ct.nii.gz").write_bytes(b"".join(parts) + gzip.compress(b"") + bytes(512))
    np.testing.assert_array_equal(read(tmp_path / "ct.nii.gz").array, voxels)
    damaged = bytearray(b"".join(parts))
    damaged[len(damaged) - len(parts[-1]) - 6] ^= 1  # the checksum of the last stream but one
    (tmp_path / "ct.nii.gz").write_bytes(damaged)
    with pytest.raises(DataError, match="cannot read"):
        read(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("read", [read_image, read_labels])
def test_rubbish_behind_a_packed_scan_is_noticed_and_behind_a_plain_one_is_not(tmp_path, read):
    for suffix in SUFFIXES:
        path = save_scan(tmp_path / f"ct{suffix}", label_map(), MATRIX)
        path.write_bytes(path.read_bytes() + b"rubbish")
    np.testing.assert_array_equal(read(tmp_path / "ct.nii").array, label_map())
    with pytest.raises(DataError, match="cannot read"):
        read(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_was_read_stays_when_the_file_changes(tmp_path, read, suffix):
    path = save_scan(tmp_path / f"mask{suffix}", label_map(), MATRIX)
    volume = read(path)
    path.write_bytes(bytes(path.stat().st_size))
    np.testing.assert_array_equal(volume.array, label_map())


@pytest.fixture(scope="module")
def large_file(tmp_path_factory):
    """A file of 6.6 million voxels, which takes long to write, and is read as a scan and as a mask."""
    folder = tmp_path_factory.mktemp("large")

    @cache
    def write(suffix, dtype, scale):
        stored = np.zeros((128, 128, 400), dtype)
        stored[3:90, 20:70, 5:300] = 9
        return raw_file(folder / f"{len(list(folder.iterdir()))}{suffix}", stored, scale)

    return write


@pytest.mark.parametrize("read", [read_image, read_labels])
@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("dtype", "scale"),
    [
        ("<i2", (1, 0)),
        (">i2", (1, 0)),
        (">i2", (2, 0)),
        ("<f4", (2, 0)),
        ("<f8", (1, 0)),
        ("<f8", (2, 0)),
        ("u1", (1, 0)),
    ],
)
def test_reading_holds_the_array_and_a_few_chunks(large_file, read, suffix, dtype, scale):
    path = large_file(suffix, dtype, scale)
    read_geometry(path)
    tracemalloc.start()
    array = read(path).array
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert array.max() == 9 * scale[0]
    assert peak < array.nbytes + 6e6


@pytest.mark.parametrize("shape", [(5, 6, 7, 1), (5, 6, 7, 1, 1)])
def test_further_axes_of_length_one_are_left_out(tmp_path, shape):
    labels = np.arange(210, dtype=np.int16).reshape((5, 6, 7)) % 200
    path = tmp_path / "four.nii.gz"
    nib.Nifti1Image(labels.reshape(shape), MATRIX).to_filename(path)
    assert read_geometry(path)[0].shape == (5, 6, 7)
    for read in (read_image, read_labels):
        np.testing.assert_array_equal(read(path).array, labels)
        assert read(path).header.get_data_shape() == shape
