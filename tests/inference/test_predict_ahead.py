"""Scans are read ahead and masks written behind, by one job or by parts of it, and the masks stay the same."""

import gc
import threading
import weakref
from dataclasses import replace

import numpy as np
import pytest

from tests.inference.predicting import masks_in, run
from tests.scans import spine
from verse3d.core import read_ahead, single_threaded, threads
from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.runtime import rss_mb
from verse3d.core.volume import read_image
from verse3d.data.predictions import mask_path, read_predictions
from verse3d.inference.budget import Budget
from verse3d.inference.predictor import Predictor


def test_reading_ahead_and_writing_behind_on_several_cores_changes_no_mask_and_no_order(tmp_path, many, monkeypatch):
    heard = []
    for module in (threads, single_threaded):
        monkeypatch.setattr(module, "thread_count", lambda: 3)
    ahead = run(many, tmp_path / "ahead", progress=lambda *told: heard.append(told))
    for module in (threads, single_threaded):
        monkeypatch.setattr(module, "thread_count", lambda: 1)
    alone = run(many, tmp_path / "alone", overlap=False)
    assert [record.status for record in ahead.records] == [record.status for record in alone.records]
    assert [record.case for record in ahead.records] == [case.case for case in many]
    assert len(masks_in(tmp_path / "ahead")) == 5
    assert masks_in(tmp_path / "ahead") == masks_in(tmp_path / "alone")
    assert [done for what, done, _ in heard if what == "scans"] == list(range(7))


@pytest.mark.parametrize("parts", [2, 4, 9])
def test_parts_of_a_job_do_every_scan_once_and_keep_lists_of_their_own(tmp_path, many, parts):
    out, together = tmp_path / "out", tmp_path / "together"
    run(many, together)
    seen = []
    for part in range(parts):
        seen += [record.case for record in run(many, out, part=part, parts=parts).records]
    assert sorted(seen) == [case.case for case in many]
    assert masks_in(out) == masks_in(together)
    found = read_predictions(out)
    assert sorted(found.records) == [case.case for case in many]
    assert {case for case, record in found.records.items() if record["status"] == "failed"} == {"case3"}
    assert found.about["scheme"] == "binary"
    assert not (out / "predictions.json").exists()


def test_a_job_knows_what_another_part_or_an_undivided_job_made(tmp_path, many):
    out = tmp_path / "out"
    run(many[:2], out)
    (again,) = run(many[:2], out, part=1, parts=2).records
    assert (again.case, again.status) == ("case1", "skipped")
    moved = [many[0], replace(many[1], image=many[2].image)]
    (wrong,) = run(moved, out, part=1, parts=2).records
    assert wrong.status == "failed" and "made from another scan" in wrong.error


def test_the_first_scan_is_read_while_the_network_is_opened_and_only_once(tmp_path, many, monkeypatch):
    read, opened, threads = [], threading.Event(), set()

    def waiting(path, arriving):
        """Reading the first scan waits until the network is being opened, and the network waits for the scan."""
        read.append(path)
        threads.add(threading.current_thread().name.split("_")[0])
        assert opened.wait(300)
        return read_image(path, arriving)

    monkeypatch.setattr(read_ahead, "read_image", waiting)
    monkeypatch.setattr(Predictor, "make_ready", lambda _: opened.set())
    report = run(many[:3], tmp_path / "out")
    assert [record.status for record in report.records] == ["written"] * 3
    assert read == [case.image for case in many[:3]] and "read" in threads


def test_a_first_scan_that_cannot_be_read_fails_by_itself(tmp_path, many):
    many[0].image.write_bytes(b"no scan")
    first, *others = run(many[:3], tmp_path / "out").records
    assert first.status == "failed" and {record.status for record in others} == {"written"}


def test_a_first_scan_that_cannot_be_read_is_not_held_while_the_next_is_planned(tmp_path, many, monkeypatch):
    """It broke off after it had been given away, as a file that is cut off does."""
    seen, opened = [], Budget.opened

    def broken(path, arriving):
        volume = read_image(path)
        if "case0" in path.name:
            seen.append(weakref.ref(volume))
            arriving(volume, 1)
            raise DataError("the file ends too early")
        return volume

    def noting(self, **given):
        seen.append(seen[0]())
        return opened(self, **given)

    monkeypatch.setattr(read_ahead, "read_image", broken)
    monkeypatch.setattr(Budget, "opened", noting)
    gc.disable()
    try:
        first, second = run(many[:2], tmp_path / "out", ahead=read_ahead.ReadAhead(many[0].image)).records
    finally:
        gc.enable()
    assert first.status == "failed" and first.error == "the file ends too early" and second.status == "written"
    assert seen[1] is None


def test_a_first_scan_that_does_not_fit_beside_the_network_is_refused_after_it_was_read(tmp_path, many, monkeypatch):
    """Before the network was tried nobody knew that a window takes four gigabytes."""
    monkeypatch.setattr(Predictor, "window_mb", lambda _: 4000.0)
    first, *_ = run(many[:1], tmp_path / "out", max_ram_gb=rss_mb() / 1000 + 2).records
    assert first.status == "failed" and "for network" in first.error and str(many[0].image) in first.error


def test_a_scan_that_is_replaced_while_it_is_read_fails_and_the_next_is_done(tmp_path, many, monkeypatch):
    def replaced(path, arriving):
        volume = read_image(path, arriving)
        if "case0" in path.name:
            other = spine(9).write(tmp_path / "new" / "ct.nii.gz")
            other.replace(path)
        return volume

    monkeypatch.setattr(read_ahead, "read_image", replaced)
    first, second = run(many[:2], tmp_path / "out").records
    assert first.status == "failed" and "was replaced while it was read" in first.error
    assert second.status == "written" and not mask_path(tmp_path / "out", "case0").exists()


def test_a_scan_that_is_read_already_is_not_read_again_and_gives_the_same_mask(tmp_path, many, monkeypatch):
    plain = run(many[:2], tmp_path / "plain")
    read = []
    monkeypatch.setattr(
        read_ahead, "read_image", lambda path, arriving: read.append(path) or read_image(path, arriving)
    )
    given = run(many[:2], tmp_path / "given", ahead=read_ahead.ReadAhead(many[0].image))
    assert read == [many[0].image, many[1].image]
    for one, other in zip(plain.records, given.records, strict=True):
        assert one.status == other.status == "written"
        assert (plain.folder / one.mask).read_bytes() == (given.folder / other.mask).read_bytes()
        assert one.plan["stages_mb"]["reading"] == other.plan["stages_mb"]["reading"]
        assert other.seconds_of["read"] > 0


def test_a_scan_that_was_read_already_and_does_not_fit_is_refused(tmp_path, many, monkeypatch):
    monkeypatch.setattr("verse3d.inference.budget.network_geometry", lambda *_: Geometry((9999, 9999, 9999), np.eye(4)))
    report = run(many[:1], tmp_path / "out", ahead=read_ahead.ReadAhead(many[0].image))
    assert report.records[0].status == "failed" and str(many[0].image) in report.records[0].error


def test_a_scan_whose_mask_is_kept_is_not_held_though_it_was_read(tmp_path, many):
    run(many[:1], tmp_path / "out")
    ahead = read_ahead.ReadAhead(many[0].image)
    assert run(many[:1], tmp_path / "out", ahead=ahead).records[0].status == "skipped"
    assert ahead.take(many[0].image) is None
