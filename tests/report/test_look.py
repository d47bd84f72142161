"""The picture of a scan: what stands where is read from the figure's artists."""

import itertools
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from PIL import Image

import verse3d
from tests import scans
from tests.scans import PIR, orientation, spine, turned
from verse3d.api import pictures
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.preview import read_preview
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.report.appearance import choose_window, has_hounsfield_units, is_label_map, label_table
from verse3d.report.cuts import cut_through, cut_through_bone, label_places, levels_text
from verse3d.report.look import look_figure

REAL = Path(__file__).parents[2] / "../shared/data"
GRIDS = {
    "PIR": PIR,
    "oblique LAS": turned(orientation((0, 1, 2), (-1, 1, 1), (0.8, 0.9, 3.0), (41, 37, 23))),
    "oblique SPL": turned(orientation((2, 1, 0), (1, -1, -1), (0.7, 2.4, 1.1), (63, 19, 34)), (-15, 9, 6)),
    "ASR": orientation((1, 2, 0), (1, 1, 1), (1.0, 1.0, 4.0), (40, 70, 12)),
}
PLANE_AXES = {"sagittal": (1, 2), "coronal": (0, 2), "axial": (0, 1)}


def column(geometry, ids=(18, 19, 20, 21)):
    """A mask with one block per id, from head to tail, near the patient's right side; and a scan of it."""
    grid = geometry.reoriented("RAS")
    mask = np.zeros(grid.shape, np.uint8)
    i, j, k = grid.shape
    tall = k // len(ids)
    for number, label in enumerate(ids):
        top = k - number * tall
        mask[i // 2 : i - 1, j // 3 : 2 * j // 3, max(0, top - tall) : max(1, top - tall) + max(1, tall - 1)] = label
    change = nib.orientations.ornt_transform(nib.io_orientation(grid.affine), nib.io_orientation(geometry.affine))
    mask = np.ascontiguousarray(nib.apply_orientation(mask, change))
    hu = np.random.default_rng(0).normal(-100, 60, geometry.shape) + 800 * (mask > 0)
    return hu.astype(np.int16), mask


def preview(tmp_path, array, geometry, name="scan.nii"):
    return read_preview(scans.write_nifti(tmp_path / name, array, geometry.affine))


def drawn(tmp_path, geometry, **options):
    hu, mask = column(geometry)
    found = look_figure(preview(tmp_path, hu, geometry), mask=mask, title="case", **options)
    found.figure.canvas.draw()
    return found


def texts(axes, start):
    return {text.get_gid().removeprefix(start): text for text in axes.texts if (text.get_gid() or "").startswith(start)}


def on_sheet(figure, artist):
    return artist.get_window_extent(figure.canvas.get_renderer())


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


def places_of(grid):
    return label_places(column(grid)[1], grid)


def whole_text(figure):
    return "\n".join(text.get_text() for text in figure.texts)


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


class TestValues:
    def test_of_a_ct_are_seen_in_a_bone_window(self, tmp_path):
        hu, _ = column(PIR)
        scan = preview(tmp_path, hu, PIR)
        window = choose_window(scan)
        assert has_hounsfield_units(scan) and (window.low, window.high) == (-200, 1000) and "HU" in window.text

    @pytest.mark.parametrize("dtype", [np.uint8, np.float32])
    def test_that_are_no_hu_are_seen_between_percentiles(self, tmp_path, dtype):
        values = np.random.default_rng(0).uniform(0, 200, PIR.shape).astype(dtype)
        window = choose_window(preview(tmp_path, values, PIR))
        low, high = np.percentile(values, [0.5, 99.5])
        assert (window.low, window.high) == (pytest.approx(low, abs=2), pytest.approx(high, abs=2))
        assert "no HU" in window.text and "percentiles" in window.text

    @pytest.mark.parametrize("value", [np.nan, 7.0])
    def test_that_are_all_the_same_or_none_are_drawn(self, tmp_path, value):
        scan = preview(tmp_path, np.full(PIR.shape, value, np.float32), PIR)
        window = choose_window(scan)
        assert window.low < window.high
        look_figure(scan, title="").figure.canvas.draw()

    def test_are_shown_in_the_wanted_window(self, tmp_path):
        figure = drawn(tmp_path, PIR, window=(-50, 350)).figure
        assert [axes.images[0].get_clim() for axes in figure.axes[:3]] == [(-50, 350)] * 3
        for wrong in ((3, 3), (5, 1), (0, np.nan)):
            with pytest.raises(ConfigError, match="lower first"):
                drawn(tmp_path, PIR, window=wrong)

    def test_that_are_no_numbers_are_purple_and_said(self, tmp_path):
        hu, mask = column(PIR)
        hu = hu.astype(np.float32)
        hu[:, :, :9] = np.nan
        found = look_figure(preview(tmp_path, hu, PIR), mask=mask, title="")
        assert "NaN" in found.notes[0] and found.notes[0][1:] in whole_text(found.figure)
        assert np.ma.is_masked(found.figure.axes[1].images[0].get_array())

    def test_of_a_label_map_are_known_from_greys(self, tmp_path):
        hu, mask = column(PIR)
        random = np.random.default_rng(0)
        others = [hu, random.integers(0, 255, PIR.shape).astype(np.uint8), np.zeros(PIR.shape, np.uint8), mask + 0.5]
        for labels in (mask, mask.astype(np.float64), (mask > 0).astype(np.int16), mask.astype(np.uint16) * 900):
            assert is_label_map(preview(tmp_path, labels, PIR))
        assert not any(is_label_map(preview(tmp_path, other, PIR)) for other in others)

    def test_of_a_binary_mask_are_called_vertebrae_but_a_c1_stays_one(self):
        tall = Geometry((10, 10, 40), np.diag([1.0, 1.0, 3.0, 1.0]))
        mask = np.ones(tall.shape, np.uint8)
        assert label_table(label_places(mask, tall))[1].name == "vertebrae"
        mask[:, :, 10:] = 0
        assert label_table(label_places(mask, tall))[1].name == "C1"


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


@pytest.fixture
def listed(tmp_path):
    """An index with a complete case, one whose mask is turned away, and a mask alone."""
    data = spine()
    paths = {name: tmp_path / "in" / f"{name}.nii.gz" for name in ("ct", "seg", "wrong_seg")}
    data.write(paths["ct"], paths["seg"])
    scans.write_nifti(paths["wrong_seg"], data.mask, turned(PIR, (0, 0, 20)).affine)
    cases = (
        Case("good", "p1", paths["ct"], paths["seg"], relabel=((19, 18),), notes=("a copy was left out",)),
        Case("bad", "p2", paths["ct"], paths["wrong_seg"]),
        Case("alone", "p3", None, paths["seg"]),
        Case("again", "p3", paths["ct"], None),
    )
    write_index(tmp_path / "cases.jsonl", CaseIndex(cases))
    return tmp_path / "cases.jsonl"


def shown_words(monkeypatch):
    """What the figures say that are saved from now on."""
    found = []
    monkeypatch.setattr("verse3d.api.pictures.save_figure", lambda figure, path, dpi: found.append(whole_text(figure)))
    return found


class TestCommand:
    def test_draws_a_case_by_its_name_with_its_corrected_mask(self, listed, tmp_path, capsys):
        out = tmp_path / "out" / "look.png"
        out.parent.mkdir()
        assert main(["look", "good", "--data", str(listed), "-o", str(out)]) == 0
        assert capsys.readouterr().out.splitlines() == [str(out), "note: a copy was left out"]
        with Image.open(out) as picture:
            assert picture.format == "PNG" and 1000 <= picture.width <= 1400
        assert [path.name for path in out.parent.iterdir()] == ["look.png"]

    def test_shows_corrections_and_takes_another_mask_as_it_is(self, listed, tmp_path, monkeypatch):
        words = shown_words(monkeypatch)
        mask = tmp_path / "in" / "seg.nii.gz"
        verse3d.look("good", data=listed, out=tmp_path / "a.png")
        verse3d.look("p1", data=listed, out=tmp_path / "b.png", mask=mask)
        verse3d.look(tmp_path / "in" / "ct.nii.gz", out=tmp_path / "c.png", mask=mask)
        verse3d.look(mask, out=tmp_path / "d.png")
        verse3d.look("alone", data=listed, out=tmp_path / "e.png")
        assert ["T11" in text and "T12" not in text for text in words] == [True, False, False, False, False]
        assert ["labels on black" in text for text in words] == [False, False, False, True, True]

    def test_cuts_where_it_is_told(self, listed, tmp_path):
        out = tmp_path / "a.png"
        x, y, z = PIR.world_from_index([[12, 9, 7]])[0]
        assert main(["look", "again", "--data", str(listed), "-o", str(out), "--at", f"{x},{y},{z}"]) == 0
        again = verse3d.look("again", data=listed, out=out, at=(x, y, z), overwrite=True)
        assert again.centre_mm == pytest.approx((x, y, z))
        low = min(x for x, *_ in PIR.corners_mm())
        assert low < 0
        point = f"{low},{y},{z}"
        options = ["--at", point, "--window", "-9,8", "--overwrite"]
        assert main(["look", "again", "--data", str(listed), "-o", str(out), *options]) == 0

    def test_makes_no_folder_and_replaces_no_picture_unasked(self, listed, tmp_path, capsys):
        assert main(["look", "good", "--data", str(listed), "-o", str(tmp_path / "new" / "a.png")]) == 3
        assert "there is no folder" in capsys.readouterr().err and not (tmp_path / "new").exists()
        (tmp_path / "a.png").write_text("mine")
        assert main(["look", "good", "--data", str(listed), "-o", str(tmp_path / "a.png")]) == 3
        assert "exists already" in capsys.readouterr().err and (tmp_path / "a.png").read_text() == "mine"
        assert main(["look", "good", "--data", str(listed), "-o", str(tmp_path / "a.png"), "--overwrite"]) == 0

    def test_takes_a_folder_with_one_case_and_names_those_of_a_folder_with_several(self, listed, tmp_path, capsys):
        spine().write(tmp_path / "one" / "ct.nii.gz")
        assert main(["look", str(tmp_path / "one"), "-o", str(tmp_path / "a.png")]) == 0
        spine().write(tmp_path / "one" / "other.nii.gz")
        assert main(["look", str(tmp_path / "one"), "-o", str(tmp_path / "b.png")]) == 3
        assert "holds 2 cases: one, other" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("arguments", "code", "words"),
        [
            (["good"], 2, "say where it is listed"),
            (["good", "--data", "INDEX", "-o", "a.jpg"], 2, "PNG"),
            (["good", "--data", "INDEX", "--at", "1,2,3", "--level", "L1"], 2, "cannot be combined"),
            (["good", "--data", "INDEX", "--at", "1,2"], 2, "3 numbers"),
            (["good", "--data", "INDEX", "--at", "1,2,x"], 2, "3 numbers"),
            (["good", "--data", "INDEX", "--window", "5"], 2, "2 numbers"),
            (["good", "--data", "INDEX", "--window", "5,1"], 2, "lower first"),
            (["good", "--data", "INDEX", "--at", "0,0,9999"], 3, "outside of the scan"),
            (["good", "--data", "INDEX", "--level", "C1"], 3, "which holds T11, L1-L2"),
            (["good", "--data", "INDEX", "--level", "S1"], 3, "no vertebra is called"),
            (["again", "--data", "INDEX", "--level", "L1"], 3, "no vertebra"),
            (["bad", "--data", "INDEX"], 3, "mm away from its scan"),
            (["goof", "--data", "INDEX"], 3, "there are good"),
            (["p3", "--data", "INDEX"], 3, "has 2 cases"),
            (["nowhere.nii.gz"], 3, "does not exist"),
            (["good", "--data", "INDEX", "--mask", "nowhere.nii.gz"], 3, "does not exist"),
        ],
    )
    def test_refuses(self, listed, tmp_path, capsys, arguments, code, words):  # noqa: PLR0917
        out = tmp_path / "a.png"
        filled = [str(listed) if argument == "INDEX" else argument for argument in arguments]
        assert main(["look", "-o", str(out), *filled]) == code
        assert words in capsys.readouterr().err
        assert not out.exists()

    def test_tells_how_to_see_scan_and_mask_alone_if_they_do_not_fit(self, listed, tmp_path):
        with pytest.raises(GeometryError, match=r"verse3d look .*ct\.nii\.gz"):
            verse3d.look("bad", data=listed, out=tmp_path / "a.png")
        with pytest.raises(DataError, match="no case"):
            verse3d.look("x", data=listed, out=tmp_path / "a.png")


