import dataclasses
import json
import pickle

import nibabel as nib
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from monai.data.utils import compute_shape_offset, zoom_affine

from tests.core.grids import AXIS_ORDERS, SHAPE, SPACING_MM, TILT_DEGREES, affine, grid, sheared_grid
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry

quick = settings(max_examples=40, deadline=None)
spacings = st.tuples(*[st.floats(0.2, 5.0)] * 3)


@st.composite
def geometries(draw):
    matrix = affine(
        draw(st.sampled_from(AXIS_ORDERS)),
        draw(spacings),
        draw(st.tuples(*[st.floats(-40, 40)] * 3)),
        draw(st.tuples(*[st.floats(-500, 500)] * 3)),
    )
    return Geometry(draw(st.tuples(*[st.integers(1, 40)] * 3)), matrix)


def nibabel_image(geometry: Geometry) -> nib.Nifti1Image:
    return nib.Nifti1Image(np.zeros(geometry.shape, dtype=np.uint8), geometry.affine)


def orientation_change(start: Geometry, codes: str) -> np.ndarray:
    return nib.orientations.ornt_transform(nib.io_orientation(start.affine), nib.orientations.axcodes2ornt(codes))


@quick
@given(geometries(), st.integers(0, 2**32 - 1))
def test_world_and_index_lead_back_to_each_other(geometry, seed):
    points = np.random.default_rng(seed).uniform(-20, 60, (7, 3))
    world = geometry.world_from_index(points)
    np.testing.assert_allclose(world, nib.affines.apply_affine(geometry.affine, points), atol=1e-9)
    np.testing.assert_allclose(geometry.index_from_world(world), points, atol=1e-8)


def test_no_points_stay_no_points():
    assert grid().world_from_index(np.empty((0, 3))).shape == (0, 3)
    assert grid().index_from_world(np.empty((0, 3))).shape == (0, 3)


@quick
@given(geometries())
def test_spacing_and_voxel_volume_are_those_of_the_affine(geometry):
    np.testing.assert_allclose(geometry.spacing_mm, nib.affines.voxel_sizes(geometry.affine))
    assert geometry.voxel_ml == pytest.approx(np.prod(geometry.spacing_mm) / 1000)
    assert geometry.skew < 1e-9


def test_shear_shows_as_skew_and_shrinks_the_voxel():
    sheared = sheared_grid()
    assert sheared.skew > 0.1
    assert sheared.voxel_ml == pytest.approx(np.prod(SPACING_MM) / 1000)  # shear keeps the volume ...
    assert sheared.voxel_ml < np.prod(sheared.spacing_mm) / 1000  # ... not the lengths


@pytest.mark.parametrize("degrees", [(0, 0, 0), TILT_DEGREES])
def test_axis_codes_name_all_48_orders(degrees):
    assert len(set(AXIS_ORDERS)) == 48
    assert ["".join(grid(codes, degrees=degrees).axis_codes) for codes in AXIS_ORDERS] == AXIS_ORDERS


@pytest.mark.parametrize("to", ["RAS", "PIR", "LSA"])
@pytest.mark.parametrize("make", [grid, sheared_grid])
def test_reorienting_from_all_48_orders_equals_nibabel(to, make):
    for codes in AXIS_ORDERS:
        start = make(codes)
        expected = nibabel_image(start).as_reoriented(orientation_change(start, to))
        ours = start.reoriented(to)
        assert "".join(ours.axis_codes) == to, codes
        assert ours.shape == expected.shape, codes
        np.testing.assert_allclose(ours.affine, expected.affine, atol=1e-12, err_msg=codes)
        assert start.reoriented(tuple(to)) == ours


def corner_places(geometry: Geometry) -> set[tuple[float, ...]]:
    return {tuple(corner) for corner in np.round(geometry.corners_mm(), 6) + 0.0}


def axes_have_a_world_axis_each(geometry: Geometry) -> bool:
    """No two axes lie nearest to the same world axis."""
    return len(set(np.abs(geometry.affine[:3, :3] / geometry.spacing_mm).argmax(axis=0))) == 3


@quick
@given(geometries(), st.sampled_from(AXIS_ORDERS))
def test_reorienting_moves_no_voxel(start, codes):
    there = start.reoriented(codes)
    assert corner_places(there) == corner_places(start)
    assert sorted(there.shape) == sorted(start.shape)
    assert start.reoriented(start.axis_codes) == start


@quick
@given(geometries(), st.sampled_from(AXIS_ORDERS))
def test_reorienting_can_be_undone_where_each_axis_has_a_world_axis_of_its_own(start, codes):
    assume(axes_have_a_world_axis_each(start))  # the others: the next test
    there = start.reoriented(codes)
    assert "".join(there.axis_codes) == codes
    back = there.reoriented(start.axis_codes)
    assert back.shape == start.shape
    np.testing.assert_allclose(back.affine, start.affine, atol=1e-9)


