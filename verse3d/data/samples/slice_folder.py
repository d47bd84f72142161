"""A folder of slices as PNG files: how it is laid out, and reading it. ``slicewriter`` fills it.

``config.yaml`` (how the slices were cut), ``manifest.jsonl`` (a line per slice), and for every split and case a folder
``train/<case>/`` with ``<plane>_<index>.png``, ``<plane>_<index>_mask.png`` and ``slices.json`` (the case's own lines,
and what they were cut from). All PNGs are 8-bit grey. Masks hold 0 and 255 for ``binary``, else VerSe ids.
"""

import json
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from pydantic import ConfigDict
from torch.utils.data import Dataset

from verse3d.core.config import load_config
from verse3d.core.errors import DataError
from verse3d.core.files import regular_file
from verse3d.core.labels import LabelScheme, label_scheme
from verse3d.core.paths import name_problem, path_below
from verse3d.core.readers import MEGABYTE, RECORD_CONFIG, numbered_lines, parsed
from verse3d.core.wording import brief
from verse3d.data.cases import Split
from verse3d.data.samples.slices import grey_values

CONFIG_FILE = "config.yaml"
MANIFEST_FILE = "manifest.jsonl"
CASE_FILE = "slices.json"
_MANIFEST_BYTES = 512 * MEGABYTE
_WHITE = 255
_SHOWN = 5
_WHAT_IT_IS = {
    "RGB": "RGB",
    "RGBA": "RGB with transparency",
    "LA": "grey with transparency",
    "P": "coloured by a palette",
    "1": "black and white (1 bit)",
    "I": "16-bit grey",
    "I;16": "16-bit grey",
}


@dataclass(frozen=True)
class SliceRow:
    """One slice.

    Attributes:
        case: of which case.
        split: "train", "validation" or "test".
        plane: "sagittal", "coronal", "axial" or "as-stored".
        axis: the direction of the network grid across the slice: "R", "A" or "S".
        index: of the slice along that axis of the network grid.
        image: the PNG, relative to the folder.
        mask: likewise.
        original_size: rows and columns on the network grid, before stretching.
        labelled_voxels: of the slice on the network grid.
    """

    __pydantic_config__: ClassVar[ConfigDict] = RECORD_CONFIG

    case: str
    split: str
    plane: str
    axis: str
    index: int
    image: str
    mask: str
    original_size: tuple[int, int]
    labelled_voxels: int

    def to_json(self) -> str:
        """One line of JSON."""
        return json.dumps(asdict(self))


def read_manifest(folder: Path) -> tuple[SliceRow, ...]:
    """The slices of a folder.

    Raises:
        DataError: there is no manifest, or a line is no slice; the line is named.
    """
    path = folder / MANIFEST_FILE
    try:
        lines = list(numbered_lines(path, max_bytes=_MANIFEST_BYTES))
    except DataError as error:
        raise DataError(
            f"{folder} is no folder of slices: {error.message}",
            hint="make one with `verse3d.slices('cases.jsonl', out=FOLDER)`",
        ) from error
    return tuple(row_of(line, f"{path}, line {number}") for number, line in lines)


def row_of(line: str, place: str) -> SliceRow:
    """Parse one line of a manifest.

    Raises:
        DataError: it is no slice, or its files would lie outside of the folder; names the place.
    """
    row = parsed(line, SliceRow, place, hint="run verse3d slices again")
    for name in (row.image, row.mask):
        problem = "; ".join(filter(None, map(name_problem, PurePosixPath(name).parts or ("",))))
        if problem:
            raise DataError(f"{place}: the file {brief(name)} {problem}", hint="run verse3d slices again")
    return row


def mask_pixels(ids: NDArray[np.uint8], scheme: LabelScheme) -> NDArray[np.uint8]:
    """Network ids as they are stored in a mask PNG: white for the only label there is, else VerSe ids."""
    return ids * np.uint8(_WHITE) if scheme.output_channels == 1 else scheme.file_from_network(ids)