@pytest.mark.skipif(not REAL.exists(), reason="the real scans are not here")
class TestRealScans:
    def test_verse_cases_show_their_levels(self, tmp_path, monkeypatch):
        words = shown_words(monkeypatch)
        for name in ("sub-verse006", "sub-verse008"):
            verse3d.look(name, data=REAL / "verse-mini", out=tmp_path / "a.png")
        assert "L4-L5 (2 vertebrae)" in words[0] and "100 x 86 x 37 voxels of 1 x 1 x 3 mm" in words[0]
        assert "T12-L5 (6 vertebrae)" in words[1] and "axes P-I-R" in words[1]

    def test_a_float64_oblique_mask_without_its_scan_is_shown_as_labels(self, tmp_path, monkeypatch):
        words = shown_words(monkeypatch)
        verse3d.look(REAL / "masks-only/sub-verse004_seg-vert_msk.nii.gz", out=tmp_path / "a.png")
        assert "T9-L5 (9 vertebrae)" in words[0] and "labels on black" in words[0] and "tilted by" in words[0]


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


@pytest.mark.parametrize(
    ("name", "title"), [("chest/ct.nii.gz", "chest/ct.nii.gz"), ("chest/a_ct.nii.gz", "a_ct.nii.gz")]
)
def test_a_file_whose_name_says_nothing_is_titled_with_its_folder(tmp_path, monkeypatch, name, title):
    path = spine().write(tmp_path / name)
    titles = []
    real = pictures.look_figure
    monkeypatch.setattr(pictures, "look_figure", lambda *a, **o: titles.append(o["title"]) or real(*a, **o))
    verse3d.look(path, out=tmp_path / "a.png")
    assert titles == [title]
