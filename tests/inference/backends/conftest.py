"""Here OpenVINO itself is tested."""

import logging
import shutil
from pathlib import Path

import pytest

from tests.inference.backends.models import MODES, Model, backend_of, config_of, windows_of, write_model
from verse3d.model.checkpoint import load_checkpoint


@pytest.fixture(autouse=True)
def _without_openvino():
    """In place of the fixture of all other tests."""


@pytest.fixture
def model(tmp_path):
    return write_model(tmp_path / "best.pt", config_of())


@pytest.fixture(scope="session")
def converted(tmp_path_factory) -> Path:
    """The folder of a model that was converted, compared and kept; read only. Converting takes a second."""
    model = write_model(tmp_path_factory.mktemp("converted") / "best.pt", config_of())
    backend_of(model)(windows_of(MODES["3d"]))
    return model.path.parent


@pytest.fixture
def kept(converted, tmp_path):
    """The same in a folder of the test's own."""
    shutil.copytree(converted, tmp_path / "kept")
    path = tmp_path / "kept" / "best.pt"
    return Model(path, load_checkpoint(path))


@pytest.fixture(autouse=True)
def _log_all(caplog):
    caplog.set_level(logging.DEBUG, logger="verse3d")
