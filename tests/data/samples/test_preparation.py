"""Preparing many cases: ahead, beside a training, and looking after what is there."""

import shutil
import time
from collections import namedtuple

import pytest

from tests.data.samples.cases import config, job, store_in, write_case
from tests.scans import PIR, spine
from verse3d.api import prepare
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError, OutputError
from verse3d.data.cases import CaseIndex, write_index
from verse3d.data.samples import preparation
from verse3d.data.samples.listing import list_store, prune_store
from verse3d.data.samples.preparation import prepare_cases, preparing, require_room
from verse3d.data.samples.store import open_store
from verse3d.data.samples.stored import StoredCases

SETTINGS = config((4.0, 4.0, 4.0))


@pytest.fixture
def cases(tmp_path):
    return [write_case(tmp_path, f"case{number}", seed=number) for number in range(4)]


def spoil_labels(case) -> None:
    spine(0, PIR, (19, 26)).write(case.image, case.mask)


@pytest.mark.parametrize("workers", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_a_preparation_says_what_it_made_kept_repaired_and_could_not_do(tmp_path, cases, workers):
    place = store_in(tmp_path)
    spoil_labels(cases[2])
    first = prepare_cases([job(place, case, SETTINGS) for case in cases[:3]], 1)
    assert (first.made, first.kept, first.repaired) == (("case0", "case1"), (), ())
    assert [case for case, _ in first.failures] == ["case2"]
    image = place.entry_folder(job(place, cases[1], SETTINGS).name) / "image.b2nd"
    image.write_bytes(image.read_bytes()[:-1])
    heard = []
    again = prepare_cases([job(place, case, SETTINGS) for case in cases], workers, lambda *call: heard.append(call))
    assert (again.made, again.kept, again.repaired) == (("case1", "case3"), ("case0",), ("case1",))
    assert [case for case, _ in again.failures] == ["case2"]
    assert heard[-1] == ("cases", 4, 4)
    assert again.disk_bytes > first.disk_bytes > 0


def test_a_case_that_failed_is_tried_again_when_it_is_prepared_ahead(tmp_path, cases):
    place = store_in(tmp_path)
    made = job(place, cases[0], SETTINGS)
    place.note_failure(made.name, "the network disk was away")
    with pytest.raises(DataError, match="no case can be prepared"):
        StoredCases([made], "binary")[0]
    assert prepare_cases([made], 1).made == ("case0",)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_prepared(tmp_path, cases, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage(10, 10, 10))
    place = store_in(tmp_path)
    jobs = [job(place, case, SETTINGS) for case in cases]
    with pytest.raises(OutputError, match=r"need about .* GB .* and 0\.0 GB are free\n.*`store`"):
        prepare_cases(jobs, 1)
    assert place.names() == []
    with pytest.raises(OutputError), preparing(jobs):
        raise AssertionError("was begun")
    require_room([])


def test_beside_a_training_other_processes_prepare_and_stop_with_it(tmp_path, cases, monkeypatch):
    monkeypatch.setattr(preparation, "fitting_workers", lambda jobs: 2)
    place = store_in(tmp_path)
    jobs = [job(place, case, SETTINGS) for case in cases]
    with preparing(jobs):
        stored = StoredCases(jobs, "binary")
        assert [stored[number].case for number in range(4)] == [case.case for case in cases]
        for _ in range(6000):  # starting a process takes seconds, on a busy machine many
            if all(one.is_done for one in jobs):
                break
            time.sleep(0.05)
    assert len(place.names()) == 4
    started = time.monotonic()
    shutil.rmtree(place.folder)
    place = store_in(tmp_path)
    with preparing([job(place, case, SETTINGS) for case in cases]):
        pass
    assert time.monotonic() - started < 300  # what is under way is given up


def test_the_list_tells_current_from_stale_and_damaged_and_pruning_keeps_the_current(tmp_path, cases):
    place = store_in(tmp_path)
    prepare_cases([job(place, case, SETTINGS) for case in cases], 1)
    prepare_cases([job(place, cases[0], config((3.0, 3.0, 3.0)))], 1)  # another grid is as good
    spoil_labels(cases[1])
    (place.entry_folder(job(place, cases[2], SETTINGS).name) / "entry.json").write_text("{}")
    states = {state.name.rpartition("-")[0]: state.state for state in list_store(place, cases[:3])}
    assert states == {"case0": "current", "case1": "stale", "case2": "damaged", "case3": "stale"}
    assert len(list_store(place, cases)) == 5
    removed = prune_store(place, cases)
    assert sorted(state.name.rpartition("-")[0] for state in removed) == ["case1", "case2"]
    assert sorted(state.spacing_mm[0] for state in list_store(place, cases)) == [3.0, 4.0, 4.0]


def test_pixels_of_slices_are_refused_in_a_mode_of_patches_before_a_store_is_made(tmp_path, cases):
    index = tmp_path / "cases.jsonl"
    write_index(index, CaseIndex(tuple(cases[:1])))
    with pytest.raises(ConfigError, match=r"does not suit mode 3d:\n  - slices\.spacing_mm: is of slices"):
        prepare(index, overrides=["slices.spacing_mm=4"])
    assert not (tmp_path / "cases.store").exists()
    prepare(index, config="slices2d-mm", overrides=["slices.spacing_mm=4"])
    (state,) = list_store(open_store(tmp_path / "cases.store"), cases)
    assert sorted(state.spacing_mm)[1:] == [4.0, 4.0]


def test_the_command_prepares_lists_and_prunes(tmp_path, cases, capsys):
    index = tmp_path / "cases.jsonl"
    write_index(index, CaseIndex(tuple(cases)))
    grid = ["--set", "grid.spacing_mm=4"]
    assert main(["prepare", str(index), *grid, "--workers", "1"]) == 0
    assert "4 prepared, 0 were there, 0 failed" in capsys.readouterr().out
    assert main(["prepare", str(index), "--list"]) == 0
    assert "4 entries in the store" in capsys.readouterr().out
    spoil_labels(cases[1])
    assert main(["prepare", str(index), *grid, "--workers", "1"]) == 3
    told = capsys.readouterr()
    assert "0 prepared, 3 were there, 1 failed" in told.out
    assert "unknown label ids" in told.err
    assert main(["prepare", str(index), "--prune"]) == 0
    assert "1 entry removed" in capsys.readouterr().out
    assert main(["prepare", str(index), "--prune", "--list"]) == 2
