"""Bones, ribs and the ends of a scan together: what is counted, and what is not known."""

from dataclasses import replace

import numpy as np
import pytest

from tests.labelling.spines import WHOLE, between, centres_of
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE
from verse3d.labelling.bones import Bone, BoneMap
from verse3d.labelling.evidence import LevelEvidence, without_a_look
from verse3d.labelling.priors import shipped_priors
from verse3d.labelling.vertebrae import name_bones
from verse3d.labelling.weighing import priors_of_bones, weigh_bones

RIBS_ML, SACRUM_ML, NOTHING_ML = 0.9, 3.0, 0.0


def grid_around(points, above_mm, below_mm):
    """A grid of 4 mm that goes so far beyond the first and the last point."""
    low = points.min(axis=0) - np.array([60.0, 60.0, below_mm])
    high = points.max(axis=0) + np.array([60.0, 60.0, above_mm])
    affine = np.diag([4.0, 4.0, 4.0, 1.0])
    affine[:3, 3] = low
    return Geometry(tuple(int(n) + 1 for n in np.ceil((high - low) / 4.0)), affine)


def counted(names, *, beside=True, above_mm=100.0, below_mm=100.0):
    """The reading of a spine of which a network tells the neck from the rest, and nothing else."""
    points = centres_of(names)
    bones = tuple(Bone(n, tuple(point), 30.0, is_cut=False) for n, point in enumerate(points, start=1))
    neck = np.array([label.name[0] == "C" for label in VERTEBRAE])
    chances = np.array([np.where(neck == (name[0] == "C"), 1.0, 0.01) for name in names])
    levels = LevelEvidence(np.log(chances / chances.sum(axis=1, keepdims=True)), np.full(len(names), 0.99))
    if beside:
        volumes = [RIBS_ML if name[0] == "T" else NOTHING_ML for name in names]
        if names[-1][0] == "L":
            volumes[-1] = SACRUM_ML
        levels = replace(levels, beside_ml=np.array(volumes))
    empty = BoneMap(np.zeros((1, 1, 1), np.uint8), (0, 0, 0), bones)
    return name_bones(empty, grid_around(points, above_mm, below_mm), levels)


def spine(thoracic, lumbar):
    chest = [f"T{number}" for number in range(1, thoracic + 1)]
    return [*between("C1", "C7"), *chest, *(f"L{number}" for number in range(1, lumbar + 1))]


@pytest.mark.parametrize(("thoracic", "lumbar"), [(12, 5), (13, 5), (12, 6), (11, 5), (12, 4)])
def test_the_vertebrae_with_ribs_and_those_below_them_are_counted(thoracic, lumbar):
    names = spine(thoracic, lumbar)
    assert [each.name for each in counted(names).vertebrae] == names


def test_without_ribs_a_thirteenth_thoracic_vertebra_is_taken_for_a_sixth_lumbar_one_and_not_for_sure():
    found = counted(spine(13, 5), beside=False)
    assert found.vertebrae[-1].name == "L6"
    assert found.ambiguous


def test_a_spine_below_which_the_scan_goes_on_ends_with_the_last_lumbar_vertebra():
    names = between("L1", "L5")
    points = centres_of(names)
    bones = BoneMap(
        np.zeros((1, 1, 1), np.uint8),
        (0, 0, 0),
        tuple(Bone(n, tuple(point), 50.0, is_cut=False) for n, point in enumerate(points, start=1)),
    )
    seen, cut = (
        name_bones(bones, grid_around(points, 10.0, below), without_a_look(len(points))) for below in (100.0, 10.0)
    )
    assert [each.name for each in seen.vertebrae][-1] in ("L5", "L6")
    # Nobody has looked and the scan ends: any row of five could be meant.
    assert cut.ambiguous and cut.readings[0][0] < seen.readings[0][0]


def test_a_spine_that_lacks_its_first_vertebra_where_the_scan_goes_on_is_doubtful_however_sure_the_names_are():
    # C1 hangs together with C2, say: the bones are C2 ... L5, and there is room for another one
    lacking, whole = spine(12, 5)[1:], spine(12, 5)
    found = counted(lacking)
    assert [each.name for each in found.vertebrae] == lacking
    assert found.readings[0][0] > 0.95
    assert found.ambiguous and not counted(whole).ambiguous
    # Where the scan ends there it is as it should be.
    assert not counted(lacking, above_mm=10.0).ambiguous


def evidence_of(names, beside_ml, *, above_mm, below_mm):
    points = centres_of(names)
    levels = replace(
        without_a_look(len(points)), beside_ml=np.array(beside_ml), grid=grid_around(points, above_mm, below_mm)
    )
    return weigh_bones(levels, np.arange(len(points)), points, priors_of_bones(shipped_priors()))


def test_beside_the_last_bone_of_a_scan_that_ends_there_the_next_vertebra_may_lie():
    names, level = between("L1", "L3"), WHOLE.index("L3")
    ends, goes_on = (
        evidence_of(names, [0.0, 0.0, 1.3], above_mm=100.0, below_mm=below).looks[-1] for below in (10.0, 100.0)
    )
    assert goes_on[level] < -3.0
    assert ends[level] == 0.0


def test_so_much_bone_as_the_sacrum_has_is_no_cut_vertebra_even_where_the_scan_ends():
    names = between("L4", "L5")
    looks = evidence_of(names, [0.0, 3.0], above_mm=10.0, below_mm=10.0).looks[-1]
    assert looks[WHOLE.index("L3")] < looks[WHOLE.index("L5")] - 3.0


def test_where_it_is_not_known_what_lies_beside_any_level_is_as_likely_as_without_a_look():
    names = between("T11", "L2")
    unknown = evidence_of(names, np.full(4, np.nan), above_mm=100.0, below_mm=100.0)
    np.testing.assert_allclose(unknown.looks[:, : len(VERTEBRAE)], 0.0, atol=1e-12)


def test_a_last_vertebra_without_bone_beside_it_is_not_followed_by_the_sacrum():
    names = between("L2", "L5")
    bare, held = (
        evidence_of(names, [0.0, 0.0, beside, 3.0], above_mm=10.0, below_mm=10.0).looks[-1, -1] for beside in (0.0, 3.0)
    )
    assert held - bare > 2.0


def test_a_bone_in_a_single_thick_sagittal_slice_has_no_width_and_that_is_no_evidence():
    points = centres_of(between("T11", "L2"))
    bones = tuple(Bone(n, tuple(point), 30.0, is_cut=False, width_mm=0.0) for n, point in enumerate(points, start=1))
    one_slice = BoneMap(np.zeros((1, 1, 1), np.uint8), (0, 0, 0), bones)
    unknown = replace(one_slice, bones=tuple(replace(bone, width_mm=float("nan")) for bone in bones))
    grid = grid_around(points, 10.0, 10.0)
    found, expected = (name_bones(each, grid, without_a_look(len(points))) for each in (one_slice, unknown))
    assert [each.name for each in found.vertebrae] == [each.name for each in expected.vertebrae]
    assert found.readings == expected.readings


def test_what_fits_points_stays_as_it_is():
    before = shipped_priors()
    anomalies, missed = before.anomalies.copy(), before.missed.copy()
    changed = priors_of_bones(before)
    assert np.array_equal(before.anomalies, anomalies) and np.array_equal(before.missed, missed)
    assert changed.anomalies[0] > anomalies[0] and (changed.missed <= missed).all()
