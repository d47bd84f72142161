"""NIfTI in, NIfTI out: voxels with their geometry, and masks written on exactly the grid of their scan."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from numpy.typing import NDArray

from verse3d.core.errors import DataError, GeometryError, OutputError
from verse3d.core.files import whole_file
from verse3d.core.geometry import Geometry
from verse3d.core.label_values import all_labels, as_labels, refuse_not_finite
from verse3d.core.labels import SchemeName
from verse3d.core.limits import require_whole_file, voxel_count
from verse3d.core.memory import require_memory
from verse3d.core.nifti_bytes import (
    READ_ERRORS,
    all_values,
    holds,
    is_scaled,
    read_voxels,
    refusing,
    voxel_chunks,
    write_bytes,
)
from verse3d.core.nifti_header import image_geometry, nifti_stem, open_nifti, spatial_shape, stored_header
from verse3d.version import __version__

LABEL_DESCRIPTION = b"verse3d"
"""The header text of every mask that verse3d writes begins so."""
_SCHEME = re.compile(rb"; scheme (binary|vertebrae)\0*$")
GEOMETRY_FIELDS = (
    *("dim", "dim_info", "pixdim", "xyzt_units", "qform_code", "sform_code"),
    *("quatern_b", "quatern_c", "quatern_d", "qoffset_x", "qoffset_y", "qoffset_z"),
    *("srow_x", "srow_y", "srow_z"),
)
"""The header fields that place voxels in the world. A mask copies them from its scan bit for bit."""

_EXPLAINING_BYTES = 25
"""For each voxel of a mask with values that are no labels: they are held as float64 three times, and compared."""
_NO_EXTENSIONS = bytes(4)
_DISK_HINT = "check the disk"


@dataclass(frozen=True, eq=False)
class Volume:
    """Voxels on a grid, and the NIfTI header they came with.

    Attributes:
        array: (i, j, k) voxels; HU as float32 or an integer dtype for scans, uint8/uint16 for label maps.
        geometry: the grid.
        header: the header as stored in the file (``nibabel.Nifti1Header`` or ``Nifti2Header``), without the repairs
            that nibabel makes while loading (``pixdim[0]`` of 0, negative spacings).
        path: where it was read from.
    """

    array: NDArray[Any]
    geometry: Geometry
    header: nib.Nifti1Header
    path: Path


def read_geometry(path: Path) -> tuple[Geometry, nib.Nifti1Header]:
    """Read only the header.

    Raises:
        DataError: missing, not NIfTI, not three axes (further ones of length 1 are left out).
        GeometryError: the affine is singular or not finite.
    """
    image = open_nifti(path)
    return image_geometry(image, path), stored_header(image)


@dataclass(frozen=True, eq=False)
class StoredVoxels:
    """What a scan's header tells before its voxels are read.

    Attributes:
        geometry: the grid.
        header: as in ``Volume``.
        bytes_in_memory: of each voxel once ``read_image`` has read it.
    """

    geometry: Geometry
    header: nib.Nifti1Header
    bytes_in_memory: int


def stored_voxels(path: Path) -> StoredVoxels:
    """Read only the header of a scan.

    Raises:
        DataError: as for ``read_geometry``; or the file is too short for what the header promises.
        GeometryError: as for ``read_geometry``.
    """
    image = open_nifti(path)
    geometry = image_geometry(image, path)
    with refusing(path):
        require_whole_file(path, image.dataobj)
    return StoredVoxels(geometry, stored_header(image), _bytes_in_memory(image))


def _bytes_in_memory(image: nib.Nifti1Image) -> int:
    """Of each voxel as ``read_image`` gives it: unscaled integers stay what they are, all else becomes float32."""
    dtype = image.header.get_data_dtype()
    return int(dtype.itemsize) if dtype.kind in "iu" and not is_scaled(image.dataobj) else 4


def _require_room(image: nib.Nifti1Image, path: Path, bytes_each: int) -> None:
    """Before anything is allocated: the file must be as long as it says, and so much must be free."""
    with refusing(path):
        require_whole_file(path, image.dataobj)
        require_memory(voxel_count(image.shape) * bytes_each, f"reading {path}")


Arriving = Callable[[Volume, int], object]
"""Told about a scan that is being read, and how many of its voxels are there: the first ones in the order of memory."""


def read_image(path: Path, arriving: Arriving = lambda volume, count: None) -> Volume:
    """Read a scan. Integer voxels without scaling keep their dtype, everything else becomes float32 HU.

    Beside the array about 1 MB is held. The array never shares memory with the file, which may change.

    Args:
        path: of the file.
        arriving: told after each megabyte or so, but not about each file: some are only right at the end.

    Raises:
        DataError: missing, truncated, damaged, not NIfTI, not 3D, RGB or complex voxels, NaN or infinity among them.
        GeometryError: the affine is singular or not finite.
        MemoryLimitError: it would not fit into the memory that is free.
    """
    image = open_nifti(path)
    geometry = image_geometry(image, path)
    _require_room(image, path, _bytes_in_memory(image))
    header = stored_header(image)

    def volume(array: NDArray[Any]) -> Volume:
        return Volume(array.reshape(geometry.shape, order="F"), geometry, header, path)

    with refusing(path):
        array = read_voxels(path, image.dataobj, lambda array, count: arriving(volume(array), count))
    if array.dtype.kind == "f":
        refuse_not_finite(array, path)
    return volume(array)


def read_labels(path: Path) -> Volume:
    """Read a label map as uint8 (or uint16 if an id is above 255). Float masks are accepted if all are whole numbers.

    Beside the array about 1 MB is held.

    Raises:
        DataError: as for ``read_image``; or a value is negative, above 65535 or not a whole number.
        GeometryError: the affine is singular or not finite.
        MemoryLimitError: it would not fit into the memory that is free.
    """
    image = open_nifti(path)
    geometry = image_geometry(image, path)
    _require_room(image, path, 1)
    with refusing(path):
        plain = image.dataobj.dtype == np.uint8 and not is_scaled(image.dataobj)
        array = read_voxels(path, image.dataobj) if plain else _label_voxels(image, path)
    return Volume(array.reshape(geometry.shape, order="F"), geometry, stored_header(image), path)


def _label_voxels(image: nib.Nifti1Image, path: Path) -> NDArray[Any]:
    array: NDArray[Any] = np.empty(image.shape, np.uint8, order="F")
    for start, values in voxel_chunks(path, image.dataobj):
        if not all_labels(values):
            require_memory(array.size * _EXPLAINING_BYTES, f"finding out what is wrong with {path}")
            return as_labels(all_values(path, image.dataobj), path)  # says what is wrong with the file as a whole
        if values.max() > 255 and array.dtype == np.uint8:
            require_memory(array.size * 2, f"reading {path}")
            array = array.astype(np.uint16)
        array.reshape(-1, order="F")[start : start + values.size] = values
    return array


def as_grey_values(array: NDArray[Any], path: Path) -> NDArray[Any]:
    """Voxels of any real dtype as ``read_image`` gives them: integers as they are, everything else float32.

    Args:
        array: (i, j, k) HU.
        path: is named in errors.

    Raises:
        DataError: voxels are no single real numbers, or some are NaN or infinite.
    """
    if array.dtype.kind not in "iuf":
        raise DataError(f"{path}: voxels are {array.dtype}, expected one grey value each")
    if array.dtype.kind != "f":
        return array.astype(array.dtype.newbyteorder("="), copy=False)
    values = array.astype(np.float32, copy=False)
    refuse_not_finite(values, path)
    return values


def made_by_verse3d(header: nib.Nifti1Header) -> bool:
    """Whether a header is that of a mask that verse3d wrote."""
    return bytes(header["descrip"]).startswith(LABEL_DESCRIPTION)


def stored_scheme(header: nib.Nifti1Header) -> SchemeName | None:
    """What the ids of a mask mean, if verse3d wrote it and noted that."""
    if not made_by_verse3d(header):
        return None
    found = _SCHEME.search(bytes(header["descrip"]))
    if found is None:
        return None
    return "binary" if found[1] == b"binary" else "vertebrae"


def write_labels(
    path: Path, labels: NDArray[np.uint8], *, like: nib.Nifti1Header, scheme: SchemeName | None = None
) -> None:
    """Write a label map on the grid of a scan: every geometry field of the header is copied bit for bit.

    The file is written beside its final name, read back and compared, and only then renamed.

    Args:
        path: ends with .nii or .nii.gz.
        labels: (i, j, k) uint8, the shape of the scan.
        like: the scan's header.
        scheme: what the ids mean, noted in the header ("vertebrae" for VerSe's ids); None says nothing.

    Raises:
        GeometryError: the shape is not the scan's.
        OutputError: the file system refuses, or what was read back differs from what was meant.
    """
    shape = spatial_shape(like.get_data_shape())
    if labels.dtype != np.uint8:
        raise TypeError(f"labels must be uint8, got {labels.dtype}")
    if labels.shape != shape:
        raise GeometryError(f"{path}: the mask's shape {labels.shape} is not the scan's shape {shape}")
    nifti_stem(path)
    # Byte for byte: nibabel's own writer would repair the header's geometry on the way. Header extensions are left out:
    # they describe the scan, and may name the patient.
    head = _label_header(like, scheme).binaryblock + _NO_EXTENSIONS
    with whole_file(path) as part:
        write_bytes(part, head, labels)
        _compare_geometry(part, like, path)
        if not holds(part, head, labels):
            raise OutputError(f"{path}: the header or the voxels read back are not those written", hint=_DISK_HINT)


def _label_header(like: nib.Nifti1Header, scheme: SchemeName | None) -> nib.Nifti1Header:
    header = like.copy()
    header.set_data_dtype(np.uint8)
    header.set_slope_inter(1, 0)
    header["cal_min"] = header["cal_max"] = 0
    noted = f"; scheme {scheme}" if scheme else ""
    header["descrip"] = LABEL_DESCRIPTION + f" {__version__} vertebra labels{noted}".encode()
    header["aux_file"] = b""
    header.set_intent("none")
    header["magic"] = header.single_magic
    header["vox_offset"] = len(header.binaryblock) + len(_NO_EXTENSIONS)
    return header


def _compare_geometry(part: Path, like: nib.Nifti1Header, path: Path) -> None:
    try:
        stored = stored_header(nib.load(part))
    except READ_ERRORS as error:
        raise OutputError(f"{path}: the header cannot be read back: {error}", hint=_DISK_HINT) from error
    different = [name for name in GEOMETRY_FIELDS if stored[name].tobytes() != like[name].tobytes()]
    if different:
        raise OutputError(f"{path}: header fields {different} changed while writing", hint=_DISK_HINT)
