"""Scans with room beside the spine, and where they are dense: in vertebrae, and in boxes that stand for ribs."""

from dataclasses import replace

import numpy as np

from tests.labelling.blocks import scan_of
from verse3d.core.geometry import Geometry
from verse3d.labelling.ribs import DenseMap

RIB = ((17.0, 24.0), (-10.0, 0.0), (-4.0, 4.0))
"""mm from the middle of a body, whose block ends at 14: to the side, forward, up."""


def wide_scan(names):
    """Vertebrae in a scan that goes 50 mm to either side."""
    scan = scan_of(names)
    more = 10
    affine = scan.geometry.affine.copy()
    affine[:3, 3] -= more * affine[:3, 0]
    ids = np.pad(scan.ids, ((more, more), (0, 0), (0, 0)))
    return replace(scan, ids=ids, geometry=Geometry(ids.shape, affine))


def dense_map(scan, *boxes, spacing_mm=1.0):
    """Where a scan is dense: in its vertebrae, and in boxes (name of a vertebra, side -1 or 1, box in mm)."""
    low, high = scan.geometry.corners_mm().min(axis=0), scan.geometry.corners_mm().max(axis=0)
    affine = np.diag([spacing_mm] * 3 + [1.0])
    affine[:3, 3] = low
    shape = tuple(int(n) for n in (high - low) / spacing_mm)
    world = Geometry(shape, affine).world_from_index(np.argwhere(np.ones(shape, bool)))
    nearest = np.rint(scan.geometry.index_from_world(world)).astype(int)
    dense = scan.ids[tuple(nearest.clip(0, np.array(scan.ids.shape) - 1).T)] > 0
    for name, side, box in boxes:
        offset = (world - scan.centres[name]) * (side, 1.0, 1.0)
        dense |= np.all([(o >= a) & (o <= b) for o, (a, b) in zip(offset.T, box, strict=True)], axis=0)
    return DenseMap(dense.reshape(shape), Geometry(shape, affine))


def both(name, box=RIB):
    return [(name, side, box) for side in (-1, 1)]
