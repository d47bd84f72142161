"""An epoch of patches: every item is a function of (seed, epoch, position), and every case gets its share."""

import itertools
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch

from verse3d.core.config import parse_config, without_augmentation
from verse3d.core.geometry import Geometry
from verse3d.data.samples.cut import PatchCut
from verse3d.data.samples.draws import UNCHANGED
from verse3d.data.samples.patches import BatchStream, PatchDataset, Place
from verse3d.data.samples.transforms import PreparedCase

CONFIG = parse_config({"network": {"channels": [4, 8]}, "sampling": {"patch_voxels": [6, 8, 10]}})
STILL = without_augmentation(CONFIG)


def case(number: int) -> PreparedCase:
    """A case whose grey values lie between its number and the next."""
    shape, random = (7 + number, 9, 13), np.random.default_rng(number)
    image = (number + random.uniform(0, 0.9, (1, *shape))).astype(np.float16)
    label = (random.random((1, *shape)) < 0.2).astype(np.uint8)
    geometry = Geometry(shape, np.eye(4))
    return PreparedCase.of(str(number), image, label, geometry, geometry)


CASES = [case(number) for number in range(3)]


def patches(*, length=8, seed=0, config=CONFIG, cases=CASES) -> PatchDataset:
    return PatchDataset(
        cases, PatchCut(config.sampling, config.augment, config.grid.spacing_mm), length=length, seed=seed
    )


def same(one, two) -> bool:
    """Also the changes that were drawn."""
    changed = [vars(box.changes) | {"warp": str(vars(box.changes.warp or UNCHANGED))} for box in (one, two)]
    arrays = np.array_equal(one.image, two.image) and np.array_equal(one.label, two.label)
    return arrays and changed[0] == changed[1]


def source(box) -> int:
    """Which case a patch was cut from."""
    return int(box.image.max())


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_item_does_not_depend_on_what_was_asked_before(epoch):
    forwards = [patches()[epoch, position] for position in range(8)]
    other = patches()
    for position in (7, 3, 3, 0, 6, 5, 1, 2, 4, 0):
        assert same(other[epoch, position], forwards[position])


def test_an_item_does_not_depend_on_earlier_epochs_or_on_the_global_random_state():
    expected = patches()[2, 5]
    dataset = patches()
    _ = dataset[0, 5]
    np.random.seed(1)
    torch.manual_seed(1)
    assert same(dataset[2, 5], expected)


def test_positions_epochs_and_seeds_all_make_a_difference():
    items = [patches(seed=seed)[epoch, position] for seed in (0, 1) for epoch in (0, 1) for position in (0, 1, 2)]
    for number, one in enumerate(items):
        assert not any(same(one, two) for two in items[number + 1 :])


@pytest.mark.parametrize("length", [3, 8, 9, 30])
def test_every_case_is_drawn_equally_often(length):
    dataset = patches(length=length, config=STILL)
    for epoch in range(3):
        counts = Counter(source(box) for box in dataset.epoch(epoch))
        assert sum(counts.values()) == len(dataset) == length
        assert max(counts.values()) - min(counts[number] for number in range(3)) <= 1


def test_the_order_of_the_cases_changes_with_the_epoch():
    dataset = patches(length=9, config=STILL)
    assert len({tuple(source(box) for box in dataset.epoch(epoch)) for epoch in range(6)}) > 3


def test_fewer_patches_than_cases_are_drawn_from_different_cases():
    one, other = patches(length=2, config=STILL).epoch(1)
    assert source(one) != source(other)


@pytest.mark.parametrize("position", [-1, 8, 100])
def test_a_position_outside_of_the_epoch_is_refused(position):
    with pytest.raises(IndexError):
        _ = patches()[0, position]


# --- the stream of batches


def first(stream, count) -> list[list[Place]]:
    return list(itertools.islice(iter(stream), count))


def test_batches_follow_one_another_epoch_after_epoch_without_end():
    batches = first(BatchStream(length=6, batch_size=2), 7)
    assert batches[:4] == [[(1, 0), (1, 1)], [(1, 2), (1, 3)], [(1, 4), (1, 5)], [(2, 0), (2, 1)]]
    assert batches[6] == [(3, 0), (3, 1)]


@pytest.mark.parametrize(("epoch", "step"), [(1, 0), (1, 2), (2, 0), (4, 1)])
def test_a_stream_that_begins_later_is_the_rest_of_the_whole_one(epoch, step):
    whole = first(BatchStream(length=6, batch_size=2), 20)
    rest = first(BatchStream(length=6, batch_size=2, epoch=epoch, step=step), 5)
    begin = (epoch - 1) * 3 + step
    assert rest == whole[begin : begin + 5]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_ranks_share_every_batch_without_gaps_and_without_doubles(ranks):
    whole = first(BatchStream(length=12, batch_size=6), 4)
    shares = [first(BatchStream(length=12, batch_size=6, rank=rank, ranks=ranks), 4) for rank in range(ranks)]
    for number, batch in enumerate(whole):
        assert sorted(itertools.chain(*(share[number] for share in shares))) == batch
        assert {len(share[number]) for share in shares} == {6 // ranks}


def test_threads_that_draw_at_the_same_time_draw_what_one_alone_does():
    def slowly(_, random):
        first = random.random_sample()
        time.sleep(0.001)  # lets another thread begin with its sample
        return first, random.random_sample()

    dataset = PatchDataset(CASES, slowly, length=32, seed=3)
    places = [Place(1, position) for position in range(32)]
    alone = [dataset[place] for place in places]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(dataset.__getitem__, places)) == alone
    assert len(set(alone)) == 32
