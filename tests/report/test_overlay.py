"""A case in one picture: the same planes of the CT alone and under each mask."""

import itertools

import numpy as np
import pytest
from matplotlib.collections import PathCollection

from tests.report.test_figures import PIR, previewed
from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.core.planes import plane_slice
from verse3d.report.figures import figure_array
from verse3d.report.overlay import overlay_figure

SHAPE = (90, 80, 45)
BLOCK = np.s_[10:40, 5:35, 28:42]
"""At the patient's right, front and head."""


@pytest.fixture
def scan():
    """CT and mask in PIR order: one bright block."""
    image, mask = np.full(SHAPE, -1000, np.int16), np.zeros(SHAPE, np.uint8)
    image[BLOCK], mask[BLOCK] = 900, 1
    return previewed(image, Geometry(SHAPE, PIR)), mask


def panel(figure, number):
    rgb, box = figure_array(figure).astype(int), figure.axes[number].get_window_extent()
    return rgb[int(rgb.shape[0] - box.y1) + 2 : int(rgb.shape[0] - box.y0) - 1, int(box.x0) + 2 : int(box.x1) - 1]


def texts(figure, gid):
    return [text.get_text() for text in figure.texts if text.get_gid() == gid]


def planes(figure):
    return [text.get_text() for axes in figure.axes for text in axes.texts if text.get_gid() == "plane"]


def test_the_block_is_drawn_at_the_upper_left_of_every_panel_and_coloured_in_the_rows_of_masks(scan):
    preview, mask = scan
    figure = overlay_figure(preview, {"truth": mask}, title="case", binary=True)
    assert len(figure.axes) == 6
    for number in range(6):
        picture = panel(figure, number)
        bright = picture[..., 1] > 120
        height, width = bright.shape
        assert bright[: height // 2, : width // 2].mean() > 0.25
        assert bright[height // 2 :, width // 2 :].mean() < 0.1
        coloured = np.ptp(picture[: height // 2, : width // 2], axis=-1) > 40
        assert coloured.any() == (number >= 3)


def test_outlines_have_the_colour_of_their_label_and_few_paths_however_many_edges(scan):
    preview, mask = scan
    ragged = mask * (8 + (np.random.default_rng(2).random(SHAPE) < 0.3)).astype(np.uint8)
    geometry = preview.volume.geometry
    centre = geometry.world_from_index(np.array([[25.0, 20.0, 35.0]]))[0]
    figure = overlay_figure(preview, {"truth": ragged}, title="case", binary=False, centre_mm=centre)
    collections = figure.axes[3].collections
    outlines = [one for one in collections if isinstance(one, PathCollection)]
    assert [len(one.get_paths()) for one in outlines] == [1, 1]  # of T1 and T2
    # Every place at which neighbours differ is one stroke of two points.
    pixels = plane_slice(ragged, geometry, "sagittal", centre).pixels
    around = np.pad(pixels, 1)
    edges = sum(np.count_nonzero(np.diff(around, axis=axis)) for axis in (0, 1))
    assert sum(len(one.get_paths()[0].vertices) for one in outlines) == 2 * edges
    colours = [one.get_edgecolor()[0, :3] * 255 for one in outlines]
    expected = [label.rgb for label in VERTEBRAE if label.id in (8, 9)]
    np.testing.assert_allclose(colours, expected, atol=0.01)


def test_every_row_shows_the_same_planes_and_has_its_name(scan):
    preview, mask = scan
    figure = overlay_figure(preview, {"truth": mask, "prediction": np.roll(mask, 30, 1)}, title="case 7", binary=True)
    assert texts(figure, "row") == ["CT", "truth", "prediction"]
    assert texts(figure, "title") == ["case 7"]
    shown = planes(figure)
    assert shown[:3] == shown[3:6] == shown[6:]
    boxes = [axes.get_position() for axes in figure.axes]
    assert [round(box.x0, 4) for box in boxes[:3]] == [round(box.x0, 4) for box in boxes[6:]]
    assert boxes[0].y0 > boxes[3].y1 and boxes[3].y0 > boxes[6].y1


def test_what_a_prediction_invents_does_not_draw_the_planes_off(scan):
    preview, mask = scan
    wild = np.ones_like(mask)
    calm, off = (overlay_figure(preview, {"truth": mask, "prediction": m}, title="", binary=True) for m in (mask, wild))
    assert planes(calm) == planes(off)


@pytest.mark.parametrize("prediction", ["empty", "block", "full"])
def test_without_a_truth_the_planes_go_through_the_middle_whatever_is_predicted(scan, prediction):
    preview, mask = scan
    predicted = {"empty": np.zeros_like(mask), "block": mask, "full": np.ones_like(mask)}[prediction]
    masks = {"truth": np.zeros_like(mask), "prediction": predicted}
    figure = overlay_figure(preview, masks, title="", binary=True)
    plain = overlay_figure(preview, {}, title="", binary=True)
    assert planes(figure)[:3] == planes(plain)


def test_levels_are_named_beside_their_bone_and_in_the_legend(scan):
    preview, mask = scan
    levels = np.where(mask > 0, np.uint8(20), 0).astype(np.uint8)
    levels[10:40, 20:35, 28:42] = 21
    figure = overlay_figure(preview, {"truth": levels, "prediction": levels * 0}, title="", binary=False)
    names = {text.get_text() for axes in figure.axes[3:6] for text in axes.texts if "name" in str(text.get_gid())}
    assert names == {"L1", "L2"}
    caption = " ".join(texts(figure, "caption"))
    assert "truth (L1-L2)" in caption and "prediction (empty)" in caption


AWKWARD = [(1, 40, 50), (40, 1, 50), (40, 50, 1), (1, 1, 1), (3, 200, 5)]


@pytest.mark.parametrize(
    ("shape", "masks"), [*itertools.product(AWKWARD, ("none", "full")), (AWKWARD[1], "empty"), (AWKWARD[4], "unknown")]
)
def test_awkward_volumes_are_drawn(shape, masks):
    made = {
        "none": {},
        "empty": {"m": np.zeros(shape, np.uint8)},
        "full": {"m": np.ones(shape, np.uint8)},
        "unknown": {"m": np.full(shape, 255, np.uint8)},
    }[masks]
    image = np.full(shape, np.nan, np.float32)
    image.flat[0] = 300
    grid = Geometry(shape, np.diag([-1.0, 0.5, 2.5, 1.0]))
    rgb = figure_array(overlay_figure(previewed(image, grid), made, title="x", binary=True), dpi=40)
    assert rgb.dtype == np.uint8 and rgb.ndim == 3 and rgb.shape[2] == 3 and min(rgb.shape[:2]) > 80


def test_a_mask_of_another_shape_is_refused_by_name(scan):
    preview, mask = scan
    with pytest.raises(GeometryError, match="the prediction of shape"):
        overlay_figure(preview, {"truth": mask, "prediction": mask[1:]}, title="", binary=True)
