"""What the ids of a mask mean: VerSe's vertebrae, or only "vertebra or not", where 1 must not be taken for a C1.

1. the header says so                  masks that verse3d writes since it knows of this
2. another id than 1 is there          vertebrae
3. only 1, made by verse3d             binary: what it writes unless it is told otherwise
4. only 1, taller or larger than a C1,
   or in pieces above one another      binary
5. only 1                              vertebrae: it can be a C1, as VerSe has it
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.core.errors import DataError
from verse3d.core.labels import SchemeName, present_ids
from verse3d.core.volume import Volume, made_by_verse3d, stored_scheme
from verse3d.core.wording import listed

LARGEST_C1_MM = 60.0
_LARGEST_C1_ML = 50.0
"""An atlas has about 15 ml; masks that are filled or drawn too wide stay below three times that."""
_PIECE_SHARE, _APART_MM = 0.2, 15.0
"""Front and back arch of a C1 lie level with each other."""
TAKEN_FOR_C1 = "the only label is 1, taken for C1 as in VerSe; a binary mask would look the same"
_ALSO_AT_CORNERS = np.ones((3, 3, 3), dtype=bool)


@dataclass(frozen=True)
class MaskScheme:
    """The scheme of a mask, and how it is known, in words.

    Attributes:
        name: the scheme.
        reason: how it is known.
        doubt: what must be said beside every level that is read from the mask; "" if nothing must.
    """

    name: SchemeName
    reason: str
    doubt: str = ""

    @property
    def is_binary(self) -> bool:
        """Whether 1 is any vertebra."""
        return self.name == "binary"


def scheme_of(mask: Volume) -> MaskScheme:
    """The scheme of a label map (uint8 or uint16); an empty one without a mark counts as vertebrae."""
    if stored := stored_scheme(mask.header):
        return MaskScheme(stored, "its header says so")
    if present_ids(mask.array) - {0} != {1}:
        return MaskScheme("vertebrae", "it holds other ids than 1, or none")
    if made_by_verse3d(mask.header):
        return MaskScheme("binary", "verse3d made it, and its only id is 1")
    if reason := _no_atlas(mask):
        return MaskScheme("binary", f"its only id is 1, and {reason}")
    return MaskScheme("vertebrae", "its only id is 1, and that can be a C1", TAKEN_FOR_C1)


def doubts_in_words(doubts: Mapping[str, str]) -> tuple[str, ...]:
    """A sentence per doubt, with the names of all that share it.

    Args:
        doubts: what is doubtful (a case, or a mask of it) and why, ``MaskScheme.doubt``; "" is left out.

    Example:
        >>> doubts_in_words({"a": "torn", "b": "", "c": "torn"})
        ('a, c: torn',)
    """
    names: dict[str, list[str]] = {}
    for name, doubt in doubts.items():
        if doubt:
            names.setdefault(doubt, []).append(name)
    return tuple(f"{listed(sharing)}: {doubt}" for doubt, sharing in names.items())


def require_levels(mask: Volume, purpose: str) -> MaskScheme:
    """Refuse a binary mask where the levels are needed, and return the scheme of any other.

    Args:
        mask: a label map.
        purpose: what it is wanted for, e.g. "labels.scheme vertebrae".

    Raises:
        DataError: it is binary; the message says how that is known.
    """
    scheme = scheme_of(mask)
    if scheme.is_binary:
        raise DataError(
            f"{mask.path} is a binary mask ({scheme.reason}): 1 is any vertebra there, not C1, but {purpose} needs to "
            "know which one",
            hint="use the scheme binary, or a mask with VerSe's ids",
        )
    return scheme


def _no_atlas(mask: Volume) -> str:
    """Why the label 1 is no single C1, or ""."""
    inside: NDArray[np.bool_] = mask.array == 1
    box = scipy.ndimage.find_objects(inside.view(np.uint8))[0]
    part = inside[box]
    # The axis that runs most nearly up or down
    axis = next(axis for axis, code in enumerate(mask.geometry.axis_codes) if code in "SI")
    step_mm = mask.geometry.spacing_mm[axis]
    heights = np.arange(part.shape[axis]) * step_mm
    reach = float(np.ptp(heights)) + step_mm
    if reach > LARGEST_C1_MM:
        return f"it reaches over {reach:.0f} mm from top to bottom, more than a C1"
    volume = float(np.count_nonzero(part)) * mask.geometry.voxel_ml
    if volume > _LARGEST_C1_ML:
        return f"it has {volume:.0f} ml, more than a C1"
    # How far the middles of the large pieces lie above one another
    numbered, count = scipy.ndimage.label(part, _ALSO_AT_CORNERS)
    sizes = np.bincount(numbered.ravel(), minlength=count + 1)[1:]
    large = 1 + np.flatnonzero(sizes >= _PIECE_SHARE * sizes.max())
    middles = [float(heights[np.nonzero(numbered == number)[axis]].mean()) for number in large]
    apart = max(middles) - min(middles)
    return f"it is in pieces {apart:.0f} mm above one another" if apart > _APART_MM else ""
