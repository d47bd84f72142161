"""Resample one CT and its mask with verse3d and with MONAI's ``Spacingd``, side by side, and print the ratio.

    python benchmarks/resample.py                       # 512 x 512 x 300, about two minutes on two cores
    python benchmarks/resample.py --shape 128 128 90    # a quick look
    python benchmarks/resample.py --repeats 5 --from-mm 0.5 0.5 1.0 --to-mm 1.5 1.5 1.5

Both run in this process on the same data, turn by turn, once unmeasured and then ``--repeats`` times; the printed
seconds are medians. MONAI has nothing like the label vote, so that line is set against its nearest neighbour. The
images are also compared: the largest difference is given as a share of the HU range.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from measuring import medians_in_turn
from monai.data import MetaTensor
from monai.transforms import Spacingd
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_linear, resample_nearest, resample_vote

TARGET_RATIO = 8.0
HU_RANGE = 3000.0


@dataclass(frozen=True)
class Contest:
    """The same job twice: how verse3d does it and how MONAI does it."""

    name: str
    ours: Callable[[], Any]
    monai: Callable[[], Any]


def main() -> None:
    """Run all contests and print a line for each."""
    options = _options()
    random = np.random.default_rng(0)
    source = Geometry(tuple(options.shape), np.diag([*options.from_mm, 1.0]))
    target = source.resampled(tuple(options.to_mm))
    image = random.integers(-1000, 2000, source.shape).astype(np.float32)
    labels = _stack_of_boxes(source.shape)
    print(f"{source.shape} at {options.from_mm} mm -> {target.shape} at {options.to_mm} mm")
    print(f"torch threads: {torch.get_num_threads()}, repeats: {options.repeats}")

    contests = [
        Contest(
            "image, linear",
            lambda: resample_linear(image, source, target),
            lambda: _monai(image, source, options.to_mm, "bilinear"),
        ),
        Contest(
            "labels, nearest",
            lambda: resample_nearest(labels, source, target),
            lambda: _monai(labels, source, options.to_mm, "nearest"),
        ),
        Contest(
            "labels, vote (MONAI: nearest)",
            lambda: resample_vote(labels, source, target),
            lambda: _monai(labels, source, options.to_mm, "nearest"),
        ),
    ]
    difference = float(np.abs(contests[0].ours() - contests[0].monai()).max()) / HU_RANGE
    print(f"largest difference of the images: {difference:.1e} of the HU range")
    for contest in contests:
        ours, theirs = medians_in_turn(contest.ours, contest.monai, options.repeats)
        print(f"{contest.name:30s} verse3d {ours:7.3f} s   MONAI {theirs:7.3f} s   ratio {theirs / ours:5.1f}")
    print(f"(wanted for the image: at least {TARGET_RATIO:g})")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", type=int, nargs=3, default=[512, 512, 300], help="voxels along i, j, k")
    parser.add_argument("--from-mm", type=float, nargs=3, default=[0.8, 0.8, 1.25], help="spacing of the scan")
    parser.add_argument("--to-mm", type=float, nargs=3, default=[1.0, 1.0, 1.0], help="spacing of the network grid")
    parser.add_argument("--repeats", type=int, default=3, help="measured turns of each")
    return parser.parse_args()


def _stack_of_boxes(shape: tuple[int, int, int]) -> NDArray[np.uint8]:
    """25 boxes one above the other, as large as vertebrae are in a CT of the whole spine."""
    labels = np.zeros(shape, dtype=np.uint8)
    width, depth, height = shape
    for label in range(1, 26):
        rows = slice(height * (label - 1) // 25, height * label // 25 - 1)
        labels[width * 2 // 5 : width * 3 // 5, depth // 2 : depth * 3 // 4, rows] = label
    return labels


def _monai(array: NDArray[Any], grid: Geometry, spacing_mm: list[float], mode: str) -> NDArray[Any]:
    # The tensor shares the array's memory, so only the resampling is measured.
    tensor = MetaTensor(torch.from_numpy(array[None]), affine=torch.from_numpy(grid.affine.copy()))
    resampled: NDArray[Any] = Spacingd("volume", pixdim=spacing_mm, mode=mode)({"volume": tensor})["volume"][0].numpy()
    return resampled


if __name__ == "__main__":
    main()
