"""The picture of a scan: what stands where is read from the figure's artists."""

import itertools

import nibabel as nib
import numpy as np
import pytest

from tests.report.looking import GRIDS, PLANE_AXES, column, drawn, on_sheet, places_of, preview, texts, whole_text
from tests.scans import PIR
from verse3d.core.geometry import Geometry
from verse3d.report.appearance import label_table
from verse3d.report.cuts import cut_through, cut_through_bone, label_places, levels_text
from verse3d.report.look import look_figure


@pytest.mark.parametrize("name", GRIDS)
class TestPlanes:
    def test_have_the_proportions_of_the_patient_and_one_scale(self, tmp_path, name):
        grid = GRIDS[name]
        figure = drawn(tmp_path, grid).figure
        ras = grid.reoriented("RAS")
        extent = np.array(ras.shape) * ras.spacing_mm
        scales = []
        for axes in figure.axes[:3]:
            across, up = PLANE_AXES[axes.get_label()]
            place = axes.get_window_extent()
            scales += [place.width / extent[across], place.height / extent[up]]
            pictures = [image.get_extent() for image in axes.images]
            assert pictures == [pytest.approx((0, extent[across], extent[up], 0))] * 2
        np.testing.assert_allclose(scales, scales[0], rtol=1e-6)

    def test_show_their_directions_outside_of_the_slice(self, tmp_path, name):
        figure = drawn(tmp_path, GRIDS[name]).figure
        expected = {"sagittal": "APSI", "coronal": "RLSI", "axial": "RLAP"}
        for axes in figure.axes[:3]:
            letters = texts(axes, "direction ")
            left, right, top, bottom = (letters[edge] for edge in ("left", "right", "top", "bottom"))
            assert "".join(t.get_text() for t in (left, right, top, bottom)) == expected[axes.get_label()]
            box = axes.get_window_extent()
            assert on_sheet(figure, left).x1 < box.x0 and on_sheet(figure, right).x0 > box.x1
            assert on_sheet(figure, top).y0 > box.y1 and on_sheet(figure, bottom).y1 < box.y0

    def test_are_true_to_the_voxels_of_the_world(self, tmp_path, name):
        grid = GRIDS[name]
        hu, mask = column(grid)
        target = np.array(grid.shape) // 2 + 1
        hu[:] = -100
        hu[tuple(target)] = 1000
        at = grid.world_from_index(target[None])[0]
        figure = look_figure(preview(tmp_path, hu, grid), mask=mask, title="", at_mm=at).figure
        ras = grid.reoriented("RAS")
        index = np.rint(ras.index_from_world(at[None])[0]).astype(int)
        for axes in figure.axes[:3]:
            across, up = PLANE_AXES[axes.get_label()]
            pixels = np.asarray(axes.images[0].get_array())
            expected = ras.shape[up] - 1 - index[up], ras.shape[across] - 1 - index[across]
            assert np.argwhere(pixels > 500).tolist() == [list(expected)]

    def test_bear_names_beside_the_right_bones_that_do_not_overlap(self, tmp_path, name):
        figure = drawn(tmp_path, GRIDS[name]).figure
        for axes in figure.axes[:2]:
            names = texts(axes, "name ")
            assert list(names) == ["T11", "T12", "L1", "L2"]
            boxes = [on_sheet(figure, text) for text in names.values()]
            assert all(not one.overlaps(other) for one in boxes for other in boxes if one is not other)
            overlay = np.asarray(axes.images[1].get_array())
            for text, label in zip(names.values(), (18, 19, 20, 21), strict=True):
                colour = np.array(label_table(places_of(GRIDS[name]))[label].rgb) / 255
                rows = np.flatnonzero((np.abs(overlay[..., :3] - colour).max(axis=-1) < 0.01).any(axis=1))
                pixel_mm = axes.images[1].get_extent()[2] / overlay.shape[0]
                assert rows.min() * pixel_mm - 2 <= text.get_position()[1] <= (rows.max() + 1) * pixel_mm + 2

    def test_have_a_scale_bar_as_long_as_it_says(self, tmp_path, name):
        figure = drawn(tmp_path, GRIDS[name]).figure
        for axes in figure.axes[:3]:
            [bar] = [line for line in axes.lines if line.get_gid() == "scale bar"]
            [text] = texts(axes, "scale").values()
            number, unit = text.get_text().split()
            assert np.ptp(bar.get_xdata()) == pytest.approx(float(number) * {"cm": 10, "mm": 1}[unit])
            assert np.all(np.array(bar.get_ydata()) > axes.get_ylim()[0])


