import itertools
import tracemalloc
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, Spacingd
from scipy.ndimage import find_objects, map_coordinates

from tests.core.grids import AXIS_ORDERS, TILT_DEGREES, affine, grid, hounsfield, label_map, sheared_grid
from verse3d.core.axismaps import aligned, target_box
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.resample import (
    resample_above,
    resample_finished,
    resample_linear,
    resample_nearest,
    resample_vote,
)

HU_RANGE = 3000.0


def above_half(array, source, target):
    return resample_above(array, source, target, 0.5)


ALL = [resample_linear, resample_nearest, resample_vote, above_half]

AWKWARD = [
    # codes, shape, spacing, network spacing
    pytest.param("RAS", (13, 9, 21), (0.7, 2.5, 1.1), (1.0, 1.0, 1.0), id="anisotropic"),
    pytest.param("LPS", (13, 9, 21), (0.7, 2.5, 1.1), (1.0, 1.0, 1.0), id="flipped"),
    pytest.param("PIR", (31, 30, 5), (0.4, 0.4, 3.0), (1.0, 1.0, 1.0), id="permuted and flipped"),
    pytest.param("SLA", (8, 15, 11), (2.0, 1.5, 3.0), (0.6, 0.7, 0.9), id="finer"),
    pytest.param("IPL", (23, 17, 19), (0.5, 0.6, 0.7), (2.0, 1.7, 3.1), id="coarser"),
    pytest.param("ASR", (8, 8, 8), (0.5, 0.5, 0.5), (5.0, 5.0, 5.0), id="coarser than half the scan"),
    pytest.param("PIR", (1, 7, 5), (3.0, 0.4, 0.9), (1.0, 1.0, 1.0), id="one slice"),
    pytest.param("RIA", (7, 1, 1), (3.0, 0.4, 0.9), (2.0, 0.5, 3.3), id="one line"),
    pytest.param("RAS", (1, 1, 1), (3.0, 0.4, 0.9), (1.0, 1.0, 1.0), id="one voxel"),
    pytest.param("LIP", (9, 10, 11), (1.0, 1.0, 1.0), (1.0, 1.0, 1.0), id="same spacing"),
]
DYADIC = [
    # Every weight is a whole number of 64ths, so shares are exact and many of them tie.
    pytest.param("RAS", (7, 5, 6), (1.0, 1.0, 1.0), (0.5, 0.25, 0.5), id="finer"),
    pytest.param("PIR", (9, 7, 6), (0.5, 2.0, 1.0), (1.25, 1.0, 0.5), id="mixed"),
    pytest.param("LSA", (12, 9, 8), (0.25, 0.25, 0.5), (0.75, 0.5, 0.875), id="coarser"),
    pytest.param("IRP", (1, 9, 1), (1.0, 1.0, 1.0), (0.5, 0.5, 0.5), id="one line"),
]


def source_positions(source: Geometry, target: Geometry) -> np.ndarray:
    """(3, voxels): where each target voxel's centre lies in the source array, held inside of it."""
    index = np.indices(target.shape).reshape(3, -1).T
    position = source.index_from_world(target.world_from_index(index))
    return np.clip(np.round(position, 6), 0, np.array(source.shape) - 1).T


