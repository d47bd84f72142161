"""From parts of vertebrae to single bones."""

import numpy as np
import pytest
import torch
from scipy.sparse import coo_array
from scipy.sparse.csgraph import dijkstra

from tests.core import grids
from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.labelling.bones import CoarseGrid, measured_bones
from verse3d.labelling.growing import FREE, grow
from verse3d.labelling.instances import group_bones
from verse3d.model.parts import parts_of
from verse3d.phantoms import make_case

SPACING_MM = (1.0, 1.5, 2.0)


def column(count=5, height=8, gap=3, shape=(24, 20, 66), first=2):
    """Ids of blocks on top of each other along k, 1 at the lowest index; each is 20 x 24 x 16 mm, 7.7 ml."""
    ids = np.zeros(shape, np.uint8)
    for number in range(count):
        start = first + number * (height + gap)
        ids[2:22, 2:18, start : start + height] = number + 1
    return ids


def grid_of(ids, codes="RAS", degrees=(0.0, 0.0, 0.0)) -> Geometry:
    return Geometry(ids.shape, grids.affine(codes, SPACING_MM, degrees))


def parts(ids, geometry):
    return parts_of(torch.from_numpy(np.ascontiguousarray(ids))[None, None], geometry.spacing_mm)[0, 0].numpy()


def bones_in(ids, found):
    """For each id the numbers that its voxels carry."""
    numbers = np.zeros_like(ids)
    numbers[found.box] = found.numbers
    return {int(label): set(np.unique(numbers[ids == label]).tolist()) for label in np.unique(ids) if label}


@pytest.fixture(scope="module")
def phantom():
    case = make_case(5, 2)
    return case, group_bones(parts(case.mask, case.geometry), case.geometry)


def test_every_vertebra_of_a_phantom_comes_back_whole_and_alone(phantom):
    case, found = phantom
    of_level = bones_in(case.mask, found)
    assert all(len(numbers) == 1 for numbers in of_level.values())
    assert len(set.union(*of_level.values())) == len(case.levels) == len(found.bones)
    assert found.dropped_ml == 0


def test_the_centre_of_a_bone_is_that_of_its_body(phantom):
    case, found = phantom
    centre_of = {bone.number: bone.centre_mm for bone in found.bones}
    for label, numbers in bones_in(case.mask, found).items():
        body = case.geometry.world_from_index([case.centroids[label]])[0]
        assert np.linalg.norm(body - centre_of[numbers.pop()]) < 2.0


@pytest.mark.parametrize("codes", ["RAS", "PIR", "LSA"])
@pytest.mark.parametrize("fortran", [False, True])
def test_bones_do_not_depend_on_how_the_grid_lies(codes, fortran):
    ids = column()
    geometry = grid_of(ids, codes, grids.TILT_DEGREES)
    made = parts(ids, geometry)
    found = group_bones(np.asfortranarray(made) if fortran else made, geometry)
    assert sorted(len(numbers) for numbers in bones_in(ids, found).values()) == [1] * 5
    middle = geometry.world_from_index([np.argwhere(ids == 3).mean(axis=0)])[0]
    assert min(np.linalg.norm(np.array(bone.centre_mm) - middle) for bone in found.bones) < 1.0
    assert all(bone.volume_ml == pytest.approx(20 * 16 * 8 * 3.0 / 1000) for bone in found.bones)


@pytest.mark.parametrize(("codes", "width_mm"), [("RAS", 19.0), ("PIR", 14.0), ("LSA", 19.0), ("SRA", 22.5)])
def test_the_width_of_a_bone_is_how_far_it_goes_from_left_to_right_wherever_that_is_on_the_grid(codes, width_mm):
    ids = column()
    geometry = grid_of(ids, codes)
    found = group_bones(parts(ids, geometry), geometry)
    assert [bone.width_mm for bone in found.bones if not bone.is_cut] == pytest.approx([width_mm] * 5, abs=1.0)


def test_the_width_of_a_bone_that_the_scan_cuts_is_not_known():
    ids = column(first=-4)
    ids[2:22, 2:18, 0:4] = 1
    geometry = grid_of(ids)
    found = group_bones(parts(ids, geometry), geometry)
    assert [np.isnan(bone.width_mm) for bone in found.bones] == [bone.is_cut for bone in found.bones]
    assert any(bone.is_cut for bone in found.bones)


def test_every_voxel_goes_to_the_owner_nearest_within_the_foreground():
    random = np.random.default_rng(4)
    free = np.pad(random.random((7, 6, 8)) < 0.7, 1)
    owners = np.where(free, FREE, 0).astype(np.uint8)
    seeds = np.argwhere(free)[random.choice(free.sum(), 3, replace=False)]
    for number, seed in enumerate(seeds, start=1):
        owners[tuple(seed)] = number
    expected = distances_through(free, seeds)
    grow(owners, SPACING_MM)
    reached = np.isfinite(expected).any(axis=0)
    assert np.array_equal(owners[free] == FREE, ~reached)
    own = owners[free][reached].astype(int) - 1
    taken = expected[:, reached][own, np.arange(own.size)]
    assert np.allclose(taken, expected[:, reached].min(axis=0))


def distances_through(free, seeds):
    """From each seed to every voxel of the foreground, by steps along the axes."""
    number = np.full(free.shape, -1)
    number[free] = np.arange(free.sum())
    rows, columns, lengths = [], [], []
    for axis, mm in enumerate(SPACING_MM):
        one, other = np.moveaxis(number, axis, 0)[:-1].ravel(), np.moveaxis(number, axis, 0)[1:].ravel()
        both = (one >= 0) & (other >= 0)
        rows.append(one[both]), columns.append(other[both]), lengths.append(np.full(both.sum(), mm))
    graph = coo_array(
        (np.concatenate(lengths), (np.concatenate(rows), np.concatenate(columns))), shape=(free.sum(),) * 2
    )
    return dijkstra(graph, directed=False, indices=[number[tuple(seed)] for seed in seeds])


