"""Fixtures for tests of trainings."""

import math

import pytest

from verse3d.training import clock


@pytest.fixture
def saves_every_epoch(monkeypatch):
    """However short epochs are: for tests of what is in such a save."""
    monkeypatch.setattr(clock, "_SAVING_SHARE", math.inf)
