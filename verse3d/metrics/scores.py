"""Scores per case and label, what they add up to over cases, and both as plain values for JSON and CSV."""

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, Label
from verse3d.metrics.overlap import confusion, dice, volume_difference_ml
from verse3d.metrics.surface import SurfaceDistances, assd_mm, hd95_mm, surface_distances

Box = tuple[slice, ...]
Summary = dict[str, dict[str, dict[str, float | int]]]


@dataclass(frozen=True)
class LabelScore:
    """How well one label of one case was predicted. A value that is not defined is NaN.

    Attributes:
        dice: 0 to 1; 0 if the label is missed (only in the truth) or invented (only in the prediction).
        hd95_mm: 95 % Hausdorff distance; NaN unless the label is in both maps.
        assd_mm: average symmetric surface distance; NaN unless the label is in both maps.
        volume_difference_ml: predicted minus true volume.
    """

    dice: float
    hd95_mm: float
    assd_mm: float
    volume_difference_ml: float


METRICS: tuple[str, ...] = tuple(field.name for field in fields(LabelScore))
CSV_COLUMNS: tuple[str, ...] = ("case", "label", *METRICS)
UNDEFINED = LabelScore(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class CaseScores:
    """The scores of one case by label name."""

    case: str
    labels: Mapping[str, LabelScore]


def score_case(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8], geometry: Geometry, labels: Sequence[Label]
) -> dict[str, LabelScore]:
    """Score every label that the prediction or the truth holds.

    Args:
        prediction: label ids, uint8 (I, J, K).
        truth: label ids, uint8 (I, J, K).
        geometry: the grid of both.
        labels: the labels to look at; voxels with other ids count as background. For one label (binary) the maps
            must already be binary.

    Returns:
        Scores by label name in the order of ``labels``. Labels found in neither map are left out, unless ``labels``
        has only one entry: then it stays, with every value NaN. Beside the maps this holds the boxes around one label.

    Raises:
        GeometryError: the shapes of the maps and of the geometry differ.
        DataError: a map is neither uint8 nor bool.
    """
    if prediction.shape != geometry.shape:
        raise GeometryError(f"a prediction of shape {prediction.shape} does not lie on a grid of {geometry.shape}")
    overlaps = confusion(prediction, truth, [label.id for label in labels])
    shared = max((label for label, overlap in overlaps.items() if overlap.predicted and overlap.true), default=0)
    boxes = list(zip(_boxes(prediction, shared), _boxes(truth, shared), strict=True))
    scores = {}
    for label in labels:
        if not overlaps[label.id].absent:
            distances = _distances(prediction, truth, geometry, label.id, boxes)
            overlap = overlaps[label.id]
            volume_ml = volume_difference_ml(overlap, geometry)
            scores[label.name] = LabelScore(dice(overlap), hd95_mm(distances), assd_mm(distances), volume_ml)
        elif len(labels) == 1:
            scores[label.name] = UNDEFINED
    return scores


def summarise(cases: Iterable[CaseScores], labels: Sequence[Label] = VERTEBRAE) -> Summary:
    """Mean, sample sd, median and counts of each metric over the cases, by label.

    Args:
        cases: scores per case; each counts once.
        labels: the table that gives the order of the labels; names that it does not hold come last.

    Returns:
        ``{NAME: {METRIC: {"mean", "sd", "median", "n", "undefined"}}}``. ``n`` values were defined and went into the
        statistics, ``undefined`` were NaN. The mean and median of nothing and the sd of less than two are NaN.
    """
    # A label counts in those cases that hold it: nobody is scored on vertebrae out of view.
    by_label: dict[str, list[LabelScore]] = {}
    for case in cases:
        for name, score in case.labels.items():
            by_label.setdefault(name, []).append(score)
    return {
        name: {metric: statistics_of([getattr(score, metric) for score in by_label[name]]) for metric in METRICS}
        for name in _in_order(by_label, labels)
    }


def scores_to_json_dict(cases: Sequence[CaseScores]) -> dict[str, Any]:
    """All scores as plain values that strict JSON can hold; NaN becomes None.

    Args:
        cases: scores per case.

    Returns:
        ``{"cases": [{"case", "labels": {NAME: {METRIC: value}}}], "summary": {NAME: {METRIC: {STATISTIC: value}}}}``.
    """
    listed = []
    for case in cases:
        # In the order of the vertebrae, whatever the order in which they were scored
        of_labels = {name: asdict(case.labels[name]) for name in _in_order(case.labels, VERTEBRAE)}
        listed.append({"case": case.case, "labels": of_labels})
    summary = summarise(cases)
    return {"cases": without_nan(listed), "summary": without_nan(summary)}


def csv_rows(cases: Iterable[CaseScores]) -> Iterator[tuple[str, ...]]:
    """One row of text per case and label under ``CSV_COLUMNS``; undefined values are empty cells."""
    for case in cases:
        for name in _in_order(case.labels, VERTEBRAE):
            scores = [float(value) for value in asdict(case.labels[name]).values()]
            cells = ["" if math.isnan(value) else repr(value) for value in scores]
            yield case.case, name, *cells


def _boxes(label_map: NDArray[np.uint8], highest: int) -> list[Box | None]:
    """The box around each id 1..highest, found in one pass."""
    # bool has no boxes in SciPy; the same bytes read as uint8 have.
    return list(scipy.ndimage.find_objects(label_map.view(np.uint8), max_label=highest)) if highest else []


def _distances(
    prediction: NDArray[np.uint8],
    truth: NDArray[np.uint8],
    geometry: Geometry,
    label: int,
    boxes: Sequence[tuple[Box | None, Box | None]],
) -> SurfaceDistances:
    predicted, true = boxes[label - 1] if label <= len(boxes) else (None, None)
    if predicted is None or true is None:
        return SurfaceDistances(np.empty(0), np.empty(0))
    # One box around both, so that they stay on a common grid.
    start = [min(a.start, b.start) for a, b in zip(predicted, true, strict=True)]
    stop = [max(a.stop, b.stop) for a, b in zip(predicted, true, strict=True)]
    box = tuple(slice(*ends) for ends in zip(start, stop, strict=True))
    return surface_distances(prediction[box] == label, truth[box] == label, geometry.cropped(start, stop))


def statistics_of(values: Sequence[float]) -> dict[str, float | int]:
    """Mean, sample sd, median of what is not NaN, how many that are (``n``) and how many were NaN (``undefined``)."""
    defined = np.array([value for value in values if not math.isnan(value)], dtype=float)
    count = len(defined)
    return {
        "mean": float(defined.mean()) if count else math.nan,
        # Of a sample: the cases stand for all patients like them.
        "sd": float(defined.std(ddof=1)) if count > 1 else math.nan,
        "median": float(np.median(defined)) if count else math.nan,
        "n": count,
        "undefined": len(values) - count,
    }


def _in_order(names: Iterable[str], labels: Sequence[Label]) -> list[str]:
    rank = {label.name: position for position, label in enumerate(labels)}
    return sorted(names, key=lambda name: rank.get(name, len(rank)))


def without_nan(value: object) -> object:
    """The same value for strict JSON: NaN becomes None, also inside of dicts and lists."""
    if isinstance(value, dict):
        return {key: without_nan(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [without_nan(inner) for inner in value]
    if isinstance(value, float) and math.isnan(value):
        return None  # strict JSON knows no NaN, and 0 would be a score
    return value
