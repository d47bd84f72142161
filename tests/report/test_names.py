from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse3d.core.planes import PlaneSlice
from verse3d.report.names import place_names, spread

SIZES = {"line_mm": 6.0, "letter_mm": 3.0, "margin_mm": 10.0}


def cut(pixels, pixel_mm=(2.0, 1.0), plane="sagittal"):
    return PlaneSlice(plane, np.asarray(pixels, np.uint8), pixel_mm, 0.0, "A", "P", "S", "I")


def box(name):
    length = 3.0 * len(name.name)
    left = name.x_mm - length if name.side == "left" else name.x_mm
    return left, left + length, name.y_mm - 3.0, name.y_mm + 3.0


@given(st.lists(st.floats(0, 100), max_size=12), st.floats(0.1, 8))
def test_spread_keeps_the_order_the_gap_and_the_bounds(wanted, gap):
    found = spread(sorted(wanted), gap, 0.0, 100.0)
    assert np.all(np.diff(found) >= gap - 1e-9)
    assert np.all(found >= -1e-9) and np.all(found <= 100 + 1e-9)


def test_what_is_far_apart_stays_where_it_is():
    assert spread([3.0, 20.0, 50.0], 5.0, 0.0, 60.0).tolist() == [3.0, 20.0, 50.0]


def bones():
    """Three bodies in front (the columns are anterior to posterior) and spinous processes one row lower."""
    pixels = np.zeros((40, 60), np.uint8)
    for number, label in enumerate((19, 20, 21)):
        top = 4 + 11 * number
        pixels[top : top + 8, 20:34] = label
        pixels[top + 4 : top + 11, 42:50] = label
    return pixels


def test_each_name_stands_at_the_height_of_its_body_beside_the_bones():
    placed = place_names(cut(bones()), {19: "T12", 20: "L1", 21: "L2"}, side="left", **SIZES)
    assert [name.name for name in placed] == ["T12", "L1", "L2"]
    for number, name in enumerate(placed):
        assert name.side == "left"
        assert name.y_mm == pytest.approx(2.0 * (4 + 11 * number + 4), abs=1.0)
        assert name.x_mm == pytest.approx(20 - 3)
        assert name.bone_mm[0] == 20


@pytest.mark.parametrize("columns", [slice(20, 34), slice(0, 14), slice(46, 60), slice(0, 60)])
@pytest.mark.parametrize("side", ["left", "right"])
def test_names_cover_neither_each_other_nor_a_bone_nor_leave_the_margin(columns, side):
    pixels = np.zeros((40, 60), np.uint8)
    for number, label in enumerate((5, 6, 7, 8, 9)):  # flat bones, less than a line apart
        pixels[10 + 2 * number : 12 + 2 * number, columns] = label
    names = {label: f"C{label}" for label in range(5, 10)}
    placed = place_names(cut(pixels), names, side=side, **SIZES)
    assert [name.id for name in placed] == [5, 6, 7, 8, 9]
    boxes = [box(name) for name in placed]
    for above, below in pairwise(boxes):
        assert above[3] <= below[2] + 1e-6
    for left, right, top, bottom in boxes:
        assert left >= -10 and right <= 70
        covered = pixels[int(top // 2) : int(bottom // 2) + 1, max(0, int(left)) : max(0, int(right))]
        assert not covered.any()


def test_a_bone_at_the_border_is_named_on_the_other_side():
    pixels = np.zeros((10, 60), np.uint8)
    pixels[3:6, :20] = 12
    [name] = place_names(cut(pixels), {12: "T5"}, side="left", line_mm=6.0, letter_mm=3.0, margin_mm=0.0)
    assert (name.side, name.x_mm) == ("right", 23.0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_a_long_name_of_a_bone_that_fills_the_slice_stands_on_it_rather_than_be_cut_off(side):
    [name] = place_names(
        cut(np.ones((10, 60), np.uint8)), {1: "vertebrae"}, side=side, line_mm=6.0, letter_mm=3.0, margin_mm=10.0
    )
    start = name.x_mm - 27 if name.side == "left" else name.x_mm
    assert start >= -10 and start + 27 <= 70


def test_a_bone_far_behind_another_is_named_on_its_own_side():
    pixels = np.zeros((10, 80), np.uint8)
    pixels[2:8, 10:30] = 19
    pixels[3:6, 65:70] = 18
    placed = place_names(cut(pixels), {18: "T11", 19: "T12"}, side="left", **SIZES)
    assert {name.name: name.side for name in placed} == {"T11": "right", "T12": "left"}


def test_ids_without_a_name_are_named_by_their_number():
    [name] = place_names(cut(np.full((6, 6), 77)), {}, side="right", **SIZES)
    assert name.name == "77"


def test_the_smallest_labels_are_not_named_where_there_is_no_room():
    pixels = np.arange(1, 61).reshape(60, 1).repeat(5, axis=1)
    pixels[:10] = 1
    placed = place_names(cut(pixels, (1.0, 1.0)), {}, side="right", **SIZES)
    assert len(placed) == 10 and placed[0].id == 1


def test_an_empty_slice_has_no_names():
    assert place_names(cut(np.zeros((5, 5))), {}, side="left", **SIZES) == ()
