"""Labels on the grid of the scan are those that interpolating the whole volume of probabilities gives."""

import subprocess
import sys
from functools import cache

import numpy as np
import pytest
import torch
from scipy.ndimage import map_coordinates

from tests.scans import tiny_config
from tests.tiles import placed, whole_scores
from verse3d.core import single_threaded, threads
from verse3d.core.axismaps import axis_maps
from verse3d.core.geometry import Geometry
from verse3d.inference import aggregator as answers
from verse3d.inference import dense_interpolation
from verse3d.inference import label_interpolation as winners
from verse3d.inference.aggregator import BinaryAggregator, MulticlassAggregator
from verse3d.inference.best_channel import best_channel
from verse3d.inference.label_interpolation import mixed_cells
from verse3d.inference.memory_plan import CARRYING_MB
from verse3d.inference.open_sums import FinishedPlanes
from verse3d.inference.sliding_window import StreamSettings, segment
from verse3d.model.tilings import SliceTiling, WindowTiling

TIE = 1e-4
GRID = Geometry((19, 23, 26), np.diag([1.5, 1.5, 1.5, 1.0]))


def moved(matrix, shape, origin=(0.0, 0.0, 0.0)) -> Geometry:
    affine = np.eye(4)
    affine[:3, :3], affine[:3, 3] = matrix, origin
    return Geometry(shape, affine)


SOURCES = {
    "same": GRID,
    "finer": moved(np.diag([0.8, 0.8, 1.0]), (34, 42, 38)),
    "coarser along the body": moved(np.diag([0.7, 0.7, 5.0]), (39, 47, 8)),
    "coarser": moved(np.diag([3.1, 2.9, 4.0]), (10, 12, 10)),
    "flipped": moved(np.diag([-0.9, 0.8, -1.1]), (30, 41, 35), (27.0, 0.0, 37.5)),
    "turned": moved([[0, 0, 0.9], [0, -1.2, 0], [0.7, 0, 0]], (53, 28, 30), (0.0, 33.0, 0.0)),
    "shifted": moved(np.diag([1.5, 1.5, 1.5]), (19, 23, 26), (0.4, -0.3, 0.7)),
}
each_source = pytest.mark.parametrize("source", SOURCES.values(), ids=SOURCES)


