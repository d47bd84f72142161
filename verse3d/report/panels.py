"""The panels of a picture: a slice in grey with labels over it, and all that stands around it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection, PathCollection
from matplotlib.figure import Figure
from matplotlib.path import Path
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from verse3d.core.axes import PLANES
from verse3d.core.geometry import Geometry
from verse3d.core.labels import Label
from verse3d.core.planes import PlaneSlice, plane_slice
from verse3d.core.preview import Preview
from verse3d.report.appearance import Window
from verse3d.report.figures import outline_segments
from verse3d.report.names import PlacedName, Side, place_names
from verse3d.report.sheet import BESIDE, OUTER, Sheet

DPI = 100
_FILL_ALPHA, _FILL_ALPHA_ALONE = 0.22, 0.75
_GROUND, _TEXT, _NAN = "#181818", "#e7e7e7", "#7a3b8f"
_RIM = [withStroke(linewidth=2.2, foreground="black")]
_NAME_POINTS, _LETTER_POINTS = 9.0, 10.5
_NAME_LINE, _NAME_LETTER = 15.5, 8.2  # pixels that a name of that size needs
_SIDES: Mapping[str, Side] = {"sagittal": "left", "coronal": "right", "axial": "right"}


@dataclass(frozen=True, eq=False)
class Layer:
    """What is drawn over the slices of a row.

    Attributes:
        mask: label ids on the grid of the scan, or None for the scan alone.
        table: name and colour of every id in it.
        name: written beside the row; "" for nothing.
        filled: draw the labels as solid fields.
        marks: id -> what follows its name, e.g. "?".
    """

    mask: NDArray[Any] | None
    table: Mapping[int, Label]
    name: str = ""
    filled: bool = False
    marks: Mapping[int, str] = field(default_factory=dict)


def empty_figure(sheet: Sheet) -> Figure:
    """A dark figure of the size of a sheet, with an Agg canvas."""
    figure = Figure(figsize=(sheet.width / DPI, sheet.height / DPI), dpi=DPI, facecolor=_GROUND)
    FigureCanvasAgg(figure)
    return figure


def draw_row(
    figure: Figure,
    sheet: Sheet,
    row: int,
    layer: Layer,
    scan: Preview,
    *,
    window: Window | None,
    centre_mm: ArrayLike,
) -> None:
    """A row of the sheet: the three planes through a point, with the layer over them.

    Args:
        figure: to draw into.
        sheet: where the panels stand.
        row: which row of the sheet, from 0.
        layer: what lies over the slices.
        scan: the greys.
        window: the values shown black and white; None draws no greys.
        centre_mm: world mm (3,) through which the planes go.
    """
    geometry = scan.volume.geometry
    boxes = sheet.boxes[row * len(PLANES) : (row + 1) * len(PLANES)]
    for plane, box in zip(PLANES, boxes, strict=True):
        back = plane_slice(scan.volume.array, geometry, plane, centre_mm)
        axes = _panel(figure, sheet, back, box)
        if window is not None:
            _draw_greys(axes, back, scan, window)
        names: tuple[PlacedName, ...] = ()
        if layer.mask is not None:
            cut = plane_slice(layer.mask, geometry, plane, centre_mm)
            _draw_labels(axes, cut, layer.table, filled=layer.filled)
            marked = {
                number: replace(label, name=label.name + layer.marks.get(label.id, ""))
                for number, label in layer.table.items()
            }
            names = _draw_names(axes, cut, marked, sheet.scale)
        _draw_surroundings(axes, back, names, sheet)
        _draw_cuts(axes, back, geometry, centre_mm, sheet.scale)
    if layer.name:
        # From bottom to top, at the left of what may stand beside the first panel.
        left, top, _, height = boxes[0]
        place = (max(0.6 * OUTER, left - 3 * BESIDE) / sheet.width, 1 - (top + height / 2) / sheet.height)
        style: dict[str, Any] = {"color": _TEXT, "fontsize": _LETTER_POINTS, "weight": "bold", "gid": "row"}
        figure.text(*place, layer.name, rotation=90, ha="center", va="center", **style)


def _panel(figure: Figure, sheet: Sheet, back: PlaneSlice, box: tuple[float, float, float, float]) -> Axes:
    left, top, width, height = box
    place = (
        left / sheet.width,
        1 - (top + height) / sheet.height,
        width / sheet.width,
        height / sheet.height,
    )
    # Pixels from the upper left corner -> fractions from the lower left one, as matplotlib counts.
    axes = figure.add_axes(place, label=back.plane, facecolor="black")
    axes.set(xlim=(0, back.size_mm[1]), ylim=(back.size_mm[0], 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#404040", linewidth=0.8)
    return axes


def _draw_greys(axes: Axes, back: PlaneSlice, scan: Preview, window: Window) -> None:
    height, width = back.size_mm
    values = np.ma.masked_invalid(scan.values(back.pixels))
    # Smoothing would spread a NaN over its neighbours.
    smooth = "nearest" if np.ma.is_masked(values) else "bilinear"
    axes.imshow(
        values,
        cmap=colormaps["gray"].with_extremes(bad=_NAN),
        vmin=window.low,
        vmax=window.high,
        extent=(0, width, height, 0),
        interpolation=smooth,
        aspect="auto",
    )


def _draw_labels(axes: Axes, mask: PlaneSlice, table: Mapping[int, Label], *, filled: bool) -> None:
    """The labels as coloured fields with an outline."""
    height, width = mask.size_mm
    ids, numbers = np.unique(mask.pixels, return_inverse=True)
    # One colour per id that occurs, then one look-up per pixel: (rows, columns) -> (rows, columns, 4).
    colours = np.array([[*table[label].rgb, 255] if label else [0] * 4 for label in ids.tolist()]) / 255.0
    fill = colours * np.array([1, 1, 1, _FILL_ALPHA_ALONE if filled else _FILL_ALPHA])
    shown = fill[numbers.reshape(mask.pixels.shape)]
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    segments, owners = outline_segments(mask.pixels)
    in_mm = segments * np.array(mask.pixel_mm[::-1])
    # One path of many strokes for each label: making a path for every stroke would take longer than drawing them. They
    # are snapped to whole pixels, as matplotlib by itself snaps short paths only.
    style: dict[str, Any] = {"facecolors": "none", "linewidths": 1.0, "capstyle": "round", "snap": True}
    for label in np.unique(owners):
        edge = colours[np.searchsorted(ids, label)]
        # Straight strokes (n, 2, 2), from (x, y) to (x, y)
        strokes = in_mm[owners == label]
        codes = np.tile([Path.MOVETO, Path.LINETO], len(strokes)).astype(Path.code_type)
        axes.add_collection(PathCollection([Path(strokes.reshape(-1, 2), codes)], edgecolors=[edge], **style))


def _draw_names(axes: Axes, mask: PlaneSlice, table: Mapping[int, Label], scale: float) -> tuple[PlacedName, ...]:
    """The names of the labels beside them, with a line to those that stand away. ``scale`` in pixels per mm."""
    names = {label.id: label.name for label in table.values()}
    sizes: dict[str, float] = {"line_mm": _NAME_LINE / scale, "letter_mm": _NAME_LETTER / scale}
    placed = place_names(mask, names, side=_SIDES[mask.plane], margin_mm=BESIDE / scale, **sizes)
    for name in placed:
        # The bone's own colour, mixed with white, to be read on dark ground.
        colour = tuple(0.55 * value / 255 + 0.45 for value in table[name.id].rgb)
        start = (name.x_mm, name.y_mm)
        # A line only where the name was moved away from its bone to make room for others.
        far = np.abs(np.subtract(start, name.bone_mm)) > np.array([2 * _NAME_LETTER, 0.6 * _NAME_LINE]) / scale
        if far.any():
            axes.plot(*zip(start, name.bone_mm, strict=True), color=colour, linewidth=0.7, clip_on=False)
        ha = "right" if name.side == "left" else "left"
        style: dict[str, Any] = {"color": colour, "fontsize": _NAME_POINTS, "gid": f"name {name.name}"}
        axes.text(*start, name.name, ha=ha, va="center_baseline", weight="bold", path_effects=_RIM, **style)
    return placed


def _draw_surroundings(axes: Axes, back: PlaneSlice, names: Sequence[PlacedName], sheet: Sheet) -> None:
    """What stands around the slice, so that it covers nothing: the plane's name, the directions, the scale bar."""
    height = back.size_mm[0] * sheet.scale
    outside = []
    for placed in names:
        length = len(placed.name) * _NAME_LETTER / sheet.scale
        if placed.x_mm < length if placed.side == "left" else placed.x_mm + length > back.size_mm[1]:
            outside.append(placed.y_mm * sheet.scale)
    # The letters at the sides evade names that stand there.
    side = 1 - _free_height(outside, height) / height
    letters = {
        "left": ((0, side), (-17, 0)),
        "right": ((1, side), (17, 0)),
        "top": ((0.5, 1), (0, 16)),
        "bottom": ((0.5, 0), (0, -17)),
    }
    for edge, (place, offset) in letters.items():
        bold = {"color": "white", "fontsize": _LETTER_POINTS, "weight": "bold", "gid": f"direction {edge}"}
        _write_beside(axes, getattr(back, edge), place, offset, **bold)
    name = f"{back.plane.capitalize()}  ·  {'xyz'[PLANES.index(back.plane)]} = {round(back.position_mm)} mm"
    _write_beside(axes, name, (0.5, 1), (0, 38), color=_TEXT, fontsize=_LETTER_POINTS, gid="plane")
    _draw_scale_bar(axes, back, sheet)


