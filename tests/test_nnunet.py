"""nnU-Net's own check accepts what convert writes, and is shown to refuse what is wrong."""

import json
import shutil
import subprocess
import sysconfig
import venv
from dataclasses import replace
from pathlib import Path

import pytest

import verse3d
from tests.core.grids import hounsfield, label_map, save_scan, sheared_grid
from tests.data.convert.conftest import GRIDS, write_case
from tests.scans import spine, write_nifti
from verse3d.data.cases import Case, CaseIndex, write_index
from verse3d.phantoms import write_phantom

ROOT = Path(__file__).parents[1]
BARE = ("nnunetv2", "acvl-utils", "batchgenerators")
"""Installed without what they ask for: the check needs little of it, and the rest does not fit every torch."""
NEEDED = ("SimpleITK", "nibabel", "numpy", "pandas", "scikit-image", "tifffile", "blosc2")
pytestmark = pytest.mark.xdist_group("nnunet")  # the environment is made once
CHECK = """
import sys
from nnunetv2.experiment_planning.verify_dataset_integrity import verify_dataset_integrity
if __name__ == "__main__":
    verify_dataset_integrity(sys.argv[1], 2)
"""


@pytest.fixture(scope="module")
def verify(tmp_path_factory):
    """Run nnU-Net's check on a folder, in an environment of its own that borrows PyTorch and the like from this one."""
    home = tmp_path_factory.mktemp("nnunet")
    venv.create(home / "venv", with_pip=True)
    (site,) = (home / "venv").glob("lib/python*/site-packages")
    (site / "borrowed.pth").write_text(sysconfig.get_path("purelib") + "\n")
    pip = [str(home / "venv/bin/pip"), "install", "--quiet", "--no-compile"]
    for packages in (["--no-deps", *BARE], ["--constraint", str(ROOT / "constraints.txt"), *NEEDED]):
        subprocess.run([*pip, *packages], check=True, capture_output=True)
    script = home / "check.py"
    script.write_text(CHECK)

    def run(folder: Path) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [str(home / "venv/bin/python"), str(script), str(folder)], capture_output=True, text=True, check=False
        )

    yield run
    shutil.rmtree(home, ignore_errors=True)


@pytest.fixture(scope="module")
def converted(tmp_path_factory) -> Path:
    """Phantoms, and scans that are flipped, oblique, of odd sizes, uncompressed, skewed or without form codes."""
    folder = tmp_path_factory.mktemp("converted")
    write_phantom(folder / "phantoms", cases=3, seed=3, anomalies=True)
    phantoms = verse3d.index(folder / "phantoms", out=folder / "phantoms.jsonl").cases
    awkward = [write_case(folder / "in", f"grid{n}", n, split="train") for n in range(len(GRIDS))]
    awkward.append(write_case(folder / "in", "plain", 1, split="train", ending=".nii"))
    awkward += [_skewed(folder / "in"), _without_codes(folder / "in")]
    numbered = [
        replace(case, fold=n % 2) if case.split != "test" else case for n, case in enumerate([*phantoms, *awkward])
    ]
    write_index(folder / "cases.jsonl", CaseIndex(tuple(numbered)))
    result = verse3d.convert(folder / "cases.jsonl", to="nnunet", out=folder / "raw")
    assert not result.left_out
    assert sum(file.how == "repaired" for record in result.cases for file in record.files) == 2
    return result.folder


def _skewed(folder: Path) -> Case:
    matrix = spine(0, GRIDS[1]).geometry.affine.copy()
    matrix[:3, 2] += 2e-3 * matrix[:3, 1]
    image, mask = folder / "skewed_ct.nii.gz", folder / "skewed_seg.nii.gz"
    save_scan(image, spine(0, GRIDS[1]).hu, matrix, qform=0)
    save_scan(mask, spine(0, GRIDS[1]).mask, matrix, qform=0)
    return Case("skewed", "skewed", image, mask, split="train")


def _without_codes(folder: Path) -> Case:
    image, mask = folder / "codes_ct.nii.gz", folder / "codes_seg.nii.gz"
    write_nifti(image, spine(1).hu, GRIDS[0].affine, sform=0, qform=0)
    write_nifti(mask, spine(1).mask, GRIDS[0].affine, sform=0, qform=0)
    return Case("codes", "codes", image, mask, split="train")


@pytest.fixture
def copy(converted, tmp_path) -> Path:
    """A copy that a test may spoil."""
    return Path(shutil.copytree(converted, tmp_path / "copy", symlinks=True))


@pytest.mark.slow
def test_nnunet_accepts_what_convert_writes(verify, converted):
    result = verify(converted)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "verify_dataset_integrity Done" in result.stdout
    assert "SimpleITKIO" in result.stdout, "ITK must be able to read the scans"
    assert "rror" not in result.stdout.replace("didn't see any error messages", "")
    assert "Warning" not in result.stdout


@pytest.mark.slow
def test_nnunet_refuses_labels_that_dataset_json_does_not_name(verify, copy):
    told = json.loads((copy / "dataset.json").read_text())
    told["labels"] = {name: label for name, label in told["labels"].items() if name != "T13"}
    (copy / "dataset.json").write_text(json.dumps(told))
    result = verify(copy)
    assert result.returncode != 0 and "Unexpected labels found" in result.stdout


@pytest.mark.slow
def test_nnunet_refuses_masks_of_another_size(verify, copy):
    write_nifti(copy / "labelsTr" / "grid0.nii.gz", spine(0).mask[:-1], GRIDS[0].affine)
    result = verify(copy)
    assert result.returncode != 0 and "Shape mismatch" in result.stdout


@pytest.mark.slow
def test_nnunet_cannot_read_a_sheared_scan_which_convert_would_leave_out(verify, copy):
    grid = sheared_grid()
    image = copy / "imagesTr" / "grid0_0000.nii.gz"
    image.unlink()
    save_scan(image, hounsfield(), grid.affine, qform=0)
    save_scan(copy / "labelsTr" / "grid0.nii.gz", label_map(ids=(0, 1)), grid.affine, qform=0)
    result = verify(copy)
    assert result.returncode != 0 and "orthonormal" in result.stdout + result.stderr
