"""Our reading of a header agrees with ITK's wherever we say so, and a repair makes it so without moving the patient."""

import gzip
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import affine, file_bytes, hounsfield, label_map, save_scan, sheared_grid, stored_header
from tests.data.convert.conftest import seen_by_itk
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.volume import read_geometry, read_image
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.convert import convert_cases, nnunet_format
from verse3d.data.convert.itk import REPAIR_TOLERANCE_MM, itk_problem, repaired

SHAPE = (41, 36, 29)
DEGREES = (12.0, -9.0, 17.0)
ODD_AXES = ["PIR", "LAS", "SRA", "RPI"]


def skewed(cosine: float, codes="PIR") -> np.ndarray:
    matrix = affine(codes, degrees=DEGREES)
    matrix[:3, 2] += cosine * matrix[:3, 1] / 1.3 * 2.5
    return matrix


def scan(path: Path, matrix=None, *, sform=1, qform=1, dtype=np.int16, **fields) -> Path:
    """A file whose header fields are then changed as given, byte for byte."""
    matrix = affine("PIR", degrees=DEGREES) if matrix is None else matrix
    save_scan(path, hounsfield(SHAPE, dtype), matrix, sform=sform, qform=qform)
    content = bytearray(file_bytes(path))
    header = nib.Nifti1Header(bytes(content[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    content[:348] = header.binaryblock
    path.write_bytes(gzip.compress(bytes(content)))
    return path


def problem(path: Path) -> str:
    geometry, header = read_geometry(path)
    return itk_problem(header, geometry)


def apart_mm(path: Path) -> float:
    """How far ITK places a corner from where nibabel does; inf if it refuses the file."""
    try:
        grid, _ = seen_by_itk(path)
    except RuntimeError:
        return float("inf")
    return grid.distance_mm(read_geometry(path)[0])


PIXDIM = [1, 0.7, 1.3, 2.5, 0, 0, 0, 0]
FINE = {
    "both forms": {},
    "only a qform": {"sform": 0},
    "only an sform": {"qform": 0},
    "sform 2": {"sform": 2, "qform": 0},
    "unit unknown": {"xyzt_units": 0},
    "seconds too": {"xyzt_units": 10},
    "float64": {"dtype": np.float64},
    "int32": {"dtype": np.int32},
    "rounding": {"matrix": skewed(1e-6), "qform": 0},
}
SPOILED = {
    "no form": ({"sform": 0, "qform": 0}, "both 0"),
    "skewed": ({"matrix": skewed(4e-4), "qform": 0}, "not perpendicular"),
    "skewed beside a qform": ({"matrix": skewed(1e-3)}, "not perpendicular"),
    "metres": ({"xyzt_units": 1}, "unit of length"),
    "micrometres": ({"xyzt_units": 3}, "unit of length"),
    "other spacing": ({"qform": 0, "pixdim": [1, 0.7, 1.3, 2.6, 0, 0, 0, 0]}, "pixdim 0.7 x 1.3 x 2.6"),
    "no spacing": ({"qform": 0, "pixdim": [0] * 8}, "pixdim 0 x 0 x 0"),
    "negative spacing": ({"qform": 0, "pixdim": [1, -0.7, 1.3, 2.5, 0, 0, 0, 0]}, "pixdim -0.7"),
    "forms disagree": ({"sform": 2, "quatern_b": 0.3}, "disagree"),
    "no quaternion": ({"sform": 2, "quatern_b": 3.0}, "disagree"),
}


@pytest.mark.parametrize("name", FINE)
def test_a_header_without_a_problem_is_one_that_itk_reads_as_we_do(name, tmp_path):
    path = scan(tmp_path / "a.nii.gz", **FINE[name])
    assert problem(path) == ""
    assert apart_mm(path) < 0.02


@pytest.mark.parametrize("name", SPOILED)
def test_what_itk_refuses_or_moves_is_a_problem_and_is_repaired_without_a_trace_in_the_voxels(name, tmp_path):
    fields, words = SPOILED[name]
    (tmp_path / "in").mkdir()
    path = scan(tmp_path / "in" / "a_ct.nii.gz", **fields)
    assert words in problem(path)
    assert apart_mm(path) > 0.02
    geometry = read_geometry(path)[0]
    mask = tmp_path / "in" / "a_seg.nii.gz"
    save_scan(mask, label_map(SHAPE), geometry.affine, qform=0)
    found = CaseIndex((Case("a", "a", path, mask, split="train"),))
    folder = tmp_path / "raw" / "Dataset001_VerSe"
    [record] = convert_cases(found, nnunet_format(found, tmp_path / "raw")).cases
    image, labels = record.files
    assert image.how == "repaired" and words in image.note
    written = folder / image.path
    assert file_bytes(written)[348:] == file_bytes(path)[348:]
    assert problem(written) == ""
    seen, hu = seen_by_itk(written)
    assert seen.distance_mm(geometry) == pytest.approx(image.moved_mm, abs=2e-3)
    assert np.array_equal(hu, hounsfield(SHAPE))
    grid, ids = seen_by_itk(folder / labels.path)
    assert grid == seen and np.array_equal(np.where(ids == 26, 28, ids), label_map(SHAPE))


@pytest.mark.parametrize("codes", ODD_AXES)
def test_a_repair_keeps_the_middle_and_the_axes_and_tells_how_far_it_moved_the_farthest_corner(codes, tmp_path):
    volume = read_image(scan(tmp_path / "a.nii.gz", skewed(2e-3, codes), qform=0))
    header, moved_mm = repaired(volume)
    new = Geometry(SHAPE, header.get_sform())
    corners = [(i, j, k, 1) for i in (0, 40) for j in (0, 35) for k in (0, 28)]
    expected = max(np.linalg.norm((new.affine - volume.geometry.affine) @ corner) for corner in corners)
    assert moved_mm == pytest.approx(expected) and 0.02 < moved_mm < REPAIR_TOLERANCE_MM
    middle = np.array([[20, 17.5, 14]])
    assert np.abs(new.world_from_index(middle) - volume.geometry.world_from_index(middle)).max() < 1e-3
    assert new.skew < 1e-6 and new.axis_codes == volume.geometry.axis_codes
    assert new.spacing_mm == pytest.approx(volume.geometry.spacing_mm, abs=1e-6)
    assert np.abs(header.get_qform() - header.get_sform()).max() < 1e-3


def test_a_header_that_needs_no_repair_does_not_move(tmp_path):
    path = scan(tmp_path / "a.nii.gz")
    header, moved_mm = repaired(read_image(path))
    assert moved_mm < 1e-4
    assert np.abs(header.get_sform() - stored_header(path).get_sform()).max() < 1e-4


def test_a_sheared_scan_is_left_out_rather_than_bent(tmp_path):
    (tmp_path / "in").mkdir()
    save_scan(tmp_path / "in" / "a.nii.gz", hounsfield(SHAPE), sheared_grid("PIR", SHAPE).affine, qform=0)
    with pytest.raises(GeometryError, match=r"not perpendicular .* would move a corner by .* more than 0.5 mm"):
        repaired(read_image(tmp_path / "in" / "a.nii.gz"))
    found = CaseIndex((Case("a", "a", tmp_path / "in" / "a.nii.gz"),))
    [record] = convert_cases(found, nnunet_format(found, tmp_path / "raw")).left_out
    assert "would move a corner" in record.reason
    assert not (tmp_path / "raw" / "Dataset001_VerSe" / "imagesTs").exists()