class SliceFolder(Dataset[dict[str, torch.Tensor]]):
    """The slices of one split, read from their PNGs: equal, to the last bit, to slices cut from the prepared volumes.

    Args:
        folder: as ``verse3d slices`` writes it.
        split: which part of it.

    Raises:
        DataError: there is no manifest; a PNG of it is missing; or there are PNGs that it does not list.

    Example:
        >>> SliceFolder(Path("SLICES"), "train")[0]["image"].shape  # doctest: +SKIP
        torch.Size([1, 250, 250])
    """

    def __init__(self, folder: Path, split: Split) -> None:
        self.folder = folder
        self.rows = tuple(row for row in read_manifest(folder) if row.split == split)
        config = load_config(folder / CONFIG_FILE)
        self.size = config.slices.size_pixels if config.slices.spacing_mm is None else None
        self.scheme = label_scheme(config.labels.scheme)
        for name in {name for row in self.rows for name in (row.image, row.mask)}:
            path_below(folder, *PurePosixPath(name).parts)  # a name that leads out is refused
        listed = {name for row in self.rows for name in (row.image, row.mask)}
        there = {path.relative_to(folder).as_posix() for path in (folder / split).rglob("*.png")}
        _refuse(folder, "lacks these PNGs of its manifest", listed - there, "run verse3d slices again")
        foreign = "nobody knows what they show: move them away, or run verse3d slices into another folder"
        _refuse(folder, "holds PNGs that its manifest does not list", there - listed, foreign)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> dict[str, torch.Tensor]:
        """``{"image": (1, rows, columns) float32 0 ... 1, "label": (1, rows, columns) uint8 network ids}``.

        Slices whose pixels have a size in mm (``slices.spacing_mm``) were not stretched: each case has its own size.

        Raises:
            DataError: a PNG is damaged, RGB, 16 bit or of another size, or a mask holds other values than labels.
        """
        row = self.rows[position]
        size = self.size or row.original_size
        picture = read_png(self.folder / row.image, size)
        mask = read_png(self.folder / row.mask, size)
        ids = self._network_ids(mask, self.folder / row.mask)
        # A channel of one in front, as images and labels of a training have it
        image, label = torch.from_numpy(grey_values(picture))[None], torch.from_numpy(ids)[None]
        return {"image": image, "label": label}

    def _network_ids(self, mask: NDArray[np.uint8], path: Path) -> NDArray[np.uint8]:
        if self.scheme.output_channels > 1:
            try:
                return self.scheme.network_from_verse(mask)
            except DataError as error:
                raise DataError(f"{path}: {error.message}", hint=error.hint) from error
        values = np.unique(mask).tolist()
        if not set(values) <= {0, _WHITE}:
            raise DataError(f"{path} holds the values {values[:_SHOWN]}, a mask of vertebrae has 0 and {_WHITE} only")
        return mask // np.uint8(_WHITE)


def _refuse(folder: Path, what: str, names: set[str], hint: str) -> None:
    if names:
        shown = ", ".join(sorted(names)[:_SHOWN]) + (", ..." if len(names) > _SHOWN else "")
        raise DataError(f"{folder} {what} ({len(names)}): {shown}", hint=hint)


def read_png(path: Path, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The pixels of an 8-bit grey PNG of this many rows and columns.

    Raises:
        DataError: it is missing, damaged, no PNG, not 8-bit grey, or of another size.
    """
    try:
        with Image.open(regular_file(path), formats=["PNG"]) as picture:
            _require_grey(picture, path, size)
            return np.array(picture)
    except UnidentifiedImageError as error:
        raise DataError(f"{path} is not a PNG", hint="run verse3d slices again") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow's words for a damaged file
        if isinstance(error, DataError):
            raise
        raise DataError(f"cannot read {path}: {error}", hint="run verse3d slices again") from error


def _require_grey(picture: Any, path: Path, size: tuple[int, int]) -> None:  # noqa: ANN401 - Pillow's image
    if picture.mode != "L":
        raise DataError(
            f"{path} is {_WHAT_IT_IS.get(picture.mode, picture.mode)}, a slice is 8-bit grey",
            hint="store it with one channel of 8 bit, or run verse3d slices again",
        )
    if (picture.height, picture.width) != tuple(size):
        raise DataError(
            f"{path} has {picture.height} x {picture.width} pixels, {size[0]} x {size[1]} belong there",
            hint="run verse3d slices again",
        )