def blobs(channels, shape=GRID.shape, seed=0, coarse=4) -> torch.Tensor:
    """Logits with regions where one label wins clearly, and borders of all kinds."""
    noise = np.random.default_rng(seed).normal(0, 3, (channels, *(size // coarse + 2 for size in shape)))
    smooth = torch.nn.functional.interpolate(torch.from_numpy(noise)[None], shape, mode="trilinear")[0]
    smooth[0] += 2
    return smooth.float()


def dense(probabilities: np.ndarray, grid: Geometry, source: Geometry) -> np.ndarray:
    """All probabilities at every voxel of the scan, by SciPy."""
    voxels = np.indices(source.shape).reshape(3, -1)
    at = np.linalg.solve(grid.affine, source.affine @ np.vstack([voxels, np.ones(voxels.shape[1])]))[:3]
    carried = [map_coordinates(one.astype(float), at, order=1, mode="nearest") for one in probabilities]
    return np.array(carried).reshape(-1, *source.shape)


def assert_best(found, probabilities, ids, tie=TIE):
    """The id of the largest probability; where two tie within rounding either will do."""
    channel_of = np.zeros(256, int)
    channel_of[ids] = np.arange(len(ids))
    assert set(np.unique(found)) <= set(ids.tolist())
    chosen = np.take_along_axis(probabilities, channel_of[found][None], 0)[0]
    assert (chosen >= probabilities.max(0) - tie).all()


def given_in_lots(answer, scores, axis, lots, *, are_logits=True, weights=None, skip=()):
    """Tell an answer about all planes, some at a time."""
    weights = torch.ones(scores.shape[1:]) if weights is None else weights
    first = 0
    for number, count in enumerate(lots):
        if number not in skip:
            here = (scores.narrow(1 + axis, first, count), weights.narrow(axis, first, count))
            answer.take(FinishedPlanes(axis, first, *here, are_logits))
        first += count
    return answer.mask()


def lots_of(size, rng) -> list[int]:
    lots = []
    while sum(lots) < size:
        lots.append(int(rng.integers(1, min(7, size - sum(lots)) + 1)))
    return lots


@cache
def carried_blobs(channels, source):
    """The oracle: all probabilities on the grid of the scan, whatever the axis and the way."""
    return dense(torch.softmax(blobs(channels), 0).numpy(), GRID, source)


@each_source
@pytest.mark.parametrize(("axis", "channels", "cores"), [(0, 5, 3), (1, 27, 1), (2, 2, 2)])
@pytest.mark.parametrize("mostly_mixed", [-1.0, 0.15, 2.0], ids=["dense", "the cheaper way", "points"])
def test_labels_are_those_of_all_probabilities_interpolated(
    source, axis, channels, *, cores, mostly_mixed, monkeypatch
):
    on_cores(cores, monkeypatch)
    for what, number in (("_BOX_VOXELS", 3000), ("_BOX_NUMBERS", 6000), ("_TARGET_VOXELS", 2000), ("_POINTS", 1000)):
        monkeypatch.setattr(winners, what, number)
    monkeypatch.setattr(winners, "_DENSE_NUMBERS", 20_000)
    monkeypatch.setattr(winners, "_MOSTLY_MIXED", mostly_mixed)
    monkeypatch.setattr(answers, "_VOXELS_AT_ONCE", 70)
    logits, ids = blobs(channels), np.array([0, *range(channels - 1, 0, -1)], np.uint8)
    answer = MulticlassAggregator(GRID, source, axis, ids)
    found = given_in_lots(answer, logits, axis, lots_of(GRID.shape[axis], np.random.default_rng(axis)))
    assert found.shape == source.shape and found.flags.f_contiguous
    assert_best(found, carried_blobs(channels, source), ids)
    assert len(np.unique(found)) == channels


@pytest.mark.parametrize("are_logits", [True, False])
@pytest.mark.parametrize("channels_last", [True, False])
def test_sums_are_divided_by_their_weights(are_logits, channels_last):
    source, channels, weights = SOURCES["finer"], 4, torch.rand(GRID.shape) + 0.1
    scores = blobs(channels) if are_logits else torch.softmax(blobs(channels), 0)
    sums = scores * weights
    if channels_last:
        sums = sums.movedim(0, -1).contiguous().movedim(-1, 0)
    answer = MulticlassAggregator(GRID, source, 2, np.arange(channels, dtype=np.uint8))
    found = given_in_lots(answer, sums, 2, [10, 16], are_logits=are_logits, weights=weights)
    probabilities = torch.softmax(scores, 0) if are_logits else scores
    assert_best(found, dense(probabilities.numpy(), GRID, source), np.arange(channels))


@each_source
@pytest.mark.parametrize("skip", [(0,), (1,), (3,), (0, 1, 2), (0, 2, 3), (0, 1, 2, 3)], ids=str)
def test_planes_that_are_not_given_and_voxels_without_weight_are_background(source, skip):
    channels, lots, weights = 3, [6, 1, 9, 10], torch.ones(GRID.shape)
    weights[4:9, :, 11:20] = 0
    logits = blobs(channels) * (weights > 0)
    answer = MulticlassAggregator(GRID, source, 2, np.arange(channels, dtype=np.uint8))
    found = given_in_lots(answer, logits, 2, lots, weights=weights, skip=skip)
    probabilities = torch.softmax(logits, 0).numpy()
    silent = (weights == 0).numpy()
    for number, first in enumerate(np.cumsum([0, *lots[:-1]])):
        silent[:, :, first : first + lots[number]] |= number in skip
    probabilities[:, silent] = np.array([1, 0, 0])[:, None]
    assert_best(found, dense(probabilities, GRID, source), np.arange(channels))
    if len(skip) != 3:  # then the planes that are left may lie between those of the scan
        assert found.any() == (len(skip) < 4)


def random_source(grid: Geometry, rng) -> Geometry:
    """Permuted, flipped, finer or coarser; reaching beyond the grid by up to one of its voxels or of its own."""
    turn, flipped, steps = rng.permutation(3), rng.choice([-1, 1], 3), rng.uniform(0.3, 2.5, 3)
    voxels, matrix, origin = [], np.zeros((3, 3)), np.zeros(3)
    for axis, along in enumerate(turn):
        reach = 0.95 * max(1.0, steps[axis])
        first, last = rng.uniform(-reach, 0.5 * (grid.shape[along] - 1)), grid.shape[along] - 1 + reach
        voxels.append(int(rng.integers(1, int((last - first) / steps[axis]) + 2)))
        matrix[along, axis] = steps[axis] * flipped[axis]
        origin[along] = first if flipped[axis] > 0 else first + steps[axis] * (voxels[-1] - 1)
    inside = moved(matrix, tuple(voxels), origin)
    return Geometry(inside.shape, grid.affine @ inside.affine)


def test_thin_grids_and_targets_that_reach_beyond_them_are_right_too():
    rng = np.random.default_rng(0)
    for _ in range(300):
        shape = tuple(rng.choice([1, 2, 3, 5, 9], 3).tolist())
        grid = moved(np.diag(rng.uniform(0.8, 2, 3)), shape, rng.uniform(-5, 5, 3))
        source, axis, channels = random_source(grid, rng), int(rng.integers(3)), int(rng.integers(2, 6))
        probabilities = torch.softmax(3 * torch.from_numpy(rng.normal(size=(channels, *shape))).float(), 0)
        ids = np.array([0, *rng.permutation(np.arange(1, 29))[: channels - 1]], np.uint8)
        answer = MulticlassAggregator(grid, source, axis, ids)
        found = given_in_lots(answer, probabilities, axis, lots_of(shape[axis], rng), are_logits=False)
        assert_best(found, dense(probabilities.numpy(), grid, source), ids)


@pytest.mark.parametrize("are_logits", [True, False])
def test_what_is_no_number_is_background(are_logits):
    source, channels = SOURCES["finer"], 5
    scores = blobs(channels) if are_logits else torch.softmax(blobs(channels), 0)
    scores[:, 3:6, 4:9, 10:14] = torch.nan
    scores[2, 12, 12, 12] = torch.nan
    answer = MulticlassAggregator(GRID, source, 2, np.arange(channels, dtype=np.uint8))
    found = given_in_lots(answer, scores, 2, [7, 19], are_logits=are_logits)
    probabilities = torch.softmax(scores, 0) if are_logits else scores
    probabilities[:, probabilities.isnan().any(0)] = torch.tensor([1.0, 0, 0, 0, 0])[:, None]
    assert_best(found, dense(probabilities.numpy(), GRID, source), np.arange(channels))


@pytest.mark.parametrize("channels", [2, 3, 27])
def test_half_precision_may_be_undecided(channels):
    """Then what is divided by its weights adds up to a little less than 1."""
    probabilities = torch.softmax(1e-4 * torch.randn(channels, *GRID.shape), 0)
    weights = torch.full(GRID.shape, 0.0625914)
    sums = torch.zeros_like(probabilities, dtype=torch.float16)
    sums.addcmul_(probabilities.half(), weights.half())
    answer = MulticlassAggregator(GRID, SOURCES["flipped"], 2, np.arange(channels, dtype=np.uint8))
    found = given_in_lots(answer, sums, 2, [26], are_logits=False, weights=weights)
    assert len(np.unique(found)) > 1
    assert_best(found, dense((sums.float() / weights).numpy(), GRID, SOURCES["flipped"]), np.arange(channels), tie=1e-6)


def test_planes_come_in_order_and_the_mask_is_made_once():
    planes = FinishedPlanes(2, 5, blobs(3)[..., 5:9], torch.ones(GRID.shape)[..., 5:9], are_logits=True)
    answer = MulticlassAggregator(GRID, SOURCES["finer"], 2, np.arange(3, dtype=np.uint8))
    answer.take(planes)
    with pytest.raises(ValueError, match="plane 5 comes after plane 8"):
        answer.take(planes)
    assert answer.mask().any()
    with pytest.raises(ValueError, match="already"):
        answer.mask()


@pytest.mark.slow  # a program of its own, whose memory is measured
@pytest.mark.parametrize("mostly_mixed", [0.15, 2.0], ids=["the cheaper way", "points"])
def test_however_mixed_the_labels_are_little_memory_is_taken(mostly_mixed):
    """At worst every voxel is at a border. All its probabilities at the finer grid would take 1.4 GB."""
    program = f"""
import numpy as np, torch
from verse3d.core.geometry import Geometry
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.runtime import rss_mb
from verse3d.inference.aggregator import MulticlassAggregator
from verse3d.inference.open_sums import FinishedPlanes
from verse3d.inference import label_interpolation
label_interpolation._MOSTLY_MIXED = {mostly_mixed}
shape = (160, 160, 40)
grid, source = Geometry(shape, np.diag([1.5, 1.5, 1.5, 1])), Geometry((300, 300, 60), np.diag([0.8, 0.8, 1, 1]))
planes = FinishedPlanes(2, 0, torch.randn(27, *shape), torch.ones(shape), True)
answer = MulticlassAggregator(grid, source, 2, np.arange(27, dtype=np.uint8))
before = rss_mb()
with MemoryWatch(0.001) as watch:
    peak = watch.peak()
    answer.take(planes)
    print(peak.mb - before)
"""
    run = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert float(run.stdout) < CARRYING_MB


def test_a_label_that_is_second_everywhere_around_may_win_between():
    """Two voxels with 0.55 for labels 1 and 2, and 0.45 for label 3 in both: half-way 3 has the most."""
    line = Geometry((2, 1, 1), np.eye(4))
    half = moved(np.diag([0.5, 1, 1]), (3, 1, 1))
    probabilities = torch.tensor([[0, 0], [0.55, 0], [0, 0.55], [0.45, 0.45]])[:, :, None, None]
    answer = MulticlassAggregator(line, half, 0, np.array([0, 11, 12, 28], np.uint8))
    found = given_in_lots(answer, probabilities, 0, [1, 1], are_logits=False)
    assert found.ravel().tolist() == [11, 28, 12]


@each_source
def test_one_label_is_cut_where_its_probability_is_a_half(source):
    logits = blobs(1)
    answer = BinaryAggregator(GRID, source, 7)
    found = given_in_lots(answer, logits, 1, [3, 20])
    carried = dense(torch.sigmoid(logits).numpy(), GRID, source)[0]
    clear = np.abs(carried - 0.5) > TIE
    np.testing.assert_array_equal(found[clear], np.where(carried > 0.5, 7, 0)[clear])
    with pytest.raises(ValueError, match="already"):
        answer.mask()
    with pytest.raises(ValueError, match="already"):
        answer.take(FinishedPlanes(1, 0, logits, torch.ones(GRID.shape), are_logits=True))


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial", "windows"])
def test_windows_and_slices_arrive_at_the_grid_of_the_scan(plane):
    shape, source = (13, 14, 23), moved(np.diag([-0.9, 1.1, -0.6]), (20, 18, 36), (18.0, 0.0, 22.0))
    grid = Geometry(shape, np.diag([1.5, 1.5, 1.0, 1.0]))
    torch.manual_seed(0)
    if plane == "windows":
        config = tiny_config(sampling={"patch_voxels": (8, 12, 16)}, inference={"overlap": 0.25})
        tiling, model = WindowTiling.of(config.sampling, config.inference, shape), torch.nn.Conv3d(1, 4, 5, padding=2)
    else:
        config = tiny_config("2.5d", slices={"plane": plane, "size_pixels": [20, 16], "neighbours": 1})
        tiling, model = SliceTiling.of(config.slices, source, shape), torch.nn.Conv2d(3, 4, 5, padding=2)
    model.weight.data *= 8
    image = np.random.default_rng(0).random(shape).astype(np.float32)
    answer = MulticlassAggregator(grid, source, tiling.axis, np.arange(4, dtype=np.uint8))
    segment(image, tiling, placed(model), settings=StreamSettings(3), take=answer.take)
    probabilities = torch.softmax(whole_scores(tiling, image, model).float(), 0).numpy()
    assert_best(answer.mask(), dense(probabilities, grid, source), np.arange(4))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_scores_may_lie_on_a_gpu():
    source, ids = SOURCES["turned"], np.arange(5, dtype=np.uint8)
    logits = blobs(5)
    there = given_in_lots(
        MulticlassAggregator(GRID, source, 2, ids), logits.cuda(), 2, [9, 17], weights=torch.ones(GRID.shape).cuda()
    )
    assert_best(there, dense(torch.softmax(logits, 0).numpy(), GRID, source), ids)


def test_cells_are_mixed_if_any_of_their_corners_differs():
    labels = np.random.default_rng(0).integers(0, 2, (4, 5, 6)).astype(np.uint8)
    for i, j, k in np.ndindex(labels.shape):
        corners = labels[i : i + 2, j : j + 2, k : k + 2]
        assert mixed_cells(labels)[i, j, k] == (corners.min() != corners.max())


def test_the_best_channel_is_the_first_of_equal_ones():
    scores = torch.randint(0, 3, (6, 9, 31, 17)).float()
    expected = scores.argmax(0).to(torch.uint8)
    assert torch.equal(best_channel(scores), expected)
    last = scores.movedim(0, -1).contiguous().movedim(-1, 0)
    assert torch.equal(best_channel(last), expected)
    assert torch.equal(best_channel(scores.half()), expected)


@pytest.mark.parametrize("channels_last", [False, True])
def test_the_best_channel_is_the_first_where_a_score_is_no_number(channels_last):
    scores = torch.rand(4, 3, 5, 7)
    scores[2, 1, 2], scores[:, 2] = float("nan"), float("nan")
    expected = torch.where(scores.isnan().any(0), 0, scores.argmax(0)).to(torch.uint8)
    if channels_last:
        scores = scores.movedim(0, -1).contiguous().movedim(-1, 0)
    assert torch.equal(best_channel(scores), expected)


def test_noise_is_interpolated_plane_by_plane_and_bones_point_by_point(monkeypatch):
    calls = []
    monkeypatch.setattr(winners, "fill_densely", lambda *arguments: calls.append(arguments))
    bone = torch.zeros(5, *GRID.shape)
    bone[1, 4:12, 5:15, :] = 9
    for logits, dense_boxes in ((bone, False), (torch.randn(5, *GRID.shape), True)):
        given_in_lots(MulticlassAggregator(GRID, SOURCES["finer"], 2, np.arange(5, dtype=np.uint8)), logits, 2, [26])
        assert bool(calls) == dense_boxes


def on_cores(number, monkeypatch):
    for module in (threads, single_threaded, winners):
        monkeypatch.setattr(module, "thread_count", lambda: number)


def carried_at_once(sums, weights, source) -> np.ndarray:
    """The same arithmetic in float32 without boxes, planes, lots or threads: along k and j, and then along i."""
    turn, maps = axis_maps(GRID, source)
    assert turn == [0, 1, 2]
    known = torch.softmax((sums.float() / weights).permute(0, 3, 2, 1).contiguous(), 0)  # as the mask lies in memory
    planes, rows, columns = maps[::-1]
    across, down = (dense_interpolation._matrix(axis, size) for axis, size in ((columns, 19), (rows, 23)))
    inside = down.T @ (known @ across)
    lower, upper = inside[:, planes.lower], inside[:, planes.upper]
    return torch.lerp(lower, upper, torch.from_numpy(planes.weight)[:, None, None]).argmax(0).numpy().T


@pytest.mark.parametrize("cores", [1, 3, 8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_labels_of_noise_are_the_same_to_the_last_bit_however_the_work_is_divided(cores, channels_last, monkeypatch):
    on_cores(cores, monkeypatch)
    monkeypatch.setattr(winners, "_MOSTLY_MIXED", -1.0)
    monkeypatch.setattr(winners, "_DENSE_NUMBERS", 60_000 * cores)
    monkeypatch.setattr(answers, "_VOXELS_IN_CACHE", 300)
    random = torch.Generator().manual_seed(0)
    weights = torch.rand(GRID.shape, generator=random) + 0.1
    sums = (torch.randn(27, *GRID.shape, generator=random) * weights).half()
    if channels_last:
        sums = sums.movedim(0, -1).contiguous().movedim(-1, 0)
    source = SOURCES["finer"]
    answer = MulticlassAggregator(GRID, source, 1, np.arange(27, dtype=np.uint8))
    found = given_in_lots(answer, sums, 1, [9, 14], weights=weights)
    np.testing.assert_array_equal(found, carried_at_once(sums, weights, source))


@pytest.mark.parametrize("cores", [1, 4])
def test_all_cores_together_hold_no_more_than_one(cores, monkeypatch):
    on_cores(cores, monkeypatch)
    fill, sizes = winners.fill_densely, []

    def noting(target, probabilities, *rest):
        sizes.append(probabilities.numel())
        fill(target, probabilities, *rest)

    monkeypatch.setattr(winners, "fill_densely", noting)
    monkeypatch.setattr(winners, "_DENSE_NUMBERS", 120_000)
    noise = torch.randn(9, *GRID.shape, generator=torch.Generator().manual_seed(0))
    given_in_lots(MulticlassAggregator(GRID, SOURCES["finer"], 2, np.arange(9, dtype=np.uint8)), noise, 2, [26])
    assert len(sizes) >= cores and max(sizes) * cores <= 120_000


def test_after_every_lot_of_planes_freed_memory_is_given_back(monkeypatch):
    """What was freed between boxes lies in small pieces, into which the next box does not fit."""
    calls = []
    monkeypatch.setattr(answers, "give_back_freed_memory", lambda: calls.append(None))
    given_in_lots(
        MulticlassAggregator(GRID, SOURCES["finer"], 2, np.arange(3, dtype=np.uint8)), blobs(3), 2, [9, 10, 7]
    )
    assert len(calls) == 3


def test_planes_that_memory_ran_out_for_may_be_taken_again(monkeypatch):
    torch.manual_seed(0)
    logits, ids = torch.randn(4, *GRID.shape), np.arange(4, dtype=np.uint8)
    weights = torch.ones(GRID.shape)
    expected = given_in_lots(MulticlassAggregator(GRID, SOURCES["finer"], 2, ids), logits, 2, [11, 15])
    fill, calls = winners.fill_densely, []

    def fails_once(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        fill(*arguments)

    monkeypatch.setattr(winners, "fill_densely", fails_once)
    answer = MulticlassAggregator(GRID, SOURCES["finer"], 2, ids)
    lots = [FinishedPlanes(2, 0, logits[..., :11], weights[..., :11], True)]
    lots += [FinishedPlanes(2, 11, logits[..., 11:], weights[..., 11:], True)]
    with pytest.raises(torch.OutOfMemoryError):
        answer.take(lots[0])
    for planes in lots:
        answer.take(planes)
    np.testing.assert_array_equal(answer.mask(), expected)
