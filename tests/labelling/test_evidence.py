"""What is known of a bone before the spine is read: whether it is a vertebra at all."""

import numpy as np
import pytest

from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.labelling.bones import Bone, BoneMap
from verse3d.labelling.evidence import doubting_small_bones, level_evidence, without_a_look


def sized(*volumes_ml, cut=()):
    """Bones of these volumes, 30 mm below each other."""
    return [
        Bone(number, (0.0, 0.0, -30.0 * number), volume, is_cut=number in cut)
        for number, volume in enumerate(volumes_ml, start=1)
    ]


def test_a_crumb_among_vertebrae_is_hardly_real_and_vertebrae_of_all_sizes_are():
    bones = sized(10.0, 11.0, 13.0, 17.0, 1.2, 20.0, 26.0, 30.0)
    levels = without_a_look(len(bones))
    real = doubting_small_bones(levels, bones).real
    assert real[4] < 0.15
    np.testing.assert_allclose(np.delete(real, 4), np.delete(levels.real, 4))


def test_crumbs_beside_a_vertebra_do_not_make_each_other_real_and_what_the_scan_cuts_may_be_small():
    real = doubting_small_bones(without_a_look(4), sized(1.0, 3.0, 62.0, 64.0)).real
    assert (real[:2] < 0.15).all() and (real[2:] > 0.9).all()
    assert doubting_small_bones(without_a_look(4), sized(1.0, 40.0, 62.0, 64.0, cut=(1,))).real[0] > 0.9


def test_two_vertebrae_that_hang_together_do_not_make_the_others_look_small():
    bones = sized(22.0, 20.0, 286.0, 21.0, 19.0)
    assert (doubting_small_bones(without_a_look(5), bones).real > 0.9).all()


def test_a_bone_alone_is_compared_with_none():
    levels = without_a_look(1)
    assert doubting_small_bones(levels, sized(1.0)).real == levels.real


@pytest.mark.parametrize(("name", "believed"), [("C1", True), ("C7", True), ("T1", False), ("L5", False)])
def test_a_bone_that_a_network_hardly_sees_is_believed_if_its_levels_are_those_of_the_neck(name, believed):
    grid = Geometry((10, 10, 10), np.diag([4.0, 4.0, 4.0, 1.0]))
    numbers = np.zeros(grid.shape, np.uint8)
    numbers[3:6, 3:6, 3:6] = 1
    bones = BoneMap(numbers, (0, 0, 0), (Bone(1, (16.0, 16.0, 16.0), 12.0, is_cut=False),))
    # 0.9 background, 0.07 for one level, 0.03 for the others together
    probabilities = np.full((27, *grid.shape), 0.03 / 25)
    probabilities[0] = 0.9
    probabilities[1 + [label.name for label in VERTEBRAE].index(name)] = 0.07
    evidence = level_evidence(bones, grid, probabilities, grid)
    # odds 1 : 9, times e^3 in the neck
    assert evidence.real[0] == pytest.approx(0.1 if not believed else np.exp(3) / (9 + np.exp(3)), abs=1e-9)
    assert evidence.levels[0].argmax() == [label.name for label in VERTEBRAE].index(name)
