"""Model files for tests."""

from pathlib import Path

import pytest

from tests.model.model_files import checkpoint
from verse3d.model.checkpoint import (
    save_checkpoint,
)


@pytest.fixture
def saved(tmp_path) -> Path:
    save_checkpoint(tmp_path / "best.pt", checkpoint())
    return tmp_path / "best.pt"