def test_the_picture_says_what_it_shows(tmp_path):
    grid = GRIDS["oblique LAS"]
    words = whole_text(drawn(tmp_path, grid).figure)
    assert "case  ·  T11-L2 (4 vertebrae)" in words
    assert "41 x 37 x 23 voxels of 0.8 x 0.9 x 3 mm" in words and "axes L-A-S" in words and "int16" in words
    assert "radiological convention, the patient's right is on the left" in words
    assert "Slices along the scan's own axes, tilted by " in words
    assert "-200 to 1000 HU" in words
    assert "tilted" not in whole_text(drawn(tmp_path, PIR).figure)


def test_the_caption_stands_below_the_planes_and_within_the_sheet(tmp_path):
    for grid in GRIDS.values():
        hu, mask = column(grid, ids=(18, 26, 27, 90))
        figure = look_figure(preview(tmp_path, hu, grid), mask=mask, title="a" * 150, remarks=["b " * 200]).figure
        figure.canvas.draw()
        lowest = min(on_sheet(figure, text).y0 for axes in figure.axes for text in axes.texts)
        [legend] = figure.legends
        boxes = [on_sheet(figure, text) for text in figure.texts if text.get_gid() == "caption"]
        assert on_sheet(figure, legend).y1 <= lowest
        assert max(box.y1 for box in boxes) <= on_sheet(figure, legend).y0 + 1
        assert all(box.x1 <= figure.bbox.width and box.y0 >= 0 for box in boxes)
        assert all(on_sheet(figure, text).x1 <= figure.bbox.width for text in figure.texts)


def test_ids_that_are_no_vertebra_are_listed_with_their_voxels(tmp_path):
    hu, mask = column(PIR, ids=(18, 26, 27))
    found = look_figure(preview(tmp_path, hu, PIR), mask=mask, title="")
    [legend] = found.figure.legends
    listed = [text.get_text() for text in legend.get_texts()]
    assert listed == [f"{label} ({np.count_nonzero(mask == label)} voxels)" for label in (26, 27)]
    assert "no vertebra of VerSe" in legend.get_title().get_text()
    colours = {tuple(handle.get_facecolor()) for handle in legend.legend_handles}
    assert len(colours) == 2


