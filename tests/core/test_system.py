"""What differs between operating systems: nothing that only one of them has is needed to load or start verse3d."""

import ast
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

import verse3d
from verse3d.core import memory, runtime, system

PACKAGE = Path(verse3d.__file__).parent
POSIX_ONLY = {"resource", "fcntl", "pwd", "grp", "termios", "tty", "pty", "syslog", "posix", "crypt", "nis"}
POSIX_NAMES = {
    "fork",
    "kill",
    "sysconf",
    "getuid",
    "geteuid",
    "getpgid",
    "killpg",
    "setsid",
    "uname",
    "mkfifo",
    "statvfs",
}
"""Of the module os."""

# As on Windows: the modules are not there, nor what os has on POSIX systems only. What others import is their affair.
BLOCK = """
import builtins, sys
real = builtins.__import__
def guarded(name, globals=None, locals=None, fromlist=(), level=0):
    where = (globals or {}).get("__name__", "")
    if name in BLOCKED and where.startswith("verse3d"):
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return real(name, globals, locals, fromlist, level)
builtins.__import__ = guarded
import verse3d.core.system as system
whole = system.import_module
def absent(name, package=None):
    if name in BLOCKED:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    return whole(name, package)
system.import_module = absent
"""


def run_blocked(code, **options):
    script = f"BLOCKED = {sorted(POSIX_ONLY)!r}\n{BLOCK}\n{code}"
    return subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, **options)


def calls_of(path):
    """(line, name) of everything of ``os`` that exists on POSIX systems only, and imports of modules of that kind."""
    text = path.read_text(encoding="utf-8")
    if not any(name in text for name in POSIX_NAMES | POSIX_ONLY):  # reading is quicker than parsing
        return
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            if node.value.id == "os" and node.attr in POSIX_NAMES:
                yield node.lineno, f"os.{node.attr}"
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from ((node.lineno, name) for name in names if name.split(".")[0] in POSIX_ONLY)


def test_only_one_module_knows_what_posix_systems_alone_have():
    found = {
        path.relative_to(PACKAGE).as_posix(): sorted({name for _, name in calls_of(path)})
        for path in PACKAGE.rglob("*.py")
    }
    assert {name: used for name, used in found.items() if used} == {
        "core/system.py": ["os.kill", "os.sysconf", "os.uname"]
    }


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_every_command_starts_without_the_modules_that_only_posix_systems_have():
    code = (
        "import json, typer, importlib, pkgutil, verse3d\n"
        "for module in pkgutil.walk_packages(verse3d.__path__, 'verse3d.'):\n"
        "    if module.name != 'verse3d.__main__':\n"
        "        importlib.import_module(module.name)\n"
        "from verse3d.cli import app, main\n"
        "commands = sorted(typer.main.get_command(app).commands)\n"
        "codes = {name: main([name, '--help']) for name in commands}\n"
        "print(json.dumps(codes))\n"
    )
    done = run_blocked(code)
    assert done.returncode == 0, done.stderr
    codes = json.loads(done.stdout.splitlines()[-1])
    assert len(codes) >= 15 and set(codes.values()) == {0}


def test_memory_is_known_without_the_modules_and_files_of_linux(tmp_path):
    code = (
        "from pathlib import Path\n"
        "from unittest.mock import MagicMock\n"
        "sys.modules['torch'] = MagicMock()\n"  # nothing here asks it, and loading it takes seconds
        "from verse3d.core import memory, runtime\n"
        f"runtime._STATUS = memory._MEMINFO = Path({str(tmp_path / 'none')!r})\n"
        "import psutil\n"
        "class Info: peak_wset = 123_000_000\n"
        "psutil.Process.memory_info = lambda self: Info()\n"
        "print(runtime.peak_rss_mb(), memory._free_on_machine())\n"
    )
    done = run_blocked(code)
    assert done.returncode == 0, done.stderr
    peak, free = map(float, done.stdout.split())
    assert peak == 123.0
    assert 0.5 < free / psutil.virtual_memory().available < 2


def test_a_lock_is_ours_alone_until_the_file_is_closed(tmp_path):
    with (tmp_path / "a").open("w") as mine:
        assert system.lock(mine, wait=False)
        with (tmp_path / "a").open("r+") as other, pytest.raises(BlockingIOError):
            system.lock(other, wait=False)
    with (tmp_path / "a").open("r+") as other:
        assert system.lock(other, wait=True)


def test_where_there_are_no_locks_nothing_is_locked_and_that_is_said(tmp_path, monkeypatch):
    monkeypatch.setattr(system, "_module", lambda name: None)
    with (tmp_path / "a").open("w") as mine, (tmp_path / "a").open("r+") as other:
        assert not system.lock(mine, wait=False)
        assert not system.lock(other, wait=True)


def test_a_process_began_when_it_was_started_and_is_gone_when_it_ended():
    before = time.time()
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    try:
        assert system.is_running(child.pid)
        assert before - 3 < system.process_start(child.pid) < time.time() + 3
    finally:
        child.communicate(b"\n")
    assert not system.is_running(child.pid)
    assert system.process_start(child.pid) is None
    assert system.process_start(2**60) is None


def test_on_windows_no_signal_is_sent_to_see_whether_a_process_runs(monkeypatch):
    """There signal 0 is Ctrl-C, and everything else ends the process."""
    monkeypatch.setattr(system, "_POSIX", False)
    real, senders = os.kill, []
    monkeypatch.setattr(os, "kill", lambda *a: (senders.append(sys._getframe(1).f_globals["__name__"]), real(*a))[1])
    began, missing = system.process_start(os.getpid()), system.process_start(2**30)
    assert not [name for name in senders if name.startswith("verse3d")]  # psutil does, on this system
    assert began == pytest.approx(psutil.Process().create_time())
    assert missing is None


def test_files_and_folders_are_brought_to_the_disk(tmp_path, monkeypatch):
    (tmp_path / "a").write_text("x")
    flushed = []
    monkeypatch.setattr(system.os, "fsync", flushed.append)
    system.flush_file(tmp_path / "a")
    system.flush_folder(tmp_path)
    assert len(flushed) == 2


def test_mps_is_refused_in_a_sentence():
    with pytest.raises(verse3d.core.errors.ConfigError, match="Apple") as caught:
        runtime.choose_device("mps")
    assert "cpu" in caught.value.hint


def test_what_is_free_without_psutil_is_half_of_all(monkeypatch):
    monkeypatch.setattr(system, "_module", lambda name: None)
    assert memory.available_memory_bytes() == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
