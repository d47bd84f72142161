"""Cleaning label maps: connected components that are too small to be a vertebra.

Components are found in runs: neighbouring voxels of a label along the axis that runs fastest in memory. All labels are
done in one pass, and what is held grows with the number of runs, not of voxels.
"""

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from verse3d.core.axismaps import slowest_first
from verse3d.core.config import InferenceConfig
from verse3d.core.geometry import Geometry
from verse3d.core.threads import in_ranges

_CHUNK_VOXELS = 2**20
_NEXT_LINES = ((0, 1), (1, -1), (1, 0), (1, 1))
"""(planes, lines) to the four lines that touch a line and follow it; the other four are those that it follows."""


def clean_up(labels: NDArray[np.uint8], geometry: Geometry, settings: InferenceConfig) -> NDArray[np.uint8]:
    """Remove, label by label, the components below ``min_component_ml`` and, if wanted, all but the largest.

    Args:
        labels: (I, J, K); changed in place and returned.
        geometry: the grid of ``labels``.
        settings: the two thresholds. Components are joined over faces, edges and corners.

    Holds four bytes for each run of voxels, and some planes.
    """
    # Rounded, so that a component of exactly the smallest volume stays whatever the float error of the determinant.
    minimum_voxels = round(settings.min_component_ml / geometry.voxel_ml, 6)
    if minimum_voxels <= 1 and not settings.largest_component_only:
        return labels
    # Whatever the order of the axes, components are the same; they are found fastest as the voxels lie in memory.
    order = slowest_first(labels)
    view = labels.transpose(order)
    chunks = _chunks(view)
    component_of, components = _joined(view, chunks)
    gone = components.voxels < minimum_voxels
    if settings.largest_component_only:
        gone |= ~_largest_of_label(components, view, chunks, component_of, order)
    if gone.any():
        _remove(view, chunks, [gone[of_runs] for of_runs in component_of])
    return labels


@dataclass(frozen=True, eq=False)
class _Runs:
    """Runs of a label in some planes, in the order of memory.

    Attributes:
        line: number of the line of voxels that each run lies in.
        first, stop: along the line.
        label: of the run, never 0.
    """

    line: NDArray[np.intp]
    first: NDArray[np.intp]
    stop: NDArray[np.intp]
    label: NDArray[np.uint8]

    @classmethod
    def of(cls, planes: NDArray[np.uint8]) -> "_Runs":
        """Those of (planes, lines, voxels)."""
        length = planes.shape[2]
        flat = np.ascontiguousarray(planes).reshape(-1)
        changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
        first, stop = np.concatenate([[0], changes]), np.append(changes, flat.size)
        labelled = flat[first] > 0
        first, stop = first[labelled], stop[labelled]
        # What goes on in the next line is cut there.
        lines = (stop - 1) // length - first // length + 1
        number = np.repeat(np.arange(lines.size), lines)
        line = first[number] // length + _counted(lines)
        start = line * length
        first, stop = np.maximum(first[number], start), np.minimum(stop[number], start + length)
        return cls(line, first - start, stop - start, flat[first])

    def touching(self, lines: int, length: int) -> NDArray[np.intp]:
        """Pairs (2, n) of runs of the same label that touch; ``lines`` in a plane, ``length`` voxels in a line."""
        step = length + 2  # so that the ends of one line do not touch the next
        first, stop = self.line * step + self.first, self.line * step + self.stop
        pairs = [np.zeros((2, 0), np.intp)]
        for plane, beside in _NEXT_LINES:
            away = (plane * lines + beside) * step
            low, high = np.searchsorted(stop, first + away, "left"), np.searchsorted(first, stop + away, "right")
            inside = self.line % lines + beside
            count = np.where((inside >= 0) & (inside < lines), np.maximum(high - low, 0), 0)
            one = np.repeat(np.arange(count.size), count)
            other = low[one] + _counted(count)
            alike = self.label[one] == self.label[other]
            pairs.append(np.stack([one[alike], other[alike]]))
        return np.concatenate(pairs, axis=1)


@dataclass(frozen=True, eq=False)
class _Components:
    """Voxels and label of each component."""

    voxels: NDArray[np.int64]
    label: NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class _Found:
    """What was found in a chunk of planes, numbered within it.

    Attributes:
        component_of: each run of the chunk, int32.
        ahead: likewise each run of the plane that follows, which the next chunk begins with.
        components: of both; only voxels of the chunk are counted.
    """

    component_of: NDArray[np.int32]
    ahead: NDArray[np.int32]
    components: _Components


