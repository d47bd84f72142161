"""A quick look at a NIfTI file: header and length, without reading the voxels."""

import gzip
import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import nibabel as nib

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.volume import read_geometry

_PIECE_BYTES = 2**20
_SIZE_FIELD = 4  # the last bytes of a gzip file: the unpacked size modulo 2**32


@dataclass(frozen=True)
class Probe:
    """What the header says, and what is wrong with the file; ``geometry`` is None if the header cannot be used."""

    geometry: Geometry | None
    problem: str = ""


def probe(path: Path) -> Probe:
    """Read the header and find out whether the file is as long as it says. Holds a few kB, whatever the volume.

    A damaged voxel in the middle of a file is not seen: ``verse3d check`` reads everything.
    """
    try:
        geometry, header = read_geometry(path)
    except DataError as error:
        return Probe(None, error.message)
    expected = _expected_bytes(header)
    found = _unpacked_bytes(path, expected)
    problem = "" if found >= expected else f"{path} is cut off: {found} of {expected} bytes"
    return Probe(geometry, problem)


def _expected_bytes(header: nib.Nifti1Header) -> int:
    voxels = 1
    for size in header.get_data_shape():
        voxels *= int(size)
    return int(header.get_data_offset()) + voxels * int(header.get_data_dtype().itemsize)


def _unpacked_bytes(path: Path, expected: int) -> int:
    """The file's length; of a .gz as its last bytes say, or counted where they say otherwise than expected."""
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    with path.open("rb") as handle:
        handle.seek(-_SIZE_FIELD, os.SEEK_END)
        if int.from_bytes(handle.read(_SIZE_FIELD), "little") == expected % 2**32:
            return expected
    return _counted_bytes(path)


def _counted_bytes(path: Path) -> int:
    """Unpack to the end or to the damage: several gzip streams in one file are legal and rare."""
    count = 0
    try:
        with gzip.open(path) as handle:
            while piece := handle.read(_PIECE_BYTES):
                count += len(piece)
    except (OSError, EOFError, zlib.error):
        pass
    return count