def test_two_vertebrae_with_a_bridge_between_their_cores_are_parted():
    ids = column()
    geometry = grid_of(ids)
    made = parts(ids, geometry)
    made[10:14, 8:11, 21:24] = 2  # from the second block to the third
    found = group_bones(made, geometry)
    of_block = bones_in(ids, found)
    assert len(found.bones) == 5
    assert all(len(numbers) == 1 for numbers in of_block.values())


def test_a_block_without_a_waist_stays_one_bone():
    ids = column()
    ids[2:22, 2:18, 21:24] = 2
    ids[ids == 3] = 2
    geometry = grid_of(ids)
    assert len(group_bones(parts(ids, geometry), geometry).bones) == 4


def test_bone_without_a_core_is_a_bone_if_it_is_large_joins_one_nearby_or_is_dropped():
    ids = column()
    geometry = grid_of(ids)
    made = parts(ids, geometry)
    made[ids == 5] = 1
    made[2:6, 2:6, 1] = 0
    near, far = (slice(2, 9), slice(2, 9), slice(0, 1)), (slice(10, 13), slice(10, 13), slice(60, 64))
    made[near] = made[far] = 1
    found = group_bones(made, geometry)
    of_block = bones_in(ids, found)
    assert all(len(numbers) == 1 and 0 not in numbers for numbers in of_block.values())
    numbers = np.zeros_like(ids)
    numbers[found.box] = found.numbers
    assert np.unique(numbers[near]).tolist() == list(of_block[1])
    assert not numbers[far].any()
    assert found.dropped_ml == pytest.approx(3 * 3 * 4 * 3.0 / 1000)


def test_a_bone_too_small_for_a_vertebra_is_dropped_and_counted():
    ids = np.zeros((24, 20, 30), np.uint8)
    ids[5:11, 5:11, 5:10] = 2
    geometry = grid_of(ids)
    found = group_bones(ids, geometry)
    assert not found.bones
    assert found.dropped_ml == pytest.approx(6 * 6 * 5 * 3.0 / 1000)


def test_a_bone_is_cut_where_the_scan_ends_in_its_body_but_not_at_the_tip_of_a_process():
    ids = column(first=-4)[:, :, :60]
    ids[2:22, 2:18, 0:4] = 1
    ids[10:12, 17:20, 18:21] = 3  # a process up to the last plane of j
    geometry = grid_of(ids)
    found = group_bones(parts(ids, geometry), geometry)
    cut = {
        label
        for label, (number,) in bones_in(ids, found).items()
        for b in found.bones
        if b.number == number and b.is_cut
    }
    assert cut == {1}


def test_a_map_without_bone_has_none():
    geometry = Geometry((4, 5, 6), np.eye(4))
    found = group_bones(np.zeros((4, 5, 6), np.uint8), geometry)
    assert found.bones == ()
    labels = np.zeros((4, 5, 6), np.uint8)
    found.write(np.arange(256, dtype=np.uint8), labels)
    assert not labels.any()


def test_names_are_written_where_the_bones_are():
    ids = column()
    geometry = grid_of(ids)
    made = parts(ids, geometry)
    found = group_bones(made, geometry)
    lookup = np.zeros(256, np.uint8)
    for label, (number,) in bones_in(ids, found).items():
        lookup[number] = 20 + label
    lookup[bones_in(ids, found)[2].pop()] = 0  # dropped
    found.write(lookup, made)
    assert np.array_equal(made, np.where((ids == 0) | (ids == 2), 0, ids + 20))


def test_thousands_of_specks_do_not_become_bones():
    random = np.random.default_rng(0)
    made = (2 * (random.random((40, 40, 40)) < 0.1)).astype(np.uint8)
    assert group_bones(made, Geometry(made.shape, np.eye(4))).bones == ()


def test_more_foreground_than_any_skeleton_has_is_noise_without_bones():
    made = np.full((30, 30, 30), 2, np.uint8)
    geometry = Geometry(made.shape, np.diag([8.0, 8.0, 8.0, 1.0]))
    found = group_bones(made, geometry)
    assert found.bones == ()
    assert found.dropped_ml == pytest.approx(30**3 * 0.512)
    found.write(np.zeros(256, np.uint8), made)
    assert not made.any()


@pytest.mark.parametrize(("shape", "value"), [((4, 5, 7), 1), ((4, 5, 6), 3)])
def test_maps_of_another_shape_or_with_other_labels_are_refused(shape, value):
    with pytest.raises(DataError, match="a map of"):
        group_bones(np.full(shape, value, np.uint8), Geometry((4, 5, 6), np.eye(4)))


@pytest.mark.parametrize(("body_planes", "is_cut"), [((8, 20), False), ((0, 12), True), ((0, 4), True)])
def test_a_bone_is_cut_if_its_body_is_and_not_if_the_edge_of_the_next_one_hangs_on_it(body_planes, is_cut):
    """A body of 30 x 30 mm, 2 mm a plane; behind it a plate that takes as much of the lower face as a body would."""
    geometry = Geometry((24, 40, 24), np.diag([2.0, 2.0, 2.0, 1.0]))
    numbers = np.zeros(geometry.shape, np.uint8)
    numbers[4:19, 20:35, slice(*body_planes)] = 1
    numbers[4:19, 6:20, 0:2] = 1
    (bone,) = measured_bones(numbers, (0, 0, 0), CoarseGrid.of(geometry), geometry)
    assert bone.is_cut is is_cut
