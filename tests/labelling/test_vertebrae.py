"""Names for the bones of a scan, and for everything that is no ordinary scan."""

from dataclasses import replace

import numpy as np
import pytest

from tests.labelling.blocks import named, scan_at, scan_of
from tests.labelling.spines import WHOLE, between, centres_of
from verse3d.core.errors import DataError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, vertebra
from verse3d.labelling.bones import CORE, Bone
from verse3d.labelling.evidence import LevelEvidence, level_evidence, without_a_look
from verse3d.labelling.instances import group_bones
from verse3d.labelling.vertebrae import name_bones, visible_shares


def names(found):
    return [each.name for each in found.vertebrae]


@pytest.mark.parametrize(("first", "last"), [("C1", "L5"), ("T9", "L5"), ("C3", "T6"), ("T10", "L2")])
def test_bones_get_the_names_that_the_network_and_the_sequence_agree_on(first, last):
    found = named(scan_of(between(first, last)))
    assert names(found) == between(first, last)
    assert not found.ambiguous
    assert all(each.confidence > 0.9 for each in found.vertebrae)


def test_a_mask_gets_the_id_of_every_bone():
    scan = scan_of(between("T11", "L3"))
    bones, found = scan.bones(), named(scan)
    labels = scan.parts()
    bones.write(found.ids, labels)
    assert np.array_equal(labels, scan.ids)


def test_a_network_that_is_wrong_about_one_bone_is_overruled_by_the_others():
    scan = scan_of(between("T8", "L4"))
    maps, coarse = scan.maps(sure=0.7)
    wrong, right = (1 + WHOLE.index(name) for name in ("T11", "T12"))
    maps[[wrong, right]] = maps[[right, wrong]]  # the level T12 where T11 is, and the other way round
    bones = scan.bones()
    found = name_bones(bones, scan.geometry, level_evidence(bones, scan.geometry, maps, coarse))
    assert names(found) == between("T8", "L4")


@pytest.mark.parametrize(
    "row", [[*between("T10", "T12"), "T13", *between("L1", "L5")], [*between("T10", "L5"), "L6"]], ids=["T13", "L6"]
)
def test_a_thirteenth_thoracic_or_a_sixth_lumbar_vertebra_is_named(row):
    assert names(named(scan_of(row))) == row


def test_a_spine_without_t12_is_named_so():
    row = [name for name in between("T8", "L4") if name != "T12"]
    assert names(named(scan_of(row))) == row


def test_an_unsure_network_leaves_the_names_ambiguous_with_the_truth_among_the_readings():
    scan = scan_of(between("T4", "T8"))
    maps, coarse = scan.maps(sure=0.04)
    bones = scan.bones()
    found = name_bones(bones, scan.geometry, level_evidence(bones, scan.geometry, maps, coarse))
    assert found.ambiguous
    assert any(tuple(between("T4", "T8")) == reading for _, reading in found.readings)
    assert any("ambiguous" in note for note in found.notes)
    assert found.vertebrae[0].alternatives


def test_without_a_look_at_the_whole_scan_names_are_ambiguous():
    found = named(scan_of(between("T9", "L4")), seen=None)
    assert found.ambiguous
    assert len(found.vertebrae) == 8
    assert found.notes[0].startswith("no network has seen the whole scan")


def test_no_bone_has_no_name():
    scan = scan_of(["L1"])
    scan.ids[:] = 0
    found = named(scan)
    assert found.vertebrae == ()
    assert not found.ids.any()


@pytest.mark.parametrize("row", [["L2"], ["C2"], ["T12", "L1"]])
def test_one_or_two_vertebrae_are_named(row):
    assert names(named(scan_of(row))) == row


def test_a_spine_upside_down_in_its_header_is_named_and_reported():
    turned = np.diag([1.0, -1.0, -1.0, 1.0])
    found = named(scan_of(between("C5", "L3"), affine=turned))
    assert names(found) == between("C5", "L3")
    assert any("header" in note for note in found.notes)


def test_of_two_patients_the_longest_spine_is_named():
    found = named(scan_of(between("T12", "L4"), doubled_mm=260.0))
    assert names(found) == between("T12", "L4")
    assert any("2 spines" in note for note in found.notes)


@pytest.mark.parametrize("curve", [{"sideways": 60.0}, {"bend": 120.0}])
def test_a_scoliosis_or_a_huge_kyphosis_is_named(curve):
    found = named(scan_of(between("C6", "L4"), **curve))
    assert names(found) == between("C6", "L4")


