"""The vertebra table, and how VerSe ids become the contiguous ids that a network counts in.

VerSe ids (osf.io/nqjyw, osf.io/t98fz): 1-7 C1-C7, 8-19 T1-T12, 20-24 L1-L5, 25 L6, 28 T13. The sacrum (26) and the
coccyx (27) have an id but are never labelled in VerSe, so verse3d treats them as unknown.
"""

import colorsys
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import ConfigError, DataError

SchemeName = Literal["binary", "vertebrae"]
Rgb = tuple[int, int, int]
IGNORED = 254
"""In what a network learns from: a voxel that teaches nothing."""
_CHUNK_VOXELS = 2**20


@dataclass(frozen=True)
class Label:
    """One row of a label table: the id in the file, its name and its colour (0-255)."""

    id: int
    name: str
    rgb: Rgb


def _colour(position: int) -> Rgb:
    """A colour that differs clearly from those of the neighbours along the spine (golden-angle hues)."""
    hue = (position * 0.381966) % 1.0
    value = 1.0 if position % 2 else 0.82
    red, green, blue = colorsys.hsv_to_rgb(hue, 0.75, value)
    return round(red * 255), round(green * 255), round(blue * 255)


_NAMES_TOP_DOWN = (
    *((number, f"C{number}") for number in range(1, 8)),
    *((number + 7, f"T{number}") for number in range(1, 13)),
    (28, "T13"),
    *((number + 19, f"L{number}") for number in range(1, 7)),
)

VERTEBRAE: tuple[Label, ...] = tuple(
    Label(verse_id, name, _colour(position)) for position, (verse_id, name) in enumerate(_NAMES_TOP_DOWN)
)
"""All 26 vertebrae of VerSe from head to tail (T13 stands between T12 and L1)."""

VERSE_IDS: frozenset[int] = frozenset(label.id for label in VERTEBRAE)
_BY_ID = {label.id: label for label in VERTEBRAE}
_BY_NAME = {label.name: label for label in VERTEBRAE}


def vertebra(key: int | np.integer | str) -> Label:
    """The vertebra with this VerSe id or name.

    Raises:
        DataError: no vertebra has that id or name.

    Example:
        >>> vertebra(28).name, vertebra("L1").id
        ('T13', 20)
    """
    found = _BY_NAME.get(key.upper()) if isinstance(key, str) else _BY_ID.get(int(key))
    if found is None:
        raise DataError(f"no vertebra is called {key!r}; known: 1-25 and 28, or C1 ... L6 and T13")
    return found


def unknown_ids(ids: Iterable[int]) -> list[int]:
    """The ids that are neither background nor a vertebra of VerSe, sorted."""
    return sorted({int(label) for label in ids} - VERSE_IDS - {0})


def require_known_ids(ids: Iterable[int]) -> None:
    """Check the ids of a mask.

    Raises:
        DataError: an id is neither 0 nor a vertebra of VerSe.
    """
    if unknown := unknown_ids(ids):
        raise DataError(
            f"mask holds unknown label ids {unknown}; VerSe uses 1-25 and 28 (no sacrum 26, no coccyx 27)",
            hint="set those voxels to 0 or to the right vertebra",
        )


