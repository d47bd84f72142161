"""What a NIfTI file says before its voxels are read: is it one, its stored header, its grid."""

from pathlib import Path

import nibabel as nib

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.filekinds import kind_of
from verse3d.core.geometry import Geometry
from verse3d.core.nifti_bytes import READ_ERRORS
from verse3d.core.nifti_errors import not_a_file, not_nifti

NIFTI_SUFFIXES = (".nii.gz", ".nii")


def nifti_stem(path: Path) -> str:
    """The file name without ".nii" or ".nii.gz".

    Raises:
        DataError: the name ends otherwise.
    """
    for suffix in NIFTI_SUFFIXES:
        if path.name.lower().endswith(suffix):
            return path.name[: -len(suffix)]
    kind = kind_of(path) if path.exists() else None
    if kind is not None and kind.hint:
        raise DataError(f"{path} is {kind.name}, not NIfTI", hint=kind.hint)
    raise DataError(f"{path} is not a NIfTI file: its name ends neither with .nii nor with .nii.gz")


def open_nifti(path: Path) -> nib.Nifti1Image:
    """Open a single-file NIfTI image of real grey values without reading its voxels.

    Raises:
        DataError: missing, not NIfTI, or RGB or complex voxels.
    """
    if path.exists():  # of what is missing its name is the lesser problem
        nifti_stem(path)
    if not path.is_file():
        raise not_a_file(path)
    try:
        path.open("rb").close()  # nibabel would take a file that it may not read for one of unknown type
        image = nib.load(path)
    except READ_ERRORS as error:
        raise not_nifti(path, error) from error
    if not isinstance(image, nib.Nifti1Image):  # Nifti2Image is a subclass
        raise DataError(f"{path} is not a single-file NIfTI image but {type(image).__name__}")
    dtype = image.header.get_data_dtype()
    if dtype.fields is not None or dtype.kind not in "iuf":
        what = f"colours ({', '.join(dtype.names)})" if dtype.names else str(dtype)
        raise DataError(f"{path}: voxels are {what}, expected one grey value each", hint="RGB and complex are no CT")
    return image


def stored_header(image: nib.Nifti1Image) -> nib.Nifti1Header:
    """The header without the repairs that nibabel makes while loading: a mask must carry the scan's own bytes."""
    with image.file_map["image"].get_prepare_fileobj() as handle:
        return type(image.header).from_fileobj(handle, check=False)


def spatial_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    """A shape without the axes of length 1 that follow the first three: some programs write (i, j, k, 1)."""
    used = len(shape)
    while used > 3 and shape[used - 1] == 1:
        used -= 1
    return tuple(int(size) for size in shape[:used])


def image_geometry(image: nib.Nifti1Image, path: Path) -> Geometry:
    """The grid of an opened image.

    Raises:
        DataError: it has not three axes (further ones of length 1 are left out).
        GeometryError: the affine is singular or not finite.
    """
    shape = spatial_shape(image.shape)
    if len(shape) != 3:
        raise DataError(
            f"{path} has {len(shape)} axes {shape}, expected 3 (one volume)",
            hint="store each volume as a 3D file of its own",
        )
    try:
        return Geometry(shape, image.affine)
    except GeometryError as error:
        raise GeometryError(f"{path}: {error.message}", hint=error.hint) from error