class TestCut:
    def test_goes_through_the_labels_and_not_the_middle_of_the_volume(self):
        for grid in GRIDS.values():
            mask = column(grid)[1]
            centre = cut_through(label_places(mask, grid), grid)
            ras = grid.reoriented("RAS")
            index = ras.index_from_world(centre[None])[0]
            turned_mask = nib.apply_orientation(mask, nib.io_orientation(grid.affine))
            np.testing.assert_allclose(index, np.rint(index), atol=1e-6)
            x, y, z = np.rint(index).astype(int)
            assert set(np.unique(turned_mask[x])) == set(np.unique(turned_mask[:, y])) == {0, 18, 19, 20, 21}
            assert turned_mask[:, :, z].any()
            assert abs(x - np.argwhere(turned_mask)[:, 0].mean()) <= 1

    def test_goes_through_bodies_rather_than_arches(self):
        mask = np.zeros((20, 30, 40), np.uint8)
        for number, label in enumerate((20, 21, 22)):
            mask[4:16, 15:24, 10 * number : 10 * number + 8] = label  # body
            mask[9:11, 2:15, 10 * number : 10 * number + 8] = label  # arch, thin but deep
        grid = Geometry(mask.shape, np.eye(4))
        assert 15 <= cut_through(label_places(mask, grid), grid)[1] < 24

    def test_goes_through_the_named_level(self, tmp_path):
        hu, mask = column(PIR)
        for name, label in (("T11", 18), ("l2", 21)):
            centre = look_figure(preview(tmp_path, hu, PIR), mask=mask, title="", level=name).centre_mm
            index = tuple(np.rint(PIR.index_from_world(centre[None])[0]).astype(int))
            assert mask[index] == label

    def test_of_an_unlabelled_ct_goes_through_the_bone_near_the_middle(self, tmp_path):
        for grid in GRIDS.values():
            hu = np.full(grid.shape, -100, np.int16)
            mask = column(grid)[1]
            hu[mask > 0] = 700
            centre = cut_through_bone(preview(tmp_path, hu, grid))
            index = np.rint(grid.index_from_world(centre[None])[0]).astype(int)
            ras_mask = nib.apply_orientation(mask, nib.io_orientation(grid.affine)) > 0
            x, y, _ = np.rint(grid.reoriented("RAS").index_from_world(centre[None])[0]).astype(int)
            assert np.all(index >= 0) and ras_mask[x].any() and ras_mask[:, y].any()
        assert cut_through_bone(preview(tmp_path, np.full(PIR.shape, -100, np.int16), PIR)) is None

    def test_places_know_voxels_and_centres(self):
        for grid in GRIDS.values():
            mask = column(grid)[1]
            for place in label_places(mask, grid):
                voxels = np.argwhere(mask == place.id)
                assert place.voxels == len(voxels)
                world = grid.reoriented("RAS").world_from_index(place.centre[None])[0]
                np.testing.assert_allclose(world, grid.world_from_index(voxels).mean(axis=0), atol=1e-6)
                assert place.coronal_voxels.sum() == len(voxels)


def test_levels_are_joined_unless_one_lacks_in_between():
    assert levels_text([]) == ""
    assert levels_text([20]) == "L1"
    assert levels_text([16, 17, 18, 20, 21]) == "T9-T11, L1-L2"
    assert levels_text([19, 20]) == levels_text([28, 19, 20]) == "T12-L1"
    assert levels_text([24, 25, 7, 8]) == "C7-T1, L5-L6"
    assert levels_text([1, 3]) == "C1, C3"


AWKWARD = [(1, 40, 50), (40, 1, 50), (40, 50, 1), (1, 1, 1), (3, 300, 5), (7, 5, 900)]


@pytest.mark.parametrize(
    ("shape", "masks"),
    [*itertools.product(AWKWARD, ("none", "full")), (AWKWARD[1], "empty"), (AWKWARD[4], "ids above 255")],
)
def test_awkward_volumes_are_drawn(tmp_path, shape, masks):
    grid = Geometry(shape, np.diag([-1.0, 0.5, 2.5, 1.0]))
    made = {
        "none": None,
        "empty": np.zeros(shape, np.uint8),
        "full": np.ones(shape, np.uint8),
        "ids above 255": np.full(shape, 4000, np.uint16),
    }
    scan = preview(tmp_path, np.full(shape, 300, np.int16), grid)
    found = look_figure(scan, mask=made[masks], title="x")
    found.figure.canvas.draw()
    width, height = found.figure.canvas.get_width_height()
    assert 1000 <= width <= 1460 and 200 <= height <= 1400
    assert ("the mask is empty: no voxel is labelled" in found.notes) == (masks == "empty")


def test_of_a_single_label_stray_pieces_do_not_draw_the_planes_off_nor_is_a_disc_cut():
    """A column of bodies and discs, in one label, and a stray piece far away."""
    grid = Geometry((60, 60, 100), np.diag([2.0, 2.0, 2.0, 1.0]))
    column = np.zeros(grid.shape, np.uint8)
    for start in range(0, 100, 20):
        column[25:35, 25:35, start : start + 14] = 1
    stray = column.copy()
    stray[0:6, 0:6, 0:40] = 1
    centres = [cut_through(label_places(mask, grid), grid) for mask in (column, stray)]
    assert np.abs(centres[0] - centres[1])[:2].max() <= 6  # mm; the mean moves by 12
    i, j, k = np.rint(grid.index_from_world(centres[1][None])[0]).astype(int)
    assert column[i, j, k] == 1
