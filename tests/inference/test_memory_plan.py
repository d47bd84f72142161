"""A plan that fits is kept, one that does not is made smaller, and the smallest that does not is refused in words."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.scans import tiny_config
from tests.tiles import FunctionBackend
from verse3d.core.errors import MemoryLimitError
from verse3d.core.geometry import Geometry
from verse3d.core.runtime import rss_mb
from verse3d.core.volume import StoredVoxels
from verse3d.inference import budget
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.memory_plan import CARRYING_MB, Demand, Limit, make_plan
from verse3d.inference.predictor import Predictor
from verse3d.inference.sliding_window import StreamSettings, batches, open_planes
from verse3d.model.modes import Method
from verse3d.model.tilings import WindowTiling

SHAPE = (273, 273, 333)
PLANES = np.prod(SHAPE[:2]) * 96 / 1e6
"""Million voxels in the 96 planes that windows of 96 voxels keep open."""


def demand(channels=27, windows=4, source_bytes=2, shape=SHAPE, window_mb=300.0) -> Demand:
    config = tiny_config(sampling={"patch_voxels": [96, 96, 96]}, inference={"overlap": 0.25})
    return Demand(
        source_voxels=512 * 512 * 500,
        source_bytes=source_bytes,
        tiling=WindowTiling.of(config.sampling, config.inference, shape),
        channels=channels,
        window_mb=window_mb,
        windows_per_batch=windows,
    )


def plan(one, limit_mb, held_mb=500.0):
    return make_plan(one, Limit(limit_mb, asked_for=True), held_mb)


def test_with_memory_to_spare_the_wishes_of_the_config_are_kept():
    found = plan(demand(), 20_000)
    assert found.settings == StreamSettings(4, torch.float32)


def test_sums_that_are_wanted_in_half_precision_are_never_planned_in_more():
    wanted = replace(demand(), sums_dtype=torch.float16)
    assert plan(wanted, 20_000).settings == StreamSettings(4, torch.float16)
    assert plan(wanted, plan(wanted, 20_000).peak_mb - 1).settings == StreamSettings(2, torch.float16)


def test_the_parts_of_a_plan_are_what_they_say():
    mask_mb = 512 * 512 * 500 / 1e6
    network = np.prod(SHAPE) * 2 / 1e6 + mask_mb + CARRYING_MB + PLANES * 97 / 96 * (27 * 4 + 4) + 4 * 300 + 60
    found = plan(demand(), 20_000)
    assert found.stages_mb["network"] == pytest.approx(network)
    assert found.peak_mb == pytest.approx(500 + network)
    one_channel = demand(channels=1)
    assert one_channel.network_mb(StreamSettings(1)) == pytest.approx(np.prod(SHAPE) * 6 / 1e6 + PLANES * 8 + 300 + 60)
    assert one_channel.reading_mb > 512 * 512 * 500 * 2 / 1e6
    assert demand(source_bytes=4).reading_mb > demand().reading_mb + 250


def test_grouping_bones_is_expected_to_hold_another_byte_per_voxel():
    cleaned, grouped = demand(channels=3), replace(demand(channels=3), grouped=True)
    assert grouped.finishing_mb == pytest.approx(cleaned.finishing_mb + 512 * 512 * 500 / 1e6)


def test_first_the_batch_shrinks_then_the_sums_are_held_in_half_precision():
    most = plan(demand(), 20_000).peak_mb
    found = [plan(demand(), most - saved).settings for saved in (1, 601, 901, 1200)]
    assert [one.windows_per_batch for one in found[:3]] == [2, 1, 2]
    assert [one.sums_dtype for one in found] == [torch.float32, torch.float32, torch.float16, torch.float16]
    for saved in (1, 601, 901, 1200):
        assert plan(demand(), most - saved).peak_mb <= most - saved


def test_batches_are_computed_side_by_side_only_if_there_is_room_for_both():
    apart = 60  # MB that threads keep to themselves
    wanted = replace(demand(channels=1), side_by_side=2, kept_mb=apart)
    both = plan(wanted, 20_000)
    assert both.settings == StreamSettings(4, torch.float32, side_by_side=2)
    assert both.to_dict()["side_by_side"] == 2
    alone = wanted.network_mb(StreamSettings(4))
    assert wanted.network_mb(both.settings) == pytest.approx(alone + 4 * 300 + apart)
    assert plan(wanted, both.peak_mb - 1).settings == StreamSettings(4, torch.float32)


def test_threads_that_carry_several_labels_keep_memory_to_themselves_too():
    several = replace(demand(channels=27), kept_mb=60)
    assert several.network_mb(StreamSettings(4)) == pytest.approx(
        demand(channels=27).network_mb(StreamSettings(4)) + 60
    )


def test_what_does_not_fit_is_refused_with_what_would():
    with pytest.raises(MemoryLimitError) as caught:
        plan(demand(windows=1), 1000)
    assert "this needs at least 1.6 GB of memory, `max_ram_gb=1` allows" in caught.value.message
    allowed = float(caught.value.hint.removeprefix("allow `max_ram_gb=").removesuffix("`"))
    assert plan(demand(windows=1), allowed * 1000).peak_mb <= allowed * 1000


def test_without_a_limit_of_the_users_the_free_memory_is_named():
    with pytest.raises(MemoryLimitError, match=r"1\.0 GB is free") as caught:
        make_plan(demand(), Limit(1000, asked_for=False), 500)
    assert "max_ram_gb" not in str(caught.value)


def test_more_classes_cost_only_their_open_planes():
    settings = StreamSettings(1)
    grown = demand(channels=27).network_mb(settings) - demand(channels=2).network_mb(settings)
    assert grown == pytest.approx(25 * 4 * PLANES * 97 / 96)
    longer = demand(shape=(273, 273, 1000)).network_mb(settings) - demand().network_mb(settings)
    assert longer == pytest.approx(2 * 273 * 273 * 667 / 1e6), "the scan's length costs no scores"


def test_the_limit_is_the_users_or_what_is_free(monkeypatch):
    assert Limit.of(2.5) == Limit(2500, asked_for=True)
    monkeypatch.setattr("verse3d.inference.memory_plan.free_memory_bytes", lambda: 10_000_000_000)
    assert Limit.of(None).mb == pytest.approx(rss_mb() + 9000, abs=50)


@pytest.mark.parametrize("windows", [1, 2, 3, 7, 64, 200])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.7])
@pytest.mark.parametrize("margin", [0, 5])
def test_as_many_planes_are_planned_as_the_streaming_will_open_at_most(windows, overlap, margin):
    config = tiny_config(sampling={"patch_voxels": [8, 8, 12], "margin_voxels": margin}, inference={"overlap": overlap})
    for shape in ((9, 14, 23), (30, 11, 8), (50, 3, 3)):
        tiling = WindowTiling.of(config.sampling, config.inference, shape)
        regions, axis = tiling.regions, tiling.axis
        opened = open_planes(regions, axis, batches(regions, axis, range(len(regions)), windows))
        one = Demand(1000, 2, tiling, 3, 1.0, windows)
        planned = one._sums_mb(StreamSettings(windows)) / one._plane_mb(StreamSettings(windows))
        assert opened <= round(planned) <= shape[axis]
        if windows == 1:
            assert opened == round(planned)


def test_a_plan_for_an_absurd_volume_is_refused_at_once():
    with pytest.raises(MemoryLimitError, match="this needs at least"):
        plan(demand(shape=(20_000, 18_000, 24_000)), 2000)
    with pytest.raises(MemoryLimitError):
        plan(demand(shape=(10**7, 10**7, 10**7), channels=1), 2000)


@pytest.mark.parametrize(
    ("window_mb", "cores", "takes_threads", "expected"),
    [(117, 2, True, 2), (117, 16, True, 2), (460, 2, True, 1), (117, 1, True, 1), (117, 2, False, 1)],
)
def test_two_batches_are_wanted_at_once_where_one_is_small_and_there_are_cores_for_both(
    monkeypatch, window_mb, cores, takes_threads, expected
):
    monkeypatch.setattr(budget, "thread_count", lambda: cores)
    monkeypatch.setattr(torch, "get_num_threads", lambda: cores)
    backend = FunctionBackend(None)
    backend.takes_threads = takes_threads
    predictor = Predictor.of_ensemble(Ensemble([backend]), Method(tiny_config()))
    stored = StoredVoxels(Geometry((30, 40, 50), np.eye(4)), None, 2)
    found = budget.Budget(predictor, Limit(20_000, asked_for=True), 500.0, window_mb).plan(stored)
    assert found.settings.side_by_side == expected


@pytest.mark.parametrize(
    ("takes_mb", "least_mb", "takes_threads", "tried_with"),
    [
        (117.0, 18.0, True, [1]),  # two of them are computed at the same time, each with a thread
        (400.0, 18.0, True, [1, 2]),  # it was larger than thought
        (460.0, 110.0, True, [2]),
        (117.0, 18.0, False, [2]),
    ],
)
def test_a_window_is_tried_with_the_threads_that_it_will_be_computed_with(
    monkeypatch, takes_mb, least_mb, takes_threads, tried_with
):
    tried, threads = [], torch.get_num_threads()
    backend = FunctionBackend(None)
    backend.takes_threads = takes_threads
    predictor = Predictor.of_ensemble(Ensemble([backend]), Method(tiny_config()))
    monkeypatch.setattr(budget, "thread_count", lambda: 2)
    monkeypatch.setattr(Predictor, "make_ready", lambda _: None)
    monkeypatch.setattr(Predictor, "least_window_mb", lambda _: least_mb)
    monkeypatch.setattr(Predictor, "window_mb", lambda _: tried.append(torch.get_num_threads()) or takes_mb)
    torch.set_num_threads(2)
    try:
        found = budget.Budget(predictor, Limit(20_000, asked_for=True), 500.0, 0.0).opened()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    assert tried == tried_with and found.window_mb == takes_mb
