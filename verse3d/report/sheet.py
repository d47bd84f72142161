"""The layout of a picture: planes side by side at one scale, with room around them for all that is written."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from verse3d.core.geometry import Geometry

OUTER, BESIDE, LINE = 20.0, 30.0, 19.0
"""Pixels: the rim of the sheet, the room for letters beside each plane, the height of a line below the planes."""
_WIDTH, _TALLEST, _LEAST_TALL, _NARROWEST, _LEAST_WIDTH = 1400.0, 1000.0, 400.0, 170.0, 1000.0
_TITLE, _ABOVE, _BELOW = 44.0, 52.0, 62.0
_BARS_MM, _BAR_SHARE = (200.0, 100.0, 50.0, 20.0, 10.0, 5.0, 2.0, 1.0, 0.5, 0.2, 0.1), 0.6


@dataclass(frozen=True)
class Sheet:
    """Where everything stands, in pixels from the upper left corner.

    Attributes:
        width: of the sheet.
        height: of the sheet.
        scale: pixels per mm, the same for all planes.
        bar_mm: length of the scale bars.
        boxes: left, top, width and height of each plane, row by row.
    """

    width: float
    height: float
    scale: float
    bar_mm: float
    boxes: tuple[tuple[float, float, float, float], ...]


def panel_sizes(geometry: Geometry) -> list[tuple[float, float]]:
    """Height and width in mm of the three planes of a grid, in the order of ``PLANES``."""
    grid = geometry.reoriented("RAS")
    x, y, z = (n * mm for n, mm in zip(grid.shape, grid.spacing_mm, strict=True))
    return [(z, y), (z, x), (y, x)]  # sagittal, coronal, axial


def arrange(sizes_mm: Sequence[tuple[float, float]], lines: Callable[[float], int], *, rows: int = 1) -> Sheet:
    """Planes as large as 1400 pixels of width, and 1000 of height for each of them (less in several rows), allow.

        title
        row 0:  sagittal  coronal  axial
        row 1:  ...                           the same planes with something else over them
        caption, notes

    Args:
        sizes_mm: height and width of each plane.
        lines: how many lines stand below the planes on a sheet of that width.
        rows: how often the planes are drawn.
    """
    tallest = max(_TALLEST / rows, _LEAST_TALL)
    heights, widths = np.array(sizes_mm).T
    room = _WIDTH - 2 * OUTER - 2 * len(widths) * BESIDE
    scale = float(min(room / widths.sum(), tallest / heights.max()))
    # A thin slab gets a cell in which its letters fit; the others share the rest of the width.
    thin = widths * scale < _NARROWEST
    if thin.any() and not thin.all():
        scale = float(min((room - thin.sum() * _NARROWEST) / widths[~thin].sum(), tallest / heights.max()))
    cells = np.maximum(widths * scale, _NARROWEST) + 2 * BESIDE
    width = float(np.ceil(max(_LEAST_WIDTH, cells.sum() + 2 * OUTER)))
    left = (width - cells.sum()) / 2 + np.concatenate([[0.0], np.cumsum(cells)[:-1]])
    each = _ABOVE + float(heights.max()) * scale + _BELOW
    boxes = tuple(
        (float(x + (cell - w * scale) / 2), _TITLE + _ABOVE + row * each, float(w * scale), float(h * scale))
        for row in range(rows)
        for x, cell, w, h in zip(left, cells, widths, heights, strict=True)
    )
    shortest = max(float(widths.min()) * scale, _NARROWEST) / scale
    bar_mm = next((mm for mm in _BARS_MM if mm <= _BAR_SHARE * shortest), _BARS_MM[-1])
    height = float(np.ceil(_TITLE + rows * each + LINE * lines(width) + OUTER / 2))
    return Sheet(width, height, scale, bar_mm, boxes)
