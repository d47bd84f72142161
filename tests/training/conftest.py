"""Runs that many tests look at or go on from, each trained once, and how often runs are saved."""

import math

import pytest

from tests.scans import tiny_config
from tests.training.runs import DROPOUT, UNVALIDATED, UNVALIDATED_2D, UNVALIDATED_DROPOUT, train
from verse3d.training import clock


@pytest.fixture(scope="session")
def plain(dataset, tmp_path_factory):
    """An uninterrupted run without pictures; read only."""
    out = tmp_path_factory.mktemp("runs") / "plain"
    train(dataset, out, tiny_config(**DROPOUT))
    return out


@pytest.fixture(scope="session")
def unvalidated(dataset, tmp_path_factory):
    """The same, validated at its end only; read only."""
    out = tmp_path_factory.mktemp("runs") / "unvalidated"
    train(dataset, out, UNVALIDATED_DROPOUT)
    return out


@pytest.fixture(scope="session")
def begun(dataset, tmp_path_factory):
    """A run after its first epoch, in 3D; read only."""
    out = tmp_path_factory.mktemp("runs") / "begun"
    train(dataset, out, UNVALIDATED, max_epochs=1)
    return out


@pytest.fixture(scope="session")
def begun_2d(dataset, tmp_path_factory):
    """A run after its first epoch, slice by slice; read only."""
    out = tmp_path_factory.mktemp("runs") / "begun2d"
    train(dataset, out, UNVALIDATED_2D, max_epochs=1)
    return out


@pytest.fixture
def saves_every_epoch(monkeypatch):
    """However short epochs are: for tests of what is in such a save."""
    monkeypatch.setattr(clock, "_SAVING_SHARE", math.inf)
