"""A picture of a scan or a mask as a viewer would show it: three planes at one scale, names, letters, scale bar."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.labels import VERSE_IDS
from verse3d.core.preview import Preview
from verse3d.data.schemes import MaskScheme
from verse3d.report.appearance import choose_window, has_hounsfield_units, label_table
from verse3d.report.captions import caption, draw_unknown, heading, lines, mask_notes, unknown_lines, write_around
from verse3d.report.cuts import (
    LabelPlace,
    cut_through,
    cut_through_bone,
    label_places,
    level_place,
    require_inside,
)
from verse3d.report.panels import DPI, Layer, draw_row, empty_figure
from verse3d.report.sheet import arrange, panel_sizes

__all__ = ["DPI", "LookFigure", "look_figure"]


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
    marks: Mapping[int, str] | None = None,
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
        marks: id -> what follows its name, e.g. "?".
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
    # Room for the legend is part of the layout, so nothing is drawn over the planes.
    below = unknown_lines(unknown)
    sheet = arrange(panel_sizes(geometry), lambda width: lines(words, notes, width) + below)
    figure = empty_figure(sheet)
    draw_row(
        figure,
        sheet,
        0,
        Layer(mask, table, filled=labels_alone, marks=marks or {}),
        scan,
        window=shown,
        centre_mm=centre,
    )
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
    # Without a mask, and with HU, bone shows where the spine is; else the middle has to do.
    in_bone = None if places or not has_hounsfield_units(scan) else cut_through_bone(scan)
    return cut_through(places, geometry) if in_bone is None else in_bone
