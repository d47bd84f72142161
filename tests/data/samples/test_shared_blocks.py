"""Shared memory is filled again once it was given back, and never before."""

import pytest
import torch

from verse3d.data.samples import shared_blocks
from verse3d.data.samples.shared_blocks import HEADER, SharedBlocks, give_back, is_lent


def test_a_block_that_is_lent_is_not_filled_again():
    shared = SharedBlocks()
    blocks = [shared.take(100) for _ in range(5)]
    assert len({block.data_ptr() for block in blocks}) == 5
    assert all(is_lent(block) and block.is_shared() and block.numel() == HEADER + 100 for block in blocks)


def test_a_block_that_was_given_back_is_filled_again():
    shared = SharedBlocks()
    one, other = shared.take(100), shared.take(100)
    give_back(one)
    again = shared.take(60)
    assert again.data_ptr() == one.data_ptr() != other.data_ptr()
    assert again.numel() == HEADER + 60
    assert is_lent(one)


def test_a_block_that_is_too_small_gives_way_to_a_larger_one():
    shared = SharedBlocks()
    for size in (10, 200, 3000):
        block = shared.take(size)
        give_back(block)
    assert shared.take(3000).data_ptr() == block.data_ptr()


def test_beside_blocks_that_never_come_back_a_worker_keeps_no_more_of_them():
    shared = SharedBlocks()
    kept = [shared.take(100) for _ in range(3)]
    beyond = shared.take(100)
    give_back(beyond)
    assert shared.take(100).data_ptr() not in {block.data_ptr() for block in [*kept, beyond]}


def test_where_the_system_counts_who_holds_a_block_none_is_used_twice(monkeypatch):
    monkeypatch.setattr(shared_blocks.multiprocessing, "get_sharing_strategy", lambda: "file_system")
    shared = SharedBlocks()
    block = shared.take(100)
    give_back(block)
    assert shared.take(100).data_ptr() != block.data_ptr()


@pytest.mark.parametrize("size", [1, 63, 64, 65])
def test_the_batch_begins_at_a_whole_cache_line(size):
    block = SharedBlocks().take(size)
    block[HEADER:] = 7
    assert is_lent(block)
    assert torch.equal(block[HEADER:], torch.full((size,), 7, dtype=torch.uint8))
