"""What a validation says about names, and how TensorBoard shows it."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.labelling.blocks import scan_of
from tests.labelling.spines import between
from tests.scans import ThresholdNet, tiny_config, write_nifti
from verse3d.api.models import _paint_confusion
from verse3d.core.geometry import Geometry
from verse3d.core.labels import VERTEBRAE, label_scheme
from verse3d.core.runtime import choose_precision
from verse3d.data.cases import Case
from verse3d.data.samples.prepare import Job
from verse3d.data.samples.store import open_store
from verse3d.data.samples.stored import StoredCases
from verse3d.inference.naming import LevelMaps, SequenceNaming
from verse3d.inference.predictor import Predictor
from verse3d.report.confusion import confusion_figure
from verse3d.training.level_scores import LevelScores, all_right_share, joint_confusion, mean_id_rate
from verse3d.training.monitor import Monitor
from verse3d.training.validate import ValidationCase, ValidationResult, validate

CPU = torch.device("cpu")
ROW = between("T10", "L3")
PLACE = {label.name: number for number, label in enumerate(VERTEBRAE, start=1)}
ID = {label.name: label.id for label in VERTEBRAE}


def blocks(*names, size=9):
    """A block of 1 ml per name along the third axis; "" is left out."""
    ids = np.zeros((size, size + 2, 12 * len(names)), np.uint8)
    for number, name in enumerate(names):
        if name:
            ids[1:-1, 2:-1, 12 * number + 2 : 12 * number + 10] = ID[name]
    return ids, Geometry(ids.shape, np.diag([1.5, 2.0, -2.5, 1.0]))


@pytest.mark.parametrize(
    ("predicted", "expected", "id_rate"),
    [
        (("T11", "T12", "L1"), {("T11", "T11"): 1, ("T12", "T12"): 1, ("L1", "L1"): 1}, 1.0),
        (("T11", "", "L1"), {("T11", "T11"): 1, ("T12", ""): 1, ("L1", "L1"): 1}, 2 / 3),
        (("T12", "L1", "L2"), {("T11", "T12"): 1, ("T12", "L1"): 1, ("L1", "L2"): 1}, 0.0),
        (("", "", ""), {("T11", ""): 1, ("T12", ""): 1, ("L1", ""): 1}, 0.0),
    ],
)
def test_names_are_counted_by_true_and_by_given_level(predicted, expected, id_rate):
    truth, geometry = blocks("T11", "T12", "L1")
    found = LevelScores.of(blocks(*predicted)[0], truth, geometry)
    counts = np.zeros((27, 27), int)
    for (true, given), count in expected.items():
        counts[PLACE[true], PLACE.get(given, 0)] = count
    assert np.array_equal(found.confusion, counts)
    assert found.id_rate == pytest.approx(id_rate)
    assert found.all_right == (id_rate == 1.0)


def test_a_name_where_no_vertebra_is_counts_as_one_too_many_and_two_names_in_a_bone_as_the_larger():
    truth, geometry = blocks("T11", "T12", "")
    predicted, _ = blocks("T11", "T12", "L1")
    predicted[2, :, 12:24][predicted[2, :, 12:24] > 0] = ID["T13"]  # a slice of T12
    found = LevelScores.of(predicted, truth, geometry)
    assert found.confusion[PLACE["T12"], PLACE["T12"]] == 1
    assert found.confusion[0, PLACE["L1"]] == found.confusion[0, PLACE["T13"]] == 1
    assert found.confusion.sum() == 4 and not found.all_right


def test_scans_without_vertebrae_have_no_rate():
    empty, geometry = blocks("", "")
    nothing = LevelScores.of(empty, empty, geometry)
    right = LevelScores.of(*(2 * [blocks("L1", "L2")[0]]), geometry)
    assert math.isnan(nothing.id_rate) and math.isnan(mean_id_rate([nothing])) and math.isnan(all_right_share([]))
    assert mean_id_rate([nothing, right]) == 1.0
    assert joint_confusion([right, right, nothing])[PLACE["L1"], PLACE["L1"]] == 2


def case_of(folder, scan):
    """The scan as a validation case for a network that tells parts by their grey value."""
    hu = np.array([-250, 500, 1250], np.int16)[scan.parts()]
    ct = write_nifti(folder / "a_ct.nii.gz", hu, scan.geometry.affine)
    mask = write_nifti(folder / "a_seg-vert_msk.nii.gz", scan.ids, scan.geometry.affine)
    config = tiny_config(labels={"scheme": "vertebrae", "naming": "sequence"}, grid={"spacing_mm": [2.0, 2.5, 2.0]})
    job = Job.of(open_store(folder / "store"), config.grid, Case("a", "a", ct, mask))
    (stored,) = StoredCases([job], config.labels.trained_on).each()
    predictor = Predictor.of_network(ThresholdNet(3).eval(), config, CPU, choose_precision("off", CPU))
    return [ValidationCase(stored.files, stored, label_scheme("vertebrae"))], predictor


def test_a_shift_by_one_costs_the_names_and_not_the_dice(tmp_path, monkeypatch):
    scan = scan_of(ROW)
    cases, predictor = case_of(tmp_path, scan)
    dice, rates, shown = [], [], []
    for shift in (0, -1):
        maps, coarse = scan.maps(shift=shift)
        levels = LevelMaps(maps.astype(np.float16), coarse)
        monkeypatch.setattr(SequenceNaming, "look", lambda *_, levels=levels: levels)
        result = validate(replace(predictor, naming=SequenceNaming()), cases, None)
        dice.append(result.label_dice)
        rates.append(result.levels_of["a"].id_rate)
        shown.append(result.levels_of["a"].confusion)
    assert dice[0] == dice[1] and set(dice[0]) == set(ROW) and min(dice[0].values()) > 0.8
    assert rates == [1.0, 0.0]
    for name, above in zip(ROW, between("T9", "L2"), strict=True):
        assert shown[0][PLACE[name], PLACE[name]] == shown[1][PLACE[name], PLACE[above]] == 1


def test_a_sequence_without_a_scout_is_validated_by_distances(tmp_path):
    cases, predictor = case_of(tmp_path, scan_of(ROW))
    result = validate(predictor, cases, None)
    assert 0.0 <= result.levels_of["a"].id_rate <= 1.0 and result.dice_of["a"] > 0.8


def test_results_of_several_processes_are_joined_in_order():
    truth, geometry = blocks("L1", "L2")
    one = LevelScores.of(truth, truth, geometry)
    parts = [
        ValidationResult({"b": 1.0}, {}, levels_of={"b": one}),
        ValidationResult({"a": 1.0}, {}, levels_of={"a": one}),
    ]
    assert list(ValidationResult.merged(parts, ["a", "b"]).levels_of) == ["a", "b"]


def test_tensorboard_shows_the_rate_every_level_and_the_picture(tmp_path):
    truth, geometry = blocks("T12", "L1")
    scores = LevelScores.of(blocks("T12", "L2")[0], truth, geometry)
    result = ValidationResult({"a": 0.5}, {}, (), {"a": {"T12": 0.9, "L1": 0.1}}, {"a": scores})
    with Monitor(tmp_path) as monitor:
        monitor.validation(3, result, _paint_confusion(scores.confusion))
    events = EventAccumulator(str(tmp_path)).Reload()
    assert events.Scalars("validation/id_rate")[0].value == pytest.approx(0.5)
    assert events.Scalars("validation/all_right")[0].value == 0.0
    assert events.Scalars("validation_label/T12")[0].value == pytest.approx(0.9)
    assert events.Images("validation_names/levels")[0].width > 100


def test_the_picture_holds_the_levels_that_occur_and_their_numbers():
    counts = np.zeros((27, 27), int)
    counts[PLACE["T12"], PLACE["T12"]], counts[PLACE["T12"], PLACE["L1"]], counts[0, PLACE["L2"]] = 4, 1, 2
    (axes,) = confusion_figure(counts).axes
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["none", "T12", "L1", "L2"] == [label.get_text() for label in axes.get_yticklabels()]
    assert sorted(text.get_text() for text in axes.texts) == ["1", "2", "4"]
    assert axes.get_title() == "4 of 5 vertebrae by their name"
    right = next(text for text in axes.texts if text.get_text() == "4")
    assert right.get_position() == (1, 1)
    assert confusion_figure(np.zeros((27, 27), int)).axes
