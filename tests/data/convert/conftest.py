"""Cases as awkward as they come, and what SimpleITK makes of the files written from them."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from tests.scans import PIR, orientation, spine, turned
from verse3d.core.geometry import Geometry
from verse3d.data.cases import Case, CaseIndex

GRIDS = (
    PIR,
    turned(orientation((0, 1, 2), (-1, 1, 1), (3.0, 2.5, 3.5), (25, 31, 19))),
    turned(orientation((2, 0, 1), (1, -1, -1), (0.8, 4.0, 1.1), (27, 33, 17)), (31.0, 12.0, -24.0)),
)
"""Flipped and permuted, oblique, strongly oblique; odd sizes, no two spacings alike."""


def write_case(folder: Path, name: str, number: int = 0, *, ending=".nii.gz", ids=(19, 28, 20), **fields) -> Case:
    """Write a scan with its mask, and the case of both."""
    ct, mask = folder / f"{name}_ct{ending}", folder / f"{name}_seg-vert_msk{ending}"
    spine(number, GRIDS[number % len(GRIDS)], ids).write(ct, mask)
    return replace(Case(name, name, ct, mask), **fields)


@pytest.fixture
def cases(tmp_path) -> CaseIndex:
    """A subject with two scans to train on, one to validate, one to test, an uncompressed one, one without a mask."""
    folder = tmp_path / "in"
    return CaseIndex(
        (
            write_case(folder, "sub-verse401_split-verse201", 0, subject="sub-verse401", split="train"),
            write_case(folder, "sub-verse401_split-verse202", 1, subject="sub-verse401", split="train"),
            write_case(folder, "sub-gl003_dir-ax", 2, subject="sub-gl003", split="validation"),
            write_case(folder, "sub-verse500", 1, split="train", ending=".nii"),
            write_case(folder, "sub-verse813", 0, split="test"),
            replace(write_case(folder, "sub-verse920", 2), mask=None),
        )
    )


def seen_by_itk(path: Path) -> tuple[Geometry, np.ndarray]:
    """Grid (RAS mm) and voxels (i, j, k) as SimpleITK reads them."""
    image = sitk.ReadImage(str(path))
    affine = np.eye(4)
    affine[:3, :3] = np.array(image.GetDirection()).reshape(3, 3) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    return Geometry(image.GetSize(), np.diag([-1.0, -1, 1, 1]) @ affine), sitk.GetArrayFromImage(image).T


def tree(folder: Path) -> dict[str, bytes | str]:
    """All files below: what they hold, or where they link to."""
    return {
        path.relative_to(folder).as_posix(): f"-> {path.readlink()}" if path.is_symlink() else path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_symlink() or path.is_file()
    }