@pytest.mark.parametrize(("factor", "doubted"), [(1.0, False), (1.7, False), (2.5, True)])
@pytest.mark.parametrize(("upper", "other"), [("C2", "C1"), ("C1", "C2")])
def test_a_bone_above_c3_as_large_as_two_vertebrae_is_reported(factor, doubted, upper, other):
    scan = scan_of(between("C1", "T3"))
    scan.ids[scan.ids == vertebra(other).id] = 0
    bones = scan.bones()
    top = max(bones.bones, key=lambda bone: bone.centre_mm[2])
    c3 = sorted(bones.bones, key=lambda bone: bone.centre_mm[2])[-2]
    grown = tuple(replace(bone, volume_ml=factor * c3.volume_ml) if bone is top else bone for bone in bones.bones)
    maps, coarse = scan.maps()
    known = level_evidence(bones, scan.geometry, maps, coarse)
    known.levels[bones.bones.index(top)] = [0.0 if label.name == upper else -30.0 for label in VERTEBRAE]
    found = name_bones(replace(bones, bones=grown), scan.geometry, known)
    assert names(found) == [upper, *between("C3", "T3")]
    assert found.ambiguous == doubted
    assert doubted == (f"{upper} is so large that {other} may hang together with it" in found.notes)


def test_a_fused_block_leaves_the_others_their_names():
    scan = scan_of(between("T8", "L4"))
    t11, t12 = vertebra("T11").id, vertebra("T12").id
    planes = np.flatnonzero(np.isin(scan.ids, [t11, t12]).any(axis=(0, 1)))
    both = np.isin(scan.ids, [t11, t12]).any(axis=2)
    scan.ids[both, planes[0] : planes[-1] + 1] = t12
    found = named(scan)
    assert set(names(found)) >= {"T8", "T9", "T10", "L1", "L2", "L3", "L4"}
    assert len(found.vertebrae) == 8


def named_parts(scan, parts):
    """Group and name what a network made of a scan, which sees all levels right."""
    maps, coarse = scan.maps()
    bones = group_bones(parts, scan.geometry)
    return bones, name_bones(bones, scan.geometry, level_evidence(bones, scan.geometry, maps, coarse))


def test_metal_rods_that_tie_three_vertebrae_together_take_no_name_away():
    scan = scan_of(between("T9", "L4"))
    parts = scan.parts()
    tied = np.argwhere(np.isin(scan.ids, [vertebra(name).id for name in ("T12", "L1", "L2")]))
    (low_i, low_j, low_k), (high_i, _, high_k) = tied.min(axis=0), tied.max(axis=0)
    # Two rods of 4 x 5 mm along the backs, which the network takes for bone like any other, and screws forwards.
    for i in (low_i + 2, high_i - 3):
        parts[i : i + 2, low_j - 2 : low_j, low_k : high_k + 1] = CORE
        parts[i : i + 2, low_j : low_j + 8, low_k + 3] = 0  # streaks: no bone where there is some
    bones, found = named_parts(scan, parts)
    assert names(found) == between("T9", "L4")
    given = np.zeros_like(parts)
    bones.write(found.ids, given)
    for name in between("T9", "L4"):
        true, said = scan.ids == vertebra(name).id, given == vertebra(name).id
        assert 2 * (true & said).sum() > 0.85 * (true.sum() + said.sum()), name


def test_a_mask_with_gaps_keeps_its_names_and_says_what_it_leaves_out():
    scan = scan_of(between("T9", "L4"))
    parts = scan.parts()
    random = np.random.default_rng(6)
    for name in ("T11", "L2"):  # two slices that the network missed altogether, low in the body
        planes = np.flatnonzero((scan.ids == vertebra(name).id).any(axis=(0, 1)))
        parts[:, :, planes[3:5]] = 0
    parts[random.random(parts.shape) < 0.15] = 0  # and holes everywhere
    bones, found = named_parts(scan, parts)
    assert names(found) == between("T9", "L4")
    given = np.zeros_like(parts)
    bones.write(found.ids, given)
    kept = (given > 0) & (parts > 0)
    # Whatever has a name has the right one; what came off a body is left out at most, and that is said.
    assert (given[kept] == scan.ids[kept]).mean() > 0.98
    assert kept.sum() > 0.9 * (parts > 0).sum()
    assert any("no place in the spine" in note for note in found.notes)


