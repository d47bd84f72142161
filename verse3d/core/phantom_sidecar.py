"""How a synthetic scan is known again: by the JSON file that is written beside it."""

from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.files import is_file, read_json

SIDECAR = {"KVP": 120, "Manufacturer": "verse3d", "ManufacturerModelName": "phantom"}
"""What it holds, under the names that a DICOM converter gives to such facts."""
SOURCE = "VertebraeFrom"
"""Beside that, for a scan drawn around the vertebrae of a mask: the mask's file name."""
_LARGEST_BYTES = 10_000


def is_phantom(image: Path) -> bool:
    """Whether ``verse3d phantom`` made a scan; no for a copy without the JSON file beside it."""
    sidecar = image.with_name(f"{image.name.partition('.nii')[0]}.json")
    try:
        if not is_file(sidecar) or sidecar.stat().st_size > _LARGEST_BYTES:
            return False
        content = read_json(sidecar)
    except (DataError, OSError, ValueError):
        return False
    return isinstance(content, dict) and all(content.get(name) == value for name, value in SIDECAR.items())
