"""Cases to survey."""

from dataclasses import replace

import pytest

from tests.data.quality.surveyed import write_case


@pytest.fixture
def cases(tmp_path):
    """Six cases: clean, junk, without mask, without scan, gone, clean."""
    good = [write_case(tmp_path, f"case{number}", seed=number) for number in range(6)]
    good[1].image.write_bytes(b"junk")
    good[4].mask.unlink()
    return (good[0], good[1], replace(good[2], mask=None), replace(good[3], image=None), good[4], good[5])
