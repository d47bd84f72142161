"""Which level was taken for which, as a picture: rows are what is true, columns what was said."""

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from verse3d.core.labels import VERTEBRAE
from verse3d.core.wording import how_many

_NAMES = ("none", *(label.name for label in VERTEBRAE))
_SQUARE_INCH = 0.27
"""Room for a level; a number of three digits still fits."""


def confusion_figure(counts: NDArray[np.integer]) -> Figure:
    """A square per pair of levels, dark where it holds most of its row, with the number of vertebrae in it.

    Right names lie on the diagonal; a spine that is shifted by one fills the line beside it::

              T11 T12  L1
        T11    5   .   .       T12 was called L1 once
        T12    .   4   1
        L1     .   .   5

    Args:
        counts: (27, 27) vertebrae by true and by predicted level, from head to feet after the first, which is none.
            Levels that neither occur nor were said are left out.
    """
    shown = np.flatnonzero(counts.sum(axis=0) + counts.sum(axis=1))
    part = counts[np.ix_(shown, shown)]
    names = [_NAMES[number] for number in shown]
    side = 1.2 + _SQUARE_INCH * max(4, len(names))
    figure = Figure(figsize=(side, side), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    vertebrae = how_many(int(part[np.array(shown) > 0].sum()), "vertebra", "vertebrae")
    axes.set_title(f"{np.trace(part)} of {vertebrae} by their name", fontsize=8)
    axes.set_xlabel("predicted", fontsize=8)
    axes.set_ylabel("true", fontsize=8)
    axes.set_xticks(range(len(names)), names, fontsize=6, rotation=90)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    if not names:
        return figure
    share = part / np.maximum(part.sum(axis=1, keepdims=True), 1)
    axes.imshow(share, cmap="Blues", vmin=0.0, vmax=1.0)
    for row, column in zip(*np.nonzero(part), strict=True):
        colour = "white" if share[row, column] > 0.5 else "black"
        axes.text(column, row, str(part[row, column]), ha="center", va="center", fontsize=6, color=colour)
    return figure
