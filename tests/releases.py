"""The VerSe release with tiny volumes under the real names, subject-based and as given out at MICCAI."""

import gzip
import json
import zlib
from collections.abc import Iterable
from pathlib import Path

import nibabel as nib
import numpy as np

from verse3d.data.index.verse_release import ReleasedScan, released_scans

NAMES_FILE = Path(__file__).parents[1] / "../shared/data/verse-release-names.tsv"
"""(scan, mask) paths of the complete release, where the machine has them."""
FOLDER_OF = {
    "verse19training": "dataset-verse19training",
    "verse19validation": "dataset-verse19validation",
    "verse19test": "dataset-verse19test",
    "verse20training": "dataset-01training",
    "verse20validation": "dataset-02validation",
    "verse20test": "dataset-03test",
}
SHAPE = (5, 7, 6)
AFFINE = np.array([[0, 0, 3.0, -20], [-1.5, 0, 0, 40], [0, -1.5, 0, 90], [0, 0, 0, 1]])  # P-I-R


def tiny_scan(path: Path, name: str) -> Path:
    """Grey values that no other name has."""
    random = np.random.default_rng(zlib.crc32(name.encode()))
    return _write(path, random.integers(-1000, 1500, SHAPE).astype(np.int16))


def tiny_mask(path: Path) -> Path:
    mask = np.zeros(SHAPE, np.uint8)
    mask[1:4, 1:3, 2:4], mask[1:4, 4:6, 2:4] = 20, 21
    return _write(path, mask)


def _write(path: Path, array: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = nib.Nifti1Image(array, AFFINE)
    path.write_bytes(gzip.compress(image.to_bytes(), compresslevel=1))
    return path


def released_paths() -> list[tuple[str, str]]:
    """(scan, mask) of the subject-based release, from the package's own list."""
    return [subject_based_paths(scan) for scan in released_scans()]


def subject_based_paths(scan: ReleasedScan) -> tuple[str, str]:
    folder, stem = FOLDER_OF[scan.part], scan.stem
    return (
        f"{folder}/rawdata/{scan.subject}/{stem}_ct.nii.gz",
        f"{folder}/derivatives/{scan.subject}/{stem}_seg-vert_msk.nii.gz",
    )


def write_subject_based(root: Path, paths: Iterable[tuple[str, str]] | None = None) -> Path:
    for image, mask in released_paths() if paths is None else paths:
        tiny_scan(root / image, Path(image).name)
        tiny_mask(root / mask)
        centroids = root / mask.replace("_seg-vert_msk.nii.gz", "_seg-subreg_ctd.json")
        centroids.write_text(json.dumps([{"direction": ["P", "I", "R"]}, {"label": 20, "X": 2.0, "Y": 1.5, "Z": 2.5}]))
        (root / mask.replace("_seg-vert_msk.nii.gz", "_seg-vert_snp.png")).write_bytes(b"\x89PNG")
    return root


_VARIANTS = {
    "gl003": "GL003",
    "gl017": "GL017_CT_ax",
    "gl090": "GL090_CT-ax",
    "gl124": "GL124_CT-ax",
    "verse600": "verse600_CT-sag",
}


def miccai_stem(scan: ReleasedScan) -> str:
    """VerSe'19 names the series alone, VerSe'20 the patient first."""
    if scan.part.startswith("verse19"):
        return scan.series
    return _VARIANTS.get(scan.series, f"{scan.subject.removeprefix('sub-').replace('gl', 'GL')}_CT-iso")


def write_miccai(root: Path) -> Path:
    """2019 flat; 2020 a folder per case, with VerSe'19 once more in training under both numbers."""
    for scan in released_scans():
        stem, year = miccai_stem(scan), "19" if scan.part.startswith("verse19") else "20"
        split = scan.part.removeprefix(f"verse{year}")
        folder = root / f"dataset-verse{year}{split}" / ("" if year == "19" else stem)
        _write_miccai(folder, stem, "_ctd.json" if year == "19" else "_iso-ctd.json")
        if year == "19" and scan.subject.removeprefix("sub-") != scan.series:
            again = f"{scan.subject.removeprefix('sub-')}_{scan.series}_CT-iso"
            _write_miccai(root / "dataset-verse20training" / again, again, "_iso-ctd.json")
    return root


def _write_miccai(folder: Path, stem: str, centroids: str) -> None:
    tiny_scan(folder / f"{stem}.nii.gz", stem)
    tiny_mask(folder / f"{stem}_seg.nii.gz")
    name = "GL124_CT_ax-iso-ctd.json" if stem.startswith("GL124") else f"{stem}{centroids}"
    (folder / name).write_text(json.dumps([{"label": 20, "X": 2.0, "Y": 1.5, "Z": 2.5}]))
