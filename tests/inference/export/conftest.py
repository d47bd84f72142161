"""Exports are compared with what OpenVINO computes."""

from types import SimpleNamespace

import pytest

from tests.scans import PIR, spine
from verse3d.inference.export import phantom_windows


@pytest.fixture(autouse=True)
def quick_phantom(monkeypatch):
    """Blocks in place of the phantom, which takes seconds to draw."""
    scan = spine(0, PIR)
    case = SimpleNamespace(image_hu=scan.hu, mask=scan.mask, geometry=scan.geometry)
    monkeypatch.setattr(phantom_windows, "make_case", lambda seed: case)


@pytest.fixture(autouse=True)
def _without_openvino():
    """In place of the fixture of all other tests."""
