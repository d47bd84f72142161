"""How far two label maps agree voxel by voxel: counted once, then read as Dice and as a difference in volume."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.geometry import Geometry

_IDS = 256
_SLAB_VOXELS = 1 << 21


@dataclass(frozen=True)
class Overlap:
    """Voxel counts of one label: in both maps, in the prediction, in the truth."""

    both: int
    predicted: int
    true: int

    @property
    def absent(self) -> bool:
        """Neither map holds the label."""
        return self.predicted == 0 and self.true == 0


def joint_counts(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each pair of ids meets: ``counts[p, t]`` voxels are ``p`` in the prediction and ``t`` in the truth.

    Args:
        prediction: label ids, uint8 or bool, any shape and any memory order.
        truth: label ids of the same shape.

    Returns:
        int64 (256, 256), summing to the number of voxels. Beside the two maps this holds slabs of about two million
        voxels and never one channel per label.

    Raises:
        GeometryError: the shapes differ.
        DataError: an array is neither uint8 nor bool.
    """
    _check(prediction, truth)
    counts = np.zeros(_IDS * _IDS, dtype=np.int64)
    for predicted, true in _slabs(prediction, truth):
        # One number per pair of ids, p * 256 + t, which fits into 16 bit; most voxels are (0, 0) and need no counting.
        pairs = np.multiply(predicted, _IDS, dtype=np.uint16) + true
        counts += np.bincount(pairs[pairs != 0], minlength=counts.size)
    counts[0] = prediction.size - counts.sum()
    return counts.reshape(_IDS, _IDS)


def confusion(prediction: NDArray[np.uint8], truth: NDArray[np.uint8], ids: Iterable[int]) -> dict[int, Overlap]:
    """Voxel counts of each label in ``ids``, from one pass over the two maps.

    Args:
        prediction: label ids, uint8 or bool, any shape.
        truth: label ids of the same shape.
        ids: the label ids of interest, 0-255.

    Returns:
        One ``Overlap`` per id, in the order of ``ids``; labels found nowhere have counts of 0.

    Raises:
        GeometryError: the shapes differ.
        DataError: an array is neither uint8 nor bool.

    Example:
        >>> confusion(np.array([1, 1, 0], np.uint8), np.array([1, 2, 0], np.uint8), [1, 2])[1]
        Overlap(both=1, predicted=2, true=1)
    """
    counts = joint_counts(prediction, truth)
    # A row holds all voxels that are predicted so, a column all that truly are.
    predicted, true = counts.sum(axis=1), counts.sum(axis=0)
    overlaps = {}
    for label in ids:
        both = int(counts[label, label])
        overlaps[label] = Overlap(both, int(predicted[label]), int(true[label]))
    return overlaps


def dice(overlap: Overlap) -> float:
    """Dice coefficient, 0 to 1; NaN if neither map holds the label."""
    if overlap.absent:
        return math.nan
    return 2.0 * overlap.both / (overlap.predicted + overlap.true)


def volume_difference_ml(overlap: Overlap, geometry: Geometry) -> float:
    """Predicted volume minus true volume in millilitres: positive means that too much was predicted."""
    return (overlap.predicted - overlap.true) * geometry.voxel_ml


def _check(prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
    if prediction.shape != truth.shape:
        raise GeometryError(
            f"prediction {prediction.shape} and truth {truth.shape} have different shapes",
            hint="bring both to the same grid before they are compared",
        )
    for name, array in (("prediction", prediction), ("truth", truth)):
        if array.dtype not in (np.uint8, np.bool_):
            raise DataError(f"{name} holds {array.dtype}, but label ids are compared as uint8")


def _slabs(
    prediction: NDArray[np.uint8], truth: NDArray[np.uint8]
) -> Iterator[tuple[NDArray[np.uint8], NDArray[np.uint8]]]:
    """Both arrays in pieces along the axis that is slowest in memory."""
    if prediction.ndim == 0 or prediction.size == 0:
        yield prediction, truth
        return
    # Slabs along the slowest axis are contiguous; the truth is cut alike, whatever its own order.
    axis = int(np.argmax(np.abs(prediction.strides)))
    predicted, true = np.moveaxis(prediction, axis, 0), np.moveaxis(truth, axis, 0)
    step = max(1, _SLAB_VOXELS * len(predicted) // prediction.size)
    for start in range(0, len(predicted), step):
        yield predicted[start : start + step], true[start : start + step]
