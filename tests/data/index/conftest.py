"""A small release, in folders and zipped."""

from pathlib import Path

import pytest

from tests.data.index.zips import PART, pack, tree
from tests.releases import released_paths, write_subject_based


@pytest.fixture(scope="module")
def release(tmp_path_factory) -> dict[str, bytes]:
    """Five scans of one part, as they lie in its zip."""
    root = tmp_path_factory.mktemp("release")
    return tree(write_subject_based(root, [pair for pair in released_paths() if pair[0].startswith(PART)][:5]))


@pytest.fixture
def zipped(tmp_path, release) -> Path:
    return pack(tmp_path / "downloads" / f"{PART}.zip", release)
