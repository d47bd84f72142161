"""Awkward grids and files for the tests of the core: oblique, flipped, permuted, anisotropic, odd-sized."""

import gzip
import itertools
from pathlib import Path

import nibabel as nib
import numpy as np

from verse3d.core.geometry import Geometry

SHAPE = (5, 6, 7)
SPACING_MM = (0.7, 1.3, 2.5)
ORIGIN_MM = (-120.5, 33.25, 801.0)
TILT_DEGREES = (12.0, -9.0, 17.0)

AXIS_ORDERS = [
    "".join(codes) for axes in itertools.permutations(["LR", "PA", "IS"]) for codes in itertools.product(*axes)
]
"""All 48: RAS, LAS, ... PIR ..."""


def rotation(degrees=TILT_DEGREES) -> np.ndarray:
    """Three turns, one about each world axis."""
    turn = np.eye(3)
    for axis, angle in enumerate(np.deg2rad(degrees)):
        one, two = (axis + 1) % 3, (axis + 2) % 3
        step = np.eye(3)
        step[[one, one, two, two], [one, two, one, two]] = np.cos(angle), -np.sin(angle), np.sin(angle), np.cos(angle)
        turn = turn @ step
    return turn


def affine(codes="RAS", spacing_mm=SPACING_MM, degrees=(0.0, 0.0, 0.0), origin_mm=ORIGIN_MM) -> np.ndarray:
    """An orthogonal affine whose axes grow (nearly, if turned) towards ``codes``."""
    directions = {"R": (1, 0, 0), "L": (-1, 0, 0), "A": (0, 1, 0), "P": (0, -1, 0), "S": (0, 0, 1), "I": (0, 0, -1)}
    matrix = np.eye(4)
    matrix[:3, :3] = rotation(degrees) @ np.array([directions[code] for code in codes], dtype=float).T * spacing_mm
    matrix[:3, 3] = origin_mm
    return matrix


def grid(codes="RAS", shape=SHAPE, spacing_mm=SPACING_MM, degrees=TILT_DEGREES) -> Geometry:
    return Geometry(shape, affine(codes, spacing_mm, degrees))


def sheared_grid(codes="RAS", shape=SHAPE) -> Geometry:
    matrix = affine(codes, degrees=TILT_DEGREES)
    matrix[:3, 2] += 0.4 * matrix[:3, 1] - 0.2 * matrix[:3, 0]
    return Geometry(shape, matrix)


def hounsfield(shape=SHAPE, dtype=np.int16, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).integers(-1000, 2000, shape).astype(dtype)


def label_map(shape=SHAPE, ids=(0, 0, 1, 2, 19, 28), seed=0) -> np.ndarray:
    """Salt and pepper: the hardest mask there is."""
    return np.random.default_rng(seed).choice(np.array(ids, dtype=np.uint8), size=shape)


def save_scan(path: Path, voxels: np.ndarray, matrix: np.ndarray, *, qform=1, sform=1, kind=nib.Nifti1Image) -> Path:
    """A file with these form codes; the fields of a form whose code is 0 stay empty, as many exporters leave them."""
    image = kind(voxels, np.eye(4))
    header = image.header
    header.set_zooms(np.linalg.norm(matrix[:3, :3], axis=0))
    header.set_qform(matrix if qform else None, qform)
    header.set_sform(matrix if sform else None, sform)
    header.set_xyzt_units("mm")
    kind(voxels, None, header).to_filename(path)
    return path


def file_bytes(path: Path) -> bytes:
    """What is in the file, unpacked."""
    return gzip.decompress(path.read_bytes()) if path.name.endswith(".gz") else path.read_bytes()


def stored_header(path: Path) -> nib.Nifti1Header:
    """The header as it stands in the file, without nibabel's repairs."""
    content = file_bytes(path)
    if content[:4] in ((348).to_bytes(4, "little"), (348).to_bytes(4, "big")):
        return nib.Nifti1Header(content[:348], check=False)
    return nib.Nifti2Header(content[:540], check=False)
