"""Scans to predict."""

import pytest

from tests.scans import PIR, orientation, spine
from verse3d.data.cases import Case


@pytest.fixture
def batch(tmp_path):
    """Three scans, the second of which is no scan."""
    cases = []
    for number in range(3):
        path = tmp_path / "scans" / f"case{number}_ct.nii.gz"
        spine(number).write(path)
        cases.append(Case(f"case{number}", f"case{number}", path))
    (tmp_path / "scans" / "case1_ct.nii.gz").write_text("no scan")
    return cases


@pytest.fixture
def many(tmp_path):
    """Five good scans of different shapes and one that is none, in the middle."""
    cases = []
    for number in range(6):
        path = tmp_path / "scans" / f"case{number}_ct.nii.gz"
        grid = PIR if number % 2 else orientation((0, 1, 2), (-1, 1, 1), (2.0, 2.5, 3.1), (31, 33, 20 + number))
        spine(number, grid).write(path)
        cases.append(Case(f"case{number}", f"case{number}", path))
    cases[3].image.write_text("no scan")
    return cases
