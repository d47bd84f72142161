"""A scan that is read in a thread of its own is the same scan, or the same error."""

import gc
import queue
import sys
import threading
import weakref

import nibabel as nib
import numpy as np
import pytest

from tests.core.grids import TILT_DEGREES, affine, hounsfield, save_scan
from verse3d.core import nifti_bytes, read_ahead
from verse3d.core.errors import DataError
from verse3d.core.read_ahead import ReadAhead, ScanFile
from verse3d.core.volume import read_image


@pytest.fixture
def scan(tmp_path):
    return save_scan(tmp_path / "ct.nii.gz", hounsfield(), affine("PIR", degrees=TILT_DEGREES))


def test_it_is_the_scan_that_reading_gives(scan):
    ahead = ReadAhead(scan)
    found, expected = ahead.take(scan).result(timeout=20).whole(), read_image(scan)
    assert np.array_equal(found.volume.array, expected.array)
    assert found.volume.header.binaryblock == expected.header.binaryblock
    assert found.stored.geometry == expected.geometry and found.ended > found.seconds > 0


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
        ReadAhead(scan).take(scan).result(timeout=20).whole()


def test_a_scan_that_is_replaced_while_it_is_read_is_refused(scan, tmp_path, monkeypatch):
    def replaced(path, arriving):
        volume = read_image(path, arriving)
        save_scan(tmp_path / "new.nii.gz", hounsfield(), affine("PIR", degrees=TILT_DEGREES)).replace(path)
        return volume

    monkeypatch.setattr(read_ahead, "read_image", replaced)
    with pytest.raises(DataError, match="was replaced while it was read"):
        ReadAhead(scan).take(scan).result(timeout=20).whole()


class Tap:
    """Lets ``read_image`` go on chunk by chunk, when it is told to."""

    def __init__(self, monkeypatch, chunk_bytes=64):
        self.chunks, self.counts = queue.Queue(), []
        monkeypatch.setattr(nifti_bytes, "_CHUNK_BYTES", chunk_bytes)
        monkeypatch.setattr(read_ahead, "read_image", self.read)

    def read(self, path, arriving):
        def told(volume, count):
            self.counts.append(count)
            arriving(volume, count)
            if not self.chunks.get(timeout=20):
                raise OSError("the disk is gone")

        return read_image(path, told)

    def open(self, chunks, *, is_sound=True):
        for number in range(chunks):
            self.chunks.put(is_sound or number < chunks - 1)


def test_it_is_given_away_while_it_arrives(scan, monkeypatch):
    tap = Tap(monkeypatch)
    arriving, expected = ReadAhead(scan).take(scan).result(timeout=20), read_image(scan).array
    tap.open(3)
    arriving.wait_for(4 * 32)  # 64 bytes, 32 voxels a chunk
    assert np.array_equal(arriving.volume.array.ravel("F")[:128], expected.ravel("F")[:128])
    assert arriving.megabytes == pytest.approx(128 * 2 / 1e6)
    assert arriving.stored.geometry == arriving.volume.geometry
    tap.open(100)
    assert np.array_equal(arriving.whole().volume.array, expected)
    arriving.wait_for(expected.size)
    assert tap.counts == [*range(32, expected.size, 32), expected.size]


def test_what_happens_later_is_told_to_whoever_waits(scan, monkeypatch):
    tap = Tap(monkeypatch)
    arriving = ReadAhead(scan).take(scan).result(timeout=20)
    tap.open(3, is_sound=False)
    with pytest.raises(DataError, match="the disk is gone"):
        arriving.wait_for(200)
    with pytest.raises(DataError, match="the disk is gone"):
        arriving.whole()


def test_a_scan_that_failed_is_not_held_by_its_error(scan, monkeypatch):
    """Not even until the next search for garbage: a scan may be half of the memory."""
    tap = Tap(monkeypatch)
    arriving = ReadAhead(scan).take(scan).result(timeout=20)
    held = weakref.ref(arriving.volume)
    gc.disable()
    try:
        tap.open(3, is_sound=False)
        with pytest.raises(DataError, match="the disk is gone"):
            arriving.whole()
        with pytest.raises(DataError, match="the disk is gone"):
            arriving.wait_for(200)
        join_readers()
        del arriving
        assert held() is None
    finally:
        gc.enable()


@pytest.mark.parametrize("dtype", [">i2", "<i2", "<f4", "<f8", ">f4"])
def test_voxels_that_are_not_right_until_the_end_are_not_given_before(tmp_path, dtype):
    path = tmp_path / "ct.nii.gz"
    nib.save(nib.Nifti1Image(hounsfield().astype(dtype), affine("LIP"), dtype=np.dtype(dtype)), path)
    arriving, expected = ReadAhead(path).take(path).result(timeout=20), read_image(path).array
    arriving.wait_for(20)
    assert np.array_equal(arriving.volume.array.ravel("F")[:20], expected.ravel("F")[:20])
    assert np.array_equal(arriving.whole().volume.array, expected)


def join_readers():
    for thread in threading.enumerate():
        if thread.name == "read ahead":
            thread.join(20)


def test_the_end_of_the_program_does_not_wait_for_it_and_threads_take_turns_as_before(scan, monkeypatch):
    join_readers()
    go_on, during, usual = threading.Event(), [], sys.getswitchinterval()

    def slow(path, arriving):
        during.append(sys.getswitchinterval())
        go_on.wait(20)
        return read_image(path, arriving)

    monkeypatch.setattr(read_ahead, "read_image", slow)
    first, second = ReadAhead(scan).take(scan), ReadAhead(scan).take(scan)
    assert [thread.daemon for thread in threading.enumerate() if thread.name == "read ahead"] == [True, True]
    go_on.set()
    first.result(timeout=20).whole()
    second.result(timeout=20).whole()
    join_readers()
    assert max(during) < usual and sys.getswitchinterval() == usual
