"""A file that is shorter than it says is noticed without reading it."""

import gzip

import numpy as np
import pytest

from tests.core.grids import affine, hounsfield, save_scan
from verse3d.core import nifti_bytes
from verse3d.data.index.probe import probe

SHAPE = (9, 11, 14)


@pytest.fixture(params=["a.nii", "a.nii.gz", "A.NII.GZ"])
def scan(tmp_path, request):
    return save_scan(tmp_path / request.param, hounsfield(SHAPE), affine("PIR", degrees=(3, 4, 5)))


def test_a_whole_file_has_no_problem_and_its_grid_is_known(scan):
    seen = probe(scan)
    assert seen.problem == ""
    assert seen.geometry.shape == SHAPE
    assert seen.geometry.axis_codes == ("P", "I", "R")


@pytest.mark.parametrize("lost", [1, 100, 2000])
def test_a_file_that_was_cut_off_is_noticed(scan, lost):
    content = scan.read_bytes()
    scan.write_bytes(content[: max(len(content) - lost, 400)])
    assert str(scan) in probe(scan).problem


def test_a_file_whose_header_says_more_than_there_is_is_noticed(tmp_path):
    whole = save_scan(tmp_path / "a.nii", hounsfield(SHAPE), affine())
    (tmp_path / "b.nii.gz").write_bytes(gzip.compress(whole.read_bytes()[:-700]))
    assert "cut off" in probe(tmp_path / "b.nii.gz").problem


def test_several_gzip_streams_in_one_file_are_whole(tmp_path):
    content = save_scan(tmp_path / "a.nii", hounsfield(SHAPE), affine()).read_bytes()
    path = tmp_path / "b.nii.gz"
    path.write_bytes(gzip.compress(content[:1000]) + gzip.compress(content[1000:]) + gzip.compress(b""))
    assert probe(path).problem == ""


NO_SCANS = {
    "empty": b"",
    "tiny": b"x",
    "a page": b"<html>not found</html>" * 40,
    "short": gzip.compress(b"short", mtime=0),
}


@pytest.mark.parametrize("content", NO_SCANS.values(), ids=NO_SCANS)
def test_something_else_is_a_problem_not_a_crash(tmp_path, content):
    path = tmp_path / "a.nii.gz"
    path.write_bytes(content)
    seen = probe(path)
    assert seen.geometry is None
    assert str(path) in seen.problem


def test_a_missing_file_is_a_problem(tmp_path):
    assert "does not exist" in probe(tmp_path / "a.nii.gz").problem


def test_the_voxels_of_a_usual_file_are_not_read(tmp_path, monkeypatch):
    path = save_scan(tmp_path / "a.nii.gz", np.zeros((40, 50, 60), np.int16), affine())
    monkeypatch.setattr(nifti_bytes, "open_voxels", lambda _: pytest.fail("read"))
    assert probe(path).problem == ""
