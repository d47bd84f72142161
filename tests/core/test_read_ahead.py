"""A scan that is read in a thread of its own is the same scan, or the same error."""

import sys
import threading

import numpy as np
import pytest

from tests.core.grids import TILT_DEGREES, affine, hounsfield, save_scan
from verse3d.core import read_ahead
from verse3d.core.errors import DataError
from verse3d.core.read_ahead import ReadAhead, ScanFile
from verse3d.core.volume import read_image


@pytest.fixture
def scan(tmp_path):
    return save_scan(tmp_path / "ct.nii.gz", hounsfield(), affine("PIR", degrees=TILT_DEGREES))


def test_it_is_the_scan_that_reading_gives(scan):
    ahead = ReadAhead(scan)
    found, expected = ahead.take(scan).result(timeout=20), read_image(scan)
    assert np.array_equal(found.volume.array, expected.array)
    assert found.volume.header.binaryblock == expected.header.binaryblock
    assert found.stored.geometry == expected.geometry and found.seconds > 0


def test_it_is_given_once_and_not_held(scan, tmp_path):
    ahead = ReadAhead(scan)
    assert ahead.take(tmp_path / "another.nii.gz") is None
    assert ahead.take(scan) is not None
    assert ahead.take(scan) is None


@pytest.mark.parametrize("content", [None, b"no scan", b""], ids=["missing", "no scan", "empty"])
def test_what_is_wrong_with_it_is_told_when_it_is_asked_for(tmp_path, content):
    path = tmp_path / "ct.nii.gz"
    if content is not None:
        path.write_bytes(content)
    begun = ReadAhead(path).take(path)
    with pytest.raises(DataError) as caught:
        begun.result(timeout=20)
    with pytest.raises(DataError) as expected:
        ScanFile.opened(path)
    assert str(caught.value) == str(expected.value)


def test_a_scan_that_is_cut_off_is_told_likewise(scan):
    scan.write_bytes(scan.read_bytes()[:-400])
    with pytest.raises(DataError, match=r"ct\.nii\.gz"):
        ReadAhead(scan).take(scan).result(timeout=20)


def test_a_scan_that_is_replaced_while_it_is_read_is_refused(scan, tmp_path, monkeypatch):
    def replaced(path):
        volume = read_image(path)
        save_scan(tmp_path / "new.nii.gz", hounsfield(), affine("PIR", degrees=TILT_DEGREES)).replace(path)
        return volume

    monkeypatch.setattr(read_ahead, "read_image", replaced)
    with pytest.raises(DataError, match="was replaced while it was read"):
        ReadAhead(scan).take(scan).result(timeout=20)


def test_the_end_of_the_program_does_not_wait_for_it_and_threads_take_turns_as_before(scan, monkeypatch):
    go_on, during, usual = threading.Event(), [], sys.getswitchinterval()

    def slow(path):
        during.append(sys.getswitchinterval())
        go_on.wait(20)
        return read_image(path)

    monkeypatch.setattr(read_ahead, "read_image", slow)
    begun = ReadAhead(scan).take(scan)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "read ahead"] == [True]
    go_on.set()
    begun.result(timeout=20)
    for thread in threading.enumerate():
        if thread.name == "read ahead":
            thread.join(20)
    assert during[0] < usual and sys.getswitchinterval() == usual


def test_two_at_the_same_time_leave_the_turns_of_threads_as_they_were(scan, tmp_path, monkeypatch):
    usual, together = sys.getswitchinterval(), threading.Barrier(2, timeout=20)

    def one_by_one(path):
        together.wait()
        if path != scan:  # the one that began later ends later
            first.join(20)
        return read_image(path)

    monkeypatch.setattr(read_ahead, "read_image", one_by_one)
    one = ReadAhead(scan)
    first = next(thread for thread in threading.enumerate() if thread.name == "read ahead")
    other = save_scan(tmp_path / "other.nii.gz", hounsfield(), affine("PIR", degrees=TILT_DEGREES))
    two = ReadAhead(other)
    last = next(thread for thread in threading.enumerate() if thread.name == "read ahead" and thread is not first)
    assert one.take(scan).result(timeout=20) and two.take(other).result(timeout=20)
    last.join(20)
    assert sys.getswitchinterval() == usual
