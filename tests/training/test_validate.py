"""The validation Dice is the Dice of the masks that are written later."""

import math

import nibabel as nib
import numpy as np
import pytest
import torch

from tests import scans
from tests.scans import PIR, ThresholdNet, spine, tiny_config, turned
from verse3d.core.errors import DataError
from verse3d.core.labels import label_scheme
from verse3d.core.runtime import choose_precision
from verse3d.data.cases import Case, CaseIndex
from verse3d.data.samples.prepare import Job
from verse3d.data.samples.store import open_store
from verse3d.data.samples.stored import StoredCases
from verse3d.evaluation.score_folder import evaluate_folder
from verse3d.inference.predict import predict_cases
from verse3d.inference.predictor import Predictor
from verse3d.model.modes import Method
from verse3d.training.validate import ValidationCase, validate

CPU = torch.device("cpu")


def predictor(config):
    channels = 27 if config.labels.scheme == "vertebrae" else 1
    return Predictor.of_network(
        ThresholdNet(channels, cut=0.4).eval(), Method(config), CPU, choose_precision("off", CPU)
    )


def validation_cases(folder, cases, config, drawn=0):
    store = open_store(folder / "cases.store")
    stored = StoredCases([Job.of(store, config.grid, case) for case in cases], config.labels.scheme).each()
    scheme = label_scheme(config.labels.scheme)
    return [ValidationCase(case.files, case, scheme, number < drawn) for number, case in enumerate(stored)]


def grey_values(mask, scheme, noise):
    """HU near those that a ``ThresholdNet`` wants; many are so close to its threshold that the last bit matters."""
    if scheme == "binary":
        return 335 + noise + 40 * (mask > 0)
    return np.where(mask == 28, 26, mask) * (1500 / 26) - 250 + noise


@pytest.fixture
def noisy(tmp_path, scheme):
    """Two scans on different grids."""
    cases = []
    for number, geometry in enumerate((PIR, turned(PIR))):
        data = spine(number, geometry, ids=(19, 28, 20))
        noise = np.random.default_rng(number).normal(0, 15, geometry.shape)
        data.hu = grey_values(data.mask, scheme, noise).astype(np.float32)
        ct, mask = tmp_path / f"n{number}_ct.nii.gz", tmp_path / f"n{number}_msk.nii.gz"
        data.write(ct, mask)
        cases.append(Case(f"n{number}", f"n{number}", ct, mask))
    return cases


@pytest.mark.parametrize("scheme", ["binary", "vertebrae"])
def test_validation_finds_the_dice_that_predict_and_evaluate_find(noisy, tmp_path, scheme):
    config = tiny_config(labels={"scheme": scheme}, inference={"min_component_ml": 0.3})
    one = predictor(config)
    found = validate(one, validation_cases(tmp_path, noisy, config), None)
    predict_cases(noisy, one, tmp_path / "out", about=lambda: {"scheme": scheme})
    scored = evaluate_folder(tmp_path / "out", CaseIndex(tuple(noisy)), tmp_path / "scores.json")
    names = ("vertebrae",) if scheme == "binary" else ("T12", "T13", "L1")
    for case in scored.cases:
        expected = np.mean([case.labels[name].dice for name in names])
        assert found.dice_of[case.case] == pytest.approx(expected, abs=1e-12)
        assert 0.3 < expected < 1
    assert found.mean_dice == pytest.approx(np.mean(list(found.dice_of.values())))


@pytest.mark.parametrize("scheme", ["vertebrae"])
def test_a_picture_is_painted_of_every_drawn_scan_from_masks_in_file_ids(noisy, tmp_path):
    config = tiny_config(labels={"scheme": "vertebrae"})
    painted = []

    def paint(scan, masks, labels, title):
        painted.append((scan.path.name, {name: mask.shape for name, mask in masks.items()}, title))
        assert set(np.unique(masks["truth"])) == {0, 19, 20, 28}
        return np.zeros((4, 5, 3), np.uint8)

    result = validate(predictor(config), validation_cases(tmp_path, noisy, config, drawn=1), paint)
    assert [(name, list(masks)) for name, masks, _ in painted] == [("n0_ct.nii.gz", ["truth", "prediction"])]
    assert painted[0][2] == f"n0  Dice {result.dice_of['n0']:.3f}"
    assert result.pictures.keys() == {"n0"}


def test_without_any_defined_dice_the_mean_is_undefined(tmp_path):
    empty = spine()
    empty.mask[:] = 0
    empty.write(tmp_path / "a_ct.nii.gz", tmp_path / "a_msk.nii.gz")
    case = Case("a", "a", tmp_path / "a_ct.nii.gz", tmp_path / "a_msk.nii.gz")
    config = tiny_config()
    result = validate(predictor(config), validation_cases(tmp_path, [case], config), None)
    assert math.isnan(result.dice_of["a"]) and math.isnan(result.mean_dice)


@pytest.mark.parametrize("scheme", ["binary"])
def test_a_validation_case_that_does_not_fit_is_left_out_and_the_others_are_scored(noisy, tmp_path, caplog):
    scans.write_nifti(noisy[0].mask, spine().mask, turned(PIR).affine)
    config = tiny_config()
    result = validate(predictor(config), validation_cases(tmp_path, noisy, config), None)
    assert list(result.dice_of) == ["n1"]
    assert "n0 is left out" in caplog.text
    assert "mm away" in caplog.text


@pytest.mark.parametrize("scheme", ["binary"])
def test_a_validation_case_that_vanishes_during_the_run_stops_it(noisy, tmp_path):
    """Else the best epoch would be chosen on fewer cases than the others."""
    config = tiny_config()
    cases = validation_cases(tmp_path, noisy, config)
    assert len(validate(predictor(config), cases, None).dice_of) == 2
    noisy[1].mask.unlink()
    with pytest.raises(DataError, match="does not exist"):
        validate(predictor(config), cases, None)


class SickAt(ThresholdNet):
    """Answers NaN about everything brighter than any bone."""

    def forward(self, image):
        return super().forward(image) * (np.nan if float(image.max()) > 0.99 else 1)


@pytest.mark.parametrize("scheme", ["binary"])
def test_a_case_that_the_network_answers_with_nan_has_no_dice_and_the_others_go_on(noisy, tmp_path, caplog):
    config = tiny_config()
    scan = nib.load(noisy[0].image)
    hu = np.asarray(scan.dataobj).copy()
    hu[tuple(slice(size // 2 - 2, size // 2 + 3) for size in hu.shape)] = 3000
    scans.write_nifti(noisy[0].image, hu, scan.affine)
    cases = validation_cases(tmp_path, noisy, config)
    one = Predictor.of_network(SickAt(1, cut=0.4).eval(), Method(config), CPU, choose_precision("off", CPU))
    result = validate(one, cases, lambda *_: np.zeros((4, 5, 3), np.uint8))
    assert math.isnan(result.dice_of["n0"]) and 0.3 < result.dice_of["n1"] < 1
    assert result.not_finite == ("n0",) and result.pictures.keys() <= {"n1"}
    assert math.isnan(result.mean_dice), "an epoch that fails in a case must not be taken for the best"
    assert "n0 has no validation Dice" in caplog.text and "1 of 2 validation cases" in caplog.text
