"""Measure how wide vertebrae are beside their neighbours: the table of ``verse3d/labelling/widths.py``.

    python benchmarks/naming_widths.py MASK.nii.gz [MASK.nii.gz ...]

For each vertebra whose upper neighbour is whole and in the same mask (VerSe ids): the log of its width beside that of
the neighbour, as mean, lowest and highest over the masks. Leave out patients on whom names are to be judged.
"""

import argparse
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import numpy as np

from verse3d.core.labels import VERTEBRAE, vertebra
from verse3d.core.volume import read_labels
from verse3d.labelling.bones import CoarseGrid, measured_bones


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("masks", type=Path, nargs="+", help="with VerSe's ids")
    seen: dict[str, list[float]] = defaultdict(list)
    for path in parser.parse_args().masks:
        for name, ratio in _ratios(path).items():
            seen[name].append(ratio)
    for label in VERTEBRAE:
        if values := seen[label.name]:
            row = f"{np.mean(values):6.2f} {min(values):6.2f} {max(values):6.2f}"
            print(f"{label.name:4} {row}  {len(values)} masks")


def _ratios(path: Path) -> dict[str, float]:
    """Name -> log of its width beside that of the vertebra above it."""
    mask = read_labels(path)
    known = np.isin(mask.array, [label.id for label in VERTEBRAE])
    ids = np.where(known, mask.array, 0).astype(np.uint8)
    bones = measured_bones(ids, (0, 0, 0), CoarseGrid.of(mask.geometry), mask.geometry)
    widths = {vertebra(bone.number).name: bone.width_mm for bone in bones}
    # In the order of the spine; where T13 and L6 are not there, they are no neighbours.
    names = [label.name for label in VERTEBRAE if label.name in widths]
    ratios = {lower: float(np.log(widths[lower] / widths[upper])) for upper, lower in pairwise(names)}
    return {name: ratio for name, ratio in ratios.items() if np.isfinite(ratio)}


if __name__ == "__main__":
    main()
