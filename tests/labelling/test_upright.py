"""A header that is wrong about front and back or up and down is noticed by the bones themselves."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.labelling.spines import between, centres_of
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, vertebra
from verse3d.core.volume import read_labels
from verse3d.labelling.bones import Bone, BoneMap, CoarseGrid, measured_bones
from verse3d.labelling.evidence import LevelEvidence
from verse3d.labelling.ribs import DenseMap, beside_ml
from verse3d.labelling.upright import has_arches_in_front, notes_on_the_header
from verse3d.labelling.vertebrae import name_bones

MASKS = Path(__file__).parents[3] / "shared" / "data" / "masks-only"
IN_FRONT = "the arches of the vertebrae lie in front of their bodies: the header may be wrong"
LARGER_UP = "the vertebrae grow larger towards the head: the header or the mask may be wrong"
GROWTH = {"C": 10.0, "T": 25.0, "L": 55.0}


def row_of(names, arch_mm=10.0, volumes=None):
    """Bones in a row from head to feet."""
    volumes = volumes or [GROWTH[name[0]] + 0.5 * number for number, name in enumerate(names)]
    return tuple(
        Bone(number, (0.0, 0.0, -30.0 * number), volume, is_cut=False, arch_mm=arch_mm)
        for number, volume in enumerate(volumes, start=1)
    )


def vertebra_on(affine, shape=(40, 44, 24)):
    """A body of 28 x 28 x 20 mm with an arch of 28 x 22 x 8 mm behind it, by the world of ``affine``."""
    grid = Geometry(shape, affine)
    x, y, z = grid.world_from_index(np.argwhere(np.ones(shape, bool))).T
    body = (abs(x) <= 14) & (abs(y) <= 14) & (abs(z) <= 10)
    arch = (abs(x) <= 14) & (y < -14) & (y >= -36) & (abs(z) <= 4)
    return (body | arch).reshape(shape).astype(np.uint8), grid


def centred(matrix, shape=(40, 44, 24)):
    affine = np.eye(4)
    affine[:3, :3] = matrix
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    return affine


TILT = np.array([[1.0, 0.0, 0.0], [0.0, np.cos(0.3), -np.sin(0.3)], [0.0, np.sin(0.3), np.cos(0.3)]])


@pytest.mark.parametrize(
    "matrix", [2.0 * np.eye(3), np.diag([-1.5, -1.8, 2.0]), 2.0 * TILT], ids=["RAS", "LPS, other spacing", "oblique"]
)
def test_how_far_the_arch_lies_behind_is_measured_in_the_world(matrix):
    ids, grid = vertebra_on(centred(matrix))
    (bone,) = measured_bones(ids, (0, 0, 0), CoarseGrid.of(grid), grid)
    expected = bone.centre_mm[1] - grid.world_from_index(np.argwhere(ids)).mean(axis=0)[1]
    assert bone.arch_mm == pytest.approx(expected, abs=0.3) and 3.0 < expected < 10.0
    mirrored = Geometry(grid.shape, np.diag([1.0, -1.0, 1.0, 1.0]) @ grid.affine)
    (seen,) = measured_bones(ids, (0, 0, 0), CoarseGrid.of(mirrored), mirrored)
    assert seen.arch_mm == pytest.approx(-bone.arch_mm, abs=1e-9)


def test_of_a_bone_that_the_scan_cuts_nothing_is_known():
    ids, grid = vertebra_on(centred(2.0 * np.eye(3)))
    part, shown = ids[:, :, 12:], grid.cropped((0, 0, 12), grid.shape)
    (bone,) = measured_bones(part, (0, 0, 0), CoarseGrid.of(shown), shown)
    assert bone.is_cut and np.isnan(bone.arch_mm) and not has_arches_in_front([bone])


def test_arches_in_front_of_most_bodies_are_noticed():
    names = between("T10", "L2")
    assert notes_on_the_header(row_of(names), names) == ()
    assert notes_on_the_header(row_of(names, arch_mm=-10.0), names) == (IN_FRONT,)
    assert notes_on_the_header(row_of(names, arch_mm=float("nan")), names) == ()
    crumbs = [Bone(number, (0.0, 0.0, 0.0), 2.0, is_cut=False, arch_mm=0.0) for number in range(10, 30)]
    assert has_arches_in_front([*row_of(names, arch_mm=-10.0), *crumbs])
    one_odd = row_of(names)
    assert notes_on_the_header((replace(one_odd[0], arch_mm=-9.0), *one_odd[1:]), names) == ()


@pytest.mark.parametrize("first", ["C1", "C3", "T4", "L1"])
def test_vertebrae_that_grow_towards_the_head_are_noticed_and_a_collapsed_one_or_two_in_one_are_not(first):
    names = between(first, "L5")
    bones = row_of(names)
    volumes = [bone.volume_ml for bone in bones]
    assert notes_on_the_header(bones, names) == ()
    for row in range(len(names)):
        for factor in (0.5, 2.0):
            odd = [volume * factor if number == row else volume for number, volume in enumerate(volumes)]
            assert notes_on_the_header(row_of(names, volumes=odd), names) == ()
    falling = [60.0 * 0.9**number for number in range(len(names))]
    assert notes_on_the_header(row_of(names, volumes=falling), names) == (LARGER_UP,)


def test_the_two_uppermost_vertebrae_and_rows_of_three_do_not_decide():
    for names, volumes in (
        (between("C1", "C5"), [14.0, 17.0, 9.0, 9.0, 9.0]),
        (between("L3", "L5"), [60.0, 50.0, 30.0]),
    ):
        assert notes_on_the_header(row_of(names, volumes=volumes), names) == ()


FLAT = "the vertebrae do not lie below one another: the header may be wrong, or these are parts of one"


def test_vertebrae_side_by_side_are_noticed_and_a_bent_or_leaning_spine_is_not():
    def along(points):
        return [replace(bone, centre_mm=tuple(point)) for bone, point in zip(row_of(names), points, strict=True)]

    names = between("L1", "L5")
    upright = centres_of(names, bend=120.0)
    assert notes_on_the_header(along(upright), names) == ()
    leaning = np.array([[np.cos(1.2), 0, np.sin(1.2)], [0, 1, 0], [-np.sin(1.2), 0, np.cos(1.2)]])
    assert notes_on_the_header(along(centres_of(names) @ leaning.T), names) == ()
    assert notes_on_the_header(along(centres_of(names)[:, [0, 2, 1]]), names) == (FLAT,)
    in_one_slice = along(upright * (1.0, 1.0, 0.0))
    assert notes_on_the_header(in_one_slice, names) == (FLAT,)
    assert notes_on_the_header(in_one_slice[:1], names[:1]) == notes_on_the_header((), ()) == ()


@pytest.mark.parametrize("turned", [np.diag([1.0, -1.0, 1.0]), np.diag([1.0, -1.0, -1.0])], ids=["y", "y and z"])
def test_ribs_are_looked_for_behind_the_bodies_whatever_the_header_says(turned):
    ids, grid = vertebra_on(centred(2.0 * np.eye(3), (60, 60, 40)), (60, 60, 40))
    x, y, z = grid.world_from_index(np.argwhere(np.ones(grid.shape, bool))).T
    rib = (abs(x) >= 18) & (abs(x) <= 24) & (y <= -2) & (y >= -12) & (abs(z) <= 6)
    found = []
    for affine in (grid.affine, np.block([[turned, np.zeros((3, 1))], [np.zeros((1, 3)), 1.0]]) @ grid.affine):
        stated = Geometry(grid.shape, affine)
        bones = BoneMap(ids, (0, 0, 0), measured_bones(ids, (0, 0, 0), CoarseGrid.of(stated), stated))
        found.append(beside_ml(bones, stated, DenseMap(rib.reshape(grid.shape), stated)))
    assert found[0] > 0.3
    np.testing.assert_allclose(found[1], found[0])


def test_names_under_a_header_that_may_be_wrong_are_ambiguous_however_sure_they_are():
    names = between("T10", "L4")
    points = centres_of(names)
    chances = np.array([[0.99 if label.name == name else 0.01 / 25 for label in VERTEBRAE] for name in names])
    levels = LevelEvidence(np.log(chances), np.full(len(names), 0.99))
    low, high = points.min(axis=0) - 20.0, points.max(axis=0) + 20.0
    affine = np.diag([2.0, 2.0, 2.0, 1.0])
    affine[:3, 3] = low
    grid = Geometry(tuple(int(n) for n in (high - low) / 2.0), affine)
    for arch_mm, expected in ((10.0, ()), (-10.0, (IN_FRONT,))):
        bones = [
            replace(bone, centre_mm=tuple(point)) for bone, point in zip(row_of(names, arch_mm), points, strict=True)
        ]
        found = name_bones(BoneMap(np.zeros((1, 1, 1), np.uint8), (0, 0, 0), tuple(bones)), grid, levels)
        assert [each.name for each in found.vertebrae] == names
        assert (found.ambiguous, found.notes) == (bool(expected), expected)


@pytest.mark.skipif(not MASKS.is_dir(), reason="needs the real masks in ../shared/data")
def test_a_real_mask_tells_how_it_lies():
    mask = read_labels(MASKS / "sub-verse004_seg-vert_msk.nii.gz")
    every = mask.array[::2, ::2, ::2]  # every second voxel: enough, and quick
    ids = np.where(np.isin(every, [label.id for label in VERTEBRAE]), every, 0).astype(np.uint8)
    affine = mask.geometry.affine @ np.diag([2.0, 2.0, 2.0, 1.0])
    for y, z, expected in ((1, 1, ()), (-1, 1, (IN_FRONT,)), (1, -1, (LARGER_UP,)), (-1, -1, (IN_FRONT, LARGER_UP))):
        stated = Geometry(ids.shape, np.diag([1.0, y, z, 1.0]) @ affine)
        bones = measured_bones(ids, (0, 0, 0), CoarseGrid.of(stated), stated)
        rows = sorted(bones, key=lambda bone: -bone.centre_mm[2])
        # Whatever they are taken for, from head to feet
        assert notes_on_the_header(rows, [vertebra(bone.number).name for bone in bones]) == expected
