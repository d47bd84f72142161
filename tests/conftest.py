"""Fixtures for tests that run whole commands."""

import gc
import importlib
import logging
import os
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace

import pytest
import typer.main
import yaml
from hypothesis import settings

# A busy machine is no bug. Each property has examples of its own beside these, and `make fuzz` looks for more.
settings.register_profile("unhurried", deadline=None, max_examples=50)
settings.load_profile("unhurried")

FROZEN = pytest.StashKey[int]()
"""How many modules were loaded when the garbage collector was last told to leave them alone."""


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """While tests are collected they load everything; from then on garbage is looked for, though less often than usual.

    Among what tests make there is little, and looking for it after every 700 objects takes a twentieth of their time.
    """
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.set_threshold(10_000)
        gc.enable()
        session.config.stash[FROZEN] = len(sys.modules)


def pytest_unconfigure():
    """Everything goes with the process, and need not be looked through for garbage once more."""
    gc.freeze()


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Converted models go where the tests write, not into the user's cache; the processes of a run share them."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))  # whose fonts take long to list
        patched.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


def pytest_configure():
    """A core for each process of a run: with more threads than cores they wait for each other, at the cost of all.

    What several threads do is tested where their number is set.
    """
    number = os.environ.get("PYTEST_XDIST_WORKER", "").removeprefix("gw")
    if number and hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(number) % len(cores)]})


@pytest.fixture(scope="session", autouse=True)
def _asked_once():
    """What a program asks once is not asked anew by each of the thousands of commands that run in this one."""
    # Commands are made of the signatures of functions; and counting a million frozen objects takes a look at each.
    known = SimpleNamespace(**{name: getattr(gc, name) for name in ("isenabled", "disable", "enable")})
    known.get_freeze_count = lambda: 1
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(typer.main, "get_command", cache(typer.main.get_command))
        patched.setattr("verse3d.core.importing.gc", known)
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_was_loaded_stays(pytestconfig):
    """Libraries are a million objects, which the garbage collector need not look through again and again."""
    yield
    if len(sys.modules) > pytestconfig.stash.get(FROZEN, 0) + 100:
        gc.collect()
        gc.freeze()
        pytestconfig.stash[FROZEN] = len(sys.modules)


def scans():
    """``tests.scans``, which loads PyTorch: the process that only hands out tests needs none, and all wait for it."""
    return importlib.import_module("tests.scans")


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Three training cases and a validation case; read only."""
    return scans().write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory):
    """The path of the tiny config."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(scans().TINY))
    return str(path)


@pytest.fixture(scope="session")
def tiny2d_yaml(tmp_path_factory):
    """The path of the tiny config, slice by slice."""
    path = tmp_path_factory.mktemp("config") / "tiny2d.yaml"
    path.write_text(yaml.safe_dump({"mode": "2d", **scans().TINY}))
    return str(path)


@pytest.fixture
def as_for_users():
    """For tests of whole journeys: models are predicted with by what is installed."""


@pytest.fixture(autouse=True)
def _without_openvino(request, monkeypatch):
    """Converting and comparing a model takes a second, so what is no test of that predicts as if it were not there."""
    if "as_for_users" not in request.fixturenames:
        monkeypatch.setattr("verse3d.inference.backends.choose.find_spec", lambda _: None)


@pytest.fixture(autouse=True)
def _quiet_again():
    """Commands attach a terminal handler to the package's logger; take it off after each test."""
    root = logging.getLogger("verse3d")
    before, level = list(root.handlers), root.level
    yield
    root.handlers[:] = before
    root.setLevel(level)


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable():
    """Let reports travel between processes although a test logged half a surrogate pair, which no encoding takes."""
    return _encodable((yield))


def _encodable(value):
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_encodable(key): _encodable(item) for key, item in value.items()}
    return type(value)(map(_encodable, value)) if isinstance(value, list | tuple) else value