@pytest.mark.parametrize("degrees", [(45, 45, 0), (54.7, 0, 45), (-40, 35, 40)])
def test_reorienting_a_grid_between_the_world_axes_moves_no_voxel_and_turns_each_axis_the_way_it_is_named(degrees):
    # Two axes lie nearest to one world axis, exactly as near or almost. Which of them is named after it may depend on
    # their order, so the way back may name them otherwise; but no voxel moves, each world axis is named once, and an
    # axis never lies more than 65 degrees off what it is named after.
    world = dict(zip("RLAPSI", np.kron(np.eye(3), [[1], [-1]]), strict=True))
    for codes in AXIS_ORDERS:
        start = grid(codes, degrees=degrees)
        assert not axes_have_a_world_axis_each(start), codes
        assert start.reoriented(start.axis_codes) == start, codes
        for to in ("RAS", "PIR", "LSA", codes):
            there = start.reoriented(to)
            assert corner_places(there) == corner_places(start), (codes, to)
            directions = (there.affine[:3, :3] / there.spacing_mm).T
            cosines = [axis @ world[code] for axis, code in zip(directions, to, strict=True)]
            assert min(cosines) > np.cos(np.deg2rad(65)), (codes, to)


@quick
@given(geometries(), spacings)
def test_resampling_follows_the_shape_and_affine_of_monai(geometry, spacing_mm):
    ours = geometry.resampled(spacing_mm)
    extent = (np.array(geometry.shape) - 1) * geometry.spacing_mm / spacing_mm
    assume(np.all(np.abs(extent % 1 - 0.5) > 1e-5))  # there a float error decides which way MONAI rounds
    monai_affine = zoom_affine(geometry.affine, spacing_mm, diagonal=False)
    monai_shape, offset = compute_shape_offset(geometry.shape, geometry.affine, monai_affine, False)
    assert ours.shape == tuple(int(size) for size in monai_shape)
    np.testing.assert_allclose(ours.affine[:3, :3], monai_affine[:3, :3], atol=1e-9)
    np.testing.assert_allclose(ours.affine[:3, 3], offset, atol=1e-6)
    np.testing.assert_allclose(ours.spacing_mm, spacing_mm)


@quick
@given(geometries(), spacings)
def test_resampling_keeps_the_first_voxel_and_meets_the_last_to_half_a_voxel(geometry, spacing_mm):
    ours = geometry.resampled(spacing_mm)
    np.testing.assert_allclose(ours.affine[:3, 3], geometry.affine[:3, 3])
    last = geometry.world_from_index([np.array(geometry.shape) - 1])
    assert np.all(np.abs(ours.index_from_world(last)[0] - (np.array(ours.shape) - 1)) <= 0.5 + 1e-5)


def test_resampling_keeps_shear_and_single_slices():
    sheared = sheared_grid(shape=(1, 6, 7))
    ours = sheared.resampled((0.3, 0.3, 0.3))
    assert ours.skew == pytest.approx(sheared.skew)
    assert ours.shape[0] == 1


def test_cropping_equals_slicing():
    start = grid("PIR", shape=(9, 8, 7))
    expected = nibabel_image(start).slicer[2:8, 1:3, 6:7]
    ours = start.cropped((2, 1, 6), (8, 3, 7))
    assert ours.shape == expected.shape == (6, 2, 1)
    np.testing.assert_allclose(ours.affine, expected.affine, atol=1e-12)


@quick
@given(geometries(), st.integers(0, 2**32 - 1))
def test_cropping_and_padding_keep_every_voxel_where_it_is(geometry, seed):
    random = np.random.default_rng(seed)
    start = random.integers(-5, 5, 3)
    ours = geometry.cropped(start, start + random.integers(1, 30, 3))
    index = random.integers(0, 9, (5, 3))
    np.testing.assert_allclose(ours.world_from_index(index), geometry.world_from_index(index + start), atol=1e-9)


@pytest.mark.parametrize("stop", [(3, 3, 2), (3, 1, 3), (0, 3, 3)])
def test_cropping_to_nothing_is_refused(stop):
    with pytest.raises(GeometryError, match="at least one whole voxel"):
        grid().cropped((1, 1, 2), stop)


def test_corners_are_the_centres_of_the_corner_voxels():
    corners = Geometry((3, 4, 5), np.diag([1.0, 2.0, 10.0, 1.0])).corners_mm()
    assert sorted(map(tuple, corners.tolist())) == [
        (x, y, z) for x in (0.0, 2.0) for y in (0.0, 6.0) for z in (0.0, 40.0)
    ]


