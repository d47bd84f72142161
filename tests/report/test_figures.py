import sys
from pathlib import Path

import matplotlib as mpl
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from verse3d.core.geometry import Geometry
from verse3d.core.preview import Preview
from verse3d.core.volume import Volume
from verse3d.report.figures import (
    figure_array,
    loss_curve,
    outline_segments,
    save_figure,
)
from verse3d.report.overlay import overlay_figure

PIR = np.array([[0, 0, 2.0, -40], [-1, 0, 0, 50], [0, -1, 0, 60], [0, 0, 0, 1]])


def previewed(array, grid: Geometry) -> Preview:
    """A volume as if it had been read from a file."""
    header = nib.Nifti1Image(np.zeros((1, 1, 1), array.dtype), np.eye(4)).header
    return Preview(Volume(array, grid, header, Path("a.nii")))


@pytest.fixture
def scan() -> tuple[np.ndarray, np.ndarray, Geometry]:
    """CT and mask in PIR order: one bright block at the patient's right, front and head."""
    image, mask = np.full((90, 80, 45), -1000, np.int16), np.zeros((90, 80, 45), np.uint8)
    block = np.s_[10:40, 5:35, 28:42]
    image[block], mask[block] = 900, 1
    return image, mask, Geometry(image.shape, PIR)


def test_pictures_are_saved_whole_small_and_in_colour(scan, tmp_path):
    image, mask, grid = scan
    noisy = image + np.random.default_rng(0).normal(0, 40, image.shape)
    figure = overlay_figure(previewed(noisy, grid), {"truth": mask, "prediction": mask}, title="case", binary=True)
    path = tmp_path / "case.png"
    save_figure(figure, path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["case.png"]
    assert path.stat().st_size < 200_000
    saved = np.asarray(Image.open(path).convert("RGB")).astype(int)
    assert np.abs(saved - figure_array(figure)).mean() < 6


def test_a_picture_without_colour_is_saved_too(tmp_path):
    grid = Geometry((4, 5, 6), np.eye(4))
    save_figure(overlay_figure(previewed(np.zeros((4, 5, 6)), grid), {}, title="", binary=True), tmp_path / "grey.png")
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
    figure_array(overlay_figure(previewed(image, grid), {"m": mask}, title="", binary=True))
    assert dict(mpl.rcParams) == before
    assert ("matplotlib.pyplot" in sys.modules) == had_pyplot
