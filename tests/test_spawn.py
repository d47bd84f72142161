"""Processes begin empty, as on Windows and macOS: no command counts on a copy of the running program."""

import ast
import multiprocessing
import os
from pathlib import Path

import pytest

import verse3d
from tests import scans
from verse3d.cli import main
from verse3d.core import processes
from verse3d.data.cases import write_index

PACKAGE = Path(verse3d.__file__).parent
STARTERS = {"Pool", "Process", "Queue", "Pipe", "Manager", "ProcessPoolExecutor"}


@pytest.fixture
def like_windows(monkeypatch):
    """Nothing forks, and no other way of starting processes is there than spawn."""

    def refuse():
        raise AssertionError("a copy of this process was made")

    monkeypatch.setattr(os, "fork", refuse, raising=False)
    monkeypatch.setattr(multiprocessing, "get_all_start_methods", lambda: ["spawn"])


def unsaid_ways(path):
    """Calls that start processes in the system's own way, which on Linux is (or was) a copy of the running one."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in STARTERS):  # reading is quicker than parsing
        return
    for node in ast.walk(ast.parse(text)):
        called = getattr(node, "func", None)
        if str(getattr(called, "attr", getattr(called, "id", ""))).endswith(tuple(STARTERS)):
            name = ast.unparse(called)
            by_default = name.startswith("multiprocessing.") and name.split(".")[-1] in STARTERS
            if by_default or (name.endswith("ProcessPoolExecutor") and "mp_context" not in ast.unparse(node)):
                yield f"{path.name}:{node.lineno}: {name}"


def test_nothing_starts_processes_in_the_systems_own_way():
    assert [found for path in sorted(PACKAGE.rglob("*.py")) for found in unsaid_ways(path)] == []


def test_what_would_start_a_copy_is_found(tmp_path):
    (tmp_path / "a.py").write_text(
        "multiprocessing.Pool(2)\nProcessPoolExecutor(2)\nProcessPoolExecutor(2, mp_context=c)"
    )
    assert [text.split(": ")[1] for text in unsaid_ways(tmp_path / "a.py")] == [
        "multiprocessing.Pool",
        "ProcessPoolExecutor",
    ]


def test_where_there_is_no_server_to_copy_processes_begin_empty(like_windows):
    assert processes.small_processes("os").get_start_method() == "spawn"


SHORT = ["--device", "cpu", "--set", "runtime.workers=2", "optim.epochs=1"]
COMMANDS = {
    "phantom": ["phantom", "new", "--cases", "2", "--workers", "2"],
    "check": ["check", "cases.jsonl", "--workers", "2", "--no-cache", "--json", "found.json"],
    "stats": ["stats", "cases.jsonl", "--out", "stats", "--workers", "2", "--no-cache"],
    "prepare": ["prepare", "cases.jsonl", "--workers", "2", "--set", "grid.spacing_mm=4"],
    "slices": ["slices", "cases.jsonl", "--out", "slices", "--workers", "2"],
    "train": ["train", "--data", "cases.jsonl", "--out", "run", "--config", "tiny.yaml", *SHORT],
}
"""Every command that starts processes to share its work."""


@pytest.fixture
def folder(tmp_path, monkeypatch, tiny_yaml):
    """An index of four cases and a config, where the commands run."""
    write_index(tmp_path / "cases.jsonl", scans.write_dataset(tmp_path / "data"))
    (tmp_path / "tiny.yaml").write_text(Path(tiny_yaml).read_text())
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow  # each starts Python twice, which takes seconds
@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_with_worker_processes_works_with_empty_ones(name, folder, like_windows, capsys):
    before = set(folder.rglob("*"))
    assert main(["-v", *COMMANDS[name]]) == 0, capsys.readouterr().err
    told = capsys.readouterr().err
    # Without processes it would work, too, but that is the way out.
    assert "one after the other" not in told and "process ended" not in told
    assert set(folder.rglob("*")) - before
