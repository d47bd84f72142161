import sys

import matplotlib as mpl
import numpy as np
import pytest
from PIL import Image

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, Label, label_scheme
from verse3d.report.figures import (
    figure_array,
    loss_curve,
    outline_segments,
    overlay_array,
    save_figure,
    three_planes,
)

GREEN = Label(1, "green", (0, 255, 0))
PIR = np.array([[0, 0, 2.0, -40], [-1, 0, 0, 50], [0, -1, 0, 60], [0, 0, 0, 1]])


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray, Geometry]:
    """CT and mask in PIR order: one bright block at the patient's right, front and head."""
    image, mask = np.full((90, 80, 45), -1000, np.int16), np.zeros((90, 80, 45), np.uint8)
    block = np.s_[10:40, 5:35, 28:42]
    image[block], mask[block] = 900, 1
    return image, mask, Geometry(image.shape, PIR)


def panel(rgb: np.ndarray, figure, number: int) -> np.ndarray:
    box = figure.axes[number].get_window_extent()
    return rgb[int(rgb.shape[0] - box.y1) + 2 : int(rgb.shape[0] - box.y0) - 1, int(box.x0) + 2 : int(box.x1) - 1]


def test_the_block_is_drawn_at_the_upper_left_of_every_panel(scan):
    image, mask, grid = scan
    figure = three_planes(image, grid, masks={"truth": mask}, labels=[GREEN], title="case")
    rgb = figure_array(figure).astype(int)
    for number in range(6):
        picture = panel(rgb, figure, number)
        bright = picture[..., 1] > 120
        height, width = bright.shape
        assert bright[: height // 2, : width // 2].mean() > 0.25
        assert bright[height // 2 :, width // 2 :].mean() < 0.1
        greenish = picture[..., 1] - picture[..., 0] > 40
        assert greenish.any() == (number % 2 == 1)


def test_panels_have_the_proportions_of_the_patient(scan):
    image, mask, grid = scan
    figure = three_planes(image, grid, masks={"truth": mask}, labels=[GREEN], title="case")
    figure_array(figure)
    boxes = [figure.axes[number].get_window_extent() for number in (0, 2, 4)]
    expected = [(90, 80), (90, 80), (90, 90)]  # mm: depth x height, width x height, width x depth
    for box, (width, height) in zip(boxes, expected, strict=True):
        assert box.width / box.height == pytest.approx(width / height, rel=0.02)
        assert box.width / width == pytest.approx(boxes[0].width / 90, rel=0.05)


def test_the_figure_says_what_it_shows(scan):
    image, mask, grid = scan
    figure = three_planes(image, grid, masks={"truth": mask, "prediction": mask}, labels=VERTEBRAE, title="case 7")
    assert figure.get_suptitle() == "case 7"
    assert [axes.get_title() for axes in figure.axes[:3]] == ["CT", "truth", "prediction"]
    assert "patient's right on the left" in figure.get_supxlabel()
    assert [figure.axes[n].get_ylabel().split(",")[0] for n in (0, 3, 6)] == ["sagittal", "coronal", "axial"]
    texts = [text.get_text() for text in figure.axes[1].texts]
    assert {"A", "P", "S", "I", "5 cm", "C1"} == set(texts)


def test_explicit_centres_draw_the_same_slices_whatever_the_masks(scan):
    image, mask, grid = scan
    arguments = {"labels": [GREEN], "title": "", "centre_mm": (20.0, 25.0, 40.0)}
    one = three_planes(image, grid, masks={"m": mask}, **arguments)
    other = three_planes(image, grid, masks={"m": np.roll(mask, 20, axis=1)}, **arguments)
    labels = [[axes.get_ylabel() for axes in figure.axes[::2]] for figure in (one, other)]
    assert labels[0] == labels[1] == ["sagittal, x = 20 mm", "coronal, y = 25 mm", "axial, z = 40 mm"]


@pytest.mark.parametrize("shape", [(1, 40, 50), (40, 1, 50), (40, 50, 1), (1, 1, 1), (3, 200, 5)])
@pytest.mark.parametrize("masks", ["none", "empty", "full", "boolean", "unknown"])
def test_awkward_volumes_are_drawn(shape, masks):
    made = {
        "none": {},
        "empty": {"m": np.zeros(shape, np.uint8)},
        "full": {"m": np.ones(shape, np.uint8)},
        "boolean": {"m": np.ones(shape, bool)},
        "unknown": {"m": np.full(shape, 255, np.uint8)},
    }[masks]
    image = np.full(shape, np.nan, np.float32)
    image.flat[0] = 300
    grid = Geometry(shape, np.diag([-1.0, 0.5, 2.5, 1.0]))
    rgb = overlay_array(image, grid, masks=made, labels=label_scheme("binary").labels, title="x", dpi=40)
    assert rgb.dtype == np.uint8
    assert rgb.ndim == 3
    assert rgb.shape[2] == 3
    assert min(rgb.shape[:2]) > 80
    assert rgb.flags.owndata or rgb.base.flags.owndata


def test_shapes_that_differ_are_refused(scan):
    image, mask, grid = scan
    for bad_image, bad_mask in [(image[1:], mask), (image, mask[1:])]:
        with pytest.raises(GeometryError):
            three_planes(bad_image, grid, masks={"m": bad_mask}, labels=[GREEN], title="", centre_mm=(0, 0, 0))


def test_pictures_are_saved_whole_small_and_in_colour(scan, tmp_path):
    image, mask, grid = scan
    noisy = image + np.random.default_rng(0).normal(0, 40, image.shape)
    figure = three_planes(noisy, grid, masks={"truth": mask, "prediction": mask}, labels=[GREEN], title="case")
    path = tmp_path / "case.png"
    save_figure(figure, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["case.png"]
    assert path.stat().st_size < 200_000
    saved = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(saved - figure_array(figure)).mean() < 6


def test_a_picture_without_colour_is_saved_too(tmp_path):
    grid = Geometry((4, 5, 6), np.eye(4))
    save_figure(three_planes(np.zeros((4, 5, 6)), grid, masks={}, labels=[], title=""), tmp_path / "grey.png")
    assert Image.open(tmp_path / "grey.png").format == "PNG"


def test_outlines_run_between_pixels_that_differ():
    pixels = np.array([[0, 0, 0], [0, 2, 5]], dtype=np.uint8)
    segments, ids = outline_segments(pixels)
    found = {(label, tuple(map(tuple, segment))) for segment, label in zip(segments.tolist(), ids, strict=True)}
    assert found == {
        (2, ((1, 1), (1, 2))),
        (5, ((2, 1), (2, 2))),
        (5, ((3, 1), (3, 2))),
        (2, ((1, 1), (2, 1))),
        (5, ((2, 1), (3, 1))),
        (2, ((1, 2), (2, 2))),
        (5, ((2, 2), (3, 2))),
    }


def test_curves_hold_only_what_was_measured():
    history = [
        {"epoch": 1, "train_loss": 0.9},
        {"epoch": 2, "train_loss": float("nan"), "validation_dice": 0.4},
        {"epoch": 3, "train_loss": 0.5},
    ]
    loss, dice = loss_curve(history).axes
    assert loss.lines[0].get_xydata().tolist() == [[1, 0.9], [3, 0.5]]
    assert dice.lines[0].get_xydata().tolist() == [[2, 0.4]]


def test_a_history_of_nothing_is_drawn():
    assert figure_array(loss_curve([])).shape[2] == 3
    assert loss_curve([]).axes[0].get_ylabel() == "training loss" and loss_curve([]).axes[0].legend_ is None


def test_the_validation_loss_is_drawn_beside_the_training_loss_where_it_was_measured():
    history = [
        {"epoch": 1, "train_loss": 0.9, "validation_loss": 0.8, "validation_dice": float("nan")},
        {"epoch": 2, "train_loss": 0.5, "validation_loss": float("nan")},
        {"epoch": 3, "train_loss": 0.3, "validation_loss": 0.6},
    ]
    axes = loss_curve(history).axes[0]
    training, validation = axes.lines
    assert list(training.get_ydata()) == [0.9, 0.5, 0.3]
    assert (list(validation.get_xdata()), list(validation.get_ydata())) == ([1, 3], [0.8, 0.6])
    assert [text.get_text() for text in axes.legend_.get_texts()] == ["training loss", "validation loss"]
    assert axes.get_ylabel() == "loss"


def test_drawing_touches_no_global_state(scan):
    image, mask, grid = scan
    before, had_pyplot = dict(mpl.rcParams), "matplotlib.pyplot" in sys.modules
    overlay_array(image, grid, masks={"m": mask}, labels=[GREEN], title="")
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
