"""Scoring a folder of masks against the truth, case by case, on the grids of the scans."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np

from verse3d.core.axes import PlaneName
from verse3d.core.caseerrors import CASE_ERRORS, reason_of
from verse3d.core.errors import ConfigError, DataError, GeometryError
from verse3d.core.escapes import csv_table
from verse3d.core.files import make_folder, write_json, write_text
from verse3d.core.labels import VERTEBRAE, Label, label_scheme
from verse3d.core.logs import Progress, logger, no_progress
from verse3d.core.volume import Volume, stored_scheme
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.centroids import CENTROID_SUFFIX, write_centroids
from verse3d.data.pairs import SAME_GRID_TOLERANCE_MM, read_mask
from verse3d.data.predictions import MASK_SUFFIX, mask_path, read_predictions
from verse3d.data.schemes import doubts_in_words, require_levels
from verse3d.evaluation.foreign import LabelMap, find_mask, read_foreign_mask
from verse3d.evaluation.scorecard import (
    CaseCard,
    score_card,
    summarise_cards,
    write_table,
)
from verse3d.evaluation.seen_cases import notes_on_automatic_truth, notes_on_seen_cases
from verse3d.metrics.scores import (
    CSV_COLUMNS,
    CaseScores,
    Summary,
    csv_rows,
    score_case,
    scores_to_json_dict,
    statistics_of,
    summarise,
    without_nan,
)
from verse3d.metrics.slices import SliceScores, score_slices

_log = logger(__name__)

UNION = label_scheme("binary").labels[0].name
"""Under this name all vertebrae together are scored, whatever the scheme."""
PLANE: PlaneName = "sagittal"
"""The plane of the slice-wise scores."""
SLICE_METRICS: tuple[str, ...] = tuple(field.name for field in fields(SliceScores))


@dataclass(frozen=True)
class Evaluation:
    """The scores of every case that could be scored.

    Attributes:
        scheme: "binary" or "vertebrae".
        cases: in the order of the index.
        slices: slice-wise scores of all vertebrae together, by case.
        failures: (case, reason) of every case with a truth that could not be scored.
        written: the JSON and the CSV file, and with single vertebrae the table to paste.
        cards: VerSe's scorecard by case; empty for "binary".
        notes: what is to be known about the scores: whether a model has seen these cases in its training, whether a
            program made the truth, and whether a mask that was scored as a C1 may be a binary one.
    """

    scheme: str
    cases: tuple[CaseScores, ...]
    slices: Mapping[str, SliceScores]
    failures: tuple[tuple[str, str], ...]
    written: tuple[Path, ...]
    cards: Mapping[str, CaseCard] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def summary(self) -> Summary:
        """Mean, sd, median and counts per label and metric over the cases."""
        return summarise(self.cases, self.labels)

    @property
    def slice_summary(self) -> dict[str, dict[str, float | int]]:
        """Mean, sd, median and counts per slice-wise metric over the cases; each counts once."""
        return {name: statistics_of([getattr(one, name) for one in self.slices.values()]) for name in SLICE_METRICS}

    @property
    def labels(self) -> tuple[Label, ...]:
        """The label table of the scheme, from head to tail."""
        return VERTEBRAE if self.scheme == "vertebrae" else label_scheme(self.scheme).labels


def evaluate_folder(
    predictions: Path,
    truth: CaseIndex,
    out: Path,
    *,
    scheme: str | None = None,
    label_map: LabelMap | None = None,
    progress: Progress = no_progress,
) -> Evaluation:
    """Score the masks in ``predictions`` that belong to cases of ``truth``; write ``out`` (JSON) and a CSV beside it.

    Where single vertebrae are scored, VerSe's scorecard goes into the JSON and into a table to paste (``.md``), and the
    predicted centroids into a folder ``<out>-centroids``, one file per case.

    Only cases with both a truth and a mask are scored. A case of the folder's own list (``predictions.json``) whose
    mask is missing or whose prediction failed, a mask on another grid, and a binary mask where levels are to be scored
    are failures and are listed.

    Args:
        predictions: a folder that ``predict`` wrote, or another program's with the names of ``evaluation.foreign``.
        truth: cases with masks in VerSe ids.
        out: the JSON file.
        scheme: "binary" or "vertebrae"; None reads it from ``predictions.json`` and else guesses from the masks.
        label_map: which id of another program is which vertebra; None: they are VerSe's.
        progress: told about every case.

    Raises:
        ConfigError: ``out`` is the name of the CSV or of the table, or the scheme is unknown.
        DataError: the folder is missing or holds no mask of any case.
        OutputError: the scores cannot be written.
    """
    if out.suffix.lower() in (".csv", ".md"):
        what = "CSV" if out.suffix.lower() == ".csv" else "table"
        raise ConfigError(
            f"{out} is where the {what} goes", hint=f"pass `out={out.with_suffix('.json')}`", option="out"
        )
    listed_scheme, records = _manifest(predictions)
    cases = [
        case for case in truth if case.mask and (case.case in records or find_mask(predictions, case.case, MASK_SUFFIX))
    ]
    if not cases:
        raise DataError(
            f"{predictions} holds no mask of any case with a truth",
            hint=f"masks are looked for as {mask_path(predictions, 'CASE').name}, CASE.nii.gz or in folders CASE/",
        )
    # What was asked for, else what the list says, else what a map of levels implies, else what the masks look like.
    scheme = scheme or listed_scheme or ("vertebrae" if label_map else _guess_scheme(predictions, cases))
    label_scheme(scheme)  # refuses an unknown name
    scored, slices, cards, failures = [], {}, {}, []
    doubts: dict[str, str] = {}
    for number, case in enumerate(cases):
        progress("cases", number, len(cases))
        try:
            _require_made(case, records)
            # A mask that is listed and not there is looked for by our own name, and found missing.
            path = find_mask(predictions, case.case, MASK_SUFFIX) or mask_path(predictions, case.case)
            scores, slices[case.case], card = _score(case, path, scheme, label_map, doubts)
            scored.append(scores)
            if card:
                cards[case.case] = card
        except CASE_ERRORS as error:
            _log.error("%s cannot be scored: %s", case.case, reason_of(error))
            failures.append((case.case, reason_of(error)))
    progress("cases", len(cases), len(cases))
    written = [out.with_suffix(suffix) for suffix in ((".csv", ".md") if cards else (".csv",))]
    judged = [case for case in cases if case.case in slices]
    notes = (*notes_on_seen_cases(judged, records), *notes_on_automatic_truth(judged), *doubts_in_words(doubts))
    result = Evaluation(scheme, tuple(scored), slices, tuple(failures), (out, *written), cards, notes)
    _write(out, result)
    return result


def _manifest(predictions: Path) -> tuple[str, Mapping[str, Mapping[str, Any]]]:
    """What ``predictions.json`` says, if it is there: the scheme, and the record of each case."""
    if not predictions.is_dir():
        raise DataError(
            f"there is no folder {predictions}",
            hint="`pred` is the folder that `verse3d.predict()` wrote",
            option="pred",
        )
    listed = read_predictions(predictions)
    return listed.about.get("scheme", ""), listed.records


def _require_made(case: Case, records: Mapping[str, Mapping[str, Any]]) -> None:
    """A mask that lies there although its latest prediction failed is an old one, or another scan's."""
    if records.get(case.case, {}).get("status") == "failed":
        raise DataError(
            f"the prediction of {case.case} failed", hint="`verse3d.predict(overwrite=True)` makes it again"
        )


