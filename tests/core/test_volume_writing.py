import gzip
import tracemalloc

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import (
    SHAPE,
    TILT_DEGREES,
    affine,
    file_bytes,
    hounsfield,
    label_map,
    save_scan,
    stored_header,
)
from tests.scans import fill_disk, spoil_disk
from verse3d.core.errors import DataError, GeometryError, OutputError
from verse3d.core.volume import GEOMETRY_FIELDS, read_image, read_labels, write_labels

try:
    import resource
except ImportError:  # not on Windows
    resource = None

MATRIX = affine("PIR", degrees=TILT_DEGREES)
SUFFIXES = [".nii", ".nii.gz"]
GEOMETRY_BYTES = [(39, 40), (40, 56), (76, 108), (123, 124), (252, 328)]
"""Where NIfTI-1 keeps dim_info, dim, pixdim, xyzt_units, and all of qform and sform."""


def names(folder) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def swapped_scan(path):
    """A big-endian scan."""
    image = nib.Nifti1Image(hounsfield(dtype=">i2"), MATRIX, nib.Nifti1Header(endianness=">"))
    image.set_data_dtype(">i2")
    image.set_qform(MATRIX, 1)
    image.to_filename(path)


def scaled_scan(path):
    image = nib.Nifti1Image(hounsfield(dtype=np.float64) / 7, MATRIX)
    image.set_data_dtype(np.int16)
    image.to_filename(path)


def odd_scan(path):
    """qfac 0, a negative spacing, rubbish behind the third axis, odd units: nibabel would repair some of it."""
    save_scan(path, hounsfield(), MATRIX, qform=0, sform=2)
    content = bytearray(file_bytes(path))
    content[39] = 0b100111
    content[76:84] = np.array([0, -0.7], dtype="<f4").tobytes()
    content[92:96] = np.array([-1.5], dtype="<f4").tobytes()
    content[123] = 0
    content[50:56] = np.array([0, 7, 1], dtype="<i2").tobytes()
    path.write_bytes(gzip.compress(content) if path.name.endswith(".gz") else content)


def scan_maker(dtype=np.int16, **options):
    return lambda path: save_scan(path, hounsfield().astype(dtype), MATRIX, **options)


SCANS = {
    "int16": scan_maker(),
    "int32": scan_maker(np.int32),
    "float32": scan_maker(np.float32),
    "float64": scan_maker(np.float64),
    "uint8": scan_maker(np.uint8),
    "scaled int16": scaled_scan,
    "big-endian": swapped_scan,
    "nifti-2": scan_maker(kind=nib.Nifti2Image),
    "qform only": scan_maker(qform=1, sform=0),
    "sform only": scan_maker(qform=0, sform=2),
    "other codes": scan_maker(qform=3, sform=4),
    "both codes 0": scan_maker(qform=0, sform=0),
    "odd header": odd_scan,
}


@pytest.fixture(params=SCANS)
def scan(request, tmp_path):
    path = tmp_path / "ct.nii.gz"
    SCANS[request.param](path)
    return path


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_mask_lies_on_the_grid_of_its_scan_bit_for_bit(scan, suffix):
    mask, labels = scan.with_name(f"mask{suffix}"), label_map()
    source = read_image(scan)
    write_labels(mask, labels, like=source.header)

    theirs, ours = stored_header(scan), stored_header(mask)
    assert type(ours) is type(theirs)
    for field in GEOMETRY_FIELDS:
        assert ours[field].tobytes() == theirs[field].tobytes(), field
    if isinstance(ours, nib.Nifti1Header) and not isinstance(ours, nib.Nifti2Header):
        for start, stop in GEOMETRY_BYTES:
            assert file_bytes(mask)[start:stop] == file_bytes(scan)[start:stop]
    assert ours.get_data_dtype() == np.uint8
    assert (ours["scl_slope"], ours["scl_inter"]) == (1, 0)
    assert (ours["cal_min"], ours["cal_max"]) == (0, 0)

    volume = read_labels(mask)
    np.testing.assert_array_equal(volume.array, labels)
    assert volume.geometry == source.geometry
    np.testing.assert_array_equal(nib.load(mask).affine, nib.load(scan).affine)
    np.testing.assert_array_equal(np.asarray(nib.load(mask).dataobj), labels)
    assert names(scan.parent) == sorted([scan.name, mask.name])