def banal_linear(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    positions = source_positions(source, target)
    return map_coordinates(array.astype(float), positions, order=1, mode="nearest").reshape(target.shape)


def banal_nearest(array: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """One voxel after the other; the lower source index if two are equally near."""
    result = np.empty(target.shape, dtype=array.dtype)
    positions = iter(source_positions(source, target).T.tolist())
    for i, j, k in itertools.product(*map(range, target.shape)):
        result[i, j, k] = array[tuple(int(np.ceil(place - 0.5)) for place in next(positions))]
    return result


def banal_vote(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """Each label's mask, the background's too, interpolated by itself; the lowest id among the largest shares."""
    ids = sorted({0, *np.unique(labels).tolist()})
    shares = np.stack([banal_linear(labels == label, source, target) for label in ids])
    return np.array(ids, dtype=np.uint8)[(shares >= shares.max(axis=0) - 1e-6).argmax(axis=0)]


def winning_share(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    return np.max([banal_linear(labels == label, source, target) for label in {0, *labels.ravel().tolist()}], axis=0)


def monai_journey(array: np.ndarray, source: Geometry, spacing_mm, mode: str) -> MetaTensor:
    tensor = MetaTensor(torch.from_numpy(array[None].astype(np.float32)), affine=torch.tensor(source.affine))
    steps = [Orientationd("ct", axcodes="RAS", labels=None), Spacingd("ct", pixdim=spacing_mm, mode=mode)]
    return Compose(steps)({"ct": tensor})["ct"]


def network_grid(source: Geometry, spacing_mm) -> Geometry:
    return source.reoriented("RAS").resampled(spacing_mm)


@pytest.mark.parametrize("degrees", [(0.0, 0.0, 0.0), TILT_DEGREES], ids=["straight", "oblique"])
@pytest.mark.parametrize(("codes", "shape", "spacing_mm", "network_mm"), AWKWARD)
def test_linear_equals_monai_spacingd(codes, shape, spacing_mm, network_mm, degrees):
    source = grid(codes, shape, spacing_mm, degrees)
    image = hounsfield(shape)
    monai = monai_journey(image, source, network_mm, "bilinear")
    target = network_grid(source, network_mm)
    assert target.shape == tuple(monai.shape[1:])
    np.testing.assert_allclose(target.affine, monai.affine.numpy(), atol=1e-6)
    ours = resample_linear(image, source, target)
    assert ours.dtype == np.float32
    assert np.abs(ours - monai[0].numpy()).max() < 1e-3 * HU_RANGE
    assert np.abs(ours - monai[0].numpy()).max() < 1e-5 * HU_RANGE  # what float32 really allows


@pytest.mark.parametrize("codes", AXIS_ORDERS)
def test_linear_equals_the_banal_oracle_in_all_48_orders_there_and_back(codes):
    source = grid(codes, (6, 9, 7), (0.8, 0.5, 1.7))
    target = network_grid(source, (1.1, 0.7, 0.9))
    image = hounsfield(source.shape)
    there = resample_linear(image, source, target)
    np.testing.assert_allclose(there, banal_linear(image, source, target), atol=1e-5 * HU_RANGE)
    back = resample_linear(there, target, source)
    np.testing.assert_allclose(back, banal_linear(there, target, source), atol=1e-5 * HU_RANGE)


@pytest.mark.parametrize("resample", [resample_nearest, resample_vote], ids=["nearest", "vote"])
@pytest.mark.parametrize(("codes", "shape", "spacing_mm", "network_mm"), [*AWKWARD, *DYADIC])
def test_labels_equal_the_banal_oracle_there_and_back(resample, codes, shape, spacing_mm, network_mm):
    oracle = {resample_nearest: banal_nearest, resample_vote: banal_vote}[resample]
    source = grid(codes, shape, spacing_mm)
    target = network_grid(source, network_mm)
    there = resample(label_map(shape), source, target)
    assert there.dtype == np.uint8
    np.testing.assert_array_equal(there, oracle(label_map(shape), source, target))
    network_labels = label_map(target.shape, ids=(0, 1, 1, 3, 26))
    back = resample(network_labels, target, source)
    np.testing.assert_array_equal(back, oracle(network_labels, target, source))


def on_random_grids(test):
    """Call with axes, shape and spacing of a scan, a network spacing, and a seed."""
    sizes, spacings_mm = st.tuples(*[st.integers(1, 9)] * 3), st.tuples(*[st.sampled_from([0.4, 0.77, 1.0, 2.9])] * 3)
    network_mm = st.tuples(*[st.sampled_from([0.31, 0.5, 1.0, 1.9, 7.3])] * 3)
    random = given(st.sampled_from(AXIS_ORDERS), sizes, spacings_mm, network_mm, st.integers(0, 2**32 - 1))
    return settings(max_examples=25, deadline=None)(random(test))


@on_random_grids
def test_everything_equals_the_banal_oracle_on_random_grids(codes, shape, spacing_mm, network_mm, seed):
    source = grid(codes, shape, spacing_mm)
    target = network_grid(source, network_mm)
    image, labels = hounsfield(shape, seed=seed), label_map(shape, seed=seed)
    linear = resample_linear(image, source, target)
    np.testing.assert_allclose(linear, banal_linear(image, source, target), atol=1e-5 * HU_RANGE)
    np.testing.assert_array_equal(resample_nearest(labels, source, target), banal_nearest(labels, source, target))
    vote, oracle = resample_vote(labels, source, target), banal_vote(labels, source, target)
    best = winning_share(labels, source, target)
    for label in np.unique(vote[vote != oracle]):  # they may differ where shares are a float error apart
        share = banal_linear(labels == label, source, target)
        assert np.all(best - share < 1e-5, where=(vote == label))
    assert np.count_nonzero(vote != oracle) <= 1 + vote.size // 1000


@pytest.mark.parametrize("codes", ["RAS", "PIR", "LSA"])
def test_shear_is_kept_and_carried_over(codes):
    source = sheared_grid(codes, (6, 9, 7))
    target = network_grid(source, (1.1, 0.7, 0.9))
    assert target.skew == pytest.approx(source.skew)
    image, labels = hounsfield(source.shape), label_map(source.shape)
    linear = resample_linear(image, source, target)
    np.testing.assert_allclose(linear, banal_linear(image, source, target), atol=1e-5 * HU_RANGE)
    np.testing.assert_array_equal(resample_vote(labels, source, target), banal_vote(labels, source, target))


@pytest.mark.parametrize("resample", [resample_linear, resample_nearest, resample_vote])
def test_on_its_own_grid_nothing_changes(resample):
    source = grid("PIR", (9, 4, 6))
    labels = label_map(source.shape)
    result = resample(labels, source, source)
    np.testing.assert_array_equal(result, labels)
    assert not np.shares_memory(result, labels)


@pytest.mark.parametrize("resample", [resample_linear, resample_nearest, resample_vote])
def test_reorienting_alone_moves_voxels_without_mixing_them(resample):
    source = grid("PIR", (9, 4, 6))
    labels = label_map(source.shape)
    expected = labels.transpose(2, 0, 1)[:, ::-1, ::-1]  # P I R -> R A S
    np.testing.assert_array_equal(resample(labels, source, source.reoriented("RAS")), expected)


@pytest.mark.parametrize("resample", [resample_linear, resample_nearest, resample_vote])
def test_a_crop_of_the_grid_gets_exactly_its_voxels(resample):
    source = grid("LSA", (9, 8, 7))
    labels = label_map(source.shape)
    result = resample(labels, source, source.cropped((2, 0, 6), (7, 3, 7)))
    np.testing.assert_array_equal(result, labels[2:7, 0:3, 6:7])


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64, np.int32, ">i2", np.float16])
@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_any_dtype_and_memory_layout_gives_the_same_image_and_stays_untouched(dtype, layout):
    source = grid("PIR", (6, 9, 7), (0.8, 0.5, 1.7))
    target = network_grid(source, (1.1, 0.7, 0.9))
    plain = hounsfield(source.shape) % 251
    image = plain.astype(dtype, order="F" if layout == "F" else "C")
    if layout == "strided":
        image = np.repeat(plain.astype(dtype), 2, axis=2)[:, :, ::2]
    image.setflags(write=False)
    result = resample_linear(image, source, target)
    np.testing.assert_allclose(result, banal_linear(plain, source, target), atol=1e-3)
    np.testing.assert_array_equal(image, plain)


@pytest.mark.parametrize("layout", ["C", "F", "strided"])
def test_labels_in_any_memory_layout_give_the_same_mask(layout):
    source = grid("PIR", (6, 9, 7), (0.8, 0.5, 1.7))
    target = network_grid(source, (1.1, 0.7, 0.9))
    plain = label_map(source.shape)
    labels = np.asarray(plain, order="F" if layout == "F" else "C")
    if layout == "strided":
        labels = np.repeat(plain, 2, axis=0)[::2]
    labels.setflags(write=False)
    np.testing.assert_array_equal(resample_vote(labels, source, target), banal_vote(plain, source, target))
    np.testing.assert_array_equal(resample_nearest(labels, source, target), banal_nearest(plain, source, target))


def test_nearest_keeps_any_dtype():
    source = grid()
    for dtype in (np.uint16, np.int32, np.float64, bool):
        assert resample_nearest(np.ones(source.shape, dtype), source, source).dtype == dtype


def test_equal_shares_go_to_the_lower_id_and_to_the_background():
    line = Geometry((6, 1, 1), np.eye(4))
    labels = np.array([9, 4, 0, 7, 7, 3], dtype=np.uint8).reshape(line.shape)
    halves = line.resampled((0.5, 1.0, 1.0))
    assert resample_vote(labels, line, halves).ravel().tolist() == [9, 4, 4, 0, 0, 0, 7, 7, 7, 3, 3]


def test_many_labels_can_outvote_the_background_only_one_by_one():
    square = Geometry((2, 2, 1), np.eye(4))
    labels = np.array([[0, 1], [2, 3]], dtype=np.uint8)[..., None]
    middle = Geometry((1, 1, 1), [[1, 0, 0, 0.4], [0, 1, 0, 0.4], [0, 0, 1, 0], [0, 0, 0, 1]])
    assert resample_vote(labels, square, middle).item() == 0  # 0.36 against three smaller shares


@pytest.mark.parametrize("ids", [(0,), (5,), (255,)], ids=["empty", "full", "highest id"])
def test_uniform_masks_stay_uniform(ids):
    source = grid("PIR", (6, 9, 7), (0.8, 0.5, 1.7))
    target = network_grid(source, (1.1, 0.7, 0.9))
    assert set(np.unique(resample_vote(label_map(source.shape, ids), source, target))) == set(ids)
    assert set(np.unique(resample_nearest(label_map(source.shape, ids), source, target))) == set(ids)


def test_an_asymmetric_marker_stays_at_its_place_in_the_world_on_the_way_back():
    source = grid("PIR", (30, 40, 12), (0.9, 0.9, 3.0))
    network = network_grid(source, (1.0, 1.0, 1.0))
    labels = np.zeros(network.shape, dtype=np.uint8)
    labels[3:10, 20:25, 4:30] = 5
    labels[25:29, 2:12, 20:33] = 19
    back = resample_vote(labels, network, source)
    for label in (5, 19):
        there_mm = network.world_from_index(np.argwhere(labels == label)).mean(axis=0)
        back_mm = source.world_from_index(np.argwhere(back == label)).mean(axis=0)
        assert np.linalg.norm(there_mm - back_mm) < 0.75


@pytest.mark.parametrize("resample", ALL)
@pytest.mark.parametrize("degrees", [(12.0, -9.0, 18.0), (12.0, -9.0, 62.0), (0.0, 0.0, 0.0)])
def test_rotated_grids_are_refused(resample, degrees):
    source = grid(degrees=TILT_DEGREES)
    with pytest.raises(GeometryError, match="rotated against each other"):
        resample(label_map(), source, grid(degrees=degrees))


@pytest.mark.parametrize("resample", ALL)
def test_a_sheared_grid_is_not_parallel_to_a_straight_one(resample):
    with pytest.raises(GeometryError, match="rotated against each other"):
        resample(label_map(), sheared_grid(), grid())


@pytest.mark.parametrize("resample", ALL)
@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("side", ["before", "after"])
def test_a_target_that_reaches_out_of_the_source_is_refused(resample, axis, side):
    source = grid("PIR")
    start, stop = np.zeros(3, dtype=int), np.array(source.shape)
    if side == "before":
        start[axis] -= 3
    else:
        stop[axis] += 3
    with pytest.raises(GeometryError, match=r"reaches 3\.00 voxels beyond"):
        resample(label_map(), source, source.cropped(start, stop))


@pytest.mark.parametrize("resample", ALL)
def test_a_target_elsewhere_is_refused(resample):
    with pytest.raises(GeometryError, match="beyond the source grid"):
        resample(label_map(), grid(), Geometry(grid().shape, affine(degrees=TILT_DEGREES, origin_mm=(900, 0, 0))))


@pytest.mark.parametrize("resample", ALL)
@pytest.mark.parametrize("shape", [(5, 6, 8), (7, 6, 5), (5, 6), (1, 5, 6, 7)])
def test_an_array_that_is_not_on_its_grid_is_refused(resample, shape):
    with pytest.raises(GeometryError, match=r"is not that of its grid \(5, 6, 7\)"):
        resample(np.zeros(shape, dtype=np.uint8), grid(), grid())


def whole_grid_vote(labels: np.ndarray, source: Geometry, target: Geometry) -> np.ndarray:
    """The vote as it was first written: label by label, with float32 arrays of the target's size."""
    view, axes = aligned(labels, source, target)
    best = np.zeros(target.shape, dtype=np.uint8)
    share_of_best = np.zeros(target.shape, dtype=np.float32)
    share_of_background = np.ones(target.shape, dtype=np.float32)
    for label, source_box in enumerate(find_objects(view), start=1):
        if source_box is None:
            continue
        box = target_box(axes, source_box)
        share = (view == label).astype(np.float32)
        for axis, (places, span) in enumerate(zip(axes, box, strict=True)):
            share = places.part(span).interpolated(share, axis)
        wins = share > share_of_best[box] + 1e-6
        best[box][wins] = label
        share_of_best[box][wins] = share[wins]
        share_of_background[box] -= share
    best[share_of_best <= share_of_background + 1e-6] = 0
    return best


def blobs(shape, ids, seed=0) -> np.ndarray:
    """Touching and lone boxes of labels in an otherwise empty map."""
    random = np.random.default_rng(seed)
    labels = np.zeros(shape, dtype=np.uint8)
    for label in random.permutation(np.repeat(ids, 2)):
        start = random.integers(0, shape)
        stop = start + random.integers(1, 5, 3)
        labels[tuple(map(slice, start, stop))] = label
    return labels


WHOLE, ODD_TILES, THREE_THREADS = (1, (64, 64, 64)), (1, (5, 4, 9)), (3, (8, 1, 7))


@pytest.fixture(params=[WHOLE, ODD_TILES, THREE_THREADS], ids=str)
def tiles(request, monkeypatch):
    """The size of the tiles, and on how many cores they are worked on."""
    threads, size = request.param
    monkeypatch.setattr("verse3d.core.threads.thread_count", lambda: threads)
    monkeypatch.setattr("verse3d.core.resample._TILE", size)
    return request.param


@cache
def votes(codes, shape, spacing_mm, network_mm) -> list[tuple[np.ndarray, Geometry, Geometry, np.ndarray]]:
    """Masks, the grids they go from and to, and what comes out there."""
    source = grid(codes, shape, spacing_mm)
    target = network_grid(source, network_mm)
    found = []
    for make in (label_map, blobs):
        there, back = make(shape, (1, 2, 19, 26, 28)), make(target.shape, (1, 2, 3, 26))
        for labels, first, second in ((there, source, target), (back, target, source)):
            found.append((labels, first, second, whole_grid_vote(labels, first, second)))
    return found


@pytest.mark.parametrize(("codes", "shape", "spacing_mm", "network_mm"), [*AWKWARD, *DYADIC])
def test_the_vote_by_tiles_is_the_vote_on_the_whole_grid(codes, shape, spacing_mm, network_mm, tiles):
    layout = "F" if tiles == ODD_TILES else "C"
    for labels, source, target, expected in votes(codes, shape, spacing_mm, network_mm):
        result = resample_vote(np.asarray(labels, order=layout), source, target)
        assert result.flags.f_contiguous
        np.testing.assert_array_equal(result, expected)


# Each type and order of memory on the whole grid; in tiles, where only the way of cutting differs, the usual ones.
@pytest.mark.parametrize(
    ("tiles", "dtype", "layout"),
    [
        (WHOLE, np.float16, "C"),
        (WHOLE, np.float32, "F"),
        (WHOLE, np.float64, "C"),
        (ODD_TILES, np.float16, "F"),
        (ODD_TILES, np.float32, "C"),
        (THREE_THREADS, np.float32, "F"),
    ],
    indirect=["tiles"],
    ids=str,
)
@pytest.mark.parametrize(("codes", "shape", "spacing_mm", "network_mm"), [*AWKWARD, *DYADIC])
def test_above_is_where_the_linear_image_is_above(codes, shape, spacing_mm, network_mm, *, tiles, dtype, layout):
    source = grid(codes, shape, spacing_mm)
    network = network_grid(source, network_mm)
    random = np.random.default_rng(0)
    rare = np.where(blobs(network.shape, (1, 2, 3)) > 0, random.random(network.shape), random.random(network.shape) / 2)
    eighths = random.integers(0, 9, network.shape) / 8  # many values are the threshold itself
    half, fifth = np.full(network.shape, 0.5), np.full(network.shape, 0.2)
    for plain, thresholds in ((rare, (0.5, 0.9)), (eighths, (0.5, 0.125)), (half, (0.5,)), (fifth, (0.125,))):
        probability = np.asarray(plain, dtype=dtype, order=layout)
        linear = resample_linear(probability, network, source)
        for threshold in thresholds:
            mask = resample_above(probability, network, source, threshold)
            assert (mask.dtype, mask.flags.f_contiguous) == (np.uint8, True)
            np.testing.assert_array_equal(mask, linear > threshold)


@on_random_grids
def test_above_is_where_the_linear_image_is_above_on_random_grids(codes, shape, spacing_mm, network_mm, seed):
    source = grid(codes, shape, spacing_mm)
    network = network_grid(source, network_mm)
    random = np.random.default_rng(seed)
    threshold = random.random()
    probability = random.random(network.shape, dtype=np.float32) ** 2
    mask = resample_above(probability, network, source, threshold)
    np.testing.assert_array_equal(mask, resample_linear(probability, network, source) > threshold)


@pytest.mark.parametrize("threads", [1, 2, 5])
@pytest.mark.parametrize(("codes", "shape", "spacing_mm", "network_mm"), AWKWARD)
def test_finished_planes_are_the_linear_image_changed_afterwards(
    codes, shape, spacing_mm, network_mm, *, monkeypatch, threads
):
    monkeypatch.setattr("verse3d.core.threads.thread_count", lambda: threads)
    source = grid(codes, shape, spacing_mm)
    target = network_grid(source, network_mm)

    def halved(plane):
        plane *= 0.5  # in place, as is allowed
        return plane

    image = hounsfield(shape)
    expected = (resample_linear(image, source, target) * np.float32(0.5)).astype(np.float16)
    result = resample_finished(image, source, target, np.float16, halved)
    assert result.tobytes() == expected.tobytes()
    assert image.tobytes() == hounsfield(shape).tobytes()


@pytest.mark.parametrize("layout", ["C", "F"])
def test_going_back_holds_the_mask_and_a_few_tiles(monkeypatch, layout):
    monkeypatch.setattr("verse3d.core.threads.thread_count", lambda: 1)
    source = Geometry((256, 256, 250), np.diag([-0.8, 0.8, 1.0, 1.0]))  # 16 million voxels
    network = network_grid(source, (1.5, 1.5, 1.5))
    labels = np.zeros(network.shape, dtype=np.uint8, order=layout)
    labels[40:90, 30:100, 5:160] = 1 + np.arange(155) // 6
    probability = (labels > 0).astype(np.float32)
    for carry in (lambda: resample_vote(labels, network, source), lambda: above_half(probability, network, source)):
        tracemalloc.start()
        mask = carry()
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert mask.any()
        assert peak < mask.nbytes + 10e6


def test_preparing_holds_the_result_and_a_few_planes(monkeypatch):
    monkeypatch.setattr("verse3d.core.threads.thread_count", lambda: 1)
    source = Geometry((256, 256, 250), np.diag([-0.8, 0.8, 1.0, 1.0]))
    target = network_grid(source, (1.0, 1.0, 1.0))
    scan = np.zeros(source.shape, dtype=np.int16, order="F")
    tracemalloc.start()
    result = resample_finished(scan, source, target, np.float16, lambda plane: plane)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < result.nbytes + 5e6


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
@pytest.mark.parametrize(("codes", "shape", "spacing", "network"), AWKWARD)
def test_an_array_that_is_being_filled_is_followed(codes, shape, spacing, network, dtype):
    """Nothing is read before it is there, and all of it is used; as files fill arrays, the first axis runs fastest."""
    source = grid(codes, shape, spacing)
    target = network_grid(source, network)
    whole = hounsfield(shape, dtype)
    filling, asked = np.full(shape, 30_000, dtype, order="F"), []

    def ready(count):
        asked.append(count)
        filling.ravel("K")[:count] = whole.ravel("F")[:count]

    expected = resample_finished(np.asfortranarray(whole), source, target, np.float32, np.copy)
    found = resample_finished(filling, source, target, np.float32, np.copy, ready=ready)
    assert found.tobytes() == expected.tobytes()
    assert min(asked) > 0 and max(asked) <= filling.size


@pytest.mark.filterwarnings("error")
def test_infinity_in_an_array_that_is_being_filled_is_left_to_whoever_fills_it():
    source = grid("RAS", (5, 6, 9), (1.0, 1.0, 1.0))
    values = np.asfortranarray(hounsfield(source.shape, np.float32))
    values[2:, 3:, 4:] = np.inf
    for spacing in (1.0, 0.7):
        target = source.resampled((spacing,) * 3)
        resample_finished(values, source, target, np.float16, np.copy, ready=lambda count: None)


def test_an_array_that_is_never_there_is_not_waited_for():
    source = grid("RAS", (9, 9, 9), (1.0, 1.0, 1.0))

    def ready(count):
        if count > 300:
            raise OSError("the disk is gone")

    with pytest.raises(OSError, match="the disk is gone"):
        resample_finished(hounsfield((9, 9, 9)), source, source, np.float32, np.copy, ready=ready)
