"""What was found of a spine: body centres with scores, and pedicles, in world mm."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from verse3d.core.errors import DataError
from verse3d.core.wording import how_many

REGIONS: tuple[str, ...] = ("cervical", "thoracic", "lumbar")
_LOWEST, _HIGHEST = 0.005, 0.995


@dataclass(frozen=True)
class Detections:
    """Points on the vertebrae of one scan, in any order.

    Attributes:
        centres_mm: body centres, (N, 3), world RAS+ mm.
        regions: how likely each is cervical, thoracic and lumbar, (N, 3) in 0..1; rows need not add up to 1, because a
            false detection may be none of them. NaN where nothing is known.
        left_pedicles_mm: (P, 3), world RAS+ mm; may be empty.
        right_pedicles_mm: (Q, 3), world RAS+ mm; may be empty.
    """

    centres_mm: NDArray[np.float64]
    regions: NDArray[np.float64]
    left_pedicles_mm: NDArray[np.float64]
    right_pedicles_mm: NDArray[np.float64]

    def __len__(self) -> int:
        return len(self.centres_mm)

    def taken(self, rows: ArrayLike) -> "Detections":
        """The detections of these rows, in this order, with all pedicles."""
        chosen = np.asarray(rows, dtype=np.intp)
        return Detections(self.centres_mm[chosen], self.regions[chosen], self.left_pedicles_mm, self.right_pedicles_mm)


def detections(
    centres_mm: ArrayLike,
    regions: ArrayLike,
    left_pedicles_mm: ArrayLike = (),
    right_pedicles_mm: ArrayLike = (),
) -> Detections:
    """Check what was detected.

    Raises:
        DataError: a position is not a number, a score lies outside of 0..1, or the lengths differ. Scores may be NaN.
    """
    centres, left, right = (
        _points(values, name)
        for values, name in (
            (centres_mm, "centres_mm"),
            (left_pedicles_mm, "left_pedicles_mm"),
            (right_pedicles_mm, "right_pedicles_mm"),
        )
    )
    scores = _rows(regions, "regions")
    if len(scores) != len(centres):
        found = f"{how_many(len(centres), 'centre')} and {how_many(len(scores), 'row')} of region scores"
        raise DataError(f"{found}; expected a row for each centre")
    # NaN passes both comparisons: a score may be unknown.
    if np.any((scores < 0) | (scores > 1)):
        raise DataError("region scores must lie between 0 and 1", hint="pass probabilities, not logits")
    return Detections(centres, scores, left, right)


def region_logits(regions: NDArray[np.float64]) -> NDArray[np.float64]:
    """Log odds of the scores, (N, 3), between about -5 and 5; NaN becomes 0: no evidence in either direction."""
    known = np.clip(np.where(np.isfinite(regions), regions, 0.5), _LOWEST, _HIGHEST)
    logits: NDArray[np.float64] = np.log(known / (1.0 - known))
    return logits


def _points(values: ArrayLike, name: str) -> NDArray[np.float64]:
    points = _rows(values, name)
    bad = np.flatnonzero(~np.isfinite(points).all(axis=1))
    if bad.size:
        raise DataError(
            f"{name} holds a position that is not a number, in row {bad[0]}",
            hint="leave out what was not found; a score may be NaN, a position may not",
        )
    return points


def _rows(values: ArrayLike, name: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise DataError(f"{name} are not rows of three numbers") from error
    if array.size == 0:
        return np.zeros((0, 3))
    if array.ndim != 2 or array.shape[1] != 3:
        raise DataError(f"{name} have the shape {array.shape}; expected rows of three numbers")
    return array


def mirrored(found: Detections) -> Detections:
    """The same spine with left and right exchanged."""
    flip = np.array([-1.0, 1.0, 1.0])
    return Detections(
        # Left pedicles become right ones.
        found.centres_mm * flip,
        found.regions,
        found.right_pedicles_mm * flip,
        found.left_pedicles_mm * flip,
    )