def _chunks(view: NDArray[np.uint8]) -> list[slice]:
    planes = max(1, _CHUNK_VOXELS // max(1, view[0].size))
    return [slice(start, min(start + planes, len(view))) for start in range(0, len(view), planes)]


def _joined(view: NDArray[np.uint8], chunks: list[slice]) -> tuple[list[NDArray[np.int32]], _Components]:
    """The component of every run, by chunk, and all components."""
    found: dict[int, _Found] = {}

    def find(first: int, stop: int) -> None:
        for number in range(first, stop):
            found[number] = _find(view, chunks[number])

    in_ranges(find, len(chunks), 1)
    ordered = [found[number] for number in range(len(chunks))]
    before = np.cumsum([0, *(one.components.voxels.size for one in ordered)])
    edges = [np.zeros((2, 0), np.intp)]
    for number, (one, following) in enumerate(pairwise(ordered)):
        beside = following.component_of[: one.ahead.size]
        edges.append(np.stack([one.ahead + before[number], beside + before[number + 1]]))
    count, joined = _connected(np.concatenate(edges, axis=1), int(before[-1]))
    voxels, label = np.zeros(count, np.int64), np.zeros(count, np.uint8)
    np.add.at(voxels, joined, np.concatenate([one.components.voxels for one in ordered]))
    label[joined] = np.concatenate([one.components.label for one in ordered])
    component_of = [joined[start:][one.component_of] for start, one in zip(before, ordered, strict=False)]
    return component_of, _Components(voxels, label)


def _find(view: NDArray[np.uint8], chunk: slice) -> _Found:
    """The components of a chunk and of the plane that follows it."""
    _, lines, length = view.shape
    runs = _Runs.of(view[chunk.start : chunk.stop + 1])
    count, component = _connected(runs.touching(lines, length), runs.line.size)
    own = int(np.searchsorted(runs.line, (chunk.stop - chunk.start) * lines))
    voxels, label = np.zeros(count, np.int64), np.zeros(count, np.uint8)
    np.add.at(voxels, component[:own], (runs.stop - runs.first)[:own])
    label[component] = runs.label
    return _Found(component[:own], component[own:], _Components(voxels, label))


def _connected(pairs: NDArray[np.intp], size: int) -> tuple[int, NDArray[np.int32]]:
    """How many components a graph has, and the one of each of its ``size`` nodes."""
    graph = coo_array((np.ones(pairs.shape[1], bool), pairs), shape=(size, size))
    count, component = connected_components(graph, directed=False)
    return int(count), component


def _largest_of_label(
    components: _Components,
    view: NDArray[np.uint8],
    chunks: list[slice],
    component_of: list[NDArray[np.int32]],
    order: list[int],
) -> NDArray[np.bool_]:
    """For each component whether it is the largest of its label; of equal ones the one that comes first in the map."""
    most = np.zeros(256, np.int64)
    np.maximum.at(most, components.label, components.voxels)
    largest = components.voxels == most[components.label]
    first = _first_voxels(largest, view, chunks, component_of, order)
    earliest = np.full(256, np.iinfo(np.int64).max)
    np.minimum.at(earliest, components.label[largest], first[largest])
    kept: NDArray[np.bool_] = largest & (first == earliest[components.label])
    return kept


def _first_voxels(
    wanted: NDArray[np.bool_],
    view: NDArray[np.uint8],
    chunks: list[slice],
    component_of: list[NDArray[np.int32]],
    order: list[int],
) -> NDArray[np.int64]:
    """Where the first voxel of each wanted component stands in the map (last axis fastest)."""
    shape = np.array(view.shape)[np.argsort(order)]
    strides = np.array([shape[1] * shape[2], shape[2], 1])[order]
    first = np.full(wanted.size, np.iinfo(np.int64).max)
    for chunk, component in zip(chunks, component_of, strict=True):
        runs = _Runs.of(view[chunk])
        here = wanted[component]
        plane, line = np.divmod(runs.line[here], view.shape[1])
        place = (plane + chunk.start) * strides[0] + line * strides[1] + runs.first[here] * strides[2]
        np.minimum.at(first, component[here], place)
    return first


def _remove(view: NDArray[np.uint8], chunks: list[slice], gone: list[NDArray[np.bool_]]) -> None:
    """Make the runs that are gone 0."""
    length = view.shape[2]

    def clear(first: int, stop: int) -> None:
        for chunk, goes in zip(chunks[first:stop], gone[first:stop], strict=True):
            if goes.any():
                runs = _Runs.of(view[chunk])
                sizes = (runs.stop - runs.first)[goes]
                voxels = np.repeat((runs.line * length + runs.first)[goes], sizes) + _counted(sizes)
                plane, rest = np.divmod(voxels, view.shape[1] * length)
                view[chunk][plane, rest // length, rest % length] = 0

    in_ranges(clear, len(chunks), 1)


def _counted(sizes: NDArray[np.integer]) -> NDArray[np.intp]:
    """0, 1 ... up to each size, one after the other: [2, 0, 3] becomes [0, 1, 0, 1, 2]."""
    before = np.cumsum(sizes) - sizes
    counted: NDArray[np.intp] = np.arange(sizes.sum()) - np.repeat(before, sizes)
    return counted
