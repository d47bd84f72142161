"""Fixtures for tests that run whole commands."""

import gc
import logging
import os
import sys
from pathlib import Path

import pytest
import yaml
from hypothesis import settings

from tests import scans

# A busy machine is no bug. Each property has examples of its own beside these, and `make fuzz` looks for more.
settings.register_profile("unhurried", deadline=None, max_examples=50)
settings.load_profile("unhurried")

FROZEN = pytest.StashKey[int]()
"""How many modules were loaded when the garbage collector was last told to leave them alone."""


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """While tests are collected they load everything; from then on garbage is collected as in any program."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()
        session.config.stash[FROZEN] = len(sys.modules)


@pytest.fixture(scope="session", autouse=True)
def _cache_of_its_own(tmp_path_factory):
    """Converted models go where the tests write, not into the user's cache; the processes of a run share them."""
    base = tmp_path_factory.getbasetemp()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("MPLCONFIGDIR", str(Path.home() / ".cache" / "matplotlib"))  # whose fonts take long to list
        patched.setenv("XDG_CACHE_HOME", str((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "cache"))
        yield


@pytest.fixture(scope="module", autouse=True)
def _what_was_loaded_stays(pytestconfig):
    """Libraries are a million objects, which the garbage collector need not look through again and again."""
    yield
    if len(sys.modules) > pytestconfig.stash.get(FROZEN, 0) + 100:
        gc.collect()
        gc.freeze()
        pytestconfig.stash[FROZEN] = len(sys.modules)


@pytest.fixture(scope="session")
def dataset(tmp_path_factory):
    """Three training cases and a validation case; read only."""
    return scans.write_dataset(tmp_path_factory.mktemp("dataset"))


@pytest.fixture(scope="session")
def tiny_yaml(tmp_path_factory):
    """The path of the tiny config."""
    path = tmp_path_factory.mktemp("config") / "tiny.yaml"
    path.write_text(yaml.safe_dump(scans.TINY))
    return str(path)


@pytest.fixture(scope="session")
def tiny2d_yaml(tmp_path_factory):
    """The path of the tiny config, slice by slice."""
    path = tmp_path_factory.mktemp("config") / "tiny2d.yaml"
    path.write_text(yaml.safe_dump({"mode": "2d", **scans.TINY}))
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
