"""What tests of reading share."""

import gzip

from tests.core.grids import TILT_DEGREES, affine, file_bytes
from verse3d.core.volume import read_geometry, read_image, read_labels

MATRIX = affine("PIR", degrees=TILT_DEGREES)
READERS = [read_geometry, read_image, read_labels]
SUFFIXES = [".nii", ".nii.gz"]


def poke(path, offset: int, content: bytes) -> None:
    """Overwrite bytes of the (unpacked) file."""
    old = file_bytes(path)
    new = old[:offset] + content + old[offset + len(content) :]
    path.write_bytes(gzip.compress(new) if path.name.endswith(".gz") else new)
