"""VerSe's scorecard of a folder of masks: identification, missed and extra vertebrae, mixed bones, and one table.

Per case it holds what ``metrics.identification`` and ``metrics.bones`` measure. ``scores.md`` is a table to paste into
a paper; the predicted centroids go into files as VerSe ships them.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.files import write_text
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.core.wording import how_many
from verse3d.metrics.bones import MIXED_FROM, BoneScores, score_bones
from verse3d.metrics.identification import REGIONS, Identification, identify, mask_centroids, names, region
from verse3d.metrics.scores import LabelScore, statistics_of

_REGION_NAMES = {"C": "cervical", "T": "thoracic", "L": "lumbar"}


@dataclass(frozen=True)
class CaseCard:
    """The scorecard of one case.

    Attributes:
        identification: names against names.
        bones: Dice per vertebra, within the labelled span too, and mixed bones.
        centroids_mm: of the predicted vertebrae, VerSe id -> world mm.
        geometry: the grid of the case.
    """

    identification: Identification
    bones: BoneScores
    centroids_mm: Mapping[int, NDArray[np.float64]]
    geometry: Geometry

    @property
    def dice(self) -> float:
        """Mean Dice over the true vertebrae, a missed one counting 0; NaN if there are none."""
        return _mean(self.bones.dice.values())

    def region_dice(self, letter: str, *, in_span: bool = False) -> float:
        """The same over the cervical, thoracic or lumbar ones ("C", "T", "L")."""
        values = self.bones.dice_in_span if in_span else self.bones.dice
        return _mean(values[label.id] for label in VERTEBRAE if label.id in values and region(label) == letter)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON; NaN stays NaN."""
        found, bones = self.identification, self.bones
        return {
            "id_rate": found.id_rate,
            "d_mean_mm": found.d_mean_mm,
            "all_right": found.all_right,
            "missed": names(found.missed),
            "extra": names(found.extra),
            "shift": found.shift,
            "id_rate_shifted": found.id_rate_shifted,
            "mixed_bones": names(bones.mixed_bones),
            "mixed": by_name(bones.mixed),
            "mean_dice": self.dice,
            "mean_dice_in_span": _mean(bones.dice_in_span.values()),
            "dice_in_span": by_name(bones.dice_in_span),
            "union_dice": bones.union_dice,
            "union_dice_in_span": bones.union_dice_in_span,
            **{f"mean_dice_{_REGION_NAMES[letter]}": self.region_dice(letter) for letter in REGIONS},
        }


def score_card(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], geometry: Geometry) -> CaseCard:
    """The scorecard of one case.

    Args:
        prediction: VerSe ids, uint8 (I, J, K); other ids count as background.
        truth: VerSe ids of the same shape.
        geometry: the grid of both.

    Raises:
        GeometryError: the shapes differ.
    """
    # The rule of VerSe compares centroids of masks, also where the truth has points of its own.
    centroids = mask_centroids(prediction, geometry)
    found = identify(centroids, mask_centroids(truth, geometry))
    return CaseCard(found, score_bones(prediction, truth, geometry), centroids, geometry)


def by_name(values: Mapping[int, float]) -> dict[str, float]:
    """VerSe id -> value as name -> value."""
    return {label.name: values[label.id] for label in VERTEBRAE if label.id in values}


def summarise_cards(cards: Sequence[CaseCard]) -> dict[str, Any]:
    """Over all cases: pooled identification rate and distance, counts, and means of the cases' own values.

    The identification rate and d_mean are over vertebrae, as VerSe reports them; "all right" is a share of cases.
    """
    return {
        "cases": len(cards),
        **_identified([card.identification for card in cards]),
        "mixed_bones": sum(len(card.bones.mixed_bones) for card in cards),
        "mean_dice": statistics_of([card.dice for card in cards]),
        "mean_dice_in_span": statistics_of([_mean(card.bones.dice_in_span.values()) for card in cards]),
        **{
            f"mean_dice_{_REGION_NAMES[letter]}": statistics_of([card.region_dice(letter) for card in cards])
            for letter in REGIONS
        },
    }


def _identified(found: Sequence[Identification]) -> dict[str, Any]:
    true = sum(each.true for each in found)
    hits = sum(len(each.identified) for each in found)
    # A case's d_mean is over its hits, so it counts as often as it has some: a mean over all vertebrae comes out.
    distances = [each.d_mean_mm * len(each.identified) for each in found if each.identified]
    return {
        "vertebrae": true,
        "id_rate": hits / true if true else math.nan,
        "d_mean_mm": sum(distances) / hits if hits else math.nan,
        "all_right": sum(each.all_right for each in found) / len(found) if found else math.nan,
        "missed": sum(len(each.missed) for each in found),
        "extra": sum(len(each.extra) for each in found),
        "shifted_cases": sum(each.shift != 0 for each in found),
    }


