"""Batches on the training device: the same however many processes read them, and errors as they are."""

import itertools
import os
import threading
import time

import numpy as np
import pytest
import torch

from tests.data.samples.test_cut import prepared
from verse3d.core.config import RuntimeConfig, parse_config
from verse3d.core.errors import DataError
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.cut import PatchCut
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import BatchStream, PatchDataset
from verse3d.data.samples.shared_blocks import SharedBlocks, is_lent
from verse3d.model.modes import Method
from verse3d.training import feed as feeds
from verse3d.training.feed import CpuWaiting, Feed, choose_workers

CPU = torch.device("cpu")
GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU")
CONFIG = parse_config(
    {
        "network": {"channels": [4, 8]},
        "sampling": {"patch_voxels": [8, 10, 12], "batch_size": 2},
        "augment": {"affine": 0.6, "elastic": 0.3, "noise": 0.5, "thick_slices": 0.5},
    }
)
CASES = [prepared((9 + number, 11, 14)) for number in range(3)]


def feed_of(workers=0, cases=CASES, device=CPU, **stream) -> Feed:
    cut = Method(CONFIG).cut()
    dataset = PatchDataset(cases, cut, length=6, seed=3)
    return Feed(dataset, BatchStream(length=6, batch_size=2, **stream), Augment(cut.size), device, workers)


def batches(feed, count):
    try:
        return list(itertools.islice(feed, count))
    finally:
        feed.close()


def assert_equal(one, other):
    assert len(one) == len(other)
    for a, b in zip(one, other, strict=True):
        assert all(torch.equal(a[key], b[key]) for key in ("image", "label"))


@pytest.mark.parametrize(
    "workers", [0, pytest.param(1, marks=pytest.mark.slow), pytest.param(2, marks=pytest.mark.slow)]
)
def test_worker_processes_give_the_same_batches_as_none_over_several_epochs(workers):
    alone = batches(feed_of(), 8)
    assert_equal(alone, batches(feed_of(workers), 8))
    assert {tuple(batch["image"].shape) for batch in alone} == {(2, 1, 8, 10, 12)}
    assert len({float(batch["image"].sum()) for batch in alone}) == 8


@pytest.mark.slow  # it starts a process with PyTorch
def test_workers_live_through_the_epochs():
    feed = feed_of(1)
    next(feed)
    first = [worker.pid for worker in feed._packed._workers]
    for _ in range(7):  # two more epochs
        next(feed)
    assert [worker.pid for worker in feed._packed._workers] == first
    (worker,) = feed._packed._workers
    feed.close()
    worker.join(timeout=300)
    assert not worker.is_alive()


def test_a_feed_that_begins_in_the_middle_gives_the_rest():
    assert_equal(batches(feed_of(), 8)[4:], batches(feed_of(epoch=2, step=1), 4))


def test_two_ranks_together_see_the_joint_batch():
    whole = batches(feed_of(), 3)
    halves = [batches(feed_of(rank=rank, ranks=2), 3) for rank in (0, 1)]
    for number, batch in enumerate(whole):
        for key in batch:
            assert torch.equal(batch[key], torch.cat([half[number][key] for half in halves]))


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_batches_do_not_touch_the_global_random_state(workers):
    torch.manual_seed(0)
    before = torch.get_rng_state()
    batches(feed_of(workers), 2)
    assert torch.equal(torch.get_rng_state(), before)


class Lost(list):
    """Cases of which the second cannot be read any more."""

    def __getitem__(self, number):
        if number == 1:
            raise DataError("case1 is gone", hint="prepare it again")
        return super().__getitem__(number)


@pytest.mark.parametrize("workers", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_an_error_in_a_worker_arrives_as_the_error_that_it_is(workers):
    with pytest.raises(DataError, match=r"^case1 is gone\n  hint: prepare it again$"):
        batches(feed_of(workers, cases=Lost(CASES)), 3)


class Unreadable:
    """A case whose voxels are lost after its centre was drawn."""

    def __init__(self, case):
        self.case, self.geometry, self.source = case.case, case.geometry, case.source
        self.draw_centre = case.draw_centre

    def read_into(self, start, image, label):
        raise DataError("the voxels of the case are gone")


def test_an_error_while_a_batch_is_packed_arrives_as_the_error_that_it_is():
    with pytest.raises(DataError, match=r"^the voxels of the case are gone$"):
        batches(feed_of(cases=[CASES[0], Unreadable(CASES[1])]), 3)


def test_the_memory_of_a_batch_is_given_back_when_it_was_augmented_and_when_it_could_not_be_packed():
    class OneBlock(SharedBlocks):
        def take(self, size):
            self.block = super().take(size)
            return self.block

    shared, cut = OneBlock(), PatchCut(CONFIG.sampling, CONFIG.augment, CONFIG.grid.spacing_mm)
    with pytest.raises(DataError):
        PackedBatch.of([cut.plan(Unreadable(CASES[0]), np.random.RandomState(0))], shared)
    assert not is_lent(shared.block)
    packed = PackedBatch.of([cut.plan(CASES[0], np.random.RandomState(0))], shared)
    assert is_lent(shared.block)
    feed = feed_of()
    feed._packed = iter([packed])
    next(feed)
    assert not is_lent(shared.block)


class TestWorkers:
    @pytest.fixture(autouse=True)
    def machine(self, monkeypatch):
        def of(cores):
            monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cores)), raising=False)

        self.of = of

    @pytest.mark.parametrize(("cores", "cpu", "gpu"), [(1, 0, 1), (2, 0, 1), (4, 1, 2), (16, 1, 14), (128, 1, 16)])
    def test_auto_chooses_by_cores_and_leaves_them_to_a_network_on_the_cpu(self, cores, cpu, gpu):
        self.of(cores)
        assert choose_workers(RuntimeConfig(), CPU) == cpu
        assert choose_workers(RuntimeConfig(), torch.device("cuda")) == gpu

    def test_a_number_is_taken_as_it_is(self):
        self.of(2)
        assert choose_workers(RuntimeConfig(workers=5), CPU) == 5


