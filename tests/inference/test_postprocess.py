"""Cleaning label maps, against a flood fill that a child could follow."""

import itertools
import tracemalloc

import numpy as np
import pytest
from scipy import ndimage

from verse3d.core import threads
from verse3d.core.config import InferenceConfig
from verse3d.core.geometry import Geometry
from verse3d.inference import components as ways
from verse3d.inference import postprocess
from verse3d.inference.postprocess import clean_up

ANISOTROPIC = Geometry((9, 11, 7), np.diag([1.0, 2.0, 5.0, 1.0]))  # 0.01 ml per voxel
STEPS = [step for step in itertools.product((-1, 0, 1), repeat=3) if any(step)]


def components(mask):
    """Lists of voxels that touch each other over faces, edges or corners."""
    left = {tuple(voxel) for voxel in np.argwhere(mask)}
    while left:
        found, queue = [], [left.pop()]
        while queue:
            voxel = queue.pop()
            found.append(voxel)
            for step in STEPS:
                neighbour = tuple(a + b for a, b in zip(voxel, step, strict=True))
                if neighbour in left:
                    left.remove(neighbour)
                    queue.append(neighbour)
        yield found


def cleaned_naively(labels, voxel_ml, minimum_ml, largest_only):
    result = np.zeros_like(labels)
    for label in set(labels.ravel().tolist()) - {0}:
        parts = [part for part in components(labels == label) if len(part) * voxel_ml >= minimum_ml - 1e-12]
        if largest_only and parts:
            parts = [max(parts, key=len)]
        for voxel in itertools.chain.from_iterable(parts):
            result[voxel] = label
    return result


def cleaned_at_once(labels, minimum_voxels, largest_only):
    """Every label's components on the whole map, in the order of its axes."""
    for label in set(np.unique(labels).tolist()) - {0}:
        found, _ = ndimage.label(labels == label, np.ones((3, 3, 3)))
        voxels = np.bincount(found.ravel())
        voxels[0] = 0
        keep = voxels >= minimum_voxels
        if largest_only:
            keep &= np.arange(voxels.size) == voxels.argmax()
        labels = np.where((found > 0) & ~keep[found], np.uint8(0), labels)
    return labels


@pytest.fixture(params=["as runs", "as voxels", "as voxels, found again", "in the quicker way"])
def _way(request, monkeypatch):
    """How components are found: as if everything were tidy, as if everything were noise, or as it is."""
    if request.param != "in the quicker way":
        monkeypatch.setattr(ways, "_VOXELS_PER_RUN", 0 if request.param == "as runs" else 10**9)
    monkeypatch.setattr(ways, "_MOST_CRUMBS", -1 if request.param == "as voxels, found again" else 1)


def clean(labels, geometry=ANISOTROPIC, **settings):
    return clean_up(labels.copy(), geometry, InferenceConfig(**{"min_component_ml": 0.0, **settings}))


@pytest.mark.parametrize("minimum_ml", [0.0, 0.01, 0.025, 0.05, 0.2, 1e9])
def test_small_components_of_every_label_go_as_a_flood_fill_says(minimum_ml):
    for seed in range(6):
        random = np.random.default_rng(seed)
        labels = random.choice([0, 1, 2, 28], p=[0.86, 0.06, 0.05, 0.03], size=ANISOTROPIC.shape).astype(np.uint8)
        expected = cleaned_naively(labels, 0.01, minimum_ml, largest_only=False)
        np.testing.assert_array_equal(clean(labels, min_component_ml=minimum_ml), expected)


def test_only_the_largest_component_of_every_label_stays_if_wanted():
    labels = np.zeros(ANISOTROPIC.shape, dtype=np.uint8)
    labels[0:2, 0, 0], labels[4:7, 0, 0] = 1, 1
    labels[0, 4:9, 3], labels[5, 4, 3] = 28, 28
    expected = cleaned_naively(labels, 0.01, 0.0, largest_only=True)
    result = clean(labels, largest_component_only=True)
    np.testing.assert_array_equal(result, expected)
    assert np.bincount(result.ravel())[[1, 28]].tolist() == [3, 5]


def test_the_largest_component_goes_too_if_it_is_too_small():
    labels = np.zeros(ANISOTROPIC.shape, dtype=np.uint8)
    labels[0:3, 0, 0] = 4
    assert not clean(labels, largest_component_only=True, min_component_ml=0.04).any()
    assert clean(labels, largest_component_only=True, min_component_ml=0.03).sum() == 12