def write_table(path: Path, cards: Mapping[str, CaseCard], scores: Mapping[str, Mapping[str, LabelScore]]) -> None:
    """Write ``scores.md``: what VerSe papers report, per region and over all, and the cases that need a look.

    Args:
        path: the Markdown file.
        cards: case -> scorecard.
        scores: case -> label name -> overlap and surface scores of ``metrics.scores``, for HD95.

    Raises:
        OutputError: it cannot be written.
    """
    write_text(path, "\n".join([*_regions_table(cards, scores), "", *_counts(cards), "", *_notes(cards), ""]))


def _regions_table(cards: Mapping[str, CaseCard], scores: Mapping[str, Mapping[str, LabelScore]]) -> list[str]:
    lines = [
        "| | vertebrae | identified | Dice | Dice in the labelled span | HD95 (mm) | d_mean (mm) |",
        "|---|---|---|---|---|---|---|",
    ]
    groups = {_REGION_NAMES[letter]: {v.id for v in VERTEBRAE if region(v) == letter} for letter in REGIONS}
    groups["all"] = {label.id for label in VERTEBRAE}
    for title, ids in groups.items():
        row = _group_row(cards, scores, ids)
        lines.append(f"| {title} | " + " | ".join(row) + " |")
    return lines


def _group_row(
    cards: Mapping[str, CaseCard], scores: Mapping[str, Mapping[str, LabelScore]], ids: set[int]
) -> list[str]:
    dices = [value for card in cards.values() for label, value in card.bones.dice.items() if label in ids]
    spans = [value for card in cards.values() for label, value in card.bones.dice_in_span.items() if label in ids]
    hits = sum(label in ids for card in cards.values() for label in card.identification.identified)
    # Surface scores are kept by name, overlaps by id.
    wanted = {label.name for label in VERTEBRAE if label.id in ids}
    surfaces = [one.hd95_mm for labels in scores.values() for name, one in labels.items() if name in wanted]
    # d_mean is pooled over all vertebrae; per region it would be another number under the same name.
    whole = len(ids) == len(VERTEBRAE)
    d_mean = f"{summarise_cards(list(cards.values()))['d_mean_mm']:.2f}" if whole else ""
    share = f"{100 * hits / len(dices):.2f} %" if dices else "–"
    return [str(len(dices)), share, _mean_sd(dices, 4), _mean_sd(spans, 4), _mean_sd(surfaces, 2), d_mean]


def _counts(cards: Mapping[str, CaseCard]) -> list[str]:
    total = summarise_cards(list(cards.values()))
    right = sum(card.identification.all_right for card in cards.values())
    cases, shifted = how_many(total["cases"], "case"), how_many(total["shifted_cases"], "case")
    return [
        f"All vertebrae right in {right} of {cases}; {total['missed']} missed, {total['extra']} extra, "
        f"{how_many(total['mixed_bones'], 'mixed bone')}, {shifted} that a shift would improve.",
        "",
        *(_shift_line(case, card) for case, card in cards.items() if card.identification.shift),
    ]


def _shift_line(case: str, card: CaseCard) -> str:
    found = card.identification
    places = abs(found.shift)
    way = "down" if found.shift > 0 else "up"
    return (
        f"- {case}: moving all names {how_many(places, 'place')} {way} identifies "
        f"{100 * found.id_rate_shifted:.0f} % instead of {100 * found.id_rate:.0f} %"
    )


def _notes(cards: Mapping[str, CaseCard]) -> list[str]:
    return [
        f"n = {how_many(len(cards), 'case')}. Mean ± sd over vertebrae. "
        "Identified: of the labels in both masks, the nearest true centroid is the vertebra's own and no farther than "
        "20 mm (VerSe). A missed vertebra has a Dice of 0 and no HD95; d_mean is over the identified ones. Labelled "
        "span: only voxels between the lowest and the highest true "
        "voxel (height in the world) count, because VerSe leaves cut vertebrae and the sacrum unlabelled. Mixed: "
        f"{100 * MIXED_FROM:.0f} % or more of the labelled voxels of a bone carry another name than most of it.",
    ]


def _mean(values: Iterable[float]) -> float:
    listed = [value for value in values if not math.isnan(value)]
    return float(np.mean(listed)) if listed else math.nan


def _mean_sd(values: Sequence[float], digits: int) -> str:
    numbers = statistics_of(values)
    if not numbers["n"]:
        return "–"
    mean = f"{numbers['mean']:.{digits}f}"
    if math.isnan(numbers["sd"]):  # of a single value
        return mean
    return f"{mean} ± {numbers['sd']:.{digits}f}"
