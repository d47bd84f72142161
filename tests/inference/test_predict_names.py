"""The whole way: a model file, a scan, and a mask of named vertebrae with all that lies beside it."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
import torch

import verse3d
from tests.labelling.blocks import scan_of
from tests.labelling.spines import between
from tests.scans import save_model, scout_part, tiny_config, use_threshold_network, write_nifti
from verse3d.core.errors import ConfigError
from verse3d.core.labels import vertebra
from verse3d.core.volume import read_labels
from verse3d.data.centroids import parse_centroids
from verse3d.data.predictions import centroid_path, mask_path
from verse3d.inference.loading import open_predictor
from verse3d.inference.naming import LevelMaps, SequenceNaming
from verse3d.labelling import bones
from verse3d.model.checkpoint import load_checkpoint, save_checkpoint
from verse3d.model.scout import SCOUT, USABLE, ScoutNetwork

ROW = between("T10", "L4")
CASE = "ct"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A scan in which bone near other bone is grey and all other bone is white, and a model that tells these apart."""
    use_threshold_network(monkeypatch)
    scan = scan_of(ROW)
    hu = np.array([-1000, 500, 1250], np.int16)[scan.parts()]
    write_nifti(tmp_path / "ct.nii.gz", hu, scan.geometry.affine)
    config = tiny_config(
        labels={"scheme": "vertebrae", "naming": "sequence"},
        grid={"spacing_mm": [2.0, 2.5, 2.0]},
        scout={"enabled": False},
    )
    save_model(tmp_path / "best.pt", config)
    return tmp_path, scan


def let_networks_see(monkeypatch, scan, **seen):
    maps, coarse = scan.maps(**seen)
    monkeypatch.setattr(SequenceNaming, "look", lambda *_: LevelMaps(maps.astype(np.float16), coarse))


def predicted(folder, **options):
    out = folder / "out"
    report = verse3d.predict(folder / "ct.nii.gz", model=folder / "best.pt", out=out, device="cpu", **options)
    record = json.loads((out / "predictions.json").read_text())["cases"][0]
    return out, report, record


@pytest.mark.parametrize("backend", ["torch", "openvino"])
@pytest.mark.usefixtures("as_for_users")
def test_a_mask_of_named_vertebrae_is_written_with_all_that_lies_beside_it(place, monkeypatch, backend):
    folder, scan = place
    let_networks_see(monkeypatch, scan)
    out, report, record = predicted(folder, backend=backend)
    assert not report.failures
    found = read_labels(mask_path(out, CASE)).array
    overlap = (found == scan.ids)[(found > 0) | (scan.ids > 0)].mean()
    assert overlap > 0.85
    assert set(np.unique(found)) == {0, *(vertebra(name).id for name in ROW)}
    assert [one["name"] for one in record["vertebrae"]] == ROW == sorted(record["levels"], key=ROW.index)
    assert not record["naming"]["ambiguous"]
    stored = parse_centroids(centroid_path(out, CASE))
    assert stored.labels == tuple(vertebra(name).id for name in ROW)
    world = scan.geometry.world_from_index(stored.points)
    assert np.abs(world - list(scan.centres.values())).max() < 3.0
    assert '"T12"' in (out / "itksnap_labels.txt").read_text()


@pytest.mark.parametrize("options", [{"tta": True}, {"model": ["best.pt", "again.pt"]}], ids=["mirrored", "averaged"])
def test_mirror_images_and_several_models_are_averaged_before_bones_are_named(place, monkeypatch, options):
    folder, scan = place
    let_networks_see(monkeypatch, scan)
    monkeypatch.chdir(folder)
    shutil.copy("best.pt", "again.pt")
    report = verse3d.predict("ct.nii.gz", out="out", device="cpu", **({"model": "best.pt"} | options))
    assert not report.failures
    record = json.loads((folder / "out" / "predictions.json").read_text())["cases"][0]
    assert [one["name"] for one in record["vertebrae"]] == ROW and not record["naming"]["ambiguous"]


def test_without_a_scout_names_are_given_with_a_warning(place):
    folder, _ = place
    _, report, record = predicted(folder)
    assert record["naming"]["ambiguous"]
    assert any("no network has seen" in warning for warning in report.records[0].warnings)
    assert len(record["vertebrae"]) == len(ROW)


def test_a_scan_without_a_spine_has_an_empty_mask_that_says_so(place, monkeypatch):
    folder, scan = place
    let_networks_see(monkeypatch, scan)
    air = np.full(scan.geometry.shape, -1000, np.int16)
    write_nifti(folder / "ct.nii.gz", air, scan.geometry.affine)
    out, report, record = predicted(folder)
    assert not report.failures and not read_labels(mask_path(out, CASE)).array.any()
    assert record["vertebrae"] == [] and not record["naming"]["ambiguous"] and record["naming"]["readings"] == []
    assert any("mask is empty" in warning for warning in record["warnings"])
    assert parse_centroids(centroid_path(out, CASE)).labels == ()


def test_a_model_in_memory_names_the_same_vertebrae(place, monkeypatch):
    folder, scan = place
    let_networks_see(monkeypatch, scan)
    out, _, record = predicted(folder)
    segmented = verse3d.load_model(folder / "best.pt", device="cpu").segment(folder / "ct.nii.gz")
    assert np.array_equal(segmented.labels, read_labels(mask_path(out, CASE)).array)
    assert [one.to_dict() for one in segmented.vertebrae] == record["vertebrae"]


def test_a_model_in_memory_keeps_vertebrae_that_the_scan_cuts_on_request_only(place, monkeypatch):
    folder, scan = place
    let_networks_see(monkeypatch, scan)
    # Every bone takes a hectare of the first face, and none is far from it: all are cut.
    monkeypatch.setattr(bones, "_faces", lambda *_: [(0, 0, np.full(256, 1e10))])
    monkeypatch.setattr(bones, "_CUT_DEPTH", np.inf)
    dropped, kept = (
        verse3d.load_model(folder / "best.pt", device="cpu", partial=choice).segment(folder / "ct.nii.gz")
        for choice in ("drop", "keep")
    )
    assert (dropped.levels, kept.levels) == ((), tuple(ROW))
    for found, in_mask in ((dropped, False), (kept, True)):
        assert [(one.name, one.is_partial, one.in_mask) for one in found.vertebrae] == [
            (name, True, in_mask) for name in ROW
        ]
    out, _, _ = predicted(folder, partial="keep")
    assert np.array_equal(kept.labels, read_labels(mask_path(out, CASE)).array)
    with pytest.raises(ConfigError, match="`partial` must be drop or keep"):
        verse3d.load_model(folder / "best.pt", device="cpu", partial="some")


def test_a_shift_found_by_eye_is_corrected_and_taken_back(place, monkeypatch):
    folder, scan = place
    let_networks_see(monkeypatch, scan, shift=-1)
    out, _, record = predicted(folder)
    assert [one["name"] for one in record["vertebrae"]] == between("T9", "L3")
    verse3d.relabel(out, case=CASE, shift=1)
    assert vertebra("L4").id in read_labels(mask_path(out, CASE)).array
    verse3d.relabel(out, case=CASE, undo=True)
    assert vertebra("L4").id not in read_labels(mask_path(out, CASE)).array
    with pytest.raises(ConfigError, match="not both"):
        verse3d.relabel(out, case=CASE)


def test_where_the_scan_cuts_all_vertebrae_the_empty_mask_does_not_claim_that_none_was_found(place, monkeypatch):
    folder, scan = place
    let_networks_see(monkeypatch, scan)
    # Every bone takes a hectare of the first face, and none is far from it: all are cut.
    monkeypatch.setattr(bones, "_faces", lambda *_: [(0, 0, np.full(256, 1e10))])
    monkeypatch.setattr(bones, "_CUT_DEPTH", np.inf)
    _, _, record = predicted(folder)
    assert "no whole vertebra was found: the mask is empty" in record["warnings"]
    found = verse3d.load_model(folder / "best.pt", device="cpu").segment(folder / "ct.nii.gz")
    assert not found.labels.any() and "no whole vertebra was found: the mask is empty" in found.warnings


def test_masks_with_and_without_partial_vertebrae_are_not_taken_for_each_other(place, monkeypatch):
    folder, scan = place
    let_networks_see(monkeypatch, scan)
    predicted(folder)
    _, again, _ = predicted(folder)
    assert again.records[0].status == "skipped"
    _, other, _ = predicted(folder, partial="keep")
    assert "partial drop and not keep" in other.failures[0].error
    with pytest.raises(ConfigError, match="`partial` must be drop or keep"):
        predicted(folder, partial="some")


def test_levels_are_seen_by_the_scouts_of_all_models_even_if_they_may_not_crop(place):
    folder, scan = place
    model = load_checkpoint(folder / "best.pt")
    for name in ("one.pt", "two.pt"):
        scout = scout_part(model.config, {})  # nothing says that it is usable
        save_checkpoint(folder / name, replace(model, networks={SCOUT: scout}))
    predictor = open_predictor([folder / "one.pt", folder / "two.pt"], torch.device("cpu"), keep_partial=True)
    assert not predictor.scouts.networks
    assert len(predictor.naming.networks) == 2
    assert predictor.naming.keeps_partial
    seen = predictor.naming.look(np.full(scan.geometry.shape, 0.5, np.float16), scan.geometry)
    assert seen is None or np.isfinite(seen.probabilities).all()


@pytest.mark.parametrize("count", [1, 2])
def test_a_scout_that_crops_and_knows_levels_looks_once_and_says_the_same(place, monkeypatch, count):
    folder, scan = place
    model = load_checkpoint(folder / "best.pt")
    paths = [folder / f"{number}.pt" for number in range(count)]
    for number, path in enumerate(paths):
        torch.manual_seed(number)
        save_checkpoint(path, replace(model, networks={SCOUT: scout_part(model.config, {USABLE: 1.0})}))
    predictor = open_predictor(paths, torch.device("cpu"), backend="torch")
    image = np.random.default_rng(3).random(scan.geometry.shape).astype(np.float16)
    asked = (image, scan.geometry, scan.geometry, predictor.settings)
    # The random scouts see little or much spine; so that they see some of it, their heads are told to.
    for number, network in enumerate(predictor.scouts.networks):
        network.head.bias.data[0] = network.head.bias.data[1:].mean() + 3.2 + 0.1 * number
    # Networks of their own for each question, which look twice.
    apart = replace(predictor, naming=SequenceNaming([*predictor.naming.networks]))
    looks = []
    forward = ScoutNetwork.features
    monkeypatch.setattr(ScoutNetwork, "features", lambda network, seen: looks.append(network) or forward(network, seen))
    answer, once = predictor.segment(*asked)
    assert len(looks) == count
    expected, twice = apart.segment(*asked)
    assert len(looks) == 3 * count
    assert np.array_equal(answer.mask(), expected.mask())
    assert once.crop.box == twice.crop.box and once.windows == twice.windows and once.crop.why == twice.crop.why
    assert once.levels.geometry == twice.levels.geometry
    assert np.array_equal(once.levels.probabilities, twice.levels.probabilities)


def test_models_that_name_in_different_ways_are_not_averaged(place):
    folder, _ = place
    model = load_checkpoint(folder / "best.pt")
    labels = model.config.labels.model_copy(update={"naming": "direct"})
    save_model(folder / "direct.pt", model.config.model_copy(update={"labels": labels}))
    with pytest.raises(ConfigError, match=r"labels\.naming: sequence and direct"):
        open_predictor([folder / "best.pt", folder / "direct.pt"], torch.device("cpu"))
