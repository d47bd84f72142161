"""A store is right or says what is wrong with it, whoever writes to it and whatever happens meanwhile."""

import errno
import hashlib
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tests.data.samples.cases import LONG, config, job, store_in, write_case
from tests.scans import PIR, spine
from verse3d.core.errors import DataError, OutputError
from verse3d.core.paths import TEMPORARY_PREFIX
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.data.samples import keys, prepare, store
from verse3d.data.samples.blocks import DamagedEntryError
from verse3d.data.samples.entry import ENTRY_FILE, check_entry
from verse3d.data.samples.prepare import Job, ensure_prepared
from verse3d.data.samples.store import open_store, store_beside
from verse3d.data.samples.stored import StoredCases

SETTINGS = config((4.0, 4.0, 4.0))


def litter(folder: Path) -> list[str]:
    return [path.name for path in folder.iterdir() if path.name.startswith(".") or path.suffix in (".claim", ".failed")]


def whole(cases: StoredCases, number=0):
    case = cases[number]
    return case.read((0, 0, 0), case.geometry.shape)


@pytest.fixture
def one(tmp_path) -> Job:
    """A case that is prepared."""
    made = job(store_in(tmp_path), write_case(tmp_path), SETTINGS)
    ensure_prepared(made)
    return made


# --- names of entries


def test_the_name_changes_with_all_that_changes_the_voxels_and_with_nothing_else(tmp_path, monkeypatch):
    case = write_case(tmp_path / "a")
    name = keys.entry_name(case, SETTINGS.grid)
    assert keys.entry_name(case, config((4, 4, 4), "binary", sampling={"batch_size": 5}).grid) == name
    assert keys.entry_name(case, config((4, 4, 3.9)).grid) != name
    assert keys.entry_name(case, SETTINGS.grid.model_copy(update={"window_hu": (0.0, 1.0)})) != name
    assert keys.entry_name(write_case(tmp_path / "a", relabel=((19, 18),)), SETTINGS.grid) != name
    shutil.copytree(tmp_path / "a", tmp_path / "b")  # with the times of the files
    moved = Case(case.case, case.subject, tmp_path / "b" / case.image.name, tmp_path / "b" / case.mask.name)
    old = keys.entry_name(case, SETTINGS.grid)
    assert keys.entry_name(moved, SETTINGS.grid) == old
    monkeypatch.setattr(keys, "PREPARATION_VERSION", 2)
    assert keys.entry_name(case, SETTINGS.grid) != old


@pytest.mark.parametrize("file", ["image", "mask"])
def test_what_was_prepared_of_a_changed_file_is_not_used(tmp_path, file):
    case, place = write_case(tmp_path), store_in(tmp_path)
    before = whole(StoredCases([job(place, case, SETTINGS)], "vertebrae"))
    again = spine(5, PIR, (7, 8, 9))
    again.write(case.image if file == "image" else tmp_path / "x.nii.gz", case.mask if file == "mask" else None)
    after = whole(StoredCases([job(place, case, SETTINGS)], "vertebrae"))
    changed = 0 if file == "image" else 1
    assert not np.array_equal(after[changed], before[changed])
    np.testing.assert_array_equal(after[1 - changed], before[1 - changed])
    assert len(place.names()) == 2


# --- damage


def test_every_changed_byte_is_noticed(tmp_path):
    place = store_in(tmp_path)
    made = job(place, write_case(tmp_path, geometry=LONG), config())
    ensure_prepared(made)
    folder, random = place.entry_folder(made.name), np.random.default_rng(0)
    for path in sorted(folder.iterdir()):
        content = path.read_bytes()
        ends = [*range(40), *range(len(content) - 140, len(content), 7)]
        for position in {*ends, *random.integers(0, len(content), 25).tolist()}:
            spoilt = bytearray(content)
            spoilt[position] ^= 0x10
            path.write_bytes(spoilt)
            with pytest.raises(DamagedEntryError):
                check_entry(folder, place.entry(made.name))
        path.write_bytes(content)
    check_entry(folder, place.entry(made.name))


