"""Imports that Python's search for garbage does not slow down."""

import gc
from contextlib import ExitStack

import pytest

from verse3d.core import importing
from verse3d.core.importing import uncollected


@pytest.fixture(autouse=True)
def nothing_frozen(monkeypatch):
    """The collector is on, and nothing is frozen, before each test; afterwards what was loaded is left alone again."""
    monkeypatch.setattr(importing, "gc", gc)  # all of it
    gc.unfreeze()
    gc.enable()
    yield
    gc.freeze()
    gc.enable()


def test_no_garbage_is_looked_for_until_all_is_imported():
    before = gc.get_stats()
    with uncollected():
        kept = [[number] for number in range(20_000)]
        assert gc.get_stats() == before
    assert gc.isenabled() and len(kept) == 20_000


def test_what_was_imported_is_old_afterwards_and_not_looked_at_again_soon():
    gc.collect()
    with uncollected():
        kept = [[number] for number in range(20_000)]
    old = {id(one) for one in gc.get_objects(generation=2)}
    assert all(id(one) in old for one in kept)
    assert gc.get_freeze_count() == 0


def test_garbage_made_meanwhile_is_found_later():
    with uncollected():
        loop = []
        loop.append(loop)
        number = id(loop)
        del loop
    gc.collect()
    assert number not in {id(one) for one in gc.get_objects()}


def test_a_failed_import_leaves_the_collector_on():
    with pytest.raises(ImportError), uncollected():
        raise ImportError
    assert gc.isenabled()


def test_of_two_threads_that_import_at_once_the_last_to_end_switches_the_collector_on():
    first, second = ExitStack(), ExitStack()
    first.enter_context(uncollected())
    second.enter_context(uncollected())
    first.close()
    assert not gc.isenabled()
    second.close()
    assert gc.isenabled()


def test_a_collector_that_was_off_stays_off_and_what_was_frozen_stays_frozen():
    gc.disable()
    gc.freeze()
    frozen = gc.get_freeze_count()
    with uncollected(), uncollected():
        pass
    assert not gc.isenabled()
    assert gc.get_freeze_count() == frozen
