"""An entry of the store: a folder with a case on the network grid, the same at 4 mm, and where its labels are.

sub-verse004-1f0c.../
    image.b2nd         float16, 0 ... 1
    labels.b2nd        uint8, VerSe ids after ``relabel``, and UNDECIDED
    image-4mm.b2nd     the same on a grid of 4 mm
    labels-4mm.b2nd
    entry.json         grids, checksums, label blocks
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from verse3d.core.config import GridConfig
from verse3d.core.errors import Verse3dError
from verse3d.core.geometry import Geometry
from verse3d.core.jsontext import json_checksum, parse_json
from verse3d.core.labels import VERSE_IDS, LabelScheme
from verse3d.core.limits import require_countable
from verse3d.data.samples.arrays import ArrayRecord, StoredArray, damaged_entry
from verse3d.data.samples.blocks import LabelBlocks
from verse3d.data.samples.keys import PREPARATION_VERSION

UNDECIDED = 255
"""Stored where several vertebrae together outweigh the background, but none of them by itself. It is a vertebra to the
scheme "binary" and background to "vertebrae", so that one store gives both exactly what they would get by themselves.
"""

ENTRY_FILE = "entry.json"
_MOST_BYTES = 2**26
"""Of the longest spine at half a millimetre ``entry.json`` takes a tenth of that."""
ARRAYS = ("image", "labels", "image-4mm", "labels-4mm")


@dataclass(frozen=True, eq=False)
class Entry:
    """What ``entry.json`` says.

    Attributes:
        case: name of the case.
        grid: what it was prepared for.
        source: the grid of the file.
        geometry: the network grid.
        coarse: the grid of the small copy.
        arrays: what is known of each file, by the names in ``ARRAYS``.
        blocks: where the labels are on the network grid.
        binary: how it is known that 1 is any vertebra in the mask, not C1; "" if the mask tells levels apart.
    """

    case: str
    grid: GridConfig
    source: Geometry
    geometry: Geometry
    coarse: Geometry
    arrays: Mapping[str, ArrayRecord]
    blocks: LabelBlocks
    binary: str = ""

    @property
    def disk_bytes(self) -> int:
        """Disk space of the arrays."""
        return sum(record.size for record in self.arrays.values())

    def to_text(self) -> str:
        """The content of ``entry.json``."""
        grids = {name: getattr(self, name).to_dict() for name in ("source", "geometry", "coarse")}
        arrays = {name: record.to_dict() for name, record in self.arrays.items()}
        blocks = {name: getattr(self.blocks, name).tolist() for name in ("block", "code", "count")}
        values = {"version": PREPARATION_VERSION, "case": self.case, "grid": self.grid.model_dump(mode="json"), **grids}
        values |= {"arrays": arrays, "blocks": blocks, "binary": self.binary}
        return json.dumps({"checksum": json_checksum(values), "entry": values})

    @classmethod
    def of_text(cls, text: bytes) -> Self:
        """Inverse of ``to_text``. Raises ``KeyError``, ``TypeError``, ``ValueError`` or ``DataError`` for others."""
        if len(text) > _MOST_BYTES:
            raise ValueError(f"it has {len(text)} bytes")
        outer = parse_json(text.decode())
        values = outer["entry"]
        if outer["checksum"] != json_checksum(values):
            raise ValueError("it does not have its checksum")
        geometry, coarse = _geometry(values["geometry"]), _geometry(values["coarse"])
        arrays = {name: ArrayRecord.from_dict(values["arrays"][name]) for name in ARRAYS}
        for name, record in arrays.items():
            if record.shape != (coarse if name.endswith("-4mm") else geometry).shape:
                raise ValueError(f"{name} does not fill its grid")
        blocks = values["blocks"]
        where = LabelBlocks.read(geometry.shape, blocks["block"], blocks["code"], blocks["count"])
        grid = GridConfig.model_validate(values["grid"])
        grids = (_geometry(values["source"]), geometry, coarse)
        return cls(str(values["case"]), grid, *grids, arrays, where, str(values["binary"]))


def read_entry(folder: Path) -> Entry | None:
    """The entry in a folder; None if there is no such folder.

    Raises:
        DamagedEntryError: it is not what was written.
    """
    try:
        return Entry.of_text((folder / ENTRY_FILE).read_bytes())
    except FileNotFoundError as error:
        if not folder.is_dir():
            return None
        raise damaged_entry(folder, error) from error
    except (OSError, KeyError, TypeError, ValueError, Verse3dError) as error:
        raise damaged_entry(folder, error) from error


def check_entry(folder: Path, entry: Entry) -> None:
    """Read all of an entry and compare it with its checksums.

    Raises:
        DamagedEntryError: something differs.
    """
    for name, record in entry.arrays.items():
        open_array(folder, entry, name, unchecked(record)).check_all()


def open_array(folder: Path, entry: Entry, name: str, checked: NDArray[np.bool_]) -> StoredArray:
    """One of the arrays of an entry.

    Raises:
        DamagedEntryError: the file is missing or damaged.
    """
    return StoredArray(folder / f"{name}.b2nd", entry.arrays[name], checked)


def unchecked(record: ArrayRecord) -> NDArray[np.bool_]:
    """That no chunk of a file has been compared with its checksum."""
    return np.zeros(len(record.chunks), bool)


def coarse_levels(entry: Entry, arrays: Mapping[str, StoredArray]) -> tuple[NDArray[np.float16], NDArray[np.uint8]]:
    """The 4 mm copy: grey values, and VerSe ids; in a binary mask 1 is any vertebra, and not C1."""
    start, size = (0, 0, 0), entry.coarse.shape
    image = arrays["image-4mm"].read_padded(start, size)
    ids = arrays["labels-4mm"].read_padded(start, size)
    return image, np.where(ids > 0, np.uint8(UNDECIDED), ids) if entry.binary else ids


def network_table(scheme: LabelScheme) -> NDArray[np.uint8]:
    """For each of the 256 stored values its network id."""
    table = np.zeros(256, np.uint8)
    known = np.array([0, *VERSE_IDS], np.uint8)
    table[known] = scheme.network_from_verse(known)
    table[UNDECIDED] = scheme.undecided
    return table


def _geometry(values: Mapping[str, Any]) -> Geometry:
    i, j, k = values["shape"]
    require_countable((i, j, k), "the grid")
    return Geometry((i, j, k), np.array(values["affine"], float))
