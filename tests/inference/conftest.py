"""Scans to predict."""

import pytest

from tests.scans import PIR, orientation, write_cases


@pytest.fixture
def batch(tmp_path):
    """Three scans, the second of which is no scan."""
    cases = write_cases(tmp_path / "scans", 3)
    cases[1].image.write_text("no scan")
    return cases


@pytest.fixture
def many(tmp_path):
    """Five good scans of different shapes and one that is none, in the middle."""

    def grid(number):
        return PIR if number % 2 else orientation((0, 1, 2), (-1, 1, 1), (2.0, 2.5, 3.1), (31, 33, 20 + number))

    cases = write_cases(tmp_path / "scans", 6, grid)
    cases[3].image.write_text("no scan")
    return cases
