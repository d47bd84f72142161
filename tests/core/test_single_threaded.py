"""Parts of a volume are done on all cores, each in a single thread of PyTorch, and nothing of that stays behind."""

import signal
import threading
import time

import pytest
import torch

from verse3d.core import single_threaded, threads
from verse3d.core.single_threaded import in_order_side_by_side, in_ranges_single_threaded


@pytest.fixture
def three_cores(monkeypatch):
    for module in (threads, single_threaded):
        monkeypatch.setattr(module, "thread_count", lambda: 3)


def test_every_part_is_done_once_in_one_thread_of_pytorch_and_without_gradients(three_cores):
    seen, before = [], torch.get_num_threads()

    def work(start, stop):
        seen.append((start, stop, torch.get_num_threads(), torch.is_inference_mode_enabled(), threading.get_ident()))

    in_ranges_single_threaded(work, 11, 2)
    assert sorted((start, stop) for start, stop, *_ in seen) == [(0, 2), (2, 4), (4, 6), (6, 8), (8, 10), (10, 11)]
    assert {(count, inference) for _, _, count, inference, _ in seen} == {(1, True)}
    assert threading.get_ident() not in {ident for *_, ident in seen}
    assert torch.get_num_threads() == before


def test_a_single_part_is_left_to_the_threads_of_pytorch(three_cores):
    seen = []
    in_ranges_single_threaded(lambda start, stop: seen.append((start, stop, threading.get_ident())), 5, 5)
    assert seen == [(0, 5, threading.get_ident())]


def test_an_error_comes_out_and_pytorch_has_its_threads_again(three_cores):
    before = torch.get_num_threads()

    def fail(start, stop):
        raise torch.OutOfMemoryError(f"part {start}")

    with pytest.raises(torch.OutOfMemoryError, match="part"):
        in_ranges_single_threaded(fail, 4, 1)
    counts = []
    thread = threading.Thread(target=lambda: counts.append(torch.get_num_threads()))
    thread.start()
    thread.join()
    assert counts == [before] == [torch.get_num_threads()]


def test_results_come_in_order_while_two_are_worked_on_at_once():
    together, before = threading.Barrier(2, timeout=20), torch.get_num_threads()
    torch.set_num_threads(4)
    seen = []

    def work(item):
        together.wait()  # passes only if another one is worked on at the same time
        seen.append((torch.get_num_threads(), torch.is_inference_mode_enabled()))
        return item * item

    try:
        assert list(in_order_side_by_side(work, range(6), 2)) == [0, 1, 4, 9, 16, 25]
        assert set(seen) == {(2, True)}
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_no_more_are_begun_than_can_wait():
    begun = []
    results = in_order_side_by_side(lambda item: begun.append(item) or item, range(100), 2)
    assert next(results) == 0
    assert len(begun) <= 3
    results.close()
    assert len(begun) <= 3


def test_an_error_comes_in_the_place_of_its_result_and_ends_the_others():
    before, done = torch.get_num_threads(), []

    def work(item):
        if item == 2:
            raise torch.OutOfMemoryError("item 2")
        done.append(item)
        return item

    results = in_order_side_by_side(work, range(50), 2)
    assert [next(results), next(results)] == [0, 1]
    with pytest.raises(torch.OutOfMemoryError, match="item 2"):
        next(results)
    assert max(done) <= 4
    assert torch.get_num_threads() == before


def test_ctrl_c_waits_for_what_is_worked_on_and_leaves_no_thread():
    before, begun, ended = torch.get_num_threads(), [], []

    def work(item):
        begun.append(item)
        if item == 5:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.02)
        ended.append(item)

    kept = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it
    try:
        with pytest.raises(KeyboardInterrupt):
            list(in_order_side_by_side(work, range(50), 2))
    finally:
        signal.signal(signal.SIGINT, kept)
    assert sorted(begun) == sorted(ended) and len(begun) < 10
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("beside")]
    assert torch.get_num_threads() == before


def test_a_second_ctrl_c_meanwhile_leaves_pytorch_its_threads_too(monkeypatch):
    class Impatient(single_threaded.ThreadPoolExecutor):
        def shutdown(self, wait=True, *, cancel_futures=False):
            super().shutdown(wait, cancel_futures=cancel_futures)
            if cancel_futures:
                raise KeyboardInterrupt

    monkeypatch.setattr(single_threaded, "ThreadPoolExecutor", Impatient)
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        results = in_order_side_by_side(lambda item: item, range(9), 2)
        next(results)
        with pytest.raises(KeyboardInterrupt):
            results.close()
        assert torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)
