"""Small cases to survey."""

from dataclasses import replace
from pathlib import Path

import verse3d
from tests.core.grids import affine, hounsfield, save_scan
from tests.data.spines import spine_labels
from verse3d.data.cases import Case

SHAPE = (9, 11, 14)
MATRIX = affine("PIR", (1.0, 0.75, 3.0), degrees=(12.0, -9.0, 17.0))
ROOT = Path(verse3d.__file__).parents[1]


def write_case(folder: Path, name="a", *, seed=0, mask_matrix=MATRIX, **changes) -> Case:
    scan = save_scan(folder / f"{name}.nii.gz", hounsfield(SHAPE, seed=seed), MATRIX)
    mask = save_scan(folder / f"{name}_seg.nii.gz", spine_labels(SHAPE, MATRIX), mask_matrix)
    return replace(Case(name, name, scan, mask), **changes)
