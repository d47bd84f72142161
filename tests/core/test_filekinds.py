"""Files are called what they are, whatever their names say."""

import gzip
import io
import pickle
import zipfile
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from verse3d.core.filekinds import DICOM, FOLDER, dicom_series, kind_of

DATA = Path(__file__).parents[2].parent / "shared" / "data" / "dicom"
NIFTI_BYTES = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_bytes()


def zipped() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("a.txt", "a")
    return content.getvalue()


def dicom(series: str, *, explicit: bool = True) -> bytes:
    value = series.encode() + b"\0" * (len(series) % 2)
    head = b"UI" + len(value).to_bytes(2, "little") if explicit else len(value).to_bytes(4, "little")
    return bytes(128) + b"DICM" + bytes(40) + bytes.fromhex("20000e00") + head + value + bytes(20)


KINDS = {
    ("scan.nii", NIFTI_BYTES): "a NIfTI file",
    ("scan.nii.gz", gzip.compress(NIFTI_BYTES)): "a NIfTI file",
    ("scan", nib.Nifti2Image(np.zeros((3, 4, 5), np.int16), np.eye(4)).to_bytes()): "a NIfTI file",
    ("pairs.gz", gzip.compress(b"words")): "a gzip file",
    ("broken.gz", b"\x1f\x8b\x08\xff\xff"): "a gzip file",
    ("IM0001", dicom("1.2.3")): "a DICOM file",
    ("no-preamble.dcm", b"\x08\x00\x05\x00CS\n\0ISO_IR 100"): "a DICOM file",
    ("scan.mha", b"ObjectType = Image\nNDims = 3\n"): "a MetaImage file",
    ("scan", b"ObjectType = Image\nNDims = 3\n" + bytes(300)): "a MetaImage file",
    ("scan.mhd", b"\xff\xfe junk"): "a MetaImage header",
    ("scan.nrrd", b"NRRD0005\n# Complete"): "an NRRD image",
    ("net.pth", zipped()): "a zip archive",
    ("net.pkl", pickle.dumps({"a": 1}, protocol=2)): "a Python pickle, as old versions of PyTorch wrote them",
    ("picture.png", b"\x89PNG\r\n\x1a\n" + bytes(20)): "a PNG picture",
    ("cases.jsonl", b'{"case": "a"}\n'): "a text file",
    ("Umlaut.yaml", ("a: " + "ä" * 400).encode()): "a text file",
    ("nothing", b""): "an empty file",
    ("random", bytes(range(200))): "",
}


@pytest.mark.parametrize(
    ("file", "kind"), KINDS.items(), ids=lambda value: value[0] if isinstance(value, tuple) else ""
)
def test_a_file_is_known_by_its_first_bytes_else_by_its_name(tmp_path, file, kind):
    name, content = file
    (tmp_path / name).write_bytes(content)
    assert kind_of(tmp_path / name).name == kind
    assert kind_of(tmp_path / name).is_text == (kind == "a text file")


def test_folders_and_files_that_cannot_be_read_are_told(tmp_path):
    assert kind_of(tmp_path) == FOLDER
    assert kind_of(tmp_path / "gone").name == "a file that cannot be read (No such file or directory)"


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize("series", ["1.2.840.1", "1.2.840.11"])
def test_the_series_of_a_dicom_file_is_found(tmp_path, explicit, series):
    (tmp_path / "a").write_bytes(dicom(series, explicit=explicit))
    assert kind_of(tmp_path / "a") == DICOM
    assert dicom_series(tmp_path / "a") == series


def test_files_without_a_series_and_other_files_are_told_apart(tmp_path):
    (tmp_path / "a").write_bytes(bytes(128) + b"DICM" + bytes(40))
    (tmp_path / "b").write_bytes(gzip.compress(NIFTI_BYTES))
    assert dicom_series(tmp_path / "a") == ""
    assert dicom_series(tmp_path / "b") is None
    assert dicom_series(tmp_path / "gone") is None


@pytest.mark.skipif(not DATA.is_dir(), reason="the real DICOM series are not there")
def test_real_slices_of_one_series_share_their_uid():
    found = {dicom_series(path) for path in sorted((DATA / "abdomen-40").iterdir())}
    assert len(found) == 1
    assert found.pop().startswith("1.3.6.1.4.1.")
