"""Starting the command line as a program of its own: its words come back, and nothing is left behind."""

import os
import sys

import pytest

from verse3d.api.programs import run_verse3d
from verse3d.core.errors import OutputError


@pytest.mark.slow  # it starts the whole program twice
def test_the_program_that_is_started_is_this_one_and_its_complaints_come_back(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)  # so that it is not found by chance
    monkeypatch.delenv("PYTHONPATH", raising=False)
    assert run_verse3d(["--version"], lambda: None) == (0, "")
    code, complaint = run_verse3d(["predict"], lambda: None)
    assert code == 2 and "Usage" in complaint
    assert "PYTHONPATH" not in os.environ


def script(tmp_path, monkeypatch, text):
    path = tmp_path / "python"
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(path))


def test_a_signal_and_an_interruption_are_told_apart(tmp_path, monkeypatch):
    script(tmp_path, monkeypatch, "kill -9 $$")
    assert run_verse3d([], lambda: None) == (-9, "")
    script(tmp_path, monkeypatch, "exit 130")
    with pytest.raises(KeyboardInterrupt):
        run_verse3d([], lambda: None)


def test_whoever_is_interrupted_while_waiting_leaves_no_program_behind(tmp_path, monkeypatch):
    script(tmp_path, monkeypatch, f"echo $$ > {tmp_path}/pid; exec sleep 60")

    def interrupted():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_verse3d([], interrupted)
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


def test_a_program_that_cannot_be_started_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    with pytest.raises(OutputError, match="cannot start"):
        run_verse3d([], lambda: None)