def damage_in_the_middle(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


DAMAGES = {
    "a byte": damage_in_the_middle,
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "empty": lambda path: path.write_bytes(b""),
    "missing": lambda path: path.unlink(),
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["image.b2nd", "labels.b2nd", ENTRY_FILE])
def test_a_damaged_entry_is_noticed_by_the_reader_and_made_again(one, name, damage, caplog):
    expected = whole(StoredCases([one], "vertebrae"))
    DAMAGES[damage](one.store.entry_folder(one.name) / name)
    for found, before in zip(whole(StoredCases([one], "vertebrae")), expected, strict=True):
        np.testing.assert_array_equal(found, before)
    assert "damaged" in caplog.text
    check_entry(one.store.entry_folder(one.name), one.store.entry(one.name))
    assert litter(one.store.folder) == []


def test_damage_while_a_case_is_open_is_noticed_too(tmp_path):
    made = job(store_in(tmp_path), write_case(tmp_path, geometry=LONG), config())
    cases = StoredCases([made], "vertebrae")
    case = cases[0]
    case.read((0, 0, 0), (3, 3, 3))
    expected = case.read((0, 0, 70), (20, 20, 20))
    fresh = StoredCases([made], "vertebrae")[0]
    fresh.read((0, 0, 0), (3, 3, 3))
    path = made.store.entry_folder(made.name) / "image.b2nd"
    content = bytearray(path.read_bytes())
    content[-2000:-200] = bytes(1800)  # in the last chunk, which was not read yet
    path.write_bytes(content)
    np.testing.assert_array_equal(fresh.read((0, 0, 70), (20, 20, 20))[0], expected[0])


def test_an_entry_removed_while_it_is_read_is_made_again(one):
    cases = StoredCases([one], "vertebrae")
    expected = whole(cases)
    one.store.remove_entry(one.name)
    np.testing.assert_array_equal(whole(cases)[1], expected[1])


# --- disks


@pytest.mark.parametrize(
    ("number", "words"), [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EDQUOT, "quota")]
)
def test_a_disk_that_refuses_leaves_nothing_behind_and_is_not_the_fault_of_the_case(
    tmp_path, monkeypatch, number, words
):
    made, write = job(store_in(tmp_path), write_case(tmp_path), SETTINGS), Path.write_bytes

    def refuse(path, content):
        if path.name == "image.b2nd":
            raise OSError(number, os.strerror(number))
        return write(path, content)

    monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(OutputError, match=words):
        ensure_prepared(made)
    assert litter(made.store.folder) == []
    assert made.store.names() == []
    monkeypatch.undo()
    ensure_prepared(made)


def refuse_all_writing(monkeypatch) -> None:
    """As on a read-only file system, also for root."""
    opened, made = Path.open, Path.mkdir

    def open_to_read(path, mode="r", *rest, **options):
        if mode.strip("bt") != "r":
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return opened(path, mode, *rest, **options)

    def refuse(path, *rest, **options):
        if not path.exists():
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return made(path, *rest, **options)

    monkeypatch.setattr(Path, "open", open_to_read)
    monkeypatch.setattr(Path, "mkdir", refuse)


def test_a_complete_store_can_be_read_from_a_read_only_disk(one, monkeypatch):
    expected = whole(StoredCases([one], "vertebrae"))
    refuse_all_writing(monkeypatch)
    found = whole(StoredCases([Job.of(open_store(one.store.folder), SETTINGS.grid, one.case)], "vertebrae"))
    np.testing.assert_array_equal(found[0], expected[0])


def test_on_a_read_only_disk_a_missing_case_or_store_is_an_error_with_advice(tmp_path, monkeypatch):
    made = job(store_in(tmp_path), write_case(tmp_path), SETTINGS)
    refuse_all_writing(monkeypatch)
    with pytest.raises(OutputError, match="read-only"):
        StoredCases([made], "vertebrae")[0]
    with pytest.raises(OutputError, match="a folder with `store`"):
        open_store(tmp_path / "other.store")


# --- other programs


def test_the_store_of_a_newer_version_is_refused_in_a_sentence(one):
    marker = one.store.folder / "store.json"
    marker.write_text(json.dumps({"version": store.STORE_VERSION + 1}))
    with pytest.raises(DataError, match=r"is of version 2, this verse3d knows 1 at most"):
        open_store(one.store.folder)
    marker.write_text("{}")
    with pytest.raises(DataError, match="does not say which version"):
        open_store(one.store.folder)


