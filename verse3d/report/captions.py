"""What is written above and below the planes of a picture: title, grid, convention, window, warnings, unknown ids."""

from collections.abc import Mapping, Sequence
from textwrap import wrap
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from nibabel.affines import obliquity
from numpy.typing import NDArray

from verse3d.core.escapes import figure_text
from verse3d.core.labels import VERSE_IDS, Label
from verse3d.core.preview import Preview
from verse3d.core.wording import how_many
from verse3d.data.schemes import MaskScheme
from verse3d.report.appearance import Window
from verse3d.report.cuts import LabelPlace, levels_text
from verse3d.report.sheet import LINE, OUTER, Sheet

_CONVENTION = (
    "Sagittal: anterior on the left. Coronal and axial: radiological convention, the patient's right is on the left"
)
_FAINT, _ALERT, _POINTS = "#aeaeae", "#ffb347", 9.0
_MOST_UNKNOWN, _UNKNOWN_COLUMNS = 18, 6
_TILT_DEGREES = 0.5


def caption(scan: Preview, window: Window | None) -> str:
    """Three lines: the grid, the convention, and how the values are shown (``window`` None: as labels)."""
    geometry = scan.volume.geometry
    size, spacing = (" x ".join(f"{value:.4g}" for value in part) for part in (geometry.shape, geometry.spacing_mm))
    reach = " x ".join(f"{n * mm:.0f}" for n, mm in zip(geometry.shape, geometry.spacing_mm, strict=True))
    stored = scan.volume.header.get_data_dtype().name
    facts = f"{size} voxels of {spacing} mm ({reach} mm), axes {'-'.join(geometry.axis_codes)}, {stored}"
    tilt = float(np.degrees(obliquity(geometry.affine)).max())
    oblique = f", tilted by {tilt:.0f}° against the world" if tilt > _TILT_DEGREES else ""
    shown = "labels on black" if window is None else window.text
    return f"{facts}\n{_CONVENTION}.\nSlices along the scan's own axes{oblique}, true proportions; {shown}."


def mask_notes(
    mask: NDArray[Any] | None,
    places: Sequence[LabelPlace],
    table: Mapping[int, Label],
    scheme: MaskScheme | None = None,
) -> tuple[str, ...]:
    """What is unusual about a mask."""
    if mask is not None and not places:
        return ("the mask is empty: no voxel is labelled",)
    if scheme and scheme.is_binary:
        return (f"a binary mask ({scheme.reason}): its label 1 is any vertebra, not C1",)
    if [label.name for label in table.values()] == ["vertebrae"]:
        return ("the only label, 1, is too tall for a C1: shown as “vertebrae”",)
    return (scheme.doubt,) if scheme and scheme.doubt else ()


def heading(title: str, places: Sequence[LabelPlace], table: Mapping[int, Label]) -> str:
    """The title with the levels of the mask."""
    names = {label.name for label in table.values()}
    # In a mask of vertebrae without names there are no levels to tell.
    levels = [place for place in places if place.id in VERSE_IDS and "vertebrae" not in names]
    if not levels:
        return title
    found = how_many(len(levels), "vertebra", "vertebrae")
    return f"{title}  ·  {levels_text(place.id for place in levels)} ({found})"


def _wrapped(text: str, width: float) -> list[str]:
    """Lines that fit into so many pixels."""
    return [line for part in text.splitlines() for line in wrap(part, max(40, int((width - 2 * OUTER) / 7.2)))]


def lines(words: str, notes: Sequence[str], width: float) -> int:
    """How many lines caption and notes take on a sheet so many pixels wide."""
    return len(_wrapped(words, width)) + sum(len(_wrapped(note, width)) for note in notes)


def write_around(figure: Figure, sheet: Sheet, title: str, words: str, notes: Sequence[str]) -> None:
    """The title at the top of a sheet, the caption and the notes at its bottom."""
    title = figure_text(title)
    left = OUTER / sheet.width
    # 14 points, or as many as let the title fit into the sheet: a letter of 14 points is about 13.8 pixels wide.
    points = min(14.0, 14.0 * (sheet.width - 2 * OUTER) / (13.8 * max(1, len(title))))
    style: dict[str, Any] = {"color": "white", "fontsize": points, "weight": "bold", "va": "center", "gid": "title"}
    figure.text(left, 1 - 26 / sheet.height, title, **style)
    lines = [(line, _FAINT) for line in _wrapped(figure_text(words), sheet.width)]
    warnings = [figure_text(f"! {note[:1].upper()}{note[1:]}.") for note in notes]
    lines += [(line, _ALERT) for warning in warnings for line in _wrapped(warning, sheet.width)]
    # From the bottom up, because the bottom is what is fixed.
    for number, (line, colour) in enumerate(reversed(lines)):
        y = (OUTER * 0.7 + number * LINE) / sheet.height
        figure.text(left, y, line, color=colour, fontsize=_POINTS, va="bottom", gid="caption")


def unknown_lines(unknown: Sequence[LabelPlace]) -> int:
    """How many lines the legend of unknown ids takes."""
    return 1 + -(-min(len(unknown), _MOST_UNKNOWN) // _UNKNOWN_COLUMNS) if unknown else 0


def draw_unknown(
    figure: Figure, sheet: Sheet, unknown: Sequence[LabelPlace], table: Mapping[int, Label], *, above: int
) -> None:
    """A legend of the ids that are no vertebra of VerSe."""
    patches = [
        Patch(color=np.array(table[place.id].rgb) / 255, label=f"{place.id} ({how_many(place.voxels, 'voxel')})")
        for place in unknown[:_MOST_UNKNOWN]
    ]
    more = f" (the first {_MOST_UNKNOWN} of {len(unknown)})" if len(unknown) > _MOST_UNKNOWN else ""
    legend = figure.legend(
        handles=patches,
        ncols=_UNKNOWN_COLUMNS,
        loc="lower left",
        bbox_to_anchor=(OUTER / sheet.width, (OUTER * 0.7 + above * LINE) / sheet.height),
        borderaxespad=0.0,
        borderpad=0.2,
        frameon=False,
        fontsize=_POINTS,
        labelcolor=_ALERT,
        handlelength=1.0,
        handleheight=1.0,
        title=f"! Ids that are no vertebra of VerSe{more}:",
        title_fontproperties={"size": _POINTS},
        alignment="left",
    )
    legend.get_title().set_color(_ALERT)
