"""Which detections belong to one spine, and their order from head to feet.

A spine is a curve, so neighbours in space are neighbours in the order. That is more than sorting by height: a strong
kyphosis leans so far forward that the upper thoracic vertebrae come down again, and a scan may hold two patients.

    o                 the path with most points in the minimum spanning tree is the backbone;
    |   x             a point beside it (x) is a side branch and is put in where its
    o--'              foot meets the backbone: whether it is a vertebra is for the
    |                 sequence to decide
    o
"""

import numpy as np
import scipy
from numpy.typing import NDArray

from verse3d.labelling.detections import Detections

LINK_MM = 90.0
"""Detections nearer than this belong together: two lumbar steps, so one may be missed."""
LINK_UPRIGHT_MM = 200.0
"""Nearly below each other they may be this far apart: three or four in a row may be missed."""
_UPRIGHT_COSINE = 0.8

_LEAST_MM = 1e-3


def split_spines(found: Detections) -> list[NDArray[np.intp]]:
    """The rows of each spine in order from head to feet, longest spine first.

    Points are linked if they are near, or farther apart but one below the other; what hangs together is one spine. A
    lone false detection beside the patient is therefore one of its own.
    """
    if not len(found):
        return []
    distances = scipy.spatial.distance.cdist(found.centres_mm, found.centres_mm)
    height = np.abs(found.centres_mm[:, None, 2] - found.centres_mm[None, :, 2])
    # A cone above and below each point: 0.8 is the cosine of 37 degrees.
    upright = (height >= _UPRIGHT_COSINE * distances) & (distances <= LINK_UPRIGHT_MM)
    near = (distances <= LINK_MM) | upright
    count, group = scipy.sparse.csgraph.connected_components(near, directed=False)
    members = [np.flatnonzero(group == number) for number in range(count)]
    ordered = [rows[order_along(found.centres_mm[rows])] for rows in members]
    return sorted(ordered, key=len, reverse=True)


def order_along(points_mm: NDArray[np.float64]) -> NDArray[np.intp]:
    """The order of points (N, 3) along the curve that they form; the end that lies higher in the world comes first.

    The world is RAS+, so "higher" is the larger third coordinate.
    """
    if len(points_mm) < 3:
        return np.argsort(-points_mm[:, 2], kind="stable")
    backbone = _backbone(points_mm)
    places = np.array([_place_on(point, points_mm[backbone]) for point in points_mm])
    places[backbone] = np.arange(len(backbone))
    # places   0   1   1.6   2   3      a side branch between its neighbours on the backbone
    order = np.argsort(places, kind="stable")
    top, bottom = points_mm[backbone[0], 2], points_mm[backbone[-1], 2]
    return order if top >= bottom else order[::-1]


def _backbone(points_mm: NDArray[np.float64]) -> NDArray[np.intp]:
    """The path through the minimum spanning tree that meets most points, as rows."""
    # the sparse graph takes a distance of 0 for no edge, so doubled points are moved apart by a hair
    distances = np.maximum(scipy.spatial.distance.cdist(points_mm, points_mm), _LEAST_MM)
    np.fill_diagonal(distances, 0.0)
    tree = scipy.sparse.csgraph.minimum_spanning_tree(distances)
    # Points count, not millimetres: one false detection far to the side must not outweigh the neck. The length
    # decides among paths with equally many.
    tree.data = 1.0 + 1e-6 * tree.data
    lengths, before = scipy.sparse.csgraph.dijkstra(tree, directed=False, return_predecessors=True)
    start, end = np.unravel_index(int(np.argmax(lengths)), lengths.shape)
    path = [int(end)]
    while path[-1] != start:
        path.append(int(before[start, path[-1]]))
    return np.array(path[::-1])


def _place_on(point: NDArray[np.float64], backbone_mm: NDArray[np.float64]) -> float:
    """Where the foot of a point lies on the backbone: 2.5 is halfway between its third and fourth point."""
    along = np.diff(backbone_mm, axis=0)
    squared = np.maximum((along**2).sum(axis=1), _LEAST_MM)
    # Onto every stretch between two points, (n - 1,); the foot stays on the stretch.
    share = np.clip(((point - backbone_mm[:-1]) * along).sum(axis=1) / squared, 0.0, 1.0)
    feet = backbone_mm[:-1] + share[:, None] * along
    nearest = int(np.argmin(np.linalg.norm(feet - point, axis=1)))
    return float(nearest + share[nearest])