@dataclass(frozen=True)
class LabelScheme:
    """What a network tells apart, and how its contiguous ids 0..n map to the ids written into masks.

    Attributes:
        name: what masks tell apart, "binary" (vertebra or not) or "vertebrae" (26 levels).
        labels: the foreground labels; the network id of ``labels[n]`` is ``n + 1``.
        undecided: the network id of a voxel that is some vertebra, but none by itself.
    """

    name: SchemeName
    labels: tuple[Label, ...]
    undecided: int = 0

    @property
    def output_channels(self) -> int:
        """Channels of the network's output: 1 (sigmoid) for one foreground label, else all + background (softmax)."""
        return 1 if len(self.labels) == 1 else len(self.labels) + 1

    def network_from_verse(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Map an array of VerSe ids (any integer dtype, any shape) to network ids.

        Raises:
            DataError: an id is neither 0 nor a vertebra of VerSe.
        """
        require_known_ids(present_ids(ids))
        table = np.zeros(max(VERSE_IDS) + 1, dtype=np.uint8)
        if self.name == "binary":
            table[list(VERSE_IDS)] = 1
        else:
            for network_id, label in enumerate(self.labels, start=1):
                table[label.id] = network_id
        return _looked_up(table, ids)

    def file_from_network(self, ids: NDArray[np.integer]) -> NDArray[np.uint8]:
        """Map network ids 0..n (any shape) to the ids that are written into masks (VerSe ids, or 1 for binary)."""
        return _looked_up(np.array([0, *(label.id for label in self.labels)], dtype=np.uint8), ids)


def label_counts(ids: NDArray[np.uint8]) -> NDArray[np.int64]:
    """How often each of the 256 values occurs; counted in chunks because counting widens each value to 64 bit.

    Quick where most values are 0.
    """
    flat = ids.ravel(order="K")
    counts = np.zeros(256, dtype=np.int64)
    for start in range(0, flat.size, _CHUNK_VOXELS):
        chunk = flat[start : start + _CHUNK_VOXELS]
        counts += np.bincount(chunk[chunk > 0], minlength=256)
    counts[0] = flat.size - counts.sum()
    return counts


def _looked_up(table: NDArray[np.uint8], ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """``table[ids]``, plane by plane, because NumPy widens indices to 64 bit; in the order in memory of ``ids``."""
    result = np.empty_like(ids, dtype=np.uint8)
    if ids.ndim < 2:
        result[...] = table[ids]
        return result
    order = sorted(range(ids.ndim), key=lambda axis: abs(ids.strides[axis]), reverse=True)
    for source, target in zip(ids.transpose(order), result.transpose(order), strict=True):
        target[...] = table[source]
    return result


def present_ids(ids: NDArray[np.integer]) -> set[int]:
    """The different values of an array, found in chunks because counting widens each of them to 64 bit."""
    flat = ids.ravel(order="K")
    present: set[int] = set()
    for start in range(0, flat.size, _CHUNK_VOXELS):
        chunk = flat[start : start + _CHUNK_VOXELS]
        found = np.flatnonzero(np.bincount(chunk)) if chunk.dtype in (np.uint8, np.uint16) else np.unique(chunk)
        present.update(found.tolist())
    return present


_CALLED = re.compile(r"^(?:vertebrae?[_ ])?([CTL]\d{1,2})$", re.IGNORECASE)
_SCHEMES: dict[str, LabelScheme] = {
    "binary": LabelScheme("binary", (Label(1, "vertebrae", (255, 200, 60)),), undecided=1),
    # The network id equals the VerSe id for 1-25; only T13 moves, from 28 to 26.
    "vertebrae": LabelScheme("vertebrae", tuple(sorted(VERTEBRAE, key=lambda label: label.id))),
}

PARTS = LabelScheme("vertebrae", (Label(1, "vertebra", (255, 200, 60)), Label(2, "core", (200, 90, 40))))
"""What a network without names tells apart: bone near another vertebra, and bone that is not."""

BONES = LabelScheme("vertebrae", _SCHEMES["vertebrae"].labels, undecided=len(VERTEBRAE) + 1)
"""What such a network learns from: which bone is which decides where ``PARTS`` lie, whatever the bone is called."""


def level_called(text: str) -> Label | None:
    """The vertebra that other programs call "L1", "vertebrae_L1" or "Vertebra L1"; None for a name of another kind.

    Raises:
        DataError: it is a name of that kind, but of no vertebra that VerSe knows, such as "L9".
    """
    match = _CALLED.match(text)
    return None if match is None else vertebra(match[1])


def label_scheme(name: str) -> LabelScheme:
    """The scheme of that name.

    Raises:
        ConfigError: there is no such scheme.
    """
    if name not in _SCHEMES:
        raise ConfigError(f"label scheme {name!r} is unknown; expected one of {sorted(_SCHEMES)}")
    return _SCHEMES[name]


def training_scheme(name: str) -> LabelScheme:
    """The scheme that patches are cut in: that of this name, or ``BONES`` for "bones".

    Raises:
        ConfigError: there is no such scheme.
    """
    return BONES if name == "bones" else label_scheme(name)
