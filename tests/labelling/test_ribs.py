"""Bone beside vertebrae that is none: ribs, the sacrum, and what must not be taken for either."""

from dataclasses import replace

import numpy as np
import pytest

from tests.labelling.ribs import RIB, both, dense_map, wide_scan
from verse3d.core.geometry import Geometry
from verse3d.labelling.bones import Bone, BoneMap
from verse3d.labelling.ribs import DenseMap, beside_ml, log_chances_of_ribs, without_crumbs

NAMES = ["T11", "T12", "L1"]


def test_ribs_are_found_beside_the_vertebrae_that_bear_them():
    scan = wide_scan(NAMES)
    bones = scan.bones()
    rows = np.argsort([-bone.centre_mm[2] for bone in bones.bones])
    found = beside_ml(bones, scan.geometry, dense_map(scan, *both("T11"), *both("T12")))[rows]
    # 7 x 10 x 8 mm of each rib lie near, less what is too near to tell apart from the bone
    assert (found[:2] > 0.3).all() and (found[:2] < 0.6).all()
    assert found[2] == 0.0


def test_the_side_with_less_counts_so_a_single_spur_is_no_rib():
    scan = wide_scan(NAMES)
    assert not beside_ml(scan.bones(), scan.geometry, dense_map(scan, ("L1", 1, RIB))).any()


@pytest.mark.parametrize(
    "box",
    [
        ((17.0, 24.0), (6.0, 14.0), (-4.0, 4.0)),
        ((30.0, 60.0), (-10.0, 0.0), (-4.0, 4.0)),
        ((12.0, 16.0), (-10.0, 0.0), (-4.0, 4.0)),
    ],
    ids=["a vessel in front", "a rib of the vertebra above, far out", "the bone's own blurred edge"],
)
def test_what_is_dense_elsewhere_is_no_rib(box):
    scan = wide_scan(NAMES)
    assert (beside_ml(scan.bones(), scan.geometry, dense_map(scan, *both("L1", box))) < 0.05).all()


def test_it_does_not_matter_how_the_scan_lies_on_its_grid():
    scan = wide_scan(NAMES)
    dense = dense_map(scan, *both("T12"))
    turned = scan.geometry.reoriented("LPS")
    bones = scan.bones()
    flipped = BoneMap(np.ascontiguousarray(bones.numbers[::-1, ::-1]), (0, 0, 0), bones.bones)
    start = [
        n - s - size for n, s, size in zip(scan.geometry.shape[:2], bones.start, bones.numbers.shape, strict=False)
    ]
    flipped = replace(flipped, start=(start[0], start[1], bones.start[2]))
    expected = beside_ml(bones, scan.geometry, dense)
    assert expected[1] > 0.3
    np.testing.assert_allclose(beside_ml(flipped, turned, dense), expected, atol=0.1)


def test_nothing_is_known_of_a_side_that_the_scan_does_not_show():
    scan = wide_scan(NAMES)
    dense, bones = dense_map(scan, *both("T12")), scan.bones()
    middle = scan.centres["T12"][0]

    def shown(low_mm, high_mm):
        """A scan that goes so far to either side of the spine."""
        grid = scan.geometry
        columns = [int(np.rint((middle + mm - grid.affine[0, 3]) / grid.spacing_mm[0])) for mm in (low_mm, high_mm)]
        cut = grid.cropped((columns[0], 0, 0), (columns[1], *grid.shape[1:]))
        return beside_ml(replace(bones, start=(bones.start[0] - columns[0], *bones.start[1:])), cut, dense)

    assert shown(-20.0, 40.0)[1] > 0.3
    assert np.isnan(shown(-20.0, 20.0)).all()