def _guess_scheme(predictions: Path, cases: Sequence[Case]) -> str:
    """Vertebrae if a mask says so or holds an id above 1, else binary."""
    for case in cases:
        try:
            path = find_mask(predictions, case.case, MASK_SUFFIX)
            if not path:
                continue
            mask = read_foreign_mask(path)
            stored = stored_scheme(mask.header)
            # A mask that says nothing, and holds nothing above 1, may be either: the others decide.
            if stored == "vertebrae" or (stored is None and int(mask.array.max()) > 1):
                return "vertebrae"
        except CASE_ERRORS:
            continue  # it will be listed as a failure
    return "binary"


def _score(
    case: Case, path: Path, scheme: str, label_map: LabelMap | None, doubts: dict[str, str]
) -> tuple[CaseScores, SliceScores, CaseCard | None]:
    # Everything below is on the grid of the scan: nothing is resampled for a score.
    if not path.exists():
        raise DataError(f"the mask {path} is missing")
    prediction, truth = read_foreign_mask(path, label_map), read_mask(case)
    if scheme != "binary":
        purpose = f"a score of the scheme {scheme}"
        doubt = require_levels(prediction, purpose).doubt
        # A map, or files called after vertebrae, say what the ids mean.
        if label_map is None and not path.is_dir():
            doubts[f"the prediction of {case.case}"] = doubt
        doubts[f"the truth of {case.case}"] = require_levels(truth, purpose).doubt
    _require_same_grid(prediction, truth)
    geometry = truth.geometry
    binary = label_scheme("binary")
    # Spine against background first, which every scheme can be scored on.
    predicted, true = (prediction.array > 0).astype(np.uint8), binary.network_from_verse(truth.array)
    united = score_case(predicted, true, geometry, binary.labels)
    slices = score_slices(predicted, true, geometry, PLANE)
    if scheme == "binary":
        return CaseScores(case.case, united), slices, None
    levels = label_scheme("vertebrae")
    # There and back again: ids that no scheme knows are refused on the way.
    known_truth = levels.file_from_network(levels.network_from_verse(truth.array))
    known_prediction = levels.file_from_network(levels.network_from_verse(prediction.array))
    by_level = score_case(known_prediction, known_truth, geometry, VERTEBRAE)
    card = score_card(known_prediction, known_truth, geometry)
    return CaseScores(case.case, {**by_level, **united}), slices, card


