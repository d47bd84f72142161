"""Where the names of vertebrae stand in a slice: beside their bone, never on one another, never on a mask."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from verse3d.core.planes import PlaneSlice

Side = Literal["left", "right"]
_OTHER: Mapping[Side, Side] = {"left": "right", "right": "left"}
_AWAY: Mapping[Side, int] = {"left": -1, "right": 1}
_LARGE_SHARE = 0.5
_LOYALTY_LETTERS = 8


@dataclass(frozen=True)
class PlacedName:
    """A name and where it stands; mm from the upper left corner of the slice, x to the right and y down.

    Attributes:
        id: of the label.
        name: the text.
        side: on which side of the bone it stands; the text grows away from the bone.
        x_mm: where the text begins (side "right") or ends (side "left").
        y_mm: its middle.
        bone_mm: x and y of the edge of the bone that it names.
    """

    id: int
    name: str
    side: Side
    x_mm: float
    y_mm: float
    bone_mm: tuple[float, float]


def place_names(
    mask: PlaneSlice, names: Mapping[int, str], *, side: Side, line_mm: float, letter_mm: float, margin_mm: float
) -> tuple[PlacedName, ...]:
    """Where to write the name of each label in a slice, from top to bottom.

    Names never reach beyond the margin: where there is no room beside the bone, they stand on it.

    A name stands at the height of a large piece of its label (in a sagittal slice the body, not the spinous
    process), moved up or down just as much as its neighbours need. It stands on the other side if there is no room on
    the wanted one, or only far away behind other bones. If there are more labels than lines, the smallest have no name.

    Args:
        mask: the slice of the mask.
        names: what to write for each id.
        side: where names should stand.
        line_mm: height of a line of text.
        letter_mm: width of a letter.
        margin_mm: how far names may reach beyond the slice on the left and on the right.
    """
    pieces = _pieces(mask.pixels, side)
    room = max(1, int(mask.size_mm[0] / line_mm))
    kept = sorted(pieces, key=lambda label: int(pieces[label].sum()), reverse=True)[:room]
    centres = {label: float(np.argwhere(pieces[label])[:, 0].mean() + 0.5) * mask.pixel_mm[0] for label in kept}
    kept.sort(key=lambda label: centres[label])
    heights = spread([centres[label] for label in kept], line_mm, line_mm / 2, mask.size_mm[0] - line_mm / 2)
    placed = []
    for label, y in zip(kept, heights.tolist(), strict=True):
        options = []
        for option in (side, _OTHER[side]):
            x, bone = _edges(mask, label, (centres[label], y), line_mm, option)
            x += _AWAY[option] * letter_mm
            options.append(PlacedName(label, names.get(label, str(label)), option, x, y, bone))
        limits = (letter_mm, mask.size_mm[1], margin_mm)
        # The other side is taken only if it saves a longer way than a name is wide, or a name that is cut off.
        costs = [_cost_mm(options[0], *limits), _cost_mm(options[1], *limits) + _LOYALTY_LETTERS * letter_mm]
        best = options[int(np.argmin(costs))]
        # Moved onto its bone as far as the margin demands: a name that is cut off tells nothing.
        length = letter_mm * len(best.name)
        if best.side == "left":
            placed.append(replace(best, x_mm=max(best.x_mm, length - margin_mm)))
        else:
            placed.append(replace(best, x_mm=min(best.x_mm, mask.size_mm[1] + margin_mm - length)))
    return tuple(placed)


def spread(wanted: ArrayLike, gap: float, low: float, high: float) -> NDArray[np.float64]:
    """Positions near the wanted ones, at least ``gap`` apart and between ``low`` and ``high`` if there is room.

    Args:
        wanted: positions (N,) in ascending order.
        gap: the least distance between neighbours.
        low: the least position.
        high: the greatest position.

    Example:
        >>> spread([10.0, 11.0, 30.0], 5.0, 0.0, 100.0).tolist()
        [8.0, 13.0, 30.0]
    """
    steps = gap * np.arange(np.size(wanted))
    # Less what all before it need, positions may fall together, but not cross:
    #
    #     wanted 10 11 30, gap 5   ->  10 6 20   ->  never falling, from both ends: 8 8 20   ->  8 13 30
    flat = np.asarray(wanted, dtype=float) - steps
    pushed_down = np.maximum.accumulate(flat)
    pushed_up = np.minimum.accumulate(flat[::-1])[::-1]
    most = max(low, high - (steps[-1] if steps.size else 0.0))
    return np.asarray(np.clip((pushed_down + pushed_up) / 2, low, most) + steps)


def _pieces(pixels: NDArray[Any], side: Side) -> dict[int, NDArray[np.bool_]]:
    """Of each label the piece that is named: a large one, and of those the nearest to where the name will stand."""
    pieces = {}
    for label in np.unique(pixels[pixels > 0]).tolist():
        numbered, count = scipy.ndimage.label(pixels == label)
        sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
        large = 1 + np.flatnonzero(sizes >= _LARGE_SHARE * sizes.max())
        columns = [_AWAY[side] * np.argwhere(numbered == piece)[:, 1].mean() for piece in large]
        pieces[int(label)] = numbered == large[int(np.argmax(columns))]
    return pieces


def _edges(
    mask: PlaneSlice, label: int, heights_mm: tuple[float, float], line_mm: float, side: Side
) -> tuple[float, tuple[float, float]]:
    """The x at which a name may begin, and the point of the bone that it names.

    Args:
        mask: the slice.
        label: the id to name.
        heights_mm: y of the named piece and y of the name.
        line_mm: height of a line of text.
        side: where the name stands.
    """
    pixel_height, pixel_width = mask.pixel_mm
    row = min(int(heights_mm[0] / pixel_height), mask.pixels.shape[0] - 1)
    own = mask.pixels == label
    # A crescent may have nothing at the height of its own middle: then anywhere.
    at_row = np.flatnonzero(own[row] if own[row].any() else own.any(axis=0))
    first = max(0, int((heights_mm[1] - line_mm / 2) / pixel_height))
    last = int((heights_mm[1] + line_mm / 2) / pixel_height) + 1
    # Beside all bones at the height of the text, not only its own: a name never covers a mask.
    columns = np.concatenate([at_row, np.flatnonzero((mask.pixels[first:last] > 0).any(axis=0))])
    outermost, beyond = (np.min, 0) if side == "left" else (np.max, 1)
    bone = float(outermost(at_row) + beyond) * pixel_width, (row + 0.5) * pixel_height
    return float(outermost(columns) + beyond) * pixel_width, bone


def _cost_mm(placed: PlacedName, letter_mm: float, width_mm: float, margin_mm: float) -> float:
    """The way from the bone to its name, and twenty times what would reach beyond the margin."""
    length = letter_mm * len(placed.name)
    reach = length - placed.x_mm if placed.side == "left" else placed.x_mm + length - width_mm
    return abs(placed.x_mm - placed.bone_mm[0]) + 20 * max(0.0, reach - margin_mm)
