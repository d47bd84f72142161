"""Figures for reports and for TensorBoard. Every figure stands alone: Agg canvas, no pyplot, no global state."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.patheffects import withStroke
from matplotlib.ticker import MaxNLocator
from matplotlib.transforms import ScaledTranslation
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from verse3d.core.escapes import figure_text
from verse3d.core.files import whole_file
from verse3d.core.geometry import Geometry
from verse3d.core.labels import Label
from verse3d.core.planes import PLANES, PlaneSlice, display_centre_mm, plane_slice

WindowHu = tuple[float, float]

_CONVENTION = (
    "sagittal: anterior on the left · coronal and axial: radiological, patient's right on the left\n"
    "window {0:g} to {1:g} HU · slices along the scan's own axes"
)
_FILL_ALPHA = 0.3
_UNKNOWN_RGB = (255, 255, 255)
_STROKE = [withStroke(linewidth=1.5, foreground="black")]
# Where each letter stands: axes fractions, which way (in points) it moves inwards, its alignment.
_EDGES = {
    "left": ((0, 0.5), (3, 0), "left", "center"),
    "right": ((1, 0.5), (-3, 0), "right", "center"),
    "top": ((0.5, 1), (0, -3), "center", "top"),
    "bottom": ((0.5, 0), (0, 3), "center", "bottom"),
}
_BAR_LIFT_POINTS = 14


def three_planes(
    image_hu: NDArray[Any],
    geometry: Geometry,
    *,
    masks: Mapping[str, NDArray[np.uint8]],
    labels: Sequence[Label],
    title: str,
    window_hu: WindowHu = (-200, 1000),
    centre_mm: ArrayLike | None = None,
) -> Figure:
    """A sagittal, a coronal and an axial slice of a CT, plain and with each mask laid over it.

    Args:
        image_hu: CT (I, J, K) in HU, any axis order and numeric dtype.
        geometry: the grid of the CT and of all masks.
        masks: label ids (I, J, K) by the name that stands above their column, e.g. "truth" and "prediction".
        labels: names and colours of the ids; ids that it lacks are white. Several labels are named in the picture.
        title: the heading.
        window_hu: the values shown black and white.
        centre_mm: world mm through which the slices go; else the centre of mass of the first mask that is not
            empty; else the middle of the volume.

    Returns:
        A figure with an Agg canvas; all panels share one scale in mm. See ``verse3d.core.planes`` for which side is
        which. Beside views of the volumes this holds one bool copy of a mask while the centre is sought.

    Raises:
        GeometryError: the image or a mask does not have the shape of the geometry.
    """
    centre = display_centre_mm(masks.values(), geometry) if centre_mm is None else centre_mm
    backs = [plane_slice(image_hu, geometry, plane, centre) for plane in PLANES]
    figure, grid = _panels([back.size_mm for back in backs], columns=1 + len(masks))
    for row, back in zip(grid, backs, strict=True):
        for axes in row:
            _draw_image(axes, back, window_hu)
        row[0].set_ylabel(f"{back.plane}, {'xyz'[PLANES.index(back.plane)]} = {back.position_mm:.0f} mm", fontsize=8)
        for axes, mask in zip(row[1:], masks.values(), strict=True):
            _draw_mask(axes, plane_slice(mask, geometry, back.plane, centre), labels)
    for axes, name in zip(grid[0], ("CT", *masks), strict=True):
        axes.set_title(name, fontsize=9)
    figure.suptitle(figure_text(title), fontsize=10, wrap=True)
    figure.supxlabel(_CONVENTION.format(*window_hu), fontsize=6)
    return figure


def overlay_array(
    image_hu: NDArray[Any],
    geometry: Geometry,
    *,
    masks: Mapping[str, NDArray[np.uint8]],
    labels: Sequence[Label],
    title: str,
    window_hu: WindowHu = (-200, 1000),
    centre_mm: ArrayLike | None = None,
    dpi: int = 100,
) -> NDArray[np.uint8]:
    """The picture of ``three_planes`` as RGB, uint8 (H, W, 3), for example for TensorBoard (``dataformats="HWC"``)."""
    figure = three_planes(
        image_hu, geometry, masks=masks, labels=labels, title=title, window_hu=window_hu, centre_mm=centre_mm
    )
    return figure_array(figure, dpi=dpi)


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
        picture.save(part, "PNG", optimize=True)


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
    coloured = rgb[np.ptp(rgb, axis=-1) > 3]
    colours = b""
    if len(coloured):
        reduced = Image.fromarray(coloured[None]).quantize(256 - 64, Image.Quantize.MAXCOVERAGE)
        colours = bytes(reduced.getpalette() or [])
    palette = Image.new("P", (1, 1))
    palette.putpalette((greys + colours)[: 256 * 3])
    return palette


def _draw_curve(axes: Axes, history: Sequence[Mapping[str, float]], key: str, colour: str) -> None:
    points = [(entry["epoch"], entry[key]) for entry in history if np.isfinite(entry.get(key, np.nan))]
    if points:
        label = {"train_loss": "training loss", "validation_loss": "validation loss"}.get(key, "")
        axes.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=3, linewidth=1.2, label=label)


def _panels(sizes_mm: Sequence[tuple[float, float]], columns: int) -> tuple[Figure, list[list[Axes]]]:
    """An empty figure with one row per size, all at the same scale unless a picture is very thin."""
    tallest, width = max(height for height, _ in sizes_mm), max(width for _, width in sizes_mm)
    heights = [max(height, 0.15 * tallest) for height, _ in sizes_mm]
    width = max(width, 0.15 * tallest)
    inches_per_mm = min(8.0 / sum(heights), 9.0 / (columns * width))
    size = max(4.5, columns * width * inches_per_mm + 0.4), max(2.5, sum(heights) * inches_per_mm + 0.9)
    figure = Figure(figsize=size, layout=ConstrainedLayoutEngine(w_pad=0.02, h_pad=0.02, wspace=0.0, hspace=0.0))
    FigureCanvasAgg(figure)
    grid = figure.subplots(len(sizes_mm), columns, squeeze=False, gridspec_kw={"height_ratios": heights})
    return figure, [list(row) for row in grid]


def _draw_image(axes: Axes, back: PlaneSlice, window_hu: WindowHu) -> None:
    height, width = back.size_mm
    low, high = window_hu
    axes.imshow(back.pixels, cmap="gray", vmin=low, vmax=high, extent=(0, width, height, 0), interpolation="bilinear")
    axes.set_xticks([])
    axes.set_yticks([])
    _draw_letters(axes, back)
    _draw_scale_bar(axes, height, width)


def _draw_letters(axes: Axes, back: PlaneSlice) -> None:
    """The anatomical direction at each edge, unless the picture is too thin to hold it."""
    height, width = back.size_mm
    thin = {"left", "right"} if width < height / 12 else {"top", "bottom"} if height < width / 12 else set()
    for edge, (place, inwards, ha, va) in _EDGES.items():
        if edge not in thin:
            _write(axes, getattr(back, edge), place, size=7, xycoords="axes fraction", xytext=inwards, ha=ha, va=va)


def _write(axes: Axes, text: str, place: tuple[float, float], *, size: float, **style: Any) -> None:  # noqa: ANN401
    """White text with a black rim, readable on any ground; ``style`` as in ``Axes.annotate``."""
    rim: dict[str, Any] = {"color": "white", "path_effects": _STROKE, "fontsize": size, "annotation_clip": False}
    axes.annotate(text, place, **({"xytext": (0, 0), "textcoords": "offset points"} | rim | style))


def _draw_scale_bar(axes: Axes, height: float, width: float) -> None:
    """A bar of 5 cm (1 cm in small pictures) at the lower left, above the letter."""
    length = 50.0 if width > 60 else 10.0
    if width < 1.2 * length:
        return
    start = 0.04 * width
    lift = ScaledTranslation(0, _BAR_LIFT_POINTS / 72, axes.figure.dpi_scale_trans)
    ends = [start, start + length], [height, height]
    axes.plot(*ends, color="white", linewidth=1.5, path_effects=_STROKE, transform=axes.transData + lift)
    middle, above = (start + length / 2, height), (0, _BAR_LIFT_POINTS + 2)
    _write(axes, f"{length / 10:g} cm", middle, size=5, xytext=above, ha="center", va="bottom")


def _draw_mask(axes: Axes, mask: PlaneSlice, labels: Sequence[Label]) -> None:
    height, width = mask.size_mm
    ids = mask.pixels.astype(np.uint8)
    colours = _colour_table(labels)
    fill = np.concatenate([colours, np.where(np.arange(256) > 0, _FILL_ALPHA, 0.0)[:, None]], axis=1)
    axes.imshow(fill[ids], extent=(0, width, height, 0), interpolation="nearest")
    segments, owners = outline_segments(ids)
    in_mm = list(segments * np.array(mask.pixel_mm[::-1]))
    axes.add_collection(LineCollection(in_mm, colors=colours[owners], linewidths=0.7, capstyle="round"))
    if len(labels) > 1:
        _draw_names(axes, mask, labels)


def _draw_names(axes: Axes, mask: PlaneSlice, labels: Sequence[Label]) -> None:
    for label in labels:
        places = np.argwhere(mask.pixels == label.id)
        if len(places):
            y, x = (places.mean(axis=0) + 0.5) * mask.pixel_mm
            _write(axes, label.name, (x, y), size=5, ha="center", va="center")


def _colour_table(labels: Sequence[Label]) -> NDArray[np.float64]:
    """RGB 0-1 of every id, (256, 3)."""
    table = np.tile(np.array(_UNKNOWN_RGB, dtype=float), (256, 1))
    for label in labels:
        table[label.id] = label.rgb
    return table / 255.0


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