def test_a_vertebra_that_is_missing_from_the_mask_is_reported_with_its_place():
    points = dict(zip(between("T9", "L4"), centres_of(between("T9", "L4"), bend=10.0), strict=True))
    gone = points.pop("L1")
    found = named(scan_at(points))
    assert names(found) == [*between("T9", "T12"), *between("L2", "L4")]
    assert np.linalg.norm(np.array(found.missed["L1"]) - gone) < 8.0
    assert any(note.startswith("L1 should lie") for note in found.notes)


def test_a_small_bone_that_touches_a_vertebra_is_joined_to_it():
    scan = scan_of(between("T11", "L4"))
    l2 = np.argwhere(scan.ids == vertebra("L2").id)
    (i, j, k), (i2, _, k2) = l2.min(axis=0), l2.max(axis=0)
    parts = scan.parts()
    parts[i : i2 + 1, j - 1, k : k2 + 1] = 1  # a thin sheet, then an arch with a core of its own
    parts[i : i2 + 1, j - 4 : j - 1, k : k2 + 1] = 2
    parts[i : i2 + 1, j : j + 1, k : k2 + 1] = 1
    bones = group_bones(parts, scan.geometry)
    assert len(bones.bones) == 7
    maps, coarse = scan.maps()
    found = name_bones(bones, scan.geometry, level_evidence(bones, scan.geometry, maps, coarse))
    assert names(found) == between("T11", "L4")
    assert np.count_nonzero(found.ids) == 7
    bones.write(found.ids, parts)
    assert (parts[i : i2 + 1, j - 4 : j - 1, k : k2 + 1] == vertebra("L2").id).all()


def test_bone_that_the_network_takes_for_background_far_from_the_spine_is_left_out():
    scan = scan_of(between("T11", "L4"))
    found_before = names(named(scan))
    scan.ids[:6, :6, :5] = 1
    scan.ids[:6, :6, 30:40] = 1
    found = named(scan, seen=between("T11", "L4"))
    assert names(found) == found_before
    assert any("no place in the spine" in note for note in found.notes)


def test_bones_where_the_network_says_nan_are_named_by_their_neighbours():
    scan = scan_of(between("T9", "L4"))
    maps, coarse = scan.maps()
    maps[:, :, :, 20:24] = np.nan
    bones = scan.bones()
    evidence = level_evidence(bones, scan.geometry, maps, coarse)
    assert np.isfinite(evidence.levels).all()
    assert names(name_bones(bones, scan.geometry, evidence)) == between("T9", "L4")


def test_a_network_that_says_nothing_but_nan_has_not_looked():
    scan = scan_of(between("T9", "L4"))
    maps, coarse = scan.maps()
    bones = scan.bones()
    assert not level_evidence(bones, scan.geometry, np.full_like(maps, np.nan), coarse).seen


def test_probabilities_of_another_shape_are_refused():
    scan = scan_of(["L1"])
    maps, coarse = scan.maps()
    with pytest.raises(DataError, match="do not lie on a grid"):
        level_evidence(scan.bones(), scan.geometry, maps[:, 1:], coarse)


def test_bones_outside_of_what_the_network_has_seen_are_open():
    scan = scan_of(["L1", "L2"])
    maps, _ = scan.maps()
    far = np.eye(4)
    far[:3, 3] = 1e4
    coarse = Geometry(maps.shape[1:], far)
    assert not level_evidence(scan.bones(), scan.geometry, maps, coarse).seen


@pytest.mark.parametrize("levels", [np.zeros((2, 26)), np.full((1, 26), np.nan), np.zeros((1, 27))])
def test_evidence_that_is_no_number_or_does_not_fit_is_refused(levels):
    with pytest.raises(DataError):
        LevelEvidence(levels, np.array([0.5]))


def test_what_was_not_looked_at_has_no_region():
    assert np.isnan(without_a_look(3).regions).all()


def bone(volume, is_cut=False):
    return Bone(1, (0.0, 0.0, 0.0), volume, is_cut)


def test_the_visible_share_of_a_cut_bone_follows_from_its_neighbours():
    shares = visible_shares([bone(10.0, True), bone(40.0), bone(40.0), bone(44.0), bone(12.1, True)])
    assert shares[1:4] == [1.0, 1.0, 1.0]
    assert shares[0] == pytest.approx(0.25)
    assert shares[4] == pytest.approx(0.25)
    assert visible_shares([bone(10.0, True)]) == [None]
    assert visible_shares([bone(10.0, True), bone(20.0)]) == [0.5, 1.0]