def test_waiting_is_the_time_between_asking_and_having(monkeypatch):
    clock = iter([0.0, 2.0, 5.0, 5.5])
    monkeypatch.setattr(feeds.time, "perf_counter", lambda: next(clock))
    waiting = CpuWaiting()
    for _ in range(2):
        waiting.begin()
        waiting.end()
    assert waiting.take() == 2.5
    assert waiting.take() == 0.0


def test_on_a_cpu_the_next_batch_is_made_beside_the_step_on_one_core():
    feed, threads = feed_of(), torch.get_num_threads()
    made = []
    augment = feed._augment

    def noted(boxes):
        batch = augment(boxes)
        made.append((threading.get_ident(), torch.get_num_threads()))
        return batch

    feed._augment = noted
    torch.set_num_threads(2)
    try:
        next(feed)
        limit = time.monotonic() + 300
        while len(made) < 2 and time.monotonic() < limit:  # nobody has asked for the second
            time.sleep(0.001)
        assert len(made) == 2
        assert len({ident for ident, _ in made} - {threading.get_ident()}) == 1
        assert {count for _, count in made} == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
        feed.close()


def test_on_a_cpu_nothing_is_read_any_more_when_a_step_is_over():
    feed = feed_of()
    augment, release = feed._augment, threading.Event()
    feed._augment = lambda boxes: (release.wait(300), augment(boxes))[1]
    threading.Timer(0.05, release.set).start()
    next(feed)
    release.clear()
    threading.Timer(0.05, release.set).start()
    feed.bring_next()
    assert feed._beside.done()
    assert 0.0 < feed.waiting.take() < 300
    feed.close()


def test_an_error_of_a_batch_that_is_made_ahead_comes_when_it_is_asked_for():
    feed = feed_of()
    batch = next(feed)
    feed.bring_next()
    feed._packed = iter([DataError("the disk is gone")])
    next(feed)
    feed.bring_next()
    assert batch["image"].shape[0] == 2
    with pytest.raises(DataError, match="the disk is gone"):
        next(feed)
    feed.close()


@GPU
def test_a_gpu_gets_the_batches_that_a_cpu_gets_but_for_the_noise():
    for one, other in zip(batches(feed_of(), 6), batches(feed_of(1, device=torch.device("cuda")), 6), strict=True):
        assert other["image"].is_cuda and other["label"].is_cuda
        assert (one["label"] != other["label"].cpu()).float().mean() < 5e-3
        close = (one["image"] - other["image"].cpu()).abs() < 0.2
        assert close.float().mean() > 0.98


@GPU
def test_a_batch_that_was_brought_early_is_not_overwritten_while_it_is_used():
    feed, device = feed_of(2, device=torch.device("cuda")), torch.device("cuda")
    busy = torch.rand(4096, 4096, device=device)
    seen = []
    for _ in range(12):
        batch = next(feed)
        for _ in range(20):
            busy = busy @ busy * 1e-4  # the sum comes long after the next batches were made
        seen.append(batch["image"].double().sum())
        del batch
        feed.bring_next()
    feed.close()
    again = feed_of(device=device)
    expected = [float(next(again)["image"].double().sum()) for _ in range(12)]
    assert [float(one) for one in seen] == pytest.approx(expected, rel=1e-12)


@GPU
def test_on_a_gpu_waiting_is_when_it_has_nothing_to_do():
    feed, device = feed_of(device=torch.device("cuda")), torch.device("cuda")
    busy = torch.rand(2048, 2048, device=device)
    next(feed)
    feed.bring_next()
    feed.waiting.take()
    for _ in range(4):
        next(feed)
        for _ in range(50):
            busy = busy @ busy * 1e-4
        feed.bring_next()
    assert feed.waiting.take() < 0.05
    for _ in range(3):
        next(feed)
        feed.bring_next()
        torch.cuda.synchronize()
        time.sleep(0.1)
    next(feed)
    assert feed.waiting.take() == pytest.approx(0.3, abs=0.06)
    assert np.isfinite(float(busy.sum()))
