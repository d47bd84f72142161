"""How a measured quantity is spread over the cases of a data set."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from numpy.typing import NDArray

from verse3d.report.dataset_stats import NO_SPLIT, CaseStats, splits_of

COLOURS = {"train": "#3b78b5", "validation": "#f0932b", "test": "#4da167", NO_SPLIT: "#8d99a6"}
_MOST_DOTS = 15
"""Cases of which each is shown by itself: bars of so few say less."""
_MOST_BINS = 24
_STEPS = (1.0, 2.0, 5.0)


@dataclass(frozen=True)
class Quantity:
    """Something that is measured of a case: its name with unit, its value or None, and whether it is a count."""

    name: str
    value: Callable[[CaseStats], float | None]
    whole: bool = False


def draw_values(axes: Axes, cases: Sequence[CaseStats], quantity: Quantity) -> None:
    """The values of all cases in the colours of their splits: a dot each if they are few, else a histogram."""
    axes.set_xlabel(quantity.name)
    values = {}
    for split in splits_of(cases):
        found = [quantity.value(case) for case in cases if case.split == split]
        values[split] = [value for value in found if value is not None]
    everything = [value for group in values.values() for value in group]
    if not everything:
        say_nothing(axes)
        return
    (_dots if len(everything) <= _MOST_DOTS else _bars)(axes, values, whole=quantity.whole)
    # A median, because a few whole-body scans would pull a mean along.
    median = float(np.median(everything))
    axes.axvline(median, color="#222222", linewidth=1.2, linestyle="--")
    axes.set_title(f"dashed line: median {median:.3g}", fontsize=10, color="#222222")


def _bars(axes: Axes, values: Mapping[str, Sequence[float]], *, whole: bool) -> None:
    """A histogram, stacked by split."""
    everything = [value for group in values.values() for value in group]
    edges = nice_edges(everything, whole=whole)
    colours = [COLOURS[split] for split in values]
    axes.hist(list(values.values()), edges.tolist(), stacked=True, color=colours, edgecolor="white", linewidth=0.6)
    if len(edges) == 2:  # a single bar is to look like one
        axes.set_xlim(edges[0] - 4 * np.ptp(edges), edges[1] + 4 * np.ptp(edges))


def _dots(axes: Axes, values: Mapping[str, Sequence[float]], *, whole: bool) -> None:
    """A dot per case; dots that would lie upon each other are stacked, so that the height counts cases.

          o
    o     o o        o      where a histogram of four cases would show four bars of height 1
    """
    edges = nice_edges([value for group in values.values() for value in group], whole=whole)
    places = (edges[:-1] + edges[1:]) / 2
    heights = np.zeros(len(places))
    for split, group in values.items():
        for value in sorted(group):
            # The last edge belongs to the last column.
            column = min(int(np.searchsorted(edges, value, side="right")) - 1, len(places) - 1)
            axes.plot(value, heights[column] + 0.5, "o", color=COLOURS[split], markersize=9, markeredgecolor="white")
            heights[column] += 1
    axes.set_ylim(0, max(4.0, heights.max() + 1))


def nice_edges(values: Sequence[float], *, whole: bool = False) -> NDArray[np.float64]:
    """Edges of at most 24 bins whose width is 1, 2 or 5 times a power of ten; equal values lie in the middle of one.

    Args:
        values: at least one.
        whole: the values are counts, so that a bin is not narrower than 1.
    """
    low, high = min(values), max(values)
    # All values alike: a bin as wide as a twentieth of them; all 0: one of width 1.
    least = (high - low) / _MOST_BINS or abs(high) / 20 or 1.0
    power = 10.0 ** np.floor(np.log10(least))
    # 1 - 1e-9: a width that is just right must not fall to the next larger one by rounding.
    step = next(factor * power for factor in (*_STEPS, 10.0) if factor * power >= least * (1 - 1e-9))
    step = max(step, 1.0) if whole else step
    first = np.floor(low / step) * step if high > low else low - step / 2
    bins = int(np.floor((high - first) / step + 1e-9)) + 1
    return np.asarray(first + step * np.arange(bins + 1))


def say_nothing(axes: Axes) -> None:
    """Say in an empty panel why it is empty."""
    axes.set(xticks=[], yticks=[])
    axes.text(0.5, 0.5, "nothing was measured", ha="center", va="center", transform=axes.transAxes, color="#777777")
