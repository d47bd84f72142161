"""Seeds that are several vertebrae come apart along the spine; nothing else comes apart."""

import numpy as np
import pytest

from verse3d.labelling.parting import part_seeds, waist_parts

SPACING_MM = (1.0, 1.25, 1.5)
UP = np.array([0.0, 0.0, 1.0])


def ball(shape, middle_mm, radius_mm):
    """Voxels within a radius of a point in mm."""
    away = (np.indices(shape).reshape(3, -1).T * SPACING_MM - middle_mm) ** 2
    return (away.sum(1) <= radius_mm**2).reshape(shape)


def vertebra(shape, height_mm):
    """A body of 11 mm radius, and an arch behind it that hangs down to the next body, joined by a thick pedicle."""
    body = ball(shape, (20, 40, height_mm), 11.0)
    arch = ball(shape, (20, 20, height_mm - 10), 6.0)
    pedicle = np.zeros(shape, bool)
    for share in np.linspace(0, 1, 12):
        pedicle |= ball(shape, (20, 40 - 20 * share, height_mm - 10 * share), 4.5)
    return body, arch | (pedicle & ~body)


def column(count, apart_mm=26.0):
    """Vertebrae on top of each other whose bodies are joined by rods of 2 mm radius; whole, bodies, arches."""
    shape = (40, 46, int((count * apart_mm + 24) / SPACING_MM[2]))
    made = [vertebra(shape, 24 + number * apart_mm) for number in range(count)]
    bone = np.any([part for pair in made for part in pair], axis=0)
    for height in np.arange(24, 24 + (count - 1) * apart_mm, 1.0):
        bone |= ball(shape, (20, 40, height), 2.0)
    return bone, [body for body, _ in made], [arch for _, arch in made]


@pytest.mark.parametrize(("count", "apart_mm"), [(2, 36.0), (5, 26.0)])
def test_vertebrae_that_are_all_joined_come_apart_each_with_its_own_arch(count, apart_mm):
    bone, bodies, arches = column(count, apart_mm)
    seeds = part_seeds(bone.astype(np.uint8), SPACING_MM, UP, 200)
    assert np.array_equal(seeds > 0, bone)
    found = [int(np.bincount(seeds[body]).argmax()) for body in bodies]
    assert len(set(found)) == count == len(np.unique(seeds)) - 1
    for number, body, arch in zip(found, bodies, arches, strict=True):
        assert np.mean(seeds[body] == number) > 0.9
        assert np.mean(seeds[arch] == number) > 0.75, "an arch hangs beside the next body, and is not its own"


def test_a_single_vertebra_does_not_lose_its_arch():
    body, arch = vertebra((40, 46, 40), 24)
    assert waist_parts(body | arch, SPACING_MM, UP).max() == 1


def test_two_sides_beside_each_other_are_not_two_vertebrae():
    shape = (70, 30, 30)
    bone = ball(shape, (15, 18, 20), 11) | ball(shape, (50, 18, 20), 11)
    bone[15:50, 13:16, 12:15] = True
    assert waist_parts(bone, SPACING_MM, UP).max() == 1
    # The same is two vertebrae where the spine goes from side to side.
    assert waist_parts(bone, SPACING_MM, np.array([1.0, 0.0, 0.0])).max() == 2


def test_the_neighbours_tell_where_the_spine_goes():
    """A spine that lies across the grid: the direction that the header gives would not part it."""
    shape = (150, 30, 30)
    middles = [(12 + 25 * number, 18, 20) for number in range(6)]
    seeds = np.zeros(shape, np.uint8)
    for number, middle in zip((1, 2, 3, 3, 4, 5), middles, strict=True):
        seeds[ball(shape, middle, 10.0)] = number
    seeds[62:87, 13:16, 12:15] = 3
    parted = part_seeds(seeds.copy(), SPACING_MM, UP, 200)
    assert len(np.unique(parted)) - 1 == 6
    assert np.array_equal(parted > 0, seeds > 0)


def test_there_are_never_more_numbers_than_may_be():
    bone, _, _ = column(4)
    assert part_seeds(bone.astype(np.uint8), SPACING_MM, UP, 2).max() <= 2