def _free_height(taken: Sequence[float], height: float) -> float:
    """The height nearest to the middle at which no name stands, in the same unit as the given heights."""
    free = np.arange(_NAME_LINE, height - _NAME_LINE, 2.0)
    for other in taken:
        free = free[np.abs(free - other) > 1.3 * _NAME_LINE]
    if not free.size:
        return height / 2
    nearest = np.argmin(np.abs(free - height / 2))
    return float(free[nearest])


def _draw_scale_bar(axes: Axes, back: PlaneSlice, sheet: Sheet) -> None:
    middle, half = back.size_mm[1] / 2, sheet.bar_mm / 2
    below = back.size_mm[0] + 34 / sheet.scale
    ends = [middle - half, middle + half], [below, below]
    axes.plot(*ends, color=_TEXT, linewidth=2, solid_capstyle="butt", clip_on=False, gid="scale bar")
    text = f"{sheet.bar_mm / 10:g} cm" if sheet.bar_mm >= 10 else f"{sheet.bar_mm:g} mm"
    _write_beside(axes, text, (0.5, 0), (0, -46), color=_TEXT, fontsize=8.5, gid="scale")


def _write_beside(
    axes: Axes,
    text: str,
    place: tuple[float, float],
    pixels: tuple[float, float],
    **style: Any,  # noqa: ANN401
) -> None:
    """Text so many pixels away from a place in fractions of the axes; ``style`` as in ``Axes.annotate``."""
    offset: dict[str, Any] = {
        "xycoords": "axes fraction",
        "textcoords": "offset pixels",
        "ha": "center",
        "va": "center",
    }
    axes.annotate(text, place, pixels, annotation_clip=False, **offset, **style)


def _draw_cuts(axes: Axes, back: PlaneSlice, geometry: Geometry, centre_mm: ArrayLike, scale: float) -> None:
    """Small marks at the edges where the other two planes cut this one."""
    grid = geometry.reoriented("RAS")
    index = np.rint(grid.index_from_world(np.reshape(centre_mm, (1, 3)))[0])
    index = np.clip(index, 0, np.array(grid.shape) - 1)
    # Pictures run from the far end of each axis: the head, the front, the patient's right.
    from_far_end = (np.array(grid.shape) - index - 0.5) * np.array(grid.spacing_mm)
    across, up = [axis for axis in range(3) if axis != PLANES.index(back.plane)]
    height, width = back.size_mm
    x, y, mark = from_far_end[across], from_far_end[up], 6 / scale
    lines = [
        [(x, 0), (x, -mark)],
        [(x, height), (x, height + mark)],
        [(0, y), (-mark, y)],
        [(width, y), (width + mark, y)],
    ]
    axes.add_collection(LineCollection(lines, colors="#ffd54a", linewidths=1.4, clip_on=False, gid="cuts"))