def test_the_smallest_volume_is_measured_in_ml_whatever_the_spacing():
    labels = np.zeros((6, 6, 6), dtype=np.uint8)
    labels[1:3, 1:3, 1:3] = 1  # eight voxels
    for spacing_mm in ((1.0, 1.0, 1.0), (0.5, 0.5, 4.0), (2.0, 0.25, 2.0), (5.0, 5.0, 5.0)):
        geometry = Geometry(labels.shape, np.diag([*spacing_mm, 1.0]))
        volume_ml = 8 * float(np.prod(spacing_mm)) / 1000
        assert clean(labels, geometry, min_component_ml=volume_ml * 0.99).any(), spacing_mm
        assert not clean(labels, geometry, min_component_ml=volume_ml * 1.01).any(), spacing_mm


def test_voxels_that_touch_at_a_corner_are_one_component():
    labels = np.zeros(ANISOTROPIC.shape, dtype=np.uint8)
    labels[2, 2, 2] = labels[3, 3, 3] = labels[4, 4, 4] = 7
    assert clean(labels, min_component_ml=0.03).sum() == 21
    assert not clean(labels, min_component_ml=0.031).any()


def test_neighbouring_labels_do_not_hold_each_other_up():
    labels = np.zeros(ANISOTROPIC.shape, dtype=np.uint8)
    labels[0:4, 0:4, 0:4] = 1
    labels[4, 0, 0] = 2
    assert np.unique(clean(labels, min_component_ml=0.02)).tolist() == [0, 1]


def test_an_empty_map_and_switched_off_thresholds_change_nothing():
    empty = np.zeros(ANISOTROPIC.shape, dtype=np.uint8)
    assert not clean(empty, min_component_ml=1.0, largest_component_only=True).any()
    speckled = np.random.default_rng(0).integers(0, 2, ANISOTROPIC.shape, dtype=np.uint8)
    np.testing.assert_array_equal(clean(speckled), speckled)


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("axes", list(itertools.permutations(range(3))))
@pytest.mark.parametrize("largest_only", [False, True])
def test_the_order_in_memory_changes_nothing_not_even_between_equally_large_components(axes, largest_only):
    for seed in range(20):
        random = np.random.default_rng(seed)
        labels = random.choice([0, 1, 2, 28], p=[0.88, 0.05, 0.04, 0.03], size=ANISOTROPIC.shape).astype(np.uint8)
        stored = labels.transpose(axes).copy().transpose(np.argsort(axes))
        settings = InferenceConfig(min_component_ml=0.02, largest_component_only=largest_only)
        assert clean_up(stored, ANISOTROPIC, settings) is stored
        np.testing.assert_array_equal(stored, cleaned_at_once(labels, 2, largest_only))


@pytest.mark.usefixtures("_way")
@pytest.mark.parametrize("planes", [1, 2, 3, 6])
@pytest.mark.parametrize("largest_only", [False, True])
@pytest.mark.parametrize("cores", [1, 3])
def test_neither_the_number_of_cores_nor_how_many_planes_are_looked_at_at_once_changes_anything(
    cores, planes, largest_only, monkeypatch
):
    monkeypatch.setattr(threads, "thread_count", lambda: cores)
    monkeypatch.setattr(postprocess, "_CHUNK_VOXELS", planes * 9 * 11)
    for seed in range(10):
        random = np.random.default_rng(seed)
        labels = random.choice([0, 1, 2], p=[0.8, 0.1, 0.1], size=(7, 9, 11)).astype(np.uint8)
        settings = InferenceConfig(min_component_ml=0.008, largest_component_only=largest_only)
        found = clean_up(labels.copy(), Geometry(labels.shape, np.eye(4)), settings)
        np.testing.assert_array_equal(found, cleaned_at_once(labels, 8, largest_only))


@pytest.mark.parametrize(
    "shape", [(1, 1, 1), (1, 1, 9), (1, 9, 1), (9, 1, 1), (1, 5, 6), (4, 1, 6), (2, 2, 2)], ids=str
)
@pytest.mark.usefixtures("_way")
def test_thin_maps_are_cleaned_too(shape, monkeypatch):
    monkeypatch.setattr(postprocess, "_CHUNK_VOXELS", 6)
    for seed in range(20):
        labels = np.random.default_rng(seed).integers(0, 3, shape).astype(np.uint8)
        found = clean(labels, Geometry(shape, np.eye(4)), min_component_ml=0.002)
        np.testing.assert_array_equal(found, cleaned_at_once(labels, 2, largest_only=False))


