"""What makes a mask doubtful before anybody has looked at it: the scan is none, or is unlike those of the training.

What ``check`` knows about headers and grey values is said here too, because who predicts may never have checked.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.phantom_sidecar import is_phantom
from verse3d.core.volume import Volume
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.header import check_header
from verse3d.data.quality.voxels import check_grey_values
from verse3d.data.samples.measures import SAMPLED_MM, grid_measures, tissue_measures
from verse3d.model.trained_on import TrainedOn

_SPARSE = (slice(None, None, 7),) * 3
"""Where two voxels differ is mostly known from a few of them."""
_HARMLESS = {"affine-skewed"}
"""Findings about a header that change nothing for a mask on the grid of the scan."""
_WORDS = {
    "finest": ("the finest spacing is {:.2g} mm", "{:.2g}", 1.4),
    "coarsest": ("the coarsest spacing is {:.2g} mm", "{:.2g}", 1.4),
    "width": ("the field of view is {:.0f} mm wide", "{:.0f}", 1.6),
    "depth": ("the field of view is {:.0f} mm deep", "{:.0f}", 1.6),
    "height": ("the field of view is {:.0f} mm high", "{:.0f}", 1.6),
}
"""Measure -> what is said about the scan, how the training's range is written, by which factor it may be left."""
_HU_WORDS = {
    "median": ("the middle grey value of the tissue is {:.0f} HU", 150.0),
    "bright": ("the brightest hundredth of the tissue begins at {:.0f} HU", 300.0),
}
"""Likewise, with by how many HU the range may be left."""


def scan_warnings(volume: Volume, trained_on: TrainedOn | None) -> tuple[str, ...]:
    """What is wrong with a scan, and how it differs from those of the training. Reads some hundredths of the voxels.

    Args:
        volume: the scan as it was read.
        trained_on: what the model has seen; None if nobody knows.
    """
    return (*_findings(volume), *_unlike(volume.geometry, trained_on), *_not_synthetic(volume.path, trained_on))


def tissue_warnings(
    image: NDArray[np.floating], grid: Geometry, window_hu: tuple[float, float], trained_on: TrainedOn | None
) -> tuple[str, ...]:
    """Whether tissue has other grey values than in the training.

    Args:
        image: (I, J, K) 0 ... 1 on the network ``grid``.
        grid: of the image.
        window_hu: what 0 and 1 are.
        trained_on: what the model has seen; None if nobody knows.
    """
    if trained_on is None:
        return ()
    # Every so many voxels: grey values of a tissue do not depend on all of them.
    steps = tuple(slice(None, None, max(1, round(SAMPLED_MM / spacing))) for spacing in grid.spacing_mm)
    found = tissue_measures(image[steps], window_hu)
    return tuple(
        f"{words.format(round(found[name]))}, in the training's scans {_range(trained_on, name, '{:.0f}')}"
        for name, (words, slack) in _HU_WORDS.items()
        if name in found and name in trained_on.ranges and _beyond(found[name], trained_on.ranges[name], slack)
    )


def _findings(volume: Volume) -> Iterator[str]:
    # An empty scan would meet every other finding as well; this one says it all.
    if all(np.ptp(voxels) == 0 for voxels in (volume.array[_SPARSE], volume.array)):
        yield f"all voxels of the scan have the value {float(volume.array.flat[0]):g}"
        return
    findings: list[Finding] = [*check_header("", volume), *check_grey_values("", volume)]
    for finding in findings:
        if finding.severity == "warning" and finding.code not in _HARMLESS:
            yield finding.message.removeprefix(f"{volume.path}: ")


def _unlike(geometry: Geometry, trained_on: TrainedOn | None) -> Iterator[str]:
    if trained_on is None:
        return
    found = grid_measures(geometry)
    for name, (words, number, factor) in _WORDS.items():
        if name in trained_on.ranges:
            low, high = trained_on.ranges[name]
            # A factor, not a difference: 0.5 mm more is much for thin slices and little for thick ones.
            if not low / factor <= found[name] <= high * factor:
                yield f"{words.format(found[name])}, in the training's scans {_range(trained_on, name, number)}"


def _not_synthetic(path: Path, trained_on: TrainedOn | None) -> Iterator[str]:
    if trained_on is not None and trained_on.phantoms == trained_on.cases and not is_phantom(path):
        yield "the model was trained on synthetic scans only: on a real one it may be wrong everywhere"


def _beyond(value: float, between: list[float], slack: float) -> bool:
    return not between[0] - slack <= value <= between[1] + slack


def _range(trained_on: TrainedOn, name: str, number: str) -> str:
    low, high = (number.format(end) for end in trained_on.ranges[name])
    return low if low == high else f"{low} to {high}"
