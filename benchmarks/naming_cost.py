"""What grouping and naming bones cost beside a network: seconds, and memory beyond the map of parts.

    python benchmarks/naming_cost.py [--planes 500 1500]

A phantom's true bones on 512 x 512 x PLANES voxels: the whole spine, as large as the scan lets it be. What counts on
top, in a prediction, is in docs/performance.md. The last line is one JSON object.
"""

import argparse
import json
import time

import numpy as np
import torch
from numpy.typing import NDArray

from verse3d.core.geometry import Geometry
from verse3d.core.labels import BONES
from verse3d.core.peak_memory import MemoryWatch
from verse3d.core.runtime import rss_mb
from verse3d.inference.naming import SequenceNaming
from verse3d.model.parts import parts_of
from verse3d.phantoms.body import make_body

DRAWN_MM = 3.0
ACROSS = 512


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planes", type=int, nargs="*", default=[500, 1500])
    results = {}
    for planes in parser.parse_args().planes:
        parts, geometry = _scan(planes)
        before = rss_mb()
        with MemoryWatch(0.005) as watch:
            peak, start = watch.peak(), time.perf_counter()
            named = SequenceNaming(keeps_partial=True).name(parts, geometry, None)
            seconds = time.perf_counter() - start
            megabytes = peak.mb - before
        results[f"{ACROSS}x{ACROSS}x{planes}"] = {
            "seconds": round(seconds, 2),
            "megabytes": round(megabytes, 1),
            "map_megabytes": round(parts.size / 1e6, 1),
            "vertebrae": len(named.vertebrae),
        }
        print(results, flush=True)
    print(json.dumps(results))


def _scan(planes: int) -> tuple[NDArray[np.uint8], Geometry]:
    """Parts of a phantom, as a mask lies in memory: the last axis is the slowest."""
    body = make_body(1, 0, DRAWN_MM)
    network_id = np.zeros(256, np.uint8)
    for number, label in enumerate(BONES.labels, start=1):
        network_id[label.id] = number
    parts = parts_of(torch.from_numpy(network_id[body.mask])[None, None], body.geometry.spacing_mm)[0, 0].numpy()
    shape = (ACROSS, ACROSS, planes)
    nearest = [np.arange(fine) * coarse // fine for fine, coarse in zip(shape, parts.shape, strict=True)]
    affine = body.geometry.affine.copy()
    affine[:3, :3] *= np.array(parts.shape) / shape
    return parts.T[np.ix_(*nearest[::-1])].T, Geometry(shape, affine)


if __name__ == "__main__":
    main()
