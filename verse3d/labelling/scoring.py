"""How many names are right, by the rule of VID and VerSe: the nearest output within 20 mm has to carry the name."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.labelling.keypoints import SpineDetections
from verse3d.labelling.naming import NamedSpine
from verse3d.labelling.readings import MATCH_MM


@dataclass(frozen=True)
class ScanScore:
    """One scan.

    Attributes:
        vertebrae: how many true vertebrae it has.
        right: how many of them carry their name.
        all_right: every true vertebra that has a detection within 20 mm carries its name.
        ambiguous: one of its spines was called ambiguous.
    """

    vertebrae: int
    right: int
    all_right: bool
    ambiguous: bool


def score_names(spine: SpineDetections, named: Sequence[NamedSpine]) -> ScanScore:
    """Score the best readings of one scan against its truth; missed vertebrae count where they should lie."""
    centres, names = _outputs(spine, named)
    right = []
    for centre, level in zip(spine.centres_mm, spine.levels, strict=True):
        # Beyond 20 mm nothing speaks about this vertebra, however near the next output is.
        spoken = _nearest_mm(centre, centres) <= MATCH_MM
        right.append(spoken and names[int(np.linalg.norm(centres - centre, axis=1).argmin())] == level)
    found = [_nearest_mm(centre, spine.found.centres_mm) <= MATCH_MM for centre in spine.centres_mm]
    return ScanScore(
        vertebrae=len(spine.levels),
        right=sum(right),
        all_right=all(is_right for is_right, is_found in zip(right, found, strict=True) if is_found),
        ambiguous=any(each.ambiguous for each in named),
    )


def summarise_names(scores: Sequence[ScanScore]) -> dict[str, float | int]:
    """Counts and shares over scans; the share of nothing is 0."""
    scans, vertebrae = len(scores), sum(score.vertebrae for score in scores)
    silent = sum(not score.all_right and not score.ambiguous for score in scores)
    return {
        "scans": scans,
        "vertebrae": vertebrae,
        "id_rate": sum(score.right for score in scores) / max(vertebrae, 1),
        "all_right": sum(score.all_right for score in scores) / max(scans, 1),
        "ambiguous": sum(score.ambiguous for score in scores) / max(scans, 1),
        "wrong_and_not_ambiguous": silent / max(scans, 1),
    }


def _outputs(spine: SpineDetections, named: Sequence[NamedSpine]) -> tuple[NDArray[np.float64], list[str]]:
    """Where (N, 3), world mm, something has which name: the detections first, then what was inferred between them."""
    centres, names = [], []
    for each in named:
        for row, name in each.names.items():
            centres.append(spine.found.centres_mm[row])
            names.append(name)
    for each in named:
        for name, centre in each.missed.items():
            centres.append(np.array(centre))
            names.append(name)
    return np.reshape(centres, (-1, 3)), names


def _nearest_mm(point: NDArray[np.float64], centres_mm: NDArray[np.float64]) -> float:
    return float(np.linalg.norm(centres_mm - point, axis=1).min()) if len(centres_mm) else np.inf
