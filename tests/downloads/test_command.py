"""``verse3d download``: what it says and how it ends."""

import hashlib

import pytest

from tests.downloads.archives import BODY, ONE, OTHER, PART, TWO, lock
from verse3d.cli import main
from verse3d.downloads.parts import Part


def test_the_command_fetches_tells_the_licence_and_the_next_step(server, data, capsys):
    arguments = ["download", "--year", "19", "--split", "training", "--out", str(data), "--base-url", server.url]
    assert main(arguments) == 0
    shown = capsys.readouterr().out
    assert "CC BY-SA 4.0" in shown and "10.1016/j.media.2021.102166" in shown and "verse3d index" in shown
    assert "downloaded" in shown and hashlib.sha256(BODY).hexdigest()[:12] in shown
    assert main(arguments) == 0 and "kept" in capsys.readouterr().out
    assert server.asked(ONE.name) == [""] and len(server.gets) == 1


def test_the_command_ends_with_3_and_instructions_if_an_archive_is_missing(server, data, capsys):
    code = main(["download", "--split", "test", "--split", "training", "--out", str(data), "--base-url", server.url])
    assert code == 3
    shown = capsys.readouterr()
    assert shown.out.count("downloaded") == 2 and "answered 404" in shown.out
    told = " ".join(shown.err.split())
    assert "by hand" in told and "jtfa5" in told and "4skx2" in told and "verse3d index" in told
    assert sorted(lock(data)) == sorted([ONE.name, TWO.name])


def test_the_command_says_where_a_changed_file_is_and_what_to_do(server, data, capsys):
    arguments = ["download", "--year", "20", "--split", "test", "--out", str(data), "--base-url", server.url]
    assert main(arguments) == 0
    (data / TWO.name).write_bytes(BODY)
    capsys.readouterr()
    assert main(arguments) == 3
    shown = capsys.readouterr()
    assert "--overwrite" in shown.out and "by hand" not in shown.err
    assert main([*arguments, "--overwrite"]) == 0 and (data / TWO.name).read_bytes() == OTHER


@pytest.mark.parametrize(
    "wrong",
    [
        ["--year", "21"],
        ["--split", "train"],
        ["--mirror", "s4"],
        ["--base-url", "here.org"],
        ["--base-url", "http://127.0.0.1:9", "--mirror", "s3"],
    ],
)
def test_wrong_usage_of_the_command_exits_with_2(data, capsys, wrong):
    assert main(["download", "--out", str(data), *wrong]) == 2
    assert capsys.readouterr().err and not data.exists()


def test_ctrl_c_in_the_command_exits_with_130(server, data, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(Part, "finish", interrupted)
    arguments = ["download", "--year", "19", "--split", "training", "--out", str(data), "--base-url", server.url]
    assert main(arguments) == 130
    assert (data / PART).read_bytes() == BODY and not (data / ONE.name).exists()
    monkeypatch.undo()
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server.sent = 0
    assert main(arguments) == 0 and server.sent == 0 and (data / ONE.name).read_bytes() == BODY
