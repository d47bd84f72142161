"""A picture of a scan or a mask as a viewer would show it: three planes at one scale, names, letters, scale bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.patheffects import withStroke
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERSE_IDS, Label
from verse3d.core.planes import PLANES, PlaneSlice, plane_slice
from verse3d.core.preview import Preview
from verse3d.data.schemes import MaskScheme
from verse3d.report.appearance import Window, choose_window, has_hounsfield_units, label_table
from verse3d.report.captions import caption, draw_unknown, heading, lines, mask_notes, unknown_lines, write_around
from verse3d.report.cuts import (
    LabelPlace,
    cut_through,
    cut_through_bone,
    label_places,
    level_place,
    require_inside,
)
from verse3d.report.figures import outline_segments
from verse3d.report.names import PlacedName, Side, place_names
from verse3d.report.sheet import BESIDE, Sheet, arrange

DPI = 100
_FILL_ALPHA, _FILL_ALPHA_ALONE = 0.22, 0.75
_GROUND, _TEXT, _NAN = "#181818", "#e7e7e7", "#7a3b8f"
_RIM = [withStroke(linewidth=2.2, foreground="black")]
_NAME_POINTS, _LETTER_POINTS = 9.0, 10.5
_NAME_LINE, _NAME_LETTER = 15.5, 8.2  # pixels that a name of that size needs
_SIDES: Mapping[str, Side] = {"sagittal": "left", "coronal": "right", "axial": "right"}


@dataclass(frozen=True, eq=False)
class LookFigure:
    """A drawn picture and what it says beside the planes.

    Attributes:
        figure: with an Agg canvas; the axes are the three planes in the order of ``PLANES``.
        notes: what is unusual about the file or the mask, as written in the picture.
        centre_mm: world mm (3,) of the point through which the planes go.
    """

    figure: Figure
    notes: tuple[str, ...]
    centre_mm: NDArray[np.float64]


def look_figure(
    scan: Preview,
    *,
    mask: NDArray[Any] | None = None,
    labels_alone: bool = False,
    title: str,
    at_mm: ArrayLike | None = None,
    level: str | None = None,
    window: tuple[float, float] | None = None,
    remarks: Sequence[str] = (),
    scheme: MaskScheme | None = None,
) -> LookFigure:
    """Draw a sagittal, a coronal and an axial slice with the mask over them.

    Args:
        scan: what to show.
        mask: label ids on the grid of the scan, or None.
        labels_alone: the scan is the mask itself: show labels on black.
        title: the heading.
        at_mm: world mm through which the planes go; else the named level; else the labels; else the middle.
        level: name of the vertebra to cut.
        window: the values shown black and white; else chosen by the values.
        remarks: more to write below the picture.
        scheme: what the ids of the mask mean; of a binary one no level is named.

    Raises:
        ConfigError: the window is no window.
        DataError: the point lies outside of the scan; the level is unknown or not in the mask.
        GeometryError: the mask does not have the shape of the scan.
    """
    geometry = scan.volume.geometry
    if mask is not None and mask.shape != geometry.shape:
        raise GeometryError(f"a mask of shape {mask.shape} does not lie on a grid of shape {geometry.shape}")
    places = () if mask is None else label_places(mask, geometry)
    binary = scheme is not None and scheme.is_binary
    if binary and level is not None:
        raise DataError(
            f"level {level} is not known: the mask is binary", hint="leave `level` out, or use `at`", option="level"
        )
    table = label_table(places, binary=binary)
    shown = None if labels_alone else choose_window(scan, window)
    centre = _centre(scan, places, at_mm, level)
    words = caption(scan, shown)
    notes = (*scan.notes, *mask_notes(mask, places, table, scheme), *remarks)
    unknown = [place for place in places if place.id not in VERSE_IDS]
    backs = [plane_slice(scan.volume.array, geometry, plane, centre) for plane in PLANES]
    below = unknown_lines(unknown)
    sheet = arrange([back.size_mm for back in backs], lambda width: lines(words, notes, width) + below)
    figure = Figure(figsize=(sheet.width / DPI, sheet.height / DPI), dpi=DPI, facecolor=_GROUND)
    FigureCanvasAgg(figure)
    for back, box in zip(backs, sheet.boxes, strict=True):
        axes = _panel(figure, sheet, back, box)
        if shown is not None:
            _draw_greys(axes, back, scan, shown)
        names: tuple[PlacedName, ...] = ()
        if mask is not None:
            cut = plane_slice(mask, geometry, back.plane, centre)
            _draw_labels(axes, cut, table, filled=labels_alone)
            names = _draw_names(axes, cut, table, sheet.scale)
        _draw_surroundings(axes, back, names, sheet)
        _draw_cuts(axes, back, geometry, centre, sheet.scale)
    write_around(figure, sheet, heading(title, places, table), words, notes)
    if unknown:
        draw_unknown(figure, sheet, unknown, table, above=lines(words, notes, sheet.width))
    return LookFigure(figure, notes, centre)


def _centre(
    scan: Preview, places: Sequence[LabelPlace], at_mm: ArrayLike | None, level: str | None
) -> NDArray[np.float64]:
    geometry = scan.volume.geometry
    if at_mm is not None:
        require_inside(at_mm, geometry)
        return np.asarray(at_mm, dtype=float)
    if level is not None:
        return cut_through([level_place(places, level)], geometry)
    in_bone = None if places or not has_hounsfield_units(scan) else cut_through_bone(scan)
    return cut_through(places, geometry) if in_bone is None else in_bone


def _panel(figure: Figure, sheet: Sheet, back: PlaneSlice, box: tuple[float, float, float, float]) -> Axes:
    left, top, width, height = box
    place = (
        left / sheet.width,
        1 - (top + height) / sheet.height,
        width / sheet.width,
        height / sheet.height,
    )
    axes = figure.add_axes(place, label=back.plane, facecolor="black")
    axes.set(xlim=(0, back.size_mm[1]), ylim=(back.size_mm[0], 0), xticks=[], yticks=[])
    for spine in axes.spines.values():
        spine.set(color="#404040", linewidth=0.8)
    return axes


def _draw_greys(axes: Axes, back: PlaneSlice, scan: Preview, window: Window) -> None:
    height, width = back.size_mm
    values = np.ma.masked_invalid(scan.values(back.pixels))
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
    colours = np.array([[*table[label].rgb, 255] if label else [0] * 4 for label in ids.tolist()]) / 255.0
    fill = colours * np.array([1, 1, 1, _FILL_ALPHA_ALONE if filled else _FILL_ALPHA])
    shown = fill[numbers.reshape(mask.pixels.shape)]
    axes.imshow(shown, extent=(0, width, height, 0), interpolation="nearest", aspect="auto")
    segments, owners = outline_segments(mask.pixels)
    in_mm = list(segments * np.array(mask.pixel_mm[::-1]))
    edges = colours[np.searchsorted(ids, owners)]
    axes.add_collection(LineCollection(in_mm, colors=edges, linewidths=1.0, capstyle="round"))


def _draw_names(axes: Axes, mask: PlaneSlice, table: Mapping[int, Label], scale: float) -> tuple[PlacedName, ...]:
    """The names of the labels beside them, with a line to those that stand away. ``scale`` in pixels per mm."""
    names = {label.id: label.name for label in table.values()}
    sizes: dict[str, float] = {"line_mm": _NAME_LINE / scale, "letter_mm": _NAME_LETTER / scale}
    placed = place_names(mask, names, side=_SIDES[mask.plane], margin_mm=BESIDE / scale, **sizes)
    for name in placed:
        colour = _light(table[name.id].rgb)
        start = (name.x_mm, name.y_mm)
        far = np.abs(np.subtract(start, name.bone_mm)) > np.array([2 * _NAME_LETTER, 0.6 * _NAME_LINE]) / scale
        if far.any():
            axes.plot(*zip(start, name.bone_mm, strict=True), color=colour, linewidth=0.7, clip_on=False)
        ha = "right" if name.side == "left" else "left"
        style: dict[str, Any] = {"color": colour, "fontsize": _NAME_POINTS, "gid": f"name {name.name}"}
        axes.text(*start, name.name, ha=ha, va="center_baseline", weight="bold", path_effects=_RIM, **style)
    return placed


def _leaves(name: PlacedName, back: PlaneSlice, scale: float) -> bool:
    """Whether a name reaches beyond the left or right edge of its slice."""
    length = len(name.name) * _NAME_LETTER / scale
    return name.x_mm < length if name.side == "left" else name.x_mm + length > back.size_mm[1]


def _light(rgb: tuple[int, int, int]) -> tuple[float, ...]:
    """The colour mixed with white, to be read on dark ground."""
    return tuple(0.55 * value / 255 + 0.45 for value in rgb)


def _draw_surroundings(axes: Axes, back: PlaneSlice, names: Sequence[PlacedName], sheet: Sheet) -> None:
    """What stands around the slice, so that it covers nothing: the plane's name, the directions, the scale bar."""
    height = back.size_mm[0] * sheet.scale
    outside = [name.y_mm * sheet.scale for name in names if _leaves(name, back, sheet.scale)]
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
    return float(free[np.argmin(np.abs(free - height / 2))]) if free.size else height / 2


def _draw_scale_bar(axes: Axes, back: PlaneSlice, sheet: Sheet) -> None:
    middle, below = back.size_mm[1] / 2, back.size_mm[0] + 34 / sheet.scale
    ends = [middle - sheet.bar_mm / 2, middle + sheet.bar_mm / 2], [below, below]
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
