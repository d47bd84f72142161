import errno
import json
import os
import socket
from pathlib import Path

import pytest

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import (
    TEMPORARY_PREFIX,
    make_folder,
    read_json,
    regular_file,
    sha256_of,
    whole_file,
    write_json,
    write_text,
)


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
