"""An epoch of patches: every item is a function of (seed, epoch, position), and every case gets its share."""

from collections import Counter

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from verse3d.core.config import parse_config
from verse3d.core.geometry import Geometry
from verse3d.data.patches import PatchDataset
from verse3d.data.transforms import PreparedCase, patch_sampler

CONFIG = parse_config({"network": {"channels": [4, 8]}, "sampling": {"patch_voxels": [6, 8, 10]}})
STILL = CONFIG.model_copy(
    update={"augment": CONFIG.augment.model_copy(update=dict.fromkeys(type(CONFIG.augment).model_fields, 0.0))}
)


def case(number: int) -> PreparedCase:
    """A case whose grey values lie between its number and the next."""
    shape, random = (7 + number, 9, 13), np.random.default_rng(number)
    image = (number + random.uniform(0, 0.9, (1, *shape))).astype(np.float16)
    label = (random.random((1, *shape)) < 0.2).astype(np.uint8)
    geometry = Geometry(shape, np.eye(4))
    return PreparedCase.of(str(number), image, label, geometry, geometry)


CASES = [case(number) for number in range(3)]


def patches(*, length=8, seed=0, epoch=0, config=CONFIG, cases=CASES) -> PatchDataset:
    dataset = PatchDataset(cases, patch_sampler(config), length=length, seed=seed)
    dataset.set_epoch(epoch)
    return dataset


def same(one, two) -> bool:
    return all(torch.equal(one[key], two[key]) for key in ("image", "label"))


def source(item) -> int:
    """Which case a patch was cut from."""
    return int(item["image"].max())


def test_items_are_plain_tensors_of_the_documented_types():
    item = patches()[0]
    assert {key: (type(value), value.dtype, tuple(value.shape)) for key, value in item.items()} == {
        "image": (torch.Tensor, torch.float32, (1, 6, 8, 10)),
        "label": (torch.Tensor, torch.uint8, (1, 6, 8, 10)),
    }


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_item_does_not_depend_on_what_was_asked_before(epoch):
    forwards = [patches(epoch=epoch)[position] for position in range(8)]
    other = patches(epoch=epoch)
    for position in (7, 3, 3, 0, 6, 5, 1, 2, 4, 0):
        assert same(other[position], forwards[position])


def test_an_item_does_not_depend_on_earlier_epochs_or_on_the_global_random_state():
    expected = patches(epoch=2)[5]
    dataset = patches(epoch=0)
    _ = dataset[5]
    np.random.seed(1)
    torch.manual_seed(1)
    dataset.set_epoch(2)
    assert same(dataset[5], expected)


def test_positions_epochs_and_seeds_all_make_a_difference():
    items = [patches(seed=seed, epoch=epoch)[position] for seed in (0, 1) for epoch in (0, 1) for position in (0, 1, 2)]
    for number, one in enumerate(items):
        assert not any(same(one, two) for two in items[number + 1 :])


@pytest.mark.parametrize("length", [3, 8, 9, 30])
def test_every_case_is_drawn_equally_often(length):
    for epoch in range(3):
        dataset = patches(length=length, epoch=epoch, config=STILL)
        counts = Counter(source(dataset[position]) for position in range(length))
        assert sum(counts.values()) == len(dataset) == length
        assert max(counts.values()) - min(counts[number] for number in range(3)) <= 1


def test_the_order_of_the_cases_changes_with_the_epoch():
    orders = {
        tuple(source(dataset[position]) for position in range(9))
        for dataset in (patches(length=9, epoch=epoch, config=STILL) for epoch in range(6))
    }
    assert len(orders) > 3


def test_fewer_patches_than_cases_are_drawn_from_different_cases():
    dataset = patches(length=2, config=STILL)
    assert source(dataset[0]) != source(dataset[1])


@pytest.mark.parametrize("position", [-1, 8, 100])
def test_a_position_outside_of_the_epoch_is_refused(position):
    with pytest.raises(IndexError):
        _ = patches()[position]


def test_an_epoch_can_be_walked_through():
    assert len(list(patches(length=5))) == 5


def test_worker_processes_give_the_same_patches_as_none():
    dataset = patches(length=8)
    for epoch in (0, 1):
        dataset.set_epoch(epoch)
        alone = list(DataLoader(dataset, batch_size=3))
        shared = list(DataLoader(dataset, batch_size=3, num_workers=2))
        assert [batch["image"].shape[0] for batch in shared] == [3, 3, 2]
        assert all(same(one, two) for one, two in zip(alone, shared, strict=True))