def test_a_header_taken_from_nibabel_serves_as_well(tmp_path):
    path = save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX)
    write_labels(tmp_path / "mask.nii.gz", label_map(), like=nib.load(path).header)
    np.testing.assert_array_equal(nib.load(tmp_path / "mask.nii.gz").affine, nib.load(path).affine)


def test_what_describes_the_scan_or_names_the_patient_is_not_copied(tmp_path):
    path = save_scan(tmp_path / "ct.nii", hounsfield(), MATRIX)
    image = nib.load(path)
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"Jane Doe, 1970"))
    image.header["descrip"] = b"Jane Doe"
    image.header["aux_file"] = b"Doe.dcm"
    image.header.set_intent("correlation", (2,), "Doe")
    image.to_filename(tmp_path / "named.nii")
    source = read_image(tmp_path / "named.nii")
    write_labels(tmp_path / "mask.nii", label_map(), like=source.header)
    assert b"Doe" in file_bytes(tmp_path / "named.nii")
    assert b"Doe" not in file_bytes(tmp_path / "mask.nii")
    assert len(nib.load(tmp_path / "mask.nii").header.extensions) == 0
    assert nib.load(tmp_path / "mask.nii").header.get_intent()[0] == "none"
    assert len(source.header.extensions) == 1  # the scan's own header is left alone
    assert source.header["descrip"].item() == b"Jane Doe"


@pytest.mark.parametrize("layout", ["C", "F", "strided", "read-only"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_labels_in_any_memory_layout_are_written_alike(tmp_path, layout, suffix):
    source = read_image(save_scan(tmp_path / "ct.nii", hounsfield(), MATRIX))
    labels = np.asarray(label_map(), order="F" if layout == "F" else "C")
    if layout == "strided":
        labels = np.repeat(labels, 2, axis=1)[:, ::-2][:, ::-1]
    labels.setflags(write=layout != "read-only")
    write_labels(tmp_path / f"mask{suffix}", labels, like=source.header)
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / f"mask{suffix}").dataobj), labels)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 6, 7), (5, 6, 1), (5, 1, 7)])
def test_single_slices_are_written_on_their_grid(tmp_path, shape):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(shape), MATRIX))
    write_labels(tmp_path / "mask.nii.gz", label_map(shape), like=source.header)
    assert read_labels(tmp_path / "mask.nii.gz").geometry == source.geometry


def test_the_same_mask_gives_the_same_bytes_under_any_name(tmp_path):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX))
    for name in ("a.nii.gz", "b.nii.gz"):
        write_labels(tmp_path / name, label_map(), like=source.header)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()


def test_capital_suffixes_and_missing_folders_are_no_obstacle(tmp_path):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX))
    path = tmp_path / "new" / "folder" / "MASK.NII.GZ"
    write_labels(path, label_map(), like=source.header)
    assert path.read_bytes()[:2] == b"\x1f\x8b"
    np.testing.assert_array_equal(read_labels(path).array, label_map())


def test_a_mask_can_replace_the_very_file_it_was_read_from(tmp_path):
    path = save_scan(tmp_path / "mask.nii", label_map(), MATRIX)
    volume = read_labels(path)
    write_labels(path, np.where(volume.array == 1, np.uint8(28), volume.array), like=volume.header)
    assert 28 in read_labels(path).array
    assert 1 not in read_labels(path).array
    assert 1 in volume.array  # and what was read before stays what it was


