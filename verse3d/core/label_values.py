"""Are the values of a volume numbers, and are they labels? Refusals say how many are not, and where the first is."""

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.core.wording import how_many


def all_labels(values: NDArray[Any]) -> bool:
    """Whether all values are whole numbers that a label map can hold."""
    in_range = values.min() >= 0 and values.max() <= np.iinfo(np.uint16).max  # not so if NaN is among them
    return bool(in_range and (values.dtype.kind != "f" or np.array_equal(values, np.rint(values))))


def as_labels(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Voxels of any real dtype as uint8 (or uint16 if an id is above 255); ``path`` is named in errors.

    Raises:
        DataError: a value is not finite, negative, above 65535 or not a whole number.
    """
    if array.dtype.kind == "f":
        refuse_not_finite(array, path)
        _refuse_fractions(array, path)
    low, high = array.min(), array.max()
    if low < 0 or high > np.iinfo(np.uint16).max:
        raise DataError(f"{path}: labels must lie between 0 and 65535, found {low:g} ... {high:g}")
    return array.astype(np.uint8 if high <= 255 else np.uint16, copy=False)


def refuse_not_finite(array: NDArray[Any], path: Path) -> None:
    """Refuse floats among which NaN or infinity is; ``path`` is named.

    Raises:
        DataError: with how many there are, and where the first lies.
    """
    # NaN propagates through min, infinity shows in one of the two.
    if np.isfinite(array.min()) and np.isfinite(array.max()):
        return
    bad = ~np.isfinite(array)
    first = _first_true(bad)
    raise DataError(
        f"{path}: {how_many(int(bad.sum()), 'voxel is', 'voxels are')} NaN or infinite, the first at index {first}",
        hint="replace them (air is -1000 HU) and save the file again",
    )


def _refuse_fractions(array: NDArray[Any], path: Path) -> None:
    fractional = array != np.rint(array)
    if not fractional.any():
        return
    first = _first_true(fractional)
    found = how_many(int(fractional.sum()), "label value is not a whole number", "label values are not whole numbers")
    raise DataError(
        f"{path}: {found}, e.g. {float(array[first])!r} at {first}",
        hint="a mask must not be interpolated or scaled: export it again with integer labels",
    )


def _first_true(found: NDArray[np.bool_]) -> tuple[int, ...]:
    """The first index (of those in C order) that holds; a list of all of them could take 24 bytes a voxel."""
    return tuple(int(index) for index in np.unravel_index(int(found.argmax()), found.shape))
