"""Which NIfTI headers ITK (and so SimpleITK, ITK-SNAP and nnU-Net) places where we do, and how to repair the others.

ITK takes the spacing from ``pixdim`` and the unit from ``xyzt_units``, wants perpendicular axes, falls back on the
qform where the sform has none, and makes up an orientation of its own where both codes are 0. All of this can be seen
in the header, so that ITK itself is not needed.
"""

from pathlib import Path

import nibabel as nib
import numpy as np
from nibabel.spatialimages import HeaderDataError

from verse3d.core.errors import GeometryError
from verse3d.core.files import whole_file
from verse3d.core.geometry import Geometry
from verse3d.core.nifti_bytes import copy_with_head
from verse3d.core.volume import Volume

REPAIR_TOLERANCE_MM = 0.5
"""A repair that moves some corner of a scan farther than this is not made."""
_SEEN_ALIKE_MM = 0.02
_SKEW_LIMIT = 1e-5  # ITK refuses somewhere above 1e-4
_SPATIAL_UNIT_BITS = 0b111
_MM = 2


def itk_problem(header: nib.Nifti1Header, geometry: Geometry) -> str:
    """Why ITK would refuse a scan or place it elsewhere than its affine says; "" if it would not.

    Args:
        header: as stored in the file.
        geometry: the grid as nibabel reads it, in mm.
    """
    sform, qform = int(header["sform_code"]), int(header["qform_code"])
    if not sform and not qform:
        return "sform_code and qform_code are both 0: the orientation is a guess (kept as nibabel reads it)"
    if geometry.skew > _SKEW_LIMIT:
        return f"the axes are not perpendicular (cosine {geometry.skew:.2g})"
    if int(header["xyzt_units"]) & _SPATIAL_UNIT_BITS not in (0, _MM):
        return "the unit of length is not mm (the numbers are kept, and taken as mm)"
    stored_mm = np.asarray(header["pixdim"][1:4], dtype=float)
    # A spacing that is a little off moves the far end of the scan most.
    apart_mm = np.abs(stored_mm - geometry.spacing_mm) * (np.array(geometry.shape) - 1)
    if not np.all(apart_mm <= _SEEN_ALIKE_MM) or np.any(stored_mm <= 0):
        return f"pixdim {_numbers(stored_mm)} is not the spacing {_numbers(geometry.spacing_mm)} of the affine"
    if sform and qform and not _qform_apart_mm(header, geometry) <= _SEEN_ALIKE_MM:
        return "sform and qform disagree (the sform is kept)"
    return ""


def repaired(volume: Volume) -> tuple[nib.Nifti1Header, float]:
    """A header that ITK reads, and how many mm it moves the corner that it moves most.

    The axes become perpendicular with the least turn of each, about the centre of the volume; spacing stays. sform,
    qform, ``pixdim`` and the unit all say the same afterwards.

    Raises:
        GeometryError: the scan would have to be moved by more than ``REPAIR_TOLERANCE_MM``.
    """
    straight = _straightened(volume.geometry)
    header = volume.header.copy()
    # What the coordinates mean (scanner, aligned ...) stays as it was said.
    code = int(header["sform_code"]) or int(header["qform_code"]) or 1
    header.set_sform(straight.affine, code)
    header.set_qform(straight.affine, code)  # sets pixdim as well
    header["xyzt_units"] = int(header["xyzt_units"]) & ~_SPATIAL_UNIT_BITS | _MM
    moved_mm = volume.geometry.distance_mm(Geometry(straight.shape, header.get_sform()))
    if moved_mm > REPAIR_TOLERANCE_MM:
        raise GeometryError(
            f"{volume.path}: {itk_problem(volume.header, volume.geometry)}; a header that ITK accepts would move a "
            f"corner by {moved_mm:.2f} mm, more than {REPAIR_TOLERANCE_MM} mm",
            hint="resample the scan onto a grid with perpendicular axes, or convert it from DICOM again",
        )
    return header, moved_mm


def copy_with_header(source: Path, path: Path, header: nib.Nifti1Header) -> None:
    """Write the file again under another header of the same kind; all that follows the header is copied bit for bit.

    Raises:
        OutputError: the file system refuses.
    """
    with whole_file(path) as part:
        copy_with_head(source, part, header.binaryblock)


def _straightened(geometry: Geometry) -> Geometry:
    """The nearest grid with perpendicular axes (polar decomposition), the same spacing and the same centre."""
    spacing_mm = np.array(geometry.spacing_mm)
    # A = U S V', and U V' is the rotation nearest to A: no axis is turned more than it has to be.
    #
    #         |   /           |  /|          the parallelogram becomes a rectangle
    #         |  /      ->    | / |          about its own centre
    #         | /___          |/__|
    left, _, right = np.linalg.svd(geometry.affine[:3, :3] / spacing_mm)
    affine = geometry.affine.copy()
    affine[:3, :3] = left @ right * spacing_mm
    middle = (np.array(geometry.shape) - 1) / 2
    # The middle of the volume stays where it is, so the corners move least.
    affine[:3, 3] = geometry.world_from_index(middle[None])[0] - affine[:3, :3] @ middle
    return Geometry(geometry.shape, affine)


def _qform_apart_mm(header: nib.Nifti1Header, geometry: Geometry) -> float:
    """How far the qform places the same voxel from the affine; NaN if it makes no sense."""
    try:
        return geometry.distance_mm(Geometry(geometry.shape, header.get_qform()))
    except (ValueError, HeaderDataError):  # GeometryError is a ValueError
        return float("nan")


def _numbers(values: object) -> str:
    return " x ".join(f"{value:.6g}" for value in np.asarray(values, dtype=float))
