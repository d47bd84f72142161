"""What a data set is made of: a row of numbers per case, and a summary per split."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.escapes import csv_table
from verse3d.core.files import write_text
from verse3d.core.labels import VERTEBRAE
from verse3d.data.cases import SPLITS, Case
from verse3d.data.quality.mask import ONLY_C1
from verse3d.data.quality.survey import HU_BIN_WIDTH, HU_BINS, HU_LOWEST, CaseSurvey
from verse3d.data.schemes import TAKEN_FOR_C1
from verse3d.report.cuts import levels_text

NO_SPLIT = "no split"
WORLD_AXES = ("R-L", "A-P", "S-I")
_UNUSABLE = ("scan-unreadable", "scan-affine", "mask-unreadable", "mask-affine", "mask-shape", "case-failed")
_PERCENTS = (5, 50, 95)
_WORLD_AXIS = {"R": 0, "L": 0, "A": 1, "P": 1, "S": 2, "I": 2}


@dataclass(frozen=True)
class GreyValues:
    """Grey values summed up from a histogram with bins of 50 HU: a mean and percentiles are good to about 25 HU.

    Values below -1200 count as -1175 HU and values above 2000 as 1975 HU.
    """

    voxels: int
    mean_hu: float
    percentiles_hu: tuple[float, ...]


@dataclass(frozen=True)
class CaseStats:
    """A case and what was measured of it."""

    case: Case
    survey: CaseSurvey

    @property
    def split(self) -> str:
        """The split, or "no split"."""
        return self.case.split or NO_SPLIT

    @property
    def problem(self) -> str:
        """Why the case or its mask cannot be used, "" if it can."""
        found = [each for each in self.survey.findings if each.severity == "error" and each.code.startswith(_UNUSABLE)]
        return "; ".join(each.message for each in found)

    @property
    def doubt(self) -> str:
        """What must be said beside the levels of its mask, "" if nothing must."""
        return TAKEN_FOR_C1 if any(each.code == ONLY_C1 for each in self.survey.findings) else ""

    @property
    def world_voxels(self) -> tuple[int, int, int] | None:
        """Voxels along R-L, A-P and S-I."""
        shape = self.survey.shape
        if shape is None:
            return None
        along = {}
        for code, size in zip(self.survey.axis_codes, shape, strict=True):
            along[_WORLD_AXIS[code]] = size
        return along[0], along[1], along[2]

    @property
    def plane_spacing_mm(self) -> tuple[float, float] | None:
        """Spacing (in plane, through plane): the odd one of the three is taken for the distance of the slices."""
        if self.survey.spacing_mm is None:
            return None
        low, middle, high = sorted(self.survey.spacing_mm)
        # 0.4 0.4 1.0: thick slices, 1.0 through the plane;   0.4 0.9 0.9: thin ones, 0.4
        if high - middle >= middle - low:
            return (low + middle) / 2, high
        return (middle + high) / 2, low

    @property
    def masked(self) -> bool:
        """Whether scan and mask share a grid, so that the grey values inside and outside are known."""
        return sum(self.survey.hu_inside) > 0

    @property
    def inside(self) -> GreyValues | None:
        """Grey values inside of the labels."""
        return summed_up(self.survey.hu_inside) if self.masked else None

    @property
    def outside(self) -> GreyValues | None:
        """Grey values of all other voxels, where a mask says which these are."""
        return summed_up(self.survey.hu_outside) if self.masked else None


@dataclass(frozen=True)
class SplitSummary:
    """A row of the summary table; medians are NaN where nothing was measured.

    Attributes:
        split: its name, "no split" or "all".
        scans: cases with a scan in the index.
        subjects: whom they belong to.
        masks: masks that could be read.
        vertebrae: labelled ones, all masks together.
        levels: which levels occur.
        in_plane_mm: median spacing in the plane of the slices.
        through_plane_mm: median distance of the slices.
        height_mm: median field of view along S-I.
        inside_hu: median of the cases' median grey values inside of their masks.
    """

    split: str
    scans: int
    subjects: int
    masks: int
    vertebrae: int
    levels: str
    in_plane_mm: float
    through_plane_mm: float
    height_mm: float
    inside_hu: float


def summed_up(counts: Sequence[int]) -> GreyValues | None:
    """Mean and percentiles 5, 50 and 95 of a histogram of the survey; None if it is empty."""
    weights = np.asarray(counts, dtype=float)
    total = weights.sum()
    if not total:
        return None
    edges = bin_edges_hu()
    mean = float(np.average((edges[:-1] + edges[1:]) / 2, weights=weights))
    return GreyValues(int(total), mean, tuple(_percentile(weights, percent) for percent in _PERCENTS))


def _percentile(weights: NDArray[np.float64], percent: float) -> float:
    """The value below which so many percent of a histogram lie, voxels spread evenly within their bin."""
    # below: 0 | voxels up to the first edge | up to the second ...; the target lies in one bin, part of the way
    below = np.concatenate([[0.0], np.cumsum(weights)])
    target = percent / 100 * below[-1]
    position = int(np.searchsorted(below[1:], target))
    into_bin = HU_BIN_WIDTH * (target - below[position]) / weights[position]
    return float(bin_edges_hu()[position] + into_bin)


def bin_edges_hu() -> NDArray[np.float64]:
    """The edges (65,) of the survey's bins."""
    return HU_LOWEST + HU_BIN_WIDTH * np.arange(HU_BINS + 1, dtype=float)