def test_distance_is_measured_at_the_worst_voxel_of_all():
    one = grid("PIR")
    turned = Geometry(SHAPE, affine("PIR", degrees=(12.0, -9.0, 19.0)))
    every_index = np.indices(SHAPE).reshape(3, -1).T
    apart = np.linalg.norm(one.world_from_index(every_index) - turned.world_from_index(every_index), axis=1)
    assert one.distance_mm(turned) == pytest.approx(apart.max())
    assert turned.distance_mm(one) == pytest.approx(apart.max())
    assert one.distance_mm(one) == 0


def test_a_flipped_grid_is_far_away_although_it_covers_the_same_box():
    one = grid("RAS")
    flipped = one.reoriented("LAS")
    assert one.distance_mm(flipped) == pytest.approx((SHAPE[0] - 1) * SPACING_MM[0])


def test_grids_of_different_shape_are_infinitely_far_apart():
    assert grid(shape=(5, 6, 7)).distance_mm(grid(shape=(5, 6, 8))) == float("inf")


def test_a_geometry_cannot_be_changed():
    matrix = affine()
    geometry = Geometry(SHAPE, matrix)
    matrix[0, 3] = 99.0
    assert geometry.affine[0, 3] != 99.0
    with pytest.raises(ValueError, match="read-only"):
        geometry.affine[0, 3] = 99.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        geometry.shape = (1, 1, 1)


def test_making_other_grids_leaves_the_first_alone():
    start = grid("PIR")
    before = start.affine.copy()
    start.reoriented("RAS").resampled((1.0, 1.0, 1.0)).cropped((0, 0, 0), (2, 2, 2))
    np.testing.assert_array_equal(start.affine, before)


def test_equal_grids_are_one_key_also_with_negative_zeros():
    minus = affine() * 1.0
    minus[0, 1] = -0.0
    assert Geometry(SHAPE, affine()) == Geometry(SHAPE, minus)
    assert len({Geometry(SHAPE, affine()), Geometry(SHAPE, minus), Geometry((5, 6, 8), minus)}) == 2
    assert Geometry(SHAPE, affine()) != Geometry(SHAPE, affine("LAS"))
    assert Geometry(SHAPE, affine()) != "RAS"


def test_a_geometry_survives_pickle_and_json():
    start = grid("PIR")
    assert pickle.loads(pickle.dumps(start)) == start
    assert Geometry(**json.loads(json.dumps(start.to_dict()))) == start


@pytest.mark.parametrize("shape", [(5, 6), (5, 6, 7, 1), (5, 0, 7), (5, -1, 7), (5, 6, 2.5), (5, 6, np.nan), 5, ()])
def test_a_shape_that_is_not_three_whole_positive_numbers_is_refused(shape):
    with pytest.raises(GeometryError, match="three axes of at least one whole voxel"):
        Geometry(shape, np.eye(4))


@pytest.mark.parametrize(
    ("matrix", "words"),
    [
        (np.eye(3), "4 x 4"),
        (np.diag([1.0, np.nan, 1.0, 1.0]), "NaN"),
        (np.diag([1.0, np.inf, 1.0, 1.0]), "infinity"),
        (np.diag([1.0, 0.0, 1.0, 1.0]), "singular"),
        (np.zeros((4, 4)), "last row"),
        (np.diag([1.0, 1.0, 1.0, 2.0]), "last row"),
        (np.array([[1, 2, 0, 0], [1, 2, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
        (np.array([[1, 1, 0, 0], [1, 1 + 1e-9, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1]]), "singular"),
    ],
)
def test_an_affine_that_places_no_voxels_is_refused(matrix, words):
    with pytest.raises(GeometryError, match=words):
        Geometry(SHAPE, matrix)


def test_microscopic_voxels_are_not_taken_for_singular():
    assert Geometry(SHAPE, np.diag([1e-4, 1e-4, 1e-4, 1.0])).spacing_mm == (1e-4, 1e-4, 1e-4)


@pytest.mark.parametrize("codes", ["RAX", "RRS", "RLS", "RA", "RASS", "ras", "", ("R", "A", "R")])
def test_axis_codes_that_are_no_orientation_are_refused(codes):
    with pytest.raises(GeometryError, match="each axis once"):
        grid().reoriented(codes)


@pytest.mark.parametrize(
    "spacing_mm", [(1, 1), (1, 1, 1, 1), 1.0, (1, 0, 1), (1, -1, 1), (1, 1, np.nan), (1, np.inf, 1)]
)
def test_a_spacing_that_is_not_three_positive_numbers_is_refused(spacing_mm):
    with pytest.raises(GeometryError, match="three positive numbers"):
        grid().resampled(spacing_mm)
