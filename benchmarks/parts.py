"""Everything of a prediction but the network, part by part, beside the usual tool for it in the same run.

    python benchmarks/parts.py                          # 512 x 512 x 500, some minutes on two cores
    python benchmarks/parts.py --shape 160 160 150      # a quick look

A synthetic spine with noise as in a real scan (which decides how well it packs) is read, resampled to the network grid,
its mask resampled to the grid of the scan as a probability and as 26 labels, cleaned and written; likewise the noise
that an untrained network of 27 classes makes of it. verse3d and the other tool take turns, once unmeasured and then
``--repeats`` times; seconds are medians of elapsed time. Memory is what the process held at most beyond what it held
before, results included, in a turn of its own (Linux only; small arrays come out of memory that the process keeps, so
that small shapes show 0). MONAI resamples 26 labels by the nearest voxel, which is less work than a vote; writing is
compared with nibabel's, which does not read back what it wrote.
"""

import argparse
import gc
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
import torch
from measuring import medians_in_turn
from monai.data import MetaTensor
from monai.transforms import Compose, Orientationd, ScaleIntensityRanged, Spacingd, SpatialResample
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.config import GridConfig, InferenceConfig
from verse3d.core.geometry import Geometry
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.resample import resample_above, resample_linear, resample_nearest, resample_vote
from verse3d.core.runtime import rss_mb
from verse3d.core.threads import thread_count
from verse3d.core.volume import Volume, read_image, write_labels
from verse3d.data.samples.grid import network_geometry, prepare_image_float16
from verse3d.inference.aggregator import MulticlassAggregator
from verse3d.inference.open_sums import FinishedPlanes
from verse3d.inference.postprocess import clean_up
from verse3d.phantoms import make_case

SPACING_MM = (0.8, 0.8, 1.0)
NOISE_HU = 18.0
GRID = GridConfig()
CLEANING = InferenceConfig()


@dataclass(frozen=True)
class Contest:
    """The same job twice."""

    name: str
    tool: str
    ours: Callable[[], Any]
    theirs: Callable[[], Any]


def main() -> None:
    """Run all contests and print a line for each."""
    options = _options()
    print(f"{tuple(options.shape)} at {SPACING_MM} mm, network grid {GRID.spacing_mm} mm, repeats: {options.repeats}")
    print(f"threads: {thread_count()}, PyTorch: {torch.get_num_threads()}")
    with tempfile.TemporaryDirectory(prefix="verse3d-bench-") as folder:
        scan, mask = _write_scan(Path(folder), tuple(options.shape))
        for contest in _contests(read_image(scan), mask, Path(folder)):
            ours, theirs = medians_in_turn(contest.ours, contest.theirs, options.repeats)
            memory = f"{_peak_mb(contest.ours):5.0f} MB against {_peak_mb(contest.theirs):5.0f} MB"
            print(f"{contest.name:24s} {ours:7.3f} s   {contest.tool:22s} {theirs:7.3f} s   ratio {theirs / ours:6.1f}"
                  f"   {memory}", flush=True)  # fmt: skip


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 500], help="voxels along i, j, k")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each")
    return parser.parse_args()