@pytest.mark.parametrize(
    ("turned_degrees", "half_mm", "found_ml"), [(0.0, 25.0, np.nan), (40.0, 25.0, np.nan), (40.0, 40.0, 0.0)]
)
def test_how_far_a_turned_scan_goes_is_asked_of_the_scan_and_not_of_the_box_around_it(
    turned_degrees, half_mm, found_ml
):
    # From above, with the bone o and the place 35 mm beside it that the scan must show:
    #
    #     .....____        a narrow scan, turned: x lies in the box around it,
    #     :  / o /x:       and not in the scan
    #     :_/___/..:
    angle = np.radians(turned_degrees)
    affine = np.eye(4)
    affine[:2, :2] = 2.0 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    shape = (1 + int(half_mm), 61, 31)
    affine[:3, 3] = -affine[:3, :3] @ (np.array(shape) - 1) / 2
    numbers = np.zeros(shape, np.uint8)
    numbers[tuple(slice(n // 2 - 5, n // 2 + 6) for n in shape)] = 1
    bones = BoneMap(numbers, (0, 0, 0), (Bone(1, (0.0, 0.0, 0.0), 10.0, is_cut=False),))
    grid = Geometry(shape, affine)
    np.testing.assert_equal(beside_ml(bones, grid, DenseMap(numbers > 0, grid)), [found_ml])


def test_nothing_is_known_beyond_the_part_that_was_looked_at():
    scan = wide_scan(NAMES)
    dense, bones = dense_map(scan, *both("T12")), scan.bones()
    # The upper part of the scan, down to the middle between T12 and L1
    height = int((scan.centres["T12"][2] + scan.centres["L1"][2]) / 2 - dense.geometry.affine[2, 3])
    shape = dense.dense.shape
    upper = DenseMap(dense.dense[:, :, height:], dense.geometry.cropped((0, 0, height), shape))
    known = ~np.isnan(beside_ml(bones, scan.geometry, upper))
    assert known.tolist() == [bone.centre_mm[2] > scan.centres["L1"][2] + 5.0 for bone in bones.bones]


def test_nothing_is_known_of_what_lies_beside_a_bone_that_the_scan_cuts():
    scan = wide_scan(NAMES)
    bones = scan.bones()
    cut = replace(bones, bones=tuple(replace(bone, is_cut=True) for bone in bones.bones))
    assert np.isnan(beside_ml(cut, scan.geometry, dense_map(scan, *both("T12")))).all()


def test_beside_a_crumb_of_a_cut_vertebra_only_as_much_as_a_sacrum_has_counts():
    bones = [
        Bone(1, (0.0, 0.0, 30.0), 50.0, is_cut=False),
        Bone(2, (0.0, 0.0, 0.0), 50.0, is_cut=False),
        Bone(3, (5.0, 0.0, -30.0), 2.0, is_cut=True),
    ]
    few, much = (without_crumbs(np.array([0.8, ml, np.nan]), bones) for ml in (0.8, 3.0))
    assert few[0] == 0.8 and np.isnan(few[1:]).all()
    assert much[1] == 3.0
    # What is left of it is most of a vertebra, so nothing of it lies beside the next one.
    large = [*bones[:2], replace(bones[2], volume_ml=30.0)]
    assert without_crumbs(np.array([0.8, 0.8, np.nan]), large)[1] == 0.8


def test_without_bones_or_in_air_nothing_is_found():
    scan = wide_scan(NAMES)
    dense = dense_map(scan)
    none = BoneMap(np.zeros((0, 0, 0), np.uint8), (0, 0, 0), ())
    assert beside_ml(none, scan.geometry, dense).shape == (0,)
    assert not beside_ml(scan.bones(), scan.geometry, replace(dense, dense=np.zeros_like(dense.dense))).any()


def test_more_bone_makes_ribs_likelier_within_bounds_and_not_knowing_says_nothing():
    bears, bare = log_chances_of_ribs(np.array([0.0, 0.1, 0.2, 0.5, 2.0, 100.0, np.nan]))
    assert (np.diff(bears[:5]) > 0).all() and (np.diff(bare[:5]) < 0).all()
    np.testing.assert_allclose(np.exp(bears) + np.exp(bare), 1.0)
    assert bears[2] == bare[2] == bears[-1] == bare[-1]
    assert np.abs(bears - bare).max() <= 5.0 + 1e-9
