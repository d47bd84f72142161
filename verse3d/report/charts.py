"""Figures about a data set: how scans are sampled and turned, what they show, who is in which split."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from verse3d.core.labels import VERTEBRAE
from verse3d.core.wording import how_many
from verse3d.report.dataset_stats import WORLD_AXES, CaseStats, bin_edges_hu, splits_of, summarise
from verse3d.report.histograms import COLOURS, Quantity, draw_values, say_nothing

_INSIDE, _OUTSIDE = "#c0392b", "#5d6d7e"


def draw_charts(cases: Sequence[CaseStats]) -> Mapping[str, Figure]:
    """All figures by the name of their file (without ".png"). Cases of which nothing is known are left out of each."""
    voxels = [
        Quantity(f"voxels along {name}", _pick("world_voxels", axis), whole=True)
        for axis, name in enumerate(WORLD_AXES)
    ]
    names = ("width R-L", "depth A-P", "height S-I")
    extents = [Quantity(f"{name} (mm)", _pick("extent_mm", axis)) for axis, name in enumerate(names)]
    return {
        "spacing": _spacing(cases),
        "size": _histograms(cases, "Size in voxels", voxels),
        "orientation": _orientation(cases),
        "field_of_view": _histograms(cases, "Field of view", extents),
        "levels": _levels(cases),
        "hu": _grey_values(cases),
        "splits": _splits(cases),
    }


def _spacing(cases: Sequence[CaseStats]) -> Figure:
    return _histograms(
        cases,
        "Voxel spacing",
        [
            Quantity("in-plane spacing (mm)", lambda case: (case.plane_spacing_mm or (None, None))[0]),
            Quantity(
                "through-plane spacing: distance of slices (mm)", lambda case: (case.plane_spacing_mm or (None,) * 2)[1]
            ),
        ],
    )


def _pick(name: str, axis: int) -> Callable[[CaseStats], float | None]:
    """The value along an axis of a property of the case or of its survey."""

    def value(case: CaseStats) -> float | None:
        found = getattr(case, name) if hasattr(case, name) else getattr(case.survey, name)
        return None if found is None else float(found[axis])

    return value


def _histograms(cases: Sequence[CaseStats], title: str, quantities: Sequence[Quantity]) -> Figure:
    """A histogram per quantity, or of few cases a dot for each."""
    known = [case for case in cases if case.survey.shape is not None]
    figure, panels = _panels(title, _cases(len(known)), len(quantities))
    for axes, quantity in zip(panels, quantities, strict=True):
        draw_values(axes, known, quantity)
    _finish(figure, panels, known)
    return figure


def _orientation(cases: Sequence[CaseStats]) -> Figure:
    known = [case for case in cases if case.survey.shape is not None]
    figure, (left, right) = _panels("Orientation", _cases(len(known)), 2)
    # Reversed: horizontal bars are drawn from the bottom, and the most common one belongs at the top.
    order = [code for code, _ in Counter(case.survey.axis_codes for case in known).most_common()][::-1]
    _stacked_bars(left, known, order, lambda case: [case.survey.axis_codes], horizontal=True)
    left.set(xlabel="cases", ylabel="axes i, j, k grow towards")
    left.xaxis.set_major_locator(MaxNLocator(integer=True))
    draw_values(
        right,
        known,
        Quantity("largest tilt of an axis against the world (degrees)", lambda case: case.survey.oblique_degrees),
    )
    _finish(figure, [right], known)
    return figure


def _levels(cases: Sequence[CaseStats]) -> Figure:
    masked = [case for case in cases if case.survey.has_mask]
    vertebrae = sum(len(case.survey.label_voxels) for case in masked)
    figure, [axes] = _panels(
        "Labelled vertebrae",
        f"n = {how_many(vertebrae, 'vertebra', 'vertebrae')} in {how_many(len(masked), 'mask')}",
        1,
        height=4.6,
    )
    _stacked_bars(axes, masked, [label.name for label in VERTEBRAE], lambda case: case.survey.levels)
    axes.set(xlabel="level, cranial → caudal", ylabel="vertebrae")
    _finish(figure, [axes], masked, ylabel="vertebrae")
    return figure


def _stacked_bars(
    axes: Axes,
    cases: Sequence[CaseStats],
    order: Sequence[str],
    names: Callable[[CaseStats], Sequence[str]],
    *,
    horizontal: bool = False,
) -> None:
    """Bars with the count of each name, stacked by split, the total at their ends."""
    if not order:
        say_nothing(axes)
        return
    # Each split stands on the ones before it: ``base`` is where the next one begins.
    places, base = np.arange(len(order)), np.zeros(len(order), dtype=int)
    for split in splits_of(cases):
        counts = Counter(name for case in cases if case.split == split for name in names(case))
        heights = np.array([counts[name] for name in order])
        style: dict[str, Any] = {"color": COLOURS[split], "edgecolor": "white", "linewidth": 0.6}
        if horizontal:
            axes.barh(places, heights, left=base, **style)
        else:
            axes.bar(places, heights, bottom=base, **style)
        base = base + heights
    (axes.set_yticks if horizontal else axes.set_xticks)(places, order)
    for place, total in zip(places.tolist(), base.tolist(), strict=True):
        if total:
            at = (total, place) if horizontal else (place, total)
            offset, align = ((3, 0), ("left", "center")) if horizontal else ((0, 2), ("center", "bottom"))
            axes.annotate(str(total), at, offset, textcoords="offset points", ha=align[0], va=align[1], fontsize=9)
    axes.margins(*((0.1, 0.05) if horizontal else (0.02, 0.1)))


def _grey_values(cases: Sequence[CaseStats]) -> Figure:
    masked = [case for case in cases if case.masked]
    figure, (left, right) = _panels("Grey values inside and outside of the masks", _cases(len(masked)), 2)
    centres = (bin_edges_hu()[:-1] + bin_edges_hu()[1:]) / 2
    parts = (("inside of the masks", _INSIDE, "hu_inside"), ("outside", _OUTSIDE, "hu_outside"))
    for name, colour, field in parts if masked else ():
        # (cases, 64): every case counts alike, however many voxels it has
        counts = np.array([getattr(case.survey, field) for case in masked], dtype=float)
        shares = 100 * counts / np.maximum(counts.sum(axis=1, keepdims=True), 1.0)
        left.fill_between(centres, *np.percentile(shares, [10, 90], axis=0), color=colour, alpha=0.2, linewidth=0)
        left.plot(centres, shares.mean(axis=0), color=colour, linewidth=1.8, label=name)
    left.set(
        xlabel="HU (bins of 50, the first and the last are open)", ylabel="share of the voxels (%)", xlim=(-1200, 2000)
    )
    left.set_title("line: mean of the cases, band: 80 % of them" if masked else "", fontsize=10)
    if masked:
        # Most voxels are air and few are bone: linear below 1 %, logarithmic above.
        left.set_yscale("symlog", linthresh=1, linscale=0.6)
        left.set_yticks([0, 0.5, 1, 2, 5, 10, 20, 50, 100], ["0", "0.5", "1", "2", "5", "10", "20", "50", "100"])
        left.set_ylim(0, 100)
        left.grid(alpha=0.25)
        left.legend(frameon=False)
    else:
        say_nothing(left)
    median = Quantity(
        "median HU inside of the mask", lambda case: None if case.inside is None else case.inside.percentiles_hu[1]
    )
    draw_values(right, masked, median)
    _finish(figure, [right], masked)
    return figure


def _splits(cases: Sequence[CaseStats]) -> Figure:
    splits = splits_of(cases)
    summaries = [summary for summary in summarise(cases) if summary.split in splits]
    folds = Counter(case.case.fold for case in cases if case.case.fold is not None)
    subjects = len({case.case.subject for case in cases})
    subtitle = f"n = {how_many(len(cases), 'case')} of {how_many(subjects, 'subject')}"
    figure, panels = _panels("Splits", subtitle, 4 if folds else 3)
    for axes, name in zip(panels, ("scans", "subjects", "vertebrae"), strict=False):
        heights = [getattr(summary, name) for summary in summaries]
        _plain_bars(axes, splits, heights, [COLOURS[split] for split in splits])
        axes.set(ylabel=name)
    if folds:
        _plain_bars(
            panels[3], [str(fold) for fold in sorted(folds)], [folds[fold] for fold in sorted(folds)], "#7f6aa8"
        )
        panels[3].set(xlabel="cross-validation fold", ylabel="cases")
    return figure


def _plain_bars(axes: Axes, names: Sequence[str], heights: Sequence[int], colours: Sequence[str] | str) -> None:
    if not names:
        say_nothing(axes)
        return
    bars = axes.bar(np.arange(len(names)), heights, color=colours, width=0.7)
    axes.bar_label(bars, padding=2)
    axes.set_xticks(np.arange(len(names)), names)
    # As wide as two at least, or a single bar would fill the panel.
    axes.set_xlim(-0.8, max(len(names), 2) - 0.2)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylim(0, 1.12 * max(1, *heights))


def _panels(title: str, subtitle: str, columns: int, height: float = 4.0) -> tuple[Figure, list[Axes]]:
    figure = Figure(figsize=(11.6, height), layout="constrained", dpi=120)
    FigureCanvasAgg(figure)
    figure.suptitle(f"{title}  ({subtitle})", fontsize=13)
    panels = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in panels:
        axes.spines[["top", "right"]].set_visible(False)
    return figure, panels


def _finish(figure: Figure, panels: Sequence[Axes], cases: Sequence[CaseStats], ylabel: str = "cases") -> None:
    """Whole numbers on the counting axes, and a legend of the splits if there are several."""
    for axes in panels:
        axes.yaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        axes.set_ylim(bottom=0)
    panels[0].set_ylabel(ylabel)
    splits = splits_of(cases)
    if len(splits) > 1:
        counts = Counter(case.split for case in cases)
        handles = [Patch(color=COLOURS[split], label=f"{split} ({counts[split]})") for split in splits]
        figure.legend(handles=handles, loc="outside lower center", ncols=len(splits), frameon=False)


def _cases(count: int) -> str:
    return f"n = {how_many(count, 'case')}"