def _write_scan(folder: Path, shape: tuple[int, int, int]) -> tuple[Path, NDArray[np.uint8]]:
    """A phantom in the middle of noisy air, one above the other until the scan is full; its path, and its mask."""
    case = make_case(0)
    upright = case.geometry.reoriented("LAS")
    fine = upright.resampled(SPACING_MM)
    image = resample_linear(resample_nearest(case.image_hu, case.geometry, upright), upright, fine)
    bones = resample_nearest(resample_nearest(case.mask, case.geometry, upright), upright, fine)
    hu = np.full(shape, -1000, dtype=np.int16, order="F")
    mask = np.zeros(shape, dtype=np.uint8, order="F")
    sides = [min(size, whole) for size, whole in zip(fine.shape[:2], shape[:2], strict=True)]
    i, j = (slice((whole - size) // 2, (whole + size) // 2) for size, whole in zip(sides, shape[:2], strict=True))
    random = np.random.default_rng(0)
    for k in range(shape[2]):
        hu[i, j, k] = image[: sides[0], : sides[1], k % fine.shape[2]]
        mask[i, j, k] = bones[: sides[0], : sides[1], k % fine.shape[2]]
        hu[..., k] += np.rint(random.normal(0, NOISE_HU, shape[:2])).astype(np.int16)
    path = folder / "scan.nii.gz"
    nib.Nifti1Image(hu, np.diag([-SPACING_MM[0], *SPACING_MM[1:], 1.0])).to_filename(path)
    return path, mask


def _contests(scan: Volume, mask: NDArray[np.uint8], folder: Path) -> list[Contest]:
    source, network = scan.geometry, network_geometry(scan.geometry, GRID)
    heights = (1 + np.arange(source.shape[2]) * 26 // source.shape[2]).astype(np.uint8)
    labels = np.where(mask > 0, heights, np.uint8(0))
    probability = np.ascontiguousarray(resample_linear((mask > 0).astype(np.uint8), source, network))
    network_labels = np.ascontiguousarray(resample_vote(labels, source, network))
    scores = torch.zeros((27, *network.shape))
    scores.scatter_(0, torch.from_numpy(network_labels[None]).long(), 1.0)
    foreground = np.asfortranarray(mask > 0).astype(np.uint8)
    unsure = torch.randn(scores.shape, generator=torch.Generator().manual_seed(0))
    noise = _resample(unsure, network, source)

    def write() -> None:
        write_labels(folder / "ours.nii.gz", labels, like=scan.header)

    def save() -> None:
        nib.Nifti1Image(labels, source.affine).to_filename(folder / "theirs.nii.gz")

    return [
        Contest("read", "nibabel get_fdata", lambda: read_image(scan.path),
                lambda: nib.load(scan.path).get_fdata(dtype=np.float32)),
        Contest("prepare", "MONAI", lambda: prepare_image_float16(scan, GRID), lambda: _monai_prepare(scan)),
        Contest("resample, probability", "MONAI, bilinear", lambda: resample_above(probability, network, source, 0.5),
                lambda: _monai_resample(probability, network, source, "bilinear") > 0.5),
        Contest("resample, 27 probs", "MONAI, nearest, labels only", lambda: _resample(scores, network, source),
                lambda: _monai_resample(network_labels, network, source, "nearest")),
        Contest("clean, one label", "scipy, whole map", lambda: clean_up(foreground.copy("F"), source, CLEANING),
                lambda: _plain_cleaning(foreground.copy("F"), source)),
        Contest("clean, 26 labels", "scipy, 2 labels only", lambda: clean_up(labels.copy("F"), source, CLEANING),
                lambda: _plain_cleaning(labels.copy("F"), source, range(1, 3))),
        Contest("resample, noise", "MONAI, nearest, labels only", lambda: _resample(unsure, network, source),
                lambda: _monai_resample(network_labels, network, source, "nearest")),
        Contest("clean, noise", "scipy, 2 labels only", lambda: clean_up(noise.copy("F"), source, CLEANING),
                lambda: _plain_cleaning(noise.copy("F"), source, range(1, 3))),
        Contest("write and verify", "nibabel, write only", write, save),
    ]  # fmt: skip


def _resample(scores: torch.Tensor, network: Geometry, source: Geometry) -> NDArray[np.uint8]:
    """All planes in lots, as the windows of a prediction finish them."""
    answer = MulticlassAggregator(network, source, 2, np.arange(len(scores), dtype=np.uint8))
    weights = torch.ones(network.shape)
    for first in range(0, network.shape[2], 72):
        here = (scores[..., first : first + 72], weights[..., first : first + 72])
        answer.take(FinishedPlanes(2, first, *here, are_logits=False))
    return answer.mask()


def _monai_prepare(scan: Volume) -> NDArray[np.float32]:
    low, high = GRID.window_hu
    steps = [
        Orientationd("ct", axcodes="RAS", labels=None),
        Spacingd("ct", pixdim=GRID.spacing_mm, mode="bilinear"),
        ScaleIntensityRanged("ct", a_min=low, a_max=high, b_min=0.0, b_max=1.0, clip=True),
    ]
    image = torch.from_numpy(scan.array.astype(np.float32)[None])
    ready = Compose(steps)({"ct": MetaTensor(image, affine=torch.from_numpy(scan.geometry.affine.copy()))})["ct"]
    result: NDArray[np.float32] = ready[0].numpy()
    return result


def _monai_resample(array: NDArray[Any], network: Geometry, source: Geometry, mode: str) -> NDArray[Any]:
    tensor = MetaTensor(torch.from_numpy(array[None]).float(), affine=torch.from_numpy(network.affine.copy()))
    resample = SpatialResample(mode=mode, padding_mode="border", dtype=torch.float32)
    result: NDArray[Any] = resample(tensor, torch.from_numpy(source.affine.copy()), source.shape)[0].numpy()
    return result


def _plain_cleaning(labels: NDArray[np.uint8], geometry: Geometry, ids: range = range(1, 2)) -> NDArray[np.uint8]:
    """As tutorials have it. Of many labels only the first two are cleaned: each takes the same time."""
    for label in ids:
        components, _ = ndimage.label(labels == label, np.ones((3, 3, 3)))
        voxels = np.bincount(components.ravel())
        keep = voxels >= CLEANING.min_component_ml / geometry.voxel_ml
        labels[(components > 0) & ~keep[components]] = 0
    return labels


def _peak_mb(job: Callable[[], Any]) -> float:
    gc.collect()
    before = rss_mb()
    with MemoryWatch(every_seconds=0.001) as watch:
        peak = watch.peak()
        job()
        return peak.mb - before


if __name__ == "__main__":
    main()
