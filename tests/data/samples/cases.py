"""Small cases of the store for tests."""

from pathlib import Path

import pytest
from monai.transforms.utils import create_shear

from tests.scans import PIR, orientation, spine, turned
from verse3d.core.config import Config, parse_config
from verse3d.data.cases import Case
from verse3d.data.samples.prepare import Job
from verse3d.data.samples.store import SampleStore, open_store

OBLIQUE = turned(orientation((0, 1, 2), (-1, 1, 1), (0.9, 1.1, 2.5), (41, 37, 23)))
LONG = orientation((1, 2, 0), (-1, -1, 1), (1.0, 1.3, 1.1), (45, 151, 33))
"""Two chunks along the body at 1.5 mm, and odd sizes everywhere."""


def config(spacing=(1.5, 1.5, 1.5), scheme="vertebrae", **sections) -> Config:
    return parse_config({"grid": {"spacing_mm": list(spacing)}, "labels": {"scheme": scheme}, **sections})


def write_case(folder: Path, name="case0", geometry=PIR, ids=(19, 20, 28), seed=0, **fields) -> Case:
    """A scan with noise and blocks of labels, and its mask."""
    made = spine(seed, geometry, ids)
    made.write(folder / f"{name}_ct.nii.gz", folder / f"{name}_msk.nii.gz")
    return Case(name, name, folder / f"{name}_ct.nii.gz", folder / f"{name}_msk.nii.gz", **{"split": "train", **fields})


def store_in(folder: Path) -> SampleStore:
    return open_store(folder / "cases.store")


def job(store: SampleStore, case: Case, settings: Config) -> Job:
    return Job.of(store, settings.grid, case)


as_todays_monai = pytest.mark.skipif(
    create_shear(2, (0.5, 0.5))[1, 1] == 1, reason="this MONAI adds shears up; newer ones apply one after the other"
)
