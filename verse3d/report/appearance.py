"""How the values of a file are to be shown: as labels or as greys, in which window, in which colours."""

import colorsys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import ConfigError
from verse3d.core.labels import VERTEBRAE, Label, label_scheme
from verse3d.core.preview import Preview
from verse3d.data.schemes import LARGEST_C1_MM
from verse3d.report.cuts import LabelPlace

BONE_WINDOW_HU = (-200.0, 1000.0)
_SAMPLES_PER_AXIS = 96
_CALM_SHARE = 0.6


@dataclass(frozen=True)
class Window:
    """The values shown black and white, and what to say about them."""

    low: float
    high: float
    text: str


def choose_window(scan: Preview, wanted: tuple[float, float] | None = None) -> Window:
    """The wanted window; else one for bone if the values can be HU; else the range of the values without outliers.

    Raises:
        ConfigError: the wanted window is not two numbers, the first below the second.
    """
    if wanted is not None:
        low, high = wanted
        if not (np.isfinite([low, high]).all() and low < high):
            raise ConfigError(f"a window is two numbers, the lower first, e.g. -200,1000; got {low:g},{high:g}")
        return Window(low, high, f"window {low:g} to {high:g}")
    values = _sample(scan)
    if not values.size:
        return Window(0.0, 1.0, "no finite value")
    if values.min() == values.max():
        return Window(float(values[0]) - 1, float(values[0]) + 1, f"all values sampled are {values[0]:g}")
    if _look_like_hu(values):
        return Window(*BONE_WINDOW_HU, f"window {BONE_WINDOW_HU[0]:g} to {BONE_WINDOW_HU[1]:g} HU")
    low, high = (float(value) for value in np.percentile(values, [0.5, 99.5]))
    low, high = (low, high) if high > low else (float(values.min()), float(values.max()))
    return Window(low, high, f"window {low:.4g} to {high:.4g} (percentiles 0.5 and 99.5, as the values are no HU)")


def has_hounsfield_units(scan: Preview) -> bool:
    """Whether the values can be HU: some are below water, the highest are bone or metal."""
    values = _sample(scan)
    return bool(values.size) and _look_like_hu(values)


def _look_like_hu(values: NDArray[np.float32]) -> bool:
    # Not the extremes: a single dead pixel, or a filling of 20,000 HU, would decide.
    low, high = np.percentile(values, [1.0, 99.5])
    return bool(low < -20 and 100 < high < 10_000)


def _sample(scan: Preview) -> NDArray[np.float32]:
    """Finite values from all over the volume."""
    steps = tuple(slice(None, None, max(1, size // _SAMPLES_PER_AXIS)) for size in scan.volume.array.shape)
    values = scan.values(scan.volume.array[steps])
    return values[np.isfinite(values)]


def is_label_map(scan: Preview) -> bool:
    """Whether a file holds labels rather than greys: whole numbers from 0 on, equal in large calm regions."""
    array = scan.volume.array
    # Whoever stores labels has no reason to scale them.
    if scan.slope != 1 or scan.inter != 0:
        return False
    planes = np.moveaxis(array, -1, 0)
    # Not equal to itself, and so no label map, where there is a NaN
    if array.dtype.kind == "f" and not all(np.array_equal(plane, np.rint(plane)) for plane in planes):
        return False
    if array.min() != 0 or not 0 < array.max() <= np.iinfo(np.uint16).max:
        return False
    equal, pairs = 0, 0
    for plane in planes:
        # Neighbours inside of labels are nearly always equal, neighbours in a CT hardly ever.
        inside = plane[:-1] > 0
        pairs += int(np.count_nonzero(inside))
        equal += int(np.count_nonzero(inside & (plane[:-1] == plane[1:])))
    return bool(pairs) and equal >= _CALM_SHARE * pairs


def label_table(places: Sequence[LabelPlace], *, binary: bool = False) -> Mapping[int, Label]:
    """Name and colour of every label that is there; ids that are no vertebra are named by their number.

    The only label 1 is called "vertebrae" in a binary mask, and if it is too tall for a C1.
    """
    # In VerSe 1 is C1, in a binary mask any vertebra: a C1 of half a metre is none.
    if [place.id for place in places] == [1] and (binary or places[0].extent_mm[2] > LARGEST_C1_MM):
        return {1: label_scheme("binary").labels[0]}
    known = {label.id: label for label in VERTEBRAE}
    table = {}
    for position, place in enumerate(places):
        label = known.get(place.id)
        if label is None:
            # Pale, so that it is not taken for a vertebra. 0.38: the golden section, so that the colours lie far apart
            # however many there are.
            red, green, blue = colorsys.hsv_to_rgb((position * 0.381966) % 1.0, 0.35, 0.95)
            label = Label(place.id, str(place.id), (round(red * 255), round(green * 255), round(blue * 255)))
        table[place.id] = label
    return table
