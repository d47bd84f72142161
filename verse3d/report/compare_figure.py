"""A comparison as a picture: one dot per case and contestant, the dots of a case joined."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from verse3d.core.escapes import figure_text
from verse3d.evaluation.case_values import METRICS
from verse3d.evaluation.comparison import Comparison

_SHOWN = {"dice": 0.1, "hd95_mm": 2.0, "consistency": 0.1}
"""What is drawn, and the least that its axis spans, so that small differences look small."""
_NAMED_CASES = 8
"""So many cases get a colour and a name each; more become grey lines."""
_MEAN = "black"


def compare_figure(comparison: Comparison) -> Figure:
    """Paired dots of volume Dice, HD95 and through-plane consistency (beside the truth's own), and their means.

    A case that is undefined for one contestant has no dot there. Legible for 1 to 100 cases.
    """
    names = [standing.contestant.name for standing in comparison.standings]
    width = max(2.4, 0.8 * (len(names) + 1))
    named = len(comparison.cases) <= _NAMED_CASES
    figure = Figure(figsize=(3 * width + (2.2 if named else 0.3), 3.6), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, metric in zip(figure.subplots(1, len(_SHOWN)), _SHOWN, strict=True):
        columns = [standing.column(metric) for standing in comparison.standings]
        if metric == "consistency":
            # As a column of its own: consistency is best where it is like the truth's, not where it is highest.
            columns.append(comparison.standings[0].column("consistency_of_truth"))
        _draw(axes, np.array(columns), named)
        # Tiny differences must look tiny: an axis never shows less than a range that matters.
        low, high = axes.get_ylim()
        if high - low < _SHOWN[metric]:
            axes.set_ylim((low + high - _SHOWN[metric]) / 2, (low + high + _SHOWN[metric]) / 2)
        better = {"higher": "(higher is better)", "lower": "(lower is better)", "": "(best: like the truth)"}
        axes.set_title(f"{METRICS[metric].title}\n{better[METRICS[metric].better]}", fontsize=9)
        axes.set_xticks(range(len(columns)), [*map(figure_text, names), "truth"][: len(columns)], fontsize=8)
    if named:
        lines = figure.axes[0].lines[: len(comparison.cases)]
        figure.legend(
            lines,
            [figure_text(case) for case in comparison.cases],
            loc="outside right upper",
            fontsize=7,
            frameon=False,
        )
    count = len(comparison.cases)
    figure.supxlabel(f"n = {count} cases, joined by lines; black: mean" if count > 1 else "n = 1 case", fontsize=7)
    return figure


def _draw(axes: Axes, columns: NDArray[np.float64], named: bool) -> None:
    """One line per case over the columns (contestants, cases), and a black bar at each column's mean."""
    places, cases = np.arange(len(columns)), columns.shape[1]
    # Many lines lie on one another, so each is fainter.
    alpha = 0.9 if named else float(np.clip(12 / cases, 0.25, 0.8))
    for number in range(cases):
        colour = f"C{number}" if named else "tab:blue"
        axes.plot(places, columns[:, number], color=colour, alpha=alpha, marker="o", markersize=4, linewidth=0.9)
    for place, column in zip(places, columns, strict=True):
        if cases > 1 and np.isfinite(column).any():
            axes.hlines(np.nanmean(column), place - 0.22, place + 0.22, color=_MEAN, linewidth=2.2, zorder=5)
    axes.set_xlim(-0.5, len(columns) - 0.5)
    axes.margins(y=0.12)
    axes.tick_params(axis="y", labelsize=7)
    axes.grid(axis="y", alpha=0.3)
    if not np.isfinite(columns).any():
        axes.text(0.5, 0.5, "undefined", transform=axes.transAxes, ha="center", fontsize=8)
        axes.set_yticks([])
