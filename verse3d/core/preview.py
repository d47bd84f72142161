"""Reading for the eye: whatever a NIfTI file holds that can be shown, with a note on all that is unusual about it.

The readers of ``verse3d.core.volume`` are strict, because what they read is trained on and scored. Who looks at a file
wants to see what is wrong with it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from nibabel.arrayproxy import ArrayProxy
from numpy.typing import NDArray

from verse3d.core.errors import GeometryError, MemoryLimitError
from verse3d.core.geometry import Geometry
from verse3d.core.label_values import as_labels
from verse3d.core.limits import require_whole_file, voxel_count
from verse3d.core.memory import require_memory
from verse3d.core.nifti_bytes import READ_ERRORS, read_stored
from verse3d.core.nifti_errors import unreadable
from verse3d.core.nifti_header import open_nifti, stored_header
from verse3d.core.volume import Volume
from verse3d.core.wording import how_many


@dataclass(frozen=True, eq=False)
class Preview:
    """A volume to be looked at.

    Attributes:
        volume: the voxels as they are stored, in any real dtype: unscaled, so that no float copy of them is made.
        slope: value = stored value times ``slope`` plus ``inter``.
        inter: see ``slope``.
        notes: what is unusual about the file, a sentence each.
    """

    volume: Volume
    slope: float = 1.0
    inter: float = 0.0
    notes: tuple[str, ...] = ()

    def values(self, stored: NDArray[Any]) -> NDArray[np.float32]:
        """The values, float32, of a piece of the stored voxels; NaN and infinity stay what they are."""
        return (stored * np.float64(self.slope) + self.inter).astype(np.float32)

    def labels(self) -> NDArray[Any]:
        """The volume as a label map, uint8 or uint16.

        Raises:
            DataError: a value is not finite, negative, above 65535 or not a whole number.
        """
        plain = self.slope == 1 and self.inter == 0
        array = self.volume.array if plain else self.volume.array * np.float64(self.slope) + self.inter
        return as_labels(array, self.volume.path)


def read_preview(path: Path) -> Preview:
    """Read the first volume of a file with 2, 3, 4 or more axes. An uncompressed file is mapped, not loaded.

    Raises:
        DataError: missing, truncated, damaged, not NIfTI, RGB or complex voxels.
        GeometryError: the affine is singular or not finite.
        MemoryLimitError: it would not fit into the memory that is free.
    """
    image = open_nifti(path)
    shape = (*image.shape, 1, 1, 1)[:3]
    try:
        geometry = Geometry(shape, image.affine)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.message}", hint=error.hint) from error
    volumes = prod(image.shape[3:])
    header = stored_header(image)
    stored = _first_volume(image, path, shape, to_the_end=volumes == 1)
    notes = tuple(_notes(image.shape, volumes, header, stored))
    return Preview(
        Volume(stored, geometry, header, path), float(image.dataobj.slope), float(image.dataobj.inter), notes
    )


def _first_volume(image: nib.Nifti1Image, path: Path, shape: tuple[int, ...], *, to_the_end: bool) -> NDArray[Any]:
    """The stored voxels; of a compressed file ``to_the_end``, where gzip compares the checksum."""
    proxy = image.dataobj
    try:
        require_whole_file(path, proxy)
        if path.suffix.lower() != ".gz":
            return np.asanyarray(ArrayProxy(path, (shape, proxy.dtype, proxy.offset, 1.0, 0.0)))
        require_memory(voxel_count(shape) * proxy.dtype.itemsize, f"reading {path}")
        array = read_stored(path, shape, proxy.dtype, proxy.offset, whole=to_the_end)
    except MemoryLimitError:  # a ValueError, too
        raise
    except READ_ERRORS as error:
        raise unreadable(path, error) from error
    return array


def _notes(shape: tuple[int, ...], volumes: int, header: nib.Nifti1Header, stored: NDArray[Any]) -> Iterator[str]:
    """What is unusual about the axes, the orientation and the values."""
    if volumes > 1:
        yield f"the file holds {volumes} volumes: this is the first"
    elif len(shape) < 3:
        yield f"the file holds {len(shape)} axes only: a single slice"
    if not (int(header["sform_code"]) or int(header["qform_code"])):
        unknown = "left, right and all other sides are a guess"
        yield f"the header holds no orientation (sform and qform codes are 0): {unknown}"
    if stored.dtype.kind == "f":
        # Plane by plane: a scan may be mapped from a file that is larger than the memory.
        finite = sum(int(np.count_nonzero(np.isfinite(plane))) for plane in np.moveaxis(stored, -1, 0))
        if bad := stored.size - finite:
            yield f"{how_many(bad, 'voxel is', 'voxels are')} NaN or infinite: purple"