def splits_of(cases: Iterable[CaseStats]) -> list[str]:
    """The splits that occur, in their usual order."""
    present = {case.split for case in cases}
    return [split for split in (*SPLITS, NO_SPLIT) if split in present]


def summarise(cases: Sequence[CaseStats]) -> list[SplitSummary]:
    """A summary per split, and one of all cases if there are several splits."""
    splits = splits_of(cases)
    found = []
    for split in splits:
        own = [case for case in cases if case.split == split]
        found.append(_summary(split, own))
    if len(splits) != 1:  # of a single split a summary of all would only repeat that
        found.append(_summary("all", cases))
    return found


def _summary(name: str, cases: Sequence[CaseStats]) -> SplitSummary:
    surveys = [case.survey for case in cases]
    spacings = [case.plane_spacing_mm for case in cases if case.plane_spacing_mm is not None]
    # (cases, 2) -> the two columns; reshaped first, because of no cases there would be no columns either
    in_plane_mm, through_plane_mm = np.reshape(spacings, (-1, 2)).T
    return SplitSummary(
        split=name,
        scans=sum(case.case.image is not None for case in cases),
        subjects=len({case.case.subject for case in cases}),
        masks=sum(survey.has_mask for survey in surveys),
        vertebrae=sum(len(survey.label_voxels) for survey in surveys),
        levels=levels_text(set().union(*(survey.label_voxels for survey in surveys))),
        in_plane_mm=_median(in_plane_mm),
        through_plane_mm=_median(through_plane_mm),
        height_mm=_median(survey.extent_mm[2] for survey in surveys if survey.extent_mm is not None),
        inside_hu=_median(case.inside.percentiles_hu[1] for case in cases if case.inside is not None),
    )


def _median(values: Iterable[float]) -> float:
    listed = list(values)
    return float(np.median(listed)) if listed else float("nan")


def write_table(path: Path, cases: Sequence[CaseStats]) -> None:
    """Write a CSV with a header and a row per case; what is not known is empty.

    Raises:
        OutputError: it cannot be written.
    """
    # The header comes from a case of which nothing is known, so it is there without any case.
    rows = [_row(case) for case in cases]
    write_text(path, csv_table([list(_row(_EMPTY)), *(list(row.values()) for row in rows)]))


def _row(stats: CaseStats) -> dict[str, Any]:
    case, survey = stats.case, stats.survey
    stored = survey.stored or ("", "", "")
    in_plane, through_plane = stats.plane_spacing_mm or (None, None)
    low, high = survey.hu_range or (None, None)
    return {
        "case": case.case,
        "split": case.split,
        "fold": case.fold,
        "part": case.part,
        "subject": case.subject,
        "series": case.series,
        **_per_axis("voxels_{}", "ijk", survey.shape),
        **_per_axis("spacing_{}_mm", "ijk", survey.spacing_mm),
        "in_plane_mm": _rounded(in_plane, 4),
        "through_plane_mm": _rounded(through_plane, 4),
        "axes": survey.axis_codes,
        "oblique_degrees": survey.oblique_degrees if survey.shape else None,
        "dtype": stored[0],
        "sform_code": stored[1],
        "qform_code": stored[2],
        **_per_axis("field_of_view_{}_mm", ("rl", "ap", "si"), survey.extent_mm),
        "has_mask": int(survey.has_mask),
        "levels": levels_text(survey.label_voxels),
        "scheme": ("binary" if survey.is_binary else "vertebrae") if survey.has_mask else None,
        "vertebrae": len(survey.label_voxels) if survey.has_mask and not survey.is_binary else None,
        "labelled_voxels": survey.binary_voxels + sum(survey.label_voxels.values()) if survey.has_mask else None,
        "labelled_ml": _rounded(survey.binary_ml + sum(survey.label_ml.values()), 3) if survey.has_mask else None,
        **{f"{label.name}_ml": survey.label_ml.get(label.id) for label in VERTEBRAE},
        "hu_lowest": low,
        "hu_highest": high,
        **_greys("hu_inside", stats.inside),
        **_greys("hu_outside", stats.outside),
        "problem": stats.problem,
        "note": stats.doubt,
    }


def _per_axis(name: str, axes: Sequence[str], values: Sequence[float] | None) -> dict[str, float | None]:
    found = values or (None,) * 3
    return {name.format(axis): _rounded(value, 4) for axis, value in zip(axes, found, strict=True)}


def _greys(name: str, values: GreyValues | None) -> dict[str, float | None]:
    numbers = (None,) * 4 if values is None else (values.mean_hu, *values.percentiles_hu)
    columns = ("mean", *(f"p{percent}" for percent in _PERCENTS))
    return {f"{name}_{column}": _rounded(value, 1) for column, value in zip(columns, numbers, strict=True)}


def _rounded(value: float | None, digits: int) -> float | None:
    return value if value is None or isinstance(value, int) else round(value, digits)


_EMPTY = CaseStats(Case("", "", None), CaseSurvey(""))
