"""A case in one picture: the CT alone, and again under each mask, through the same three planes."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.preview import Preview
from verse3d.report.appearance import choose_window, label_table
from verse3d.report.captions import caption, lines, write_around
from verse3d.report.cuts import LabelPlace, cut_through, label_places, levels_text
from verse3d.report.panels import Layer, draw_row, empty_figure
from verse3d.report.sheet import arrange, panel_sizes


def overlay_figure(
    scan: Preview,
    masks: Mapping[str, NDArray[Any]],
    *,
    title: str,
    binary: bool,
    centre_mm: ArrayLike | None = None,
) -> Figure:
    """Draw the scan alone and once more under each mask, a row each.

        title
        CT           sagittal  coronal  axial
        truth        the same slices with the first mask
        prediction   ... and with the second one

    Args:
        scan: the CT, as stored.
        masks: label ids on its grid, uint8 or uint16, by the name that is written beside their row.
        title: the heading.
        binary: the masks tell vertebra from not vertebra: no level is named.
        centre_mm: world mm through which the planes go; else through the first mask (the truth, so that whatever a
            prediction invents elsewhere does not draw the planes off); if that is empty, through the middle.

    Returns:
        A figure with an Agg canvas, whose axes are the panels row by row.

    Raises:
        GeometryError: a mask does not have the shape of the scan.
    """
    geometry = scan.volume.geometry
    for name, mask in masks.items():
        if mask.shape != geometry.shape:
            raise GeometryError(f"the {name} of shape {mask.shape} does not lie on a grid of shape {geometry.shape}")
    places = {name: label_places(mask, geometry) for name, mask in masks.items()}
    centre = cut_through(next(iter(places.values()), ()), geometry) if centre_mm is None else centre_mm
    # One window for all rows, or the same slice would look different under each mask.
    window = choose_window(scan)
    layers = [Layer(None, {}, "CT")]
    layers += [Layer(mask, label_table(places[name], binary=binary), name) for name, mask in masks.items()]
    words = f"{_rows_text(places, binary)}\n{caption(scan, window)}"
    sheet = arrange(panel_sizes(geometry), lambda width: lines(words, scan.notes, width), rows=len(layers))
    figure = empty_figure(sheet)
    for row, layer in enumerate(layers):
        draw_row(figure, sheet, row, layer, scan, window=window, centre_mm=centre)
    write_around(figure, sheet, title, words, scan.notes)
    return figure


def _rows_text(places: Mapping[str, Sequence[LabelPlace]], binary: bool) -> str:
    """What the rows show, e.g. "Rows: the CT alone; truth (T12-L5); prediction (T12-L5).", as a legend."""
    texts = ["the CT alone"]
    for name, found in places.items():
        if not found:
            said = "empty"
        elif binary:
            said = "all vertebrae in one colour"
        else:
            said = levels_text(place.id for place in found) or "no vertebra"
        texts.append(f"{name} ({said})")
    return f"Rows: {'; '.join(texts)}."