def test_a_folder_with_other_files_is_not_taken_for_a_store(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(DataError, match="is no prepared store"):
        open_store(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_a_store_that_another_process_is_just_making_is_not_taken_for_other_files(tmp_path, monkeypatch):
    (tmp_path / f"{TEMPORARY_PREFIX}1234-store.json").write_text("{")
    made = open_store(tmp_path).folder
    (made / "entry").mkdir()

    def late(folder):  # the other process has finished after the first look at the folder
        shutil.copytree(made, folder, ignore=shutil.ignore_patterns("other"))
        return holds_files(folder)

    holds_files = store._holds_files
    monkeypatch.setattr(store, "_holds_files", late)
    assert open_store(tmp_path / "other").folder == tmp_path / "other"


def test_the_store_lies_beside_the_index_or_the_folder(tmp_path):
    (tmp_path / "cases.jsonl").write_text("x")
    assert store_beside(tmp_path / "cases.jsonl") == tmp_path / "cases.store"
    (tmp_path / "data.v2").mkdir()
    assert store_beside(tmp_path / "data.v2") == tmp_path / "data.v2.store"


def test_a_scan_that_changes_while_it_is_prepared_is_refused(tmp_path, monkeypatch):
    case, place, read = write_case(tmp_path), store_in(tmp_path), prepare.read_image

    def changing(path):
        volume = read(path)
        os.utime(path, (1, 1))
        return volume

    monkeypatch.setattr(prepare, "read_image", changing)
    with pytest.raises(DataError, match="have changed since the preparation began"):
        ensure_prepared(job(place, case, SETTINGS))
    assert place.names() == []


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_two_programs_that_prepare_the_same_cases_at_once_give_one_whole_store(tmp_path):
    cases = [write_case(tmp_path, f"case{number}", geometry=LONG, seed=number) for number in range(4)]
    write_index(tmp_path / "cases.jsonl", CaseIndex(tuple(cases)))
    program = (
        "import sys; from verse3d.api import prepare\n"
        "print(len(prepare(sys.argv[1], config=sys.argv[2], workers=1).failures))\n"
    )
    (tmp_path / "config.yaml").write_text("grid: {spacing_mm: 1.5}")
    arguments = [sys.executable, "-c", program, tmp_path / "cases.jsonl", tmp_path / "config.yaml"]
    both = [subprocess.Popen(arguments, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    assert [one.communicate(timeout=120)[0].strip() for one in both] == ["0", "0"]
    place = store_in(tmp_path)
    assert len(place.names()) == 4
    assert litter(place.folder) == []
    for name in place.names():
        check_entry(place.entry_folder(name), place.entry(name))


def test_who_finds_a_case_claimed_waits_for_it(tmp_path, monkeypatch):
    made = job(store_in(tmp_path), write_case(tmp_path), SETTINGS)
    (made.store.folder / f"{made.name}.claim").write_text(
        json.dumps({"computer": "another", "process": 1, "made": "now"})
    )
    waits = []

    def other_finishes(seconds):
        waits.append(seconds)
        if len(waits) == 3:
            (made.store.folder / f"{made.name}.claim").unlink()

    monkeypatch.setattr(prepare.time, "sleep", other_finishes)
    ensure_prepared(made)
    assert len(waits) == 3
    assert made.is_done


@pytest.mark.parametrize("owner", ["a killed process of this computer", "a silent process of another computer"])
def test_a_claim_whose_owner_has_gone_is_given_up(tmp_path, owner):
    made = job(store_in(tmp_path), write_case(tmp_path), SETTINGS)
    claim = made.store.folder / f"{made.name}.claim"
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    here = owner.startswith("a killed")
    claim.write_text(json.dumps({"computer": store._computer() if here else "another", "process": dead.pid}))
    if not here:
        long_ago = time.time() - 1000
        os.utime(claim, (long_ago, long_ago))
    ensure_prepared(made)
    assert made.is_done
    assert litter(made.store.folder) == []


def test_what_killed_preparations_left_is_removed_and_what_runs_is_left_alone(one):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder, here = one.store.folder, store._computer()
    old, running, remote = (
        folder / f".verse3d-{computer}-{process}-case"
        for computer, process in ((here, dead.pid), (here, os.getpid()), ("another", 1))
    )
    for path in (old, running, remote):
        path.mkdir()
        (path / "image.b2nd").write_bytes(b"half")
    one.store.tidy()
    assert not old.exists()
    assert running.exists()
    assert remote.exists()
    long_ago = time.time() - 2 * 24 * 3600
    os.utime(remote, (long_ago, long_ago))
    one.store.tidy()
    assert not remote.exists()
    assert one.is_done


# --- cases that cannot be prepared


def unknown_label(case):
    made = spine(0, PIR, (19, 26))
    made.write(case.image, case.mask)


def other_grid(case):
    made = spine(0, LONG)
    made.write(case.mask.with_name("other_ct.nii.gz"), case.mask)


BROKEN = {
    "no scan": (lambda case: case.image.unlink(), "does not exist|No such file"),
    "a damaged scan": (lambda case: case.image.write_bytes(case.image.read_bytes()[:2000]), "cannot read"),
    "an unknown label": (unknown_label, r"unknown label ids \[26\]"),
    "another grid": (other_grid, "has shape"),
}


@pytest.mark.parametrize("how", BROKEN)
def test_in_place_of_a_case_that_cannot_be_prepared_comes_the_next_one(tmp_path, how):
    cases = [write_case(tmp_path, f"case{number}", seed=number) for number in range(3)]
    spoil, words = BROKEN[how]
    spoil(cases[1])
    place = store_in(tmp_path)
    jobs = [job(place, case, SETTINGS) for case in cases]
    stored = StoredCases(jobs, "binary")
    assert [stored[number].case for number in (1, 2, 0, 1)] == ["case2", "case2", "case0", "case2"]
    assert [bool(one.failure) for one in jobs] == [False, True, False]
    with pytest.raises(DataError, match=words):
        ensure_prepared(jobs[1])
    again = [job(place, case, SETTINGS) for case in cases]  # in another run
    assert [bool(one.failure) for one in again] == [False, True, False]
    assert len(place.names()) == 2


def test_where_no_case_can_be_prepared_it_is_said(tmp_path):
    case = write_case(tmp_path)
    unknown_label(case)
    with pytest.raises(DataError, match="no case can be prepared"):
        StoredCases([job(store_in(tmp_path), case, SETTINGS)], "binary")[0]


# --- records that were changed together with their checksum


def of_other_lists(values, **lists):
    return {**values, "blocks": {**values["blocks"], **lists}}


FORGED = {
    "lists of other lengths": lambda values: of_other_lists(values, count=values["blocks"]["count"][:-1]),
    "texts": lambda values: of_other_lists(values, count=[str(count) for count in values["blocks"]["count"]]),
    "numbers without measure": lambda values: of_other_lists(values, code=[2**31] * len(values["blocks"]["code"])),
    "a label 0": lambda values: of_other_lists(values, code=[0] * len(values["blocks"]["code"])),
    "blocks outside": lambda values: of_other_lists(values, block=[10**9] * len(values["blocks"]["block"])),
    "blocks twice": lambda values: of_other_lists(values, **{k: v[:1] * 2 for k, v in values["blocks"].items()}),
    "more voxels than there are": lambda values: of_other_lists(values, count=[10**9] * len(values["blocks"]["count"])),
    "another grid": lambda values: {**values, "geometry": {**values["geometry"], "shape": [1, 2, 3]}},
    "a grid without measure": lambda values: {**values, "geometry": {**values["geometry"], "shape": [10**9] * 3}},
    "fewer checksums": lambda values: {
        **values,
        "arrays": {name: {**record, "chunks": []} for name, record in values["arrays"].items()},
    },
}


@pytest.mark.parametrize("change", FORGED.values(), ids=FORGED)
def test_an_entry_that_cannot_be_is_made_again_although_its_checksum_is_right(one, change):
    expected = whole(StoredCases([one], "vertebrae"))
    record = one.store.entry_folder(one.name) / ENTRY_FILE
    values = change(json.loads(record.read_text())["entry"])
    checksum = hashlib.blake2b(json.dumps(values, sort_keys=True).encode(), digest_size=16).hexdigest()
    record.write_text(json.dumps({"checksum": checksum, "entry": values}))
    with pytest.raises(DamagedEntryError):
        one.store.entry(one.name)
    for found, right in zip(whole(StoredCases([one], "vertebrae")), expected, strict=True):
        np.testing.assert_array_equal(found, right)
