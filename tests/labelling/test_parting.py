"""Seeds that are several vertebrae come apart along the spine; nothing else comes apart."""

import numpy as np
import pytest

from verse3d.labelling.parting import part_seeds
from verse3d.labelling.waists import parts_beside_waist, waist_parts

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


def rod(shape, start_mm, stop_mm, radius_mm):
    """Voxels within a radius of a line in mm."""
    points = np.indices(shape).reshape(3, -1).T * SPACING_MM - start_mm
    along = np.subtract(stop_mm, start_mm)
    share = np.clip(points @ along / (along @ along), 0, 1)
    away = (points - share[:, None] * along) ** 2
    return (away.sum(1) <= radius_mm**2).reshape(shape)


NECK = (64, 40, 66)
LEFT, MIDDLE, RIGHT = 14, 32, 50


@pytest.fixture(scope="module")
def neck():
    """A ring, the body below it whose dens stands in it, and seeds: 1 is both in one, 2 and 3 lie below."""
    ring = ball(NECK, (LEFT, 26, 80), 7) | ball(NECK, (RIGHT, 26, 80), 7)
    for x in (LEFT, RIGHT):
        for y in (40, 6):
            ring |= rod(NECK, (x, 26, 80), (MIDDLE, y, 80), 2.4)
    body = ball(NECK, (MIDDLE, 32, 54), 9) | rod(NECK, (MIDDLE, 32, 54), (MIDDLE, 32, 82), 3.0)
    for x in (LEFT + 2, RIGHT - 2):
        body |= rod(NECK, (x, 26, 56), (MIDDLE, 32, 54), 5) | rod(NECK, (x, 26, 56), (MIDDLE, 8, 52), 4)
    joints = rod(NECK, (LEFT + 1, 26, 58), (LEFT + 1, 26, 78), 2.8) | rod(NECK, (MIDDLE, 32, 80), (MIDDLE, 40, 80), 1.5)
    joints |= rod(NECK, (RIGHT - 1, 26, 58), (RIGHT - 1, 26, 78), 2.8)
    seeds = (ring | body | joints).astype(np.uint8)
    for number, height in ((2, 31), (3, 9)):
        seeds[ball(NECK, (MIDDLE, 28, height), 9.0)] = number
    return ring, body & ~ring, seeds


def test_a_ring_that_hangs_together_with_the_body_below_it_is_parted(neck):
    ring, body, seeds = neck
    assert waist_parts(seeds == 1, SPACING_MM, UP).max() == 1, "no piece of the ring is a vertebra"
    parted = part_seeds(seeds.copy(), SPACING_MM, UP, 200)
    assert np.array_equal(parted > 0, seeds > 0) and len(np.unique(parted)) == 1 + 4
    require_parted(parted, ring, body)


def require_parted(parts, ring, body):
    of_ring, of_body = (int(np.bincount(parts[part]).argmax()) for part in (ring, body))
    assert of_ring != of_body
    assert np.mean(parts[ring] == of_ring) > 0.9
    assert np.mean(parts[body] == of_body) > 0.9, "the dens stands in the ring, and belongs to the body"


@pytest.mark.parametrize("axis", [(0.0, -0.42, 0.91), (0.3, 0.3, 0.91), (0.0, 0.0, -1.0)], ids=str)
def test_the_waist_may_be_tilted_against_the_line_of_the_neighbours(neck, axis):
    ring, body, seeds = neck
    require_parted(parts_beside_waist(seeds == 1, SPACING_MM, np.array(axis) / np.linalg.norm(axis)), ring, body)


@pytest.mark.parametrize(("radius_mm", "bones"), [(9.0, 4), (12.5, 3)])
def test_only_what_is_as_large_as_two_is_parted_at_a_waist(neck, radius_mm, bones):
    _, _, seeds = neck
    seeds = np.pad(np.where(seeds == 1, seeds, 0).astype(np.uint8), ((0, 0), (0, 0), (30, 0)))
    for number, height in ((2, 70), (3, 40)):
        seeds[ball(seeds.shape, (MIDDLE, 28, height), radius_mm)] = number
    assert len(np.unique(part_seeds(seeds, SPACING_MM, UP, 200))) == 1 + bones


def test_beside_crumbs_nothing_is_as_large_as_two(neck):
    _, _, seeds = neck
    seeds = np.where(seeds == 1, seeds, 0).astype(np.uint8)
    for number in range(2, 6):
        seeds[ball(NECK, (12 * number - 8, 28, 20), 5.0)] = number
    assert np.array_equal(part_seeds(seeds.copy(), SPACING_MM, UP, 200), seeds)


def test_a_bone_without_a_waist_or_with_a_small_end_stays_one():
    block = np.zeros((40, 40, 40), bool)
    block[5:35, 5:35, 5:35] = True
    assert parts_beside_waist(block, SPACING_MM, UP).max() == 1
    shape = (40, 40, 54)
    club = ball(shape, (20, 25, 24), 14) | rod(shape, (20, 25, 24), (20, 25, 60), 2.5) | ball(shape, (20, 25, 64), 6)
    assert parts_beside_waist(club, SPACING_MM, UP).max() == 1
