"""What in a predicted mask cannot be right, or is not whole: vertebrae that the scan cuts, pieces that are no bone."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.axismaps import box_of
from verse3d.core.geometry import Geometry
from verse3d.core.wording import how_many

_COARSE_MM = 3.0
_LEAST_ML = 3.0
"""The smallest vertebra, C1 of a slight adult, has about 6 ml."""
_FAR_MM = 70.0
_NEIGHBOURHOOD_MM = 60.0
_SIDES = {"R": "right", "L": "left", "A": "front", "P": "back", "S": "upper", "I": "lower"}
_OPPOSITE = {"R": "L", "L": "R", "A": "P", "P": "A", "S": "I", "I": "S"}
_NAMED_PIECES = 3
_MOST_PLACED = 100
"""So many pieces, the largest, are asked where they lie; a spine has a quarter of it, and noise is small all over."""
_LEAST_SHOWN_ML = 0.1


def mask_warnings(labels: NDArray[np.uint8], geometry: Geometry) -> tuple[str, ...]:
    """Sentences about a finished mask; none if nothing is odd.

    Args:
        labels: (I, J, K), 0 is background. A copy of one voxel in some is held.
        geometry: the grid of ``labels``.
    """
    sides = [_SIDES[code] for code, plane in _faces(labels, geometry) if plane.any()]
    if not sides:
        return tuple(_odd_pieces(labels, geometry))
    # "upper end", "lower and upper ends", "back, lower and upper ends"
    *others, last = sides
    ends = f"{', '.join(others)} and {last} ends" if others else f"{last} end"
    return (f"the mask touches the {ends} of the scan: vertebrae are cut off there", *_odd_pieces(labels, geometry))


def empty_mask_warning(*, all_cut: bool) -> str:
    """What is said of a mask that holds nothing.

    Args:
        all_cut: whether vertebrae were found, and all of them left out because the scan cuts them.
    """
    return f"no {'whole ' if all_cut else ''}vertebra was found: the mask is empty"


def _faces(labels: NDArray[np.uint8], geometry: Geometry) -> Iterator[tuple[str, NDArray[np.uint8]]]:
    """The six outer planes, each with the direction in which it lies: "S" for the uppermost."""
    for axis, code in enumerate(geometry.axis_codes):
        planes = np.moveaxis(labels, axis, 0)
        yield code, planes[-1]
        yield _OPPOSITE[code], planes[0]


def _odd_pieces(labels: NDArray[np.uint8], geometry: Geometry) -> Iterator[str]:
    """Connected pieces that are too small for a vertebra, or lie far beside the others.

    Every n-th voxel is looked at, so that n voxels are about 3 mm: what touches there touches in the mask.
    """
    steps = [max(1, int(_COARSE_MM / spacing)) for spacing in geometry.spacing_mm]
    coarse = labels[tuple(slice(None, None, step) for step in steps)] > 0
    # Only where there is something: a spine fills a tenth of a chest.
    box = box_of(coarse)
    if box is None:
        return
    # Over corners, too: what is thinned out must not fall apart.
    pieces, count = ndimage.label(coarse[box], np.ones((3, 3, 3)))
    if count < 2:
        return
    places = np.argwhere(pieces) + [along.start for along in box]
    piece = pieces[pieces > 0]
    world = geometry.world_from_index(places * steps)
    # Everything by piece number, 0 being the background: noise has a hundred thousand pieces.
    voxels = np.bincount(piece, minlength=count + 1)
    volume_ml = voxels * geometry.voxel_ml * np.prod(steps)
    sums = [np.bincount(piece, world[:, axis], count + 1) for axis in range(3)]
    centres = np.stack(sums, axis=1) / np.maximum(voxels, 1)[:, None]
    # A piece at the edge may be the rest of a vertebra that the scan cuts.
    at_edge = np.any((places == 0) | (places == np.array(coarse.shape) - 1), axis=1)
    is_whole = np.bincount(piece, at_edge, count + 1) == 0
    is_odd = is_whole & (volume_ml < _LEAST_ML)
    # Sorted by height, so that only what is about as high is looked at for each piece.
    upwards = np.argsort(world[:, 2])
    world, piece = world[upwards], piece[upwards]
    for number in np.argsort(-volume_ml)[:_MOST_PLACED].tolist():
        low, high = centres[number, 2] - _NEIGHBOURHOOD_MM, centres[number, 2] + _NEIGHBOURHOOD_MM
        level = slice(*np.searchsorted(world[:, 2], (low, np.nextafter(high, np.inf))))
        # A bone says nothing about where a spine ten times its size should be.
        beside = (piece[level] != number) & (volume_ml[piece[level]] >= volume_ml[number] / 2)
        is_odd[number] |= _beside_mm(centres[number], world[level][beside]) > _FAR_MM
    is_odd[0] = False
    if is_odd.any():
        yield _told([(volume_ml[number], centres[number]) for number in np.flatnonzero(is_odd)])


def _beside_mm(centre: NDArray[np.float64], others: NDArray[np.float64]) -> float:
    """How far a point lies beside the middle of others (n, 3) that are about as high, mm; 0 if there are none."""
    return float(np.linalg.norm(np.median(others[:, :2], axis=0) - centre[:2])) if others.size else 0.0


def _told(odd: list[tuple[float, NDArray[np.float64]]]) -> str:
    # The largest first: small crumbs are what a reader minds least.
    odd.sort(key=lambda piece: -piece[0])
    listed = "; ".join(
        f"{_ml(volume)} at {','.join(f'{place:.0f}' for place in centre)} mm" for volume, centre in odd[:_NAMED_PIECES]
    )
    what = how_many(len(odd), "piece does", "pieces do")
    return f"{what} not look like a vertebra: {listed}{' ...' if len(odd) > _NAMED_PIECES else ''}"


def _ml(volume: float) -> str:
    return f"{volume:.1f} ml" if volume >= _LEAST_SHOWN_ML else f"less than {_LEAST_SHOWN_ML} ml"
