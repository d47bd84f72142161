import errno
import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import (
    FileBatch,
    make_folder,
    owner,
    read_json,
    regular_file,
    remove_leftovers,
    sha256_of,
    whole_file,
    write_json,
    write_text,
)
from verse3d.core.paths import TEMPORARY_PREFIX


def names(folder: Path) -> list[str]:
    return sorted(entry.name for entry in folder.iterdir())


def refuse_with(number: int):
    def refuse(*_, **__):
        raise OSError(number, os.strerror(number))

    return refuse


def test_a_file_gets_its_name_only_when_it_is_complete(tmp_path):
    path = tmp_path / "new" / "folder" / "a.nii.gz"
    with whole_file(path) as part:
        part.write_bytes(b"half")
        assert part.parent == path.parent
        assert part.name.startswith(TEMPORARY_PREFIX)
        assert part.name.endswith(".nii.gz")
        assert not path.exists()
    assert path.read_bytes() == b"half"
    assert names(path.parent) == ["a.nii.gz"]


@pytest.mark.parametrize("failure", [RuntimeError, KeyboardInterrupt, ValueError])
def test_a_failure_inside_leaves_the_old_file_and_nothing_else(tmp_path, failure):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(failure), whole_file(path) as part:
        part.write_text("ne")
        raise failure
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fills_up_at_the_last_moment_leaves_the_old_file(tmp_path, monkeypatch, call):
    path = tmp_path / "a.txt"
    path.write_text("old")
    target = {"fsync": (os, "fsync"), "replace": (Path, "replace")}[call]
    monkeypatch.setattr(*target, refuse_with(errno.ENOSPC))
    with pytest.raises(OutputError, match="disk is full") as caught:
        write_text(path, "new")
    assert str(path) in caught.value.message
    assert path.read_text() == "old"
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("below", ["a.txt", "folder/a.txt"])
def test_a_file_where_a_folder_is_needed_is_explained(tmp_path, below):
    (tmp_path / "scan").write_text("I am a file")
    with pytest.raises(OutputError, match=r"a file") as caught:
        write_text(tmp_path / "scan" / below, "text")
    assert caught.value.hint
    with pytest.raises(OutputError, match=r"a file"):
        make_folder(tmp_path / "scan" / below)
    assert (tmp_path / "scan").read_text() == "I am a file"


def test_a_folder_is_never_replaced_by_a_file(tmp_path):
    (tmp_path / "a.txt").mkdir()
    with pytest.raises(OutputError, match=r"cannot write .*a\.txt"):
        write_text(tmp_path / "a.txt", "text")
    assert names(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.EDQUOT, errno.EPERM])
def test_refusals_of_the_file_system_say_what_to_do(tmp_path, monkeypatch, number):
    monkeypatch.setattr(Path, "mkdir", refuse_with(number))
    for attempt in (lambda: make_folder(tmp_path / "out"), lambda: write_text(tmp_path / "out" / "a.txt", "text")):
        with pytest.raises(OutputError, match=os.strerror(number)) as caught:
            attempt()
        assert "choose another folder" in caught.value.hint


def test_make_folder_returns_the_folder_with_all_its_parents(tmp_path):
    folder = tmp_path / "a" / "b"
    assert make_folder(folder) == folder == make_folder(folder)
    assert names(folder) == []


def test_text_is_written_with_unix_line_ends_in_utf8(tmp_path):
    write_text(tmp_path / "a.txt", "Wirbelsäule\nT13\n")
    assert (tmp_path / "a.txt").read_bytes() == "Wirbelsäule\nT13\n".encode()


def test_json_comes_back_as_it_went(tmp_path):
    value = {"dice": [0.5, 1.0, None], "name": "Wirbelsäule", "T13": True}
    write_json(tmp_path / "a.json", value)
    assert read_json(tmp_path / "a.json") == value


@pytest.mark.parametrize("value", [float("nan"), {"dice": float("inf")}, {1, 2}])
def test_what_json_cannot_hold_leaves_no_file(tmp_path, value):
    with pytest.raises((ValueError, TypeError)):
        write_json(tmp_path / "a.json", value)
    assert names(tmp_path) == []


@pytest.mark.parametrize("content", [b"", b"{'a': 1}", b"\xff\xfe{}", json.dumps([1, 2]).encode()[:-1]])
def test_broken_json_is_refused_with_its_path(tmp_path, content):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=r"a\.json as JSON"):
        read_json(path)


def test_missing_json_is_refused_with_its_path(tmp_path):
    with pytest.raises(DataError, match=r"none\.json does not exist"):
        read_json(tmp_path / "none.json")


def test_the_fingerprint_of_a_file_is_that_of_its_content(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    # The test vector of FIPS 180-2.
    assert sha256_of(tmp_path / "a") == "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    with pytest.raises(DataError, match="missing"):
        sha256_of(tmp_path / "missing")


def test_names_that_are_no_text_can_be_written_down(tmp_path):
    name = b"scan-\xe4.nii.gz".decode("utf-8", "surrogateescape")
    write_text(tmp_path / "list.csv", f"case,{name}\n")
    assert (tmp_path / "list.csv").read_text(encoding="utf-8") == "case,scan-\\udce4.nii.gz\n"


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (os.mkfifo, "is a pipe"),
        (make_socket, "is a socket"),
        (Path.mkdir, "is a folder"),
        (lambda path: path.symlink_to("/dev/zero"), "is a device"),
        (lambda path: path.symlink_to("nowhere"), "does not exist"),
        (lambda path: path.symlink_to(path), "too many|Too many"),
    ],
)
def test_what_is_no_file_of_bytes_is_refused_before_it_is_opened(tmp_path, monkeypatch, make, words):
    monkeypatch.chdir(tmp_path)  # the name of a socket must be short
    make(Path("x"))
    with pytest.raises(DataError, match=words):
        regular_file(Path("x"))


