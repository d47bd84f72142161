"""A config in a file."""

from pathlib import Path

import pytest


@pytest.fixture
def written(tmp_path):
    """Write a YAML text and return its path."""

    def write(text: str) -> Path:
        path = tmp_path / "mine.yaml"
        path.write_text(text, encoding="utf-8")
        return path

    return write
