"""Parts of a volume are done on all cores, each in a single thread of PyTorch, and nothing of that stays behind."""

import threading

import pytest
import torch

from verse3d.core import threads
from verse3d.inference import single_threaded
from verse3d.inference.single_threaded import in_ranges_single_threaded


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