@pytest.mark.parametrize("name", ["a\0b", "\ud800", "n" * 300])
def test_an_impossible_name_is_a_clear_error_when_reading(tmp_path, name):
    with pytest.raises(DataError, match="cannot read"):
        regular_file(tmp_path / name)


def test_a_file_and_a_link_to_it_may_be_read(tmp_path):
    (tmp_path / "a").write_bytes(b"x")
    (tmp_path / "link").symlink_to("a")
    assert regular_file(tmp_path / "link") == tmp_path / "link"


@pytest.mark.parametrize("read", [read_json, sha256_of])
def test_small_readers_refuse_a_pipe(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(DataError, match="is a pipe"):
        read(tmp_path / "pipe")


def test_a_batch_gives_names_only_when_it_is_settled(tmp_path):
    with FileBatch() as batch:
        for name in ("a.txt", "folder/b.txt"):
            with batch.file(tmp_path / name) as part:
                part.write_text(name)
        assert not (tmp_path / "a.txt").exists()
    assert (tmp_path / "folder" / "b.txt").read_text() == "folder/b.txt"
    assert names(tmp_path) == ["a.txt", "folder"]


def test_a_failure_in_a_batch_keeps_what_is_complete_and_nothing_else(tmp_path):
    with pytest.raises(RuntimeError), FileBatch() as batch:
        with batch.file(tmp_path / "a") as part:
            part.write_text("whole")
        with batch.file(tmp_path / "b") as part:
            part.write_text("ha")
            raise RuntimeError
    assert names(tmp_path) == ["a"]


def test_a_disk_that_fills_up_when_a_batch_is_flushed_leaves_no_half_file(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "fsync", refuse_with(errno.ENOSPC))
    with pytest.raises(OutputError, match="disk is full"), FileBatch() as batch, batch.file(tmp_path / "a") as part:
        part.write_text("x")
    assert names(tmp_path) == []


def test_one_file_of_a_batch_that_cannot_have_its_name_does_not_take_the_others_along(tmp_path):
    (tmp_path / "b").mkdir()
    with pytest.raises(OutputError, match="b: Is a directory"), FileBatch() as batch:
        for name in "abc":
            with batch.file(tmp_path / name) as part:
                part.write_text(name)
    assert names(tmp_path) == ["a", "b", "c"]


def test_a_batch_is_settled_when_it_is_large(tmp_path, monkeypatch):
    monkeypatch.setattr(FileBatch, "MOST_BYTES", 10)
    with FileBatch() as batch:
        with batch.file(tmp_path / "a") as part:
            part.write_bytes(bytes(11))
        assert names(tmp_path) == ["a"]


@pytest.mark.parametrize("name", ["n" * 248 + ".nii.gz", "ä" * 124 + ".nii.gz"])
def test_the_longest_possible_name_can_be_written_and_its_leftovers_are_found(tmp_path, name):
    path = tmp_path / name
    with whole_file(path) as part:
        part.write_text("x")
        assert part.name.endswith(".nii.gz")
        left = part.with_name(part.name.replace(str(os.getpid()), "99999999"))
        left.write_text("of a program that was killed")
    remove_leftovers(tmp_path)
    assert names(tmp_path) == [name]


GONE = "4194303"  # the largest number that Linux gives away


def leftover(folder: Path, name: str, *, days_old: float = 0.0) -> Path:
    path = folder / f".verse3d-{name}-last.pt"
    path.write_bytes(b"half")
    os.utime(path, (time.time() - 86400 * days_old,) * 2)
    return path


@pytest.fixture
def sleeper():
    process = subprocess.Popen(["sleep", "60"])
    yield process.pid
    process.kill()
    process.wait()


def test_what_killed_processes_left_is_removed_and_what_living_ones_write_is_not(tmp_path, sleeper):
    machine = owner().partition(".")[2]
    dead = [leftover(tmp_path, GONE), leftover(tmp_path, f"{GONE}.{machine}")]
    reused = leftover(tmp_path, f"{sleeper}.{machine}", days_old=1)  # the number belongs to another process now
    abroad = leftover(tmp_path, f"{GONE}.00000000", days_old=1.1)
    kept = [
        leftover(tmp_path, owner()),
        leftover(tmp_path, str(sleeper)),
        leftover(tmp_path, f"{os.getppid()}.{machine}"),
        leftover(tmp_path, f"{GONE}.00000001"),  # nobody can see from here whether it lives
        leftover(tmp_path, "folder"),
    ]
    (tmp_path / "mine.pt").write_bytes(b"whole")
    remove_leftovers(tmp_path)
    assert not any(path.exists() for path in (*dead, reused, abroad))
    assert all(path.exists() for path in kept) and (tmp_path / "mine.pt").exists()


def test_a_process_that_has_ended_but_whom_nobody_has_asked_is_no_living_one(tmp_path):
    ended = subprocess.Popen(["true"])
    while Path(f"/proc/{ended.pid}/stat").read_text().split()[2] != "Z":
        time.sleep(0.01)
    path = leftover(tmp_path, str(ended.pid))
    remove_leftovers(tmp_path)
    assert not path.exists()
    ended.wait()


def test_temporary_files_name_their_process_and_machine(tmp_path):
    with whole_file(tmp_path / "a.txt") as part:
        part.write_text("text")
        assert part.name == f".verse3d-{owner()}-a.txt"
        remove_leftovers(tmp_path)
        assert part.exists()
