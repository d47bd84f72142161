"""Here OpenVINO itself is tested."""

import pytest


@pytest.fixture(autouse=True)
def _without_openvino():
    """In place of the fixture of all other tests."""
