"""Figures for reports and for TensorBoard. Every figure stands alone: Agg canvas, no pyplot, no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from PIL import Image

from verse3d.core.files import whole_file


def figure_array(figure: Figure, *, dpi: int = 100) -> NDArray[np.uint8]:
    """A figure drawn as RGB, uint8 (H, W, 3)."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba(), dtype=np.uint8)[..., :3]


def save_figure(figure: Figure, path: Path | str, *, dpi: int = 100) -> None:
    """Write a figure as a small PNG (256 colours), completely or not at all.

    Raises:
        OutputError: the file cannot be written.
    """
    rgb = figure_array(figure, dpi=dpi)
    picture = Image.fromarray(rgb).quantize(palette=_palette(rgb), dither=Image.Dither.NONE)
    with whole_file(Path(path)) as part:
        picture.save(part, "PNG")  # to squeeze out the last few percent would take ten times as long


def loss_curve(history: Sequence[Mapping[str, float]]) -> Figure:
    """Training and validation loss (left axis) and validation Dice (right axis) over the epochs.

    Args:
        history: one mapping per epoch with "epoch", "train_loss" and, where they were measured, "validation_loss" and
            "validation_dice". Values that are missing or NaN are left out, and curves without any.
    """
    figure = Figure(figsize=(6, 3.5), layout="constrained")
    FigureCanvasAgg(figure)
    left = figure.add_subplot()
    right = left.twinx()
    _draw_curve(left, history, "train_loss", "tab:blue")
    _draw_curve(left, history, "validation_loss", "tab:green")
    _draw_curve(right, history, "validation_dice", "tab:orange")
    left.set_xlabel("epoch")
    left.set_ylabel("loss" if len(left.lines) > 1 else "training loss", color="tab:blue")
    if len(left.lines) > 1:
        left.legend(loc="upper center", bbox_to_anchor=(0.5, 1.14), ncols=2, fontsize=8, frameon=False)
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    left.grid(alpha=0.3)
    right.set_ylabel("validation Dice", color="tab:orange")
    right.set_ylim(0, 1)
    return figure


def _palette(rgb: NDArray[np.uint8]) -> Image.Image:
    """64 greys, so that a CT gets no tint, and as many of the picture's colours as still fit into 256."""
    greys = np.repeat(np.linspace(0, 255, 64).round().astype(np.uint8), 3).tobytes()
    # As np.ptp over the channels, which is slow along so short an axis
    red, green, blue = np.moveaxis(rgb, -1, 0)
    spread = np.maximum(np.maximum(red, green), blue) - np.minimum(np.minimum(red, green), blue)
    coloured = rgb[spread > 3]
    colours = b""
    if len(coloured):
        reduced = Image.fromarray(coloured[None]).quantize(256 - 64, Image.Quantize.MAXCOVERAGE)
        colours = bytes(reduced.getpalette() or [])
    palette = Image.new("P", (1, 1))
    palette.putpalette((greys + colours)[: 256 * 3])
    return palette


def _draw_curve(axes: Axes, history: Sequence[Mapping[str, float]], key: str, colour: str) -> None:
    measured = [entry for entry in history if np.isfinite(entry.get(key, np.nan))]
    if not measured:
        return
    epochs, values = [entry["epoch"] for entry in measured], [entry[key] for entry in measured]
    label = {"train_loss": "training loss", "validation_loss": "validation loss"}.get(key, "")
    axes.plot(epochs, values, color=colour, marker="o", markersize=3, linewidth=1.2, label=label)


def outline_segments(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    """The pixel edges at which labels change, so that outlines run between pixels and hide none.

    Args:
        pixels: label ids (rows, columns).

    Returns:
        Segments (N, 2, 2) as two (x, y) points each in pixel edges (pixel ``[r, c]`` spans x from c to c + 1 and y
        from r to r + 1), and the label (N,) whose outline each one is. Where two labels touch it is the right or
        lower one.
    """
    upright, upright_ids = _vertical_edges(pixels)
    level, level_ids = _vertical_edges(pixels.T)
    return np.concatenate([upright, level[..., ::-1]]), np.concatenate([upright_ids, level_ids])


def _vertical_edges(pixels: NDArray[np.uint8]) -> tuple[NDArray[np.float64], NDArray[np.uint8]]:
    padded = np.pad(pixels, ((0, 0), (1, 1)))
    before, after = padded[:, :-1], padded[:, 1:]
    rows, columns = np.nonzero(before != after)
    start = np.stack([columns, rows], axis=1).astype(float)
    ids = np.where(after > 0, after, before)[rows, columns]
    return np.stack([start, start + np.array([0.0, 1.0])], axis=1), ids
