"""A quick look at a NIfTI file: header and length, without reading the voxels."""

from dataclasses import dataclass
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.nifti_bytes import unpacked_size
from verse3d.core.volume import read_geometry


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
    voxels = 1
    for size in header.get_data_shape():
        voxels *= int(size)
    expected = int(header.get_data_offset()) + voxels * int(header.get_data_dtype().itemsize)
    found = unpacked_size(path, expected)
    problem = "" if found >= expected else f"{path} is cut off: {found} of {expected} bytes"
    return Probe(geometry, problem)