@pytest.mark.parametrize("shape", [(7, 6, 5), (5, 6), (5, 6, 8), (5, 6, 7, 1)])
def test_a_mask_of_another_shape_is_refused(tmp_path, shape):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX))
    with pytest.raises(GeometryError, match=r"is not the scan's shape \(5, 6, 7\)"):
        write_labels(tmp_path / "mask.nii.gz", np.zeros(shape, dtype=np.uint8), like=source.header)
    assert names(tmp_path) == ["ct.nii.gz"]


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint16, bool])
def test_labels_that_are_not_uint8_are_refused(tmp_path, dtype):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX))
    with pytest.raises(TypeError, match="uint8"):
        write_labels(tmp_path / "mask.nii.gz", np.zeros(SHAPE, dtype=dtype), like=source.header)
    assert names(tmp_path) == ["ct.nii.gz"]


@pytest.mark.parametrize("name", ["mask.mha", "mask", "mask.nii.bz2"])
def test_a_mask_under_a_name_that_is_no_nifti_is_refused(tmp_path, name):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX))
    with pytest.raises(DataError, match="is not a NIfTI file"):
        write_labels(tmp_path / name, label_map(), like=source.header)
    assert names(tmp_path) == ["ct.nii.gz"]


@pytest.fixture
def folder_with_old_mask(tmp_path):
    save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX)
    (tmp_path / "mask.nii.gz").write_bytes(b"the old mask")
    return tmp_path


def assert_only_the_old_mask_is_there(folder) -> None:
    assert names(folder) == ["ct.nii.gz", "mask.nii.gz"]
    assert (folder / "mask.nii.gz").read_bytes() == b"the old mask"


@pytest.mark.parametrize("room", [0, 20, 100])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_leaves_the_old_mask_and_nothing_half_written(folder_with_old_mask, monkeypatch, room, suffix):
    source = read_image(folder_with_old_mask / "ct.nii.gz")
    fill_disk(monkeypatch, "mask", room)
    with pytest.raises(OutputError, match=rf"cannot write .*/mask\{suffix}.*\n.*disk is full"):
        write_labels(folder_with_old_mask / f"mask{suffix}", label_map(), like=source.header)
    assert_only_the_old_mask_is_there(folder_with_old_mask)


@pytest.mark.skipif(resource is None, reason="the system sets no limits to the size of a file")
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_system_that_takes_no_more_bytes_leaves_the_old_mask(tmp_path, suffix):
    shape = (90, 80, 1200)  # two blocks
    noise = np.random.default_rng(0).integers(0, 28, shape).astype(np.uint8)
    like = nib.Nifti1Image(noise, MATRIX).header
    (tmp_path / f"mask{suffix}").write_bytes(b"the old mask")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4_500_000, hard))
    try:
        with pytest.raises(OutputError, match=r"cannot write .*/mask"):
            write_labels(tmp_path / f"mask{suffix}", noise, like=like)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert names(tmp_path) == [f"mask{suffix}"]
    assert (tmp_path / f"mask{suffix}").read_bytes() == b"the old mask"


def test_an_interrupted_write_leaves_the_old_mask(folder_with_old_mask, monkeypatch):
    source = read_image(folder_with_old_mask / "ct.nii.gz")

    def interrupt(_):
        raise KeyboardInterrupt

    spoil_disk(monkeypatch, "mask", interrupt)
    with pytest.raises(KeyboardInterrupt):
        write_labels(folder_with_old_mask / "mask.nii.gz", label_map(), like=source.header)
    assert_only_the_old_mask_is_there(folder_with_old_mask)


def wrong_bit_at(offset: int):
    """What a disk does that changes one bit of a file."""
    position = [0]

    def change(content):
        changed, at = bytearray(content), offset - position[0]
        if 0 <= at < len(changed):
            changed[at] ^= 4
        position[0] += len(changed)
        return bytes(changed)

    return change