@pytest.mark.parametrize("largest_only", [False, True])
def test_where_noise_and_order_meet_components_are_the_same(largest_only, monkeypatch):
    """Tidy chunks and noisy ones take turns, and long components run through all of them."""
    monkeypatch.setattr(postprocess, "_CHUNK_VOXELS", 3 * 40 * 64)
    random, labels = np.random.default_rng(0), np.zeros((31, 40, 64), np.uint8)
    for first in range(0, 31, 12):
        labels[first : first + 4] = random.integers(0, 4, (len(labels[first : first + 4]), 40, 64))
    labels[:, 10:14, 20:30], labels[:, 30:32, 5:50] = 2, 3
    kinds = {type(ways.find_components(labels[at : at + 4].copy(), 3, 0)).__name__ for at in range(0, 30, 3)}
    assert kinds == {"TidyChunk", "NoisyChunk"}
    settings = InferenceConfig(min_component_ml=0.06, largest_component_only=largest_only)
    found = clean_up(labels.copy(), Geometry(labels.shape, np.eye(4)), settings)
    np.testing.assert_array_equal(found, cleaned_at_once(labels, 60, largest_only))


def test_noise_that_was_changed_between_two_looks_is_noticed():
    noise = np.random.default_rng(0).integers(0, 3, (5, 20, 20), dtype=np.uint8)
    chunk = ways.NoisyChunk(noise, 4, 0)
    noise[1:3] = 0
    with pytest.raises(RuntimeError, match="changed meanwhile"):
        chunk.clear(noise, np.ones(chunk.sizes.voxels.size, bool))


@pytest.mark.parametrize(("most", "looks"), [(1.0, 1), (-1.0, 2)])
def test_crumbs_that_were_kept_are_not_looked_for_again(most, looks, monkeypatch):
    monkeypatch.setattr(ways, "_MOST_CRUMBS", most)
    monkeypatch.setattr(postprocess, "_CHUNK_VOXELS", 4 * 30 * 31)
    find, calls = ways._numbered, []
    monkeypatch.setattr(ways, "_numbered", lambda planes: calls.append(None) or find(planes))
    noise = np.random.default_rng(0).integers(0, 9, (16, 30, 31), dtype=np.uint8)
    found = clean(noise, Geometry(noise.shape, np.eye(4)), min_component_ml=0.01)
    np.testing.assert_array_equal(found, cleaned_at_once(noise, 10, largest_only=False))
    assert len(calls) == looks * 4


def test_very_many_components_are_told_apart():
    labels = np.zeros((120, 120, 120), dtype=np.uint8)
    labels[::2, ::2, ::2] = 3  # 216,000 single voxels
    labels[100:109, 50:53, 60:65] = 3
    geometry = Geometry(labels.shape, np.eye(4))
    expected = cleaned_at_once(labels, 10, largest_only=False)
    assert np.count_nonzero(expected) < 500
    np.testing.assert_array_equal(clean(labels, geometry, min_component_ml=0.01), expected)


@pytest.mark.parametrize("order", ["C", "F"])
def test_cleaning_takes_little_memory(order):
    labels = np.zeros((300, 250, 200), dtype=np.uint8, order=order)
    labels[50:150, 60:130, :] = 1
    labels[170, 20, 30] = 1
    geometry, settings = Geometry(labels.shape, np.eye(4)), InferenceConfig(min_component_ml=0.1)
    assert _peak_bytes(lambda: clean_up(labels, geometry, settings)) < 0.5 * labels.size + 20e6
    assert np.count_nonzero(labels) == 100 * 70 * 200


def test_cleaning_of_mere_noise_takes_a_byte_a_voxel_and_some_planes(monkeypatch):
    """As of an untrained network: nearly every voxel another label."""
    labels = np.random.default_rng(0).integers(0, 27, (400, 250, 200), dtype=np.uint8)
    geometry, settings = Geometry(labels.shape, np.eye(4)), InferenceConfig(min_component_ml=0.1)
    monkeypatch.setattr(threads, "thread_count", lambda: 8)
    working = 2 * 20 * postprocess._CHUNK_VOXELS
    assert _peak_bytes(lambda: clean_up(labels, geometry, settings)) < labels.size + working


def _peak_bytes(work) -> int:
    tracemalloc.start()
    work()
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak
