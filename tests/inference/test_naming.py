"""Vertebrae named by their sequence, from the model files to what is written beside a mask."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from tests.labelling.blocks import scan_of
from tests.labelling.ribs import both, dense_map, wide_scan
from tests.labelling.spines import between
from tests.scans import tiny_config
from verse3d.core.labels import vertebra
from verse3d.inference.naming import LevelMaps, SequenceNaming, named_by_truth, naming_record, without_partial
from verse3d.labelling.instances import group_bones
from verse3d.model.scout import CHANNELS

SETTINGS = {"scheme": "vertebrae", "naming": "sequence"}


def levels(scan, **seen):
    maps, coarse = scan.maps(**seen)
    return LevelMaps(maps.astype(np.float16), coarse)


def test_parts_become_verse_ids_in_place():
    scan = scan_of(between("T10", "L3"))
    labels = scan.parts()
    named = SequenceNaming().name(labels, scan.geometry, levels(scan))
    assert np.array_equal(labels, scan.ids)
    assert [each.name for each in named.vertebrae] == between("T10", "L3")


def cut_scan():
    """L4 ends at the last plane."""
    scan = scan_of(between("T11", "L4"))
    planes = np.flatnonzero((scan.ids == vertebra("L4").id).any(axis=(0, 1)))
    ids = scan.ids[:, :, planes[len(planes) // 2] :]
    geometry = scan.geometry.cropped((0, 0, planes[len(planes) // 2]), scan.geometry.shape)
    return replace(scan, ids=ids, geometry=geometry)


@pytest.mark.parametrize("keeps", [True, False])
def test_a_vertebra_that_the_scan_cuts_is_listed_and_kept_on_request_only(keeps):
    scan = cut_scan()
    labels = scan.parts()
    naming = SequenceNaming(keeps_partial=keeps)
    named = naming.name(labels, scan.geometry, levels(scan))
    last = named.vertebrae[-1]
    assert (last.name, last.is_partial, last.in_mask) == ("L4", True, keeps)
    assert 0.2 < last.visible_share < 0.8
    assert (vertebra("L4").id in labels) == keeps
    assert any(note.startswith("L4: cut") for note in named.notes) != keeps
    assert naming.mask_settings == {"partial": "keep" if keeps else "drop"}
    assert without_partial(without_partial(named)).ids[0] == 0


def test_a_record_tells_of_every_vertebra_and_is_plain():
    scan = scan_of(between("T4", "T8"))
    named = SequenceNaming().name(scan.parts(), scan.geometry, levels(scan, sure=0.04))
    record = json.loads(json.dumps(naming_record(named)))
    assert record["naming"]["ambiguous"]
    assert len(record["naming"]["readings"]) > 1
    one = record["vertebrae"][2]
    assert set(one) >= {
        "name",
        "id",
        "centre_mm",
        "volume_ml",
        "confidence",
        "visible_share",
        "partial",
        "alternatives",
    }
    assert sum(one["alternatives"].values()) + one["confidence"] == pytest.approx(1.0, abs=0.05)


class Said(nn.Module):
    """A network that answers with logits that are given, whatever it is shown."""

    def __init__(self, logits):
        super().__init__()
        self.logits = torch.from_numpy(logits)
        self.head = nn.Conv3d(1, 1, 1)  # where its device is looked up

    def features(self, image):
        return self.logits[None]


def test_what_several_networks_say_is_averaged_and_cut_to_the_spine():
    scan = scan_of(between("L1", "L3"))
    maps, _ = scan.maps()
    image = np.zeros(scan.geometry.shape, np.float16)
    two = [Said(np.log(np.maximum(each, 1e-6))) for each in (maps, maps[:, ::-1].copy())]
    for network in two:
        network.head = Passed()
    seen = SequenceNaming(two).look(image, scan.geometry)
    assert seen.probabilities.shape[0] == CHANNELS
    assert seen.probabilities.shape[1:] == seen.geometry.shape
    assert np.allclose(seen.probabilities.astype(float).sum(axis=0), 1.0, atol=0.02)


@pytest.mark.parametrize("window_hu", [(-250.0, 1250.0), (-1000.0, 1000.0)])
def test_a_first_look_keeps_where_the_scan_is_as_dense_as_bone_around_the_spine(window_hu):
    scan = scan_of(between("L1", "L3"))
    maps, _ = scan.maps()
    seeing = Said(np.log(np.maximum(maps, 1e-6)))
    seeing.head = Passed()
    low, high = window_hu
    hu = np.full(scan.geometry.shape, 190.0)
    hu[scan.ids > 0] = 210.0
    seen = SequenceNaming([seeing]).look(((hu - low) / (high - low)).astype(np.float32), scan.geometry, window_hu)
    # Every voxel of the map lies where the scan has the same, whatever its step is.
    world = seen.scan.geometry.world_from_index(np.argwhere(np.ones(seen.scan.dense.shape, bool)))
    nearest = np.rint(scan.geometry.index_from_world(world)).astype(int)
    assert np.array_equal(seen.scan.dense.ravel(), scan.ids[tuple(nearest.T)] > 0)
    assert seen.scan.dense.any() and min(seen.scan.geometry.spacing_mm) >= 2.0


@pytest.mark.parametrize("window_hu", [(-200.0, 200.0), (-100.0, 150.0), (300.0, 1300.0)])
def test_where_grey_values_end_below_bone_or_begin_above_it_nothing_is_said_about_ribs(window_hu):
    scan = scan_of(between("T10", "L3"))
    maps, _ = scan.maps()
    seeing = Said(np.log(np.maximum(maps, 1e-6)))
    seeing.head = Passed()
    seen = SequenceNaming([seeing]).look(np.zeros(scan.geometry.shape, np.float32), scan.geometry, window_hu)
    assert seen.scan is None
    assert [each.name for each in SequenceNaming().name(scan.parts(), scan.geometry, seen).vertebrae] == between(
        "T10", "L3"
    )


def test_ribs_overrule_a_network_that_is_wrong_by_one_vertebra():
    scan = wide_scan(between("T9", "L3"))
    seen = levels(scan, shift=1, sure=0.1)
    ribs = [rib for name in between("T9", "T12") for rib in both(name, ((17.0, 24.0), (-24.0, 0.0), (-6.0, 6.0)))]
    names = [
        [each.name for each in SequenceNaming().name(scan.parts(), scan.geometry, shown).vertebrae]
        for shown in (seen, replace(seen, scan=dense_map(scan, *ribs)))
    ]
    assert names == [between("T10", "L4"), between("T9", "L3")]


class Passed(nn.Module):
    """A head that gives on what it gets."""

    def __init__(self):
        super().__init__()
        self.weight, self.bias = torch.eye(CHANNELS)[..., None, None, None], torch.zeros(CHANNELS)


def test_where_no_network_looks_or_sees_a_spine_nothing_is_known():
    scan = scan_of(["L1"])
    image = np.zeros(scan.geometry.shape, np.float16)
    assert SequenceNaming().look(image, scan.geometry) is None
    maps, _ = scan.maps(seen=[])
    blind = Said(np.log(np.maximum(maps, 1e-6)))
    blind.head = Passed()
    assert SequenceNaming([blind]).look(image, scan.geometry) is None
    assert SequenceNaming([blind]).megabytes(scan.geometry) > 0 == SequenceNaming().megabytes(scan.geometry)


def test_a_network_that_answers_with_nan_has_seen_nothing_and_names_follow_from_distances():
    scan = scan_of(between("T10", "L3"))
    maps, _ = scan.maps()
    sick = Said(np.full_like(maps, np.nan))
    sick.head = Passed()
    naming = SequenceNaming([sick])
    levels = naming.look(np.zeros(scan.geometry.shape, np.float16), scan.geometry)
    assert levels is None
    named = naming.name(scan.parts(), scan.geometry, levels)
    assert named.ambiguous and len(named.vertebrae) == len(between("T10", "L3"))
    assert any("no network has seen" in note for note in named.notes)


def test_bones_of_a_validation_scan_are_scored_with_the_name_of_the_vertebra_they_cover():
    scan = scan_of(between("T11", "L2"))
    parts = scan.parts()
    found = named_by_truth(group_bones(parts, scan.geometry), scan.ids)
    assert np.array_equal(found, scan.ids)


def test_a_bone_over_two_vertebrae_counts_for_one_of_them_only():
    scan = scan_of(between("T11", "L2"))
    parts = scan.parts()
    t12, l1 = vertebra("T12").id, vertebra("L1").id
    both = np.isin(scan.ids, [t12, l1])
    planes = np.flatnonzero(both.any(axis=(0, 1)))
    parts[both.any(axis=2), planes[0] : planes[-1] + 1] = 2
    assert len(group_bones(parts, scan.geometry).bones) == 3
    found = named_by_truth(group_bones(parts, scan.geometry), scan.ids)
    assert (t12 in found) != (l1 in found)


def test_an_empty_prediction_covers_no_vertebra():
    scan = scan_of(["L1", "L2"])
    assert not named_by_truth(group_bones(np.zeros_like(scan.ids), scan.geometry), scan.ids).any()


def test_a_config_with_names_by_sequence_has_masks_of_levels_and_a_network_of_parts():
    labels = tiny_config(labels=SETTINGS).labels
    assert len(labels.network_scheme.labels) == 2
    assert labels.scheme == "vertebrae"