@pytest.mark.parametrize(
    ("offset", "words"),
    [(352 + 17, "voxels read back"), (100, "pixdim"), (42, "dim"), (283, "srow_x"), (0, "header"), (112, "header")],
)
def test_a_disk_that_changes_a_bit_is_noticed(tmp_path, monkeypatch, offset, words):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX))
    (tmp_path / "mask.nii").write_bytes(b"the old mask")
    spoil_disk(monkeypatch, "mask", wrong_bit_at(offset))
    with pytest.raises(OutputError, match=rf"/mask\.nii: .*{words}"):
        write_labels(tmp_path / "mask.nii", label_map(), like=source.header)
    assert names(tmp_path) == ["ct.nii.gz", "mask.nii"]
    assert (tmp_path / "mask.nii").read_bytes() == b"the old mask"


@pytest.mark.parametrize("place", [0.0, 0.04, 0.3, 0.6, 0.9, 0.97, 0.999])
def test_a_disk_that_changes_a_bit_of_a_packed_mask_is_noticed(folder_with_old_mask, monkeypatch, place):
    source = read_image(folder_with_old_mask / "ct.nii.gz")
    write_labels(folder_with_old_mask / "whole.nii.gz", label_map(), like=source.header)
    size = (folder_with_old_mask / "whole.nii.gz").stat().st_size
    (folder_with_old_mask / "whole.nii.gz").unlink()
    spoil_disk(monkeypatch, "mask", wrong_bit_at(int(size * place)))
    with pytest.raises(OutputError, match=r"/mask\.nii\.gz: .*(read back|changed while writing)"):
        write_labels(folder_with_old_mask / "mask.nii.gz", label_map(), like=source.header)
    assert_only_the_old_mask_is_there(folder_with_old_mask)


@pytest.mark.parametrize("change", [lambda content: content[:-1], lambda content: content + b"0"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_disk_that_loses_or_adds_bytes_is_noticed(folder_with_old_mask, monkeypatch, change, suffix):
    source = read_image(folder_with_old_mask / "ct.nii.gz")
    spoil_disk(monkeypatch, "mask", change)
    with pytest.raises(OutputError, match=r"/mask\.nii.*: .*(read back|changed while writing)"):
        write_labels(folder_with_old_mask / f"mask{suffix}", label_map(), like=source.header)
    assert_only_the_old_mask_is_there(folder_with_old_mask)


def test_a_mask_of_many_blocks_is_the_same_file_whatever_its_order_in_memory(tmp_path):
    shape = (130, 90, 900)  # three blocks
    labels = np.zeros(shape, dtype=np.uint8)
    labels[30:90, 20:70, 100:880] = np.arange(780) // 30 + 1
    like = nib.Nifti1Image(labels, MATRIX).header
    for name, order in (("c.nii.gz", "C"), ("f.nii.gz", "F")):
        write_labels(tmp_path / name, np.asarray(labels, order=order), like=like)
    content = (tmp_path / "c.nii.gz").read_bytes()
    assert content == (tmp_path / "f.nii.gz").read_bytes()
    assert content[3:9] == bytes(6), "no file name, no time"
    np.testing.assert_array_equal(np.asarray(nib.load(tmp_path / "c.nii.gz").dataobj), labels)


@pytest.mark.parametrize("order", ["C", "F"])
def test_writing_holds_a_few_blocks_beside_the_mask(tmp_path, order):
    labels = np.asarray(np.zeros((256, 256, 600), dtype=np.uint8), order=order)  # 39 MB
    labels[60:200, 70:190, 20:580] = 7
    like = nib.Nifti1Image(labels, MATRIX).header
    tracemalloc.start()
    write_labels(tmp_path / "mask.nii.gz", labels, like=like)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16e6


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    source = read_image(save_scan(tmp_path / "ct.nii.gz", hounsfield(), MATRIX))
    with pytest.raises(OutputError, match=r"a file") as caught:
        write_labels(tmp_path / "ct.nii.gz" / "mask.nii.gz", label_map(), like=source.header)
    assert caught.value.exit_code == 3
    assert names(tmp_path) == ["ct.nii.gz"]
