"""Three stages: order, bounded ahead and behind, errors that stay with their item, a close that waits."""

import threading
import time

import pytest

from verse3d.inference.pipeline import Stages, one_by_one, overlapped

BOTH = pytest.mark.parametrize("in_turn", [one_by_one, overlapped])


def stages(**changed) -> Stages:
    """Every stage adds its letter; what a stage raises becomes a text."""
    plain = {name: (lambda item, name=name: f"{item}{name[0]}") for name in ("read", "work", "write")}
    ended = {"ended": lambda item, error: f"{item}: {error}", "expected": (ValueError,)}
    return Stages(**{**plain, **ended, **changed})


def failing_at(item, error):
    def stage(state):
        if state.startswith(item):
            raise error
        return f"{state}!"

    return stage


@BOTH
@pytest.mark.parametrize("count", [0, 1, 2, 5])
def test_the_results_come_in_the_order_of_the_items(in_turn, count):
    items = [str(number) for number in range(count)]
    assert list(in_turn(items, stages())) == [f"{item}rww" for item in items]


@BOTH
@pytest.mark.parametrize("stage", ["read", "work", "write"])
@pytest.mark.parametrize("item", ["a", "b", "c"])
def test_an_error_at_any_stage_ends_the_way_of_its_item_only(in_turn, stage, item):
    found = list(in_turn("abc", stages(**{stage: failing_at(item, ValueError("bad"))})))
    assert [result == f"{one}: bad" for one, result in zip("abc", found, strict=True)] == [one == item for one in "abc"]


@BOTH
@pytest.mark.parametrize("stage", ["read", "work", "write"])
def test_an_error_that_nobody_expects_ends_everything(in_turn, stage):
    with pytest.raises(KeyError):
        list(in_turn("abc", stages(**{stage: failing_at("b", KeyError("?"))})))


def test_the_next_is_read_and_the_last_is_written_while_one_is_worked_on():
    """Each stage waits until its neighbours are at work: one after the other they would wait for ever."""
    meeting = threading.Barrier(3, timeout=300)

    def meet_if(wanted):
        def stage(state):
            if state.startswith(wanted):
                meeting.wait()
            return state

        return stage

    found = list(overlapped("abc", stages(read=meet_if("c"), work=meet_if("b"), write=meet_if("a"))))
    assert found == ["a", "b", "c"]


def test_no_more_than_three_items_are_under_way():
    under_way, most = set(), []

    def read(item):
        under_way.add(item)
        most.append(len(under_way))
        return item

    for result in overlapped(range(20), stages(read=read, work=lambda item: item, write=lambda item: item)):
        under_way.discard(result)
    assert max(most) <= 4, "three, and the one whose result is being taken"


def test_closing_early_waits_for_what_is_being_written_and_begins_nothing_new():
    written, read = [], []

    def write(item):
        time.sleep(0.2)
        written.append(item)
        return item

    results = overlapped("abcdef", stages(read=lambda item: read.append(item) or item, work=lambda i: i, write=write))
    assert next(results) == "a"
    before = list(read)
    results.close()
    assert written in (["a"], ["a", "b"]) and len(read) <= len(before) + 1
    assert not [thread for thread in threading.enumerate() if thread.name.startswith(("read", "write"))]