def _require_same_grid(prediction: Volume, truth: Volume) -> None:
    distance = prediction.geometry.distance_mm(truth.geometry)
    if distance > SAME_GRID_TOLERANCE_MM:
        raise GeometryError(
            f"{prediction.path} is not on the grid of the truth {truth.path}: shapes {prediction.geometry.shape} and "
            f"{truth.geometry.shape}, {distance:.1f} mm apart",
            hint="score masks on the grid of the scan, as verse3d predict writes them",
        )


def _write(out: Path, result: Evaluation) -> None:
    # {"scheme", "cases": [...], "summary": {...}, "slices": {...}, "failures": [...], "scorecard": {...}}
    listed = [{"case": case, **asdict(scores)} for case, scores in result.slices.items()]
    by_slice = {"plane": PLANE, "cases": listed, "summary": result.slice_summary}
    failed = [{"case": case, "error": error} for case, error in result.failures]
    about = {"failures": failed, "notes": result.notes}
    content = {**scores_to_json_dict(result.cases), "slices": without_nan(by_slice), **about}
    write_json(out, {"scheme": result.scheme, **content, **_write_cards(out, result)})
    rows = []
    for row in csv_rows(result.cases):
        case, label = row[:2]
        # The slice-wise scores stand in the row of all vertebrae together only.
        scores = asdict(result.slices[case]).values() if label == UNION else [math.nan] * len(SLICE_METRICS)
        rows.append((*row, *("" if math.isnan(value) else repr(value) for value in scores)))
    write_text(out.with_suffix(".csv"), csv_table([(*CSV_COLUMNS, *SLICE_METRICS), *rows]))


def _write_cards(out: Path, result: Evaluation) -> dict[str, Any]:
    """Write the table and the centroids, and return what goes into the JSON; nothing for "binary"."""
    if not result.cards:
        return {}
    folder = make_folder(out.with_name(f"{out.stem}-centroids"))
    for case, card in result.cards.items():
        write_centroids(folder / f"{case}{CENTROID_SUFFIX}", card.centroids_mm, card.geometry)
    write_table(out.with_suffix(".md"), result.cards, {case.case: case.labels for case in result.cases})
    listed = [{"case": case, **card.to_dict()} for case, card in result.cards.items()]
    summary = summarise_cards(list(result.cards.values()))
    return {"identification": without_nan({"cases": listed, "summary": summary})}
