"""What a scout learns from: fields of view at 4 mm, of the training cases and of phantoms that show a whole body.

Each sample is a function of (seed, step, place in the step). Training cases are often cut narrowly around the spine;
only the phantoms show what a spine must be told from::

    a step:   | part of a training case | part of a phantom |
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage

from verse3d.core.augmenting import AugmentConfig
from verse3d.core.config import GridConfig
from verse3d.core.geometry import Shape
from verse3d.core.labels import IGNORED
from verse3d.data.samples.cut import Box
from verse3d.data.samples.cut_ends import open_ends
from verse3d.data.samples.draws import ChangeDraws
from verse3d.data.samples.grid import windowing
from verse3d.model.scout import SCOUT_MM
from verse3d.phantoms.body import make_body

_Voxel = TypeVar("_Voxel", bound=np.generic)
Volumes = tuple[NDArray[np.float16], NDArray[np.uint8]]
"""Grey values 0 ... 1 and VerSe ids of a scan at 4 mm, both (I, J, K)."""
PHANTOMS = 12
"""Different persons that are drawn for a training; one takes a few seconds."""

_STEPS_PER_PHANTOM = 8
"""A new person is drawn so rarely that drawing takes less time than learning."""
_LARGEST: Shape = (112, 96, 96)
"""Voxels of a sample: as wide as a body, as tall as the window that the scout is shown when it is used."""
_SHORTEST_MM = 100.0
"""Of a field of view along the body: three vertebrae."""
_WHOLE_SHARE = 0.4
_CUT_VERTEBRA_MM = 60.0
_STREAM = 4
_AUGMENT = AugmentConfig(
    affine=0.5,
    rotate_degrees=12.0,
    scale_fraction=0.15,
    noise=0.5,
    noise_std=0.04,
    blur=0.2,
    contrast=0.4,
    gamma=(0.7, 1.5),
    gain=0.3,
)


@dataclass(frozen=True, eq=False)
class ScoutSample:
    """What one sample is made from. Samples differ in size.

    Attributes:
        size: of the sample, voxels at 4 mm.
        box: larger, if the sample is turned.
    """

    size: Shape
    box: Box


@dataclass(frozen=True, eq=False)
class ScoutSamples:
    """Draws the samples of each step.

    Attributes:
        seed: of the run.
        grid: of the fine network: its window of grey values is the scout's, too.
        cases: how many training cases there are.
        read: number of a training case -> its volumes.
        persons: how many different phantoms are drawn.
        draw: number of a phantom -> its volumes; ``phantom_volumes`` of the seed if it is None.
    """

    seed: int
    grid: GridConfig
    cases: int
    read: Callable[[int], Volumes]
    persons: int = PHANTOMS
    draw: Callable[[int], Volumes] | None = None

    def step(self, number: int) -> list[ScoutSample]:
        """The samples of a step, counted from 0: one of a training case, one of a phantom."""
        return [self._sample(number, place) for place in (0, 1)]

    def _sample(self, step: int, place: int) -> ScoutSample:
        # Four words, as for the patches of the fine network; the stream keeps the two apart.
        entropy = np.random.SeedSequence((self.seed, _STREAM, step, place)).generate_state(4)
        random = np.random.RandomState(entropy)
        if place == 0 and self.cases:
            # The first steps draw from the first cases only: others may not be prepared yet.
            image, ids = self.read(int(random.randint(min(self.cases, 1 + step))))
        else:
            persons = self.persons if self.draw else min(self.persons, 1 + step // _STEPS_PER_PHANTOM)
            number = int(random.randint(persons))
            image, ids = self.draw(number) if self.draw else phantom_volumes(self.seed, number, self.grid)
        return field_of_view(image, ids, random)


@lru_cache(maxsize=PHANTOMS + 2)
def phantom_volumes(seed: int, index: int, grid: GridConfig) -> Volumes:
    """A phantom with a full field of view as the store holds a case."""
    body = make_body(seed % 2**32, index, SCOUT_MM)
    image = windowing(grid)(body.image_hu.astype(np.float32)).astype(np.float16)
    return image, body.mask


def field_of_view(image: NDArray[np.float16], ids: NDArray[np.uint8], random: np.random.RandomState) -> ScoutSample:
    """A random part of a scan, as another operator would have chosen it, with what is to be changed about it.

    It is never padded: the network normalises over what it sees, and in use it sees no padding either.
    """
    spine = np.argwhere(ids > 0)
    centre = spine[random.randint(len(spine))] if len(spine) else np.array(ids.shape) // 2
    narrow = random.random_sample() < 1 - _WHOLE_SHARE
    start, size = [], []
    for axis, (length, largest) in enumerate(zip(ids.shape, _LARGEST, strict=True)):
        # Half of the spans in i and j are as large as can be: a body from side to side is what is met most.
        least = _SHORTEST_MM / SCOUT_MM
        wanted = (
            int(random.uniform(min(least, length), length + 1)) if narrow and random.random_sample() < 0.5 else length
        )
        span = min(wanted, largest, length)
        size.append(span)
        # Anywhere, as long as the span holds the centre and lies in the scan:
        #
        #     0 ..... low ===============[centre]............. length
        #                      span
        low, high = max(0, int(centre[axis]) - span + 1), min(int(centre[axis]), length - span)
        start.append(int(random.randint(low, high + 1)))
    return _changed(image, ids, (start[0], start[1], start[2]), (size[0], size[1], size[2]), random)


def _changed(
    image: NDArray[np.float16], ids: NDArray[np.uint8], start: Shape, size: Shape, random: np.random.RandomState
) -> ScoutSample:
    """The sample of ``size`` at ``start``; the box of a turned one reaches into its surroundings."""
    changes = ChangeDraws(_AUGMENT, (SCOUT_MM,) * 3).draw(random)
    first, extent = np.array(start), np.array(size)
    middle = first + (extent - 1) / 2
    if changes.warp is not None:
        reach = changes.warp.reach(size)
        first = np.floor(middle - reach).astype(int)
        extent = np.ceil(middle + reach).astype(int) + 1 - first
    box = Box(
        _padded(image, first, extent)[None],
        _padded(ids, first, extent)[None],
        tuple((middle - first).tolist()),
        changes,
    )
    return ScoutSample(size, box)


def _padded(volume: NDArray[_Voxel], first: NDArray[np.int_], extent: NDArray[np.int_]) -> NDArray[_Voxel]:
    """``volume[first : first + extent]``, 0 outside."""
    stop = first + extent
    before, after = np.maximum(-first, 0), np.maximum(stop - np.array(volume.shape), 0)
    inside = tuple(slice(max(0, a), max(0, b)) for a, b in zip(first.tolist(), stop.tolist(), strict=True))
    return np.pad(volume[inside], list(zip(before.tolist(), after.tolist(), strict=True)))


def with_ignored_ends(ids: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """A case's ids, where ``IGNORED`` is in place of the background at which a cut vertebra may be.

    VerSe leaves vertebrae unlabelled that the field of view cuts. They lie above the uppermost label and below the
    lowest one (RAS: k grows to the head), unless the spine ends there::

        k ^   xxxxx     ignored, up to 60 mm, if the uppermost label is not C1
          |   ##T5#
          |   ##T6#
          |   xxxxx     ignored, if the lowest label is not L5 or L6: below them is the sacrum

    Args:
        ids: (I, J, K) VerSe ids, 0 and 255; RAS.
    """
    found = ndimage.find_objects((ids > 0).astype(np.uint8))
    if not found:
        return ids
    i, j, k = found[0]
    beside, reach = 3, int(_CUT_VERTEBRA_MM / SCOUT_MM)
    across = tuple(slice(max(0, along.start - beside), along.stop + beside) for along in (i, j))
    ends = []
    upper, lower = open_ends(ids)
    if upper:
        ends.append(slice(k.stop, k.stop + reach))
    if lower:
        ends.append(slice(max(0, k.start - reach), k.start))
    result = ids.copy()
    for end in ends:
        part = result[(*across, end)]
        part[part == 0] = IGNORED
    return result


def phantom_numbers_for_validation() -> Sequence[int]:
    """Persons that no training has seen."""
    return range(PHANTOMS, PHANTOMS + 2)
