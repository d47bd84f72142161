"""What is measured of a case, and that it survives being written."""

import json

import numpy as np
import pytest

from tests.core.grids import affine, hounsfield, save_scan
from tests.data.quality.surveyed import MATRIX, SHAPE, write_case
from tests.data.spines import spine_labels
from verse3d.core.errors import DataError
from verse3d.core.readers import checked
from verse3d.data.cases import Case
from verse3d.data.quality.findings import Finding
from verse3d.data.quality.record import CaseSurvey
from verse3d.data.quality.survey import (
    HU_BIN_WIDTH,
    HU_BINS,
    HU_LOWEST,
    survey_case,
    survey_cases,
)


def test_the_numbers_of_a_case_are_those_of_its_voxels(tmp_path):
    case = write_case(tmp_path)
    survey = survey_case(case)
    hu, mask = hounsfield(SHAPE), spine_labels(SHAPE, MATRIX)
    assert (survey.case, survey.shape, survey.axis_codes) == ("a", SHAPE, "PIR")
    assert survey.spacing_mm == pytest.approx((1.0, 0.75, 3.0))
    assert survey.stored == ("int16", 1, 1)
    assert survey.extent_mm == pytest.approx((14 * 3.0, 9 * 1.0, 11 * 0.75), abs=1e-2)
    assert survey.has_mask and survey.levels == ("T12", "T13", "L1")
    assert survey.label_voxels == {label: int((mask == label).sum()) for label in (19, 28, 20)}
    assert survey.label_ml[20] == pytest.approx((mask == 20).sum() * 2.25 / 1000, abs=1e-3)
    assert survey.hu_range == (hu.min(), hu.max())
    edges = [-np.inf, *(HU_LOWEST + HU_BIN_WIDTH * np.arange(1, HU_BINS)), np.inf]
    assert survey.hu_inside == tuple(np.histogram(hu[mask > 0], edges)[0])
    assert survey.hu_outside == tuple(np.histogram(hu[mask == 0], edges)[0])
    assert survey.findings == ()


@pytest.mark.parametrize("dtype", [np.int16, np.int32, np.uint16, np.float32, np.float64])
def test_values_on_and_beyond_the_edges_of_the_bins_are_counted(tmp_path, dtype):
    values = [-1201, -1200, -1151, -1150, 0, 49, 50, 1949, 1950, 1999, 2000, 32000]
    scan = np.resize(np.array([value for value in values if value >= 0 or dtype != np.uint16]), SHAPE).astype(dtype)
    survey = survey_case(Case("a", "a", save_scan(tmp_path / "a.nii", scan, MATRIX)))
    edges = [-np.inf, *(HU_LOWEST + HU_BIN_WIDTH * np.arange(1, HU_BINS)), np.inf]
    assert survey.hu_outside == tuple(np.histogram(scan, edges)[0])
    assert sum(survey.hu_inside) == 0


@pytest.mark.parametrize(("degrees", "expected"), [((0, 0, 0), 0.0), ((10, 0, 0), 10.0), ((0, 0, -25), 25.0)])
def test_obliqueness_is_the_largest_angle_of_an_axis(tmp_path, degrees, expected):
    matrix = affine("LPS", (0.7, 0.7, 2.0), degrees=degrees)
    survey = survey_case(Case("a", "a", save_scan(tmp_path / "a.nii", hounsfield(SHAPE), matrix)))
    assert survey.oblique_degrees == pytest.approx(expected, abs=0.01)


def test_a_mask_with_turned_axes_still_tells_inside_from_outside(tmp_path):
    case = write_case(tmp_path)
    straight = survey_case(case)
    flipped = MATRIX.copy()
    flipped[:3, 3] += MATRIX[:3, 0] * (SHAPE[0] - 1)
    flipped[:3, 0] *= -1
    save_scan(case.mask, spine_labels(SHAPE, MATRIX)[::-1], flipped)
    turned = survey_case(case)
    assert [finding.code for finding in turned.findings] == ["mask-orientation"]
    assert turned.hu_inside == straight.hu_inside and turned.hu_outside == straight.hu_outside


def test_a_survey_survives_the_journey_through_json(cases):
    for survey in survey_cases(cases):
        assert checked(json.loads(json.dumps(survey.to_dict())), CaseSurvey, "here") == survey


def test_a_severity_that_does_not_exist_is_refused():
    with pytest.raises(DataError, match=r"severity: .* got 'fatal'"):
        checked({"case": "a", "severity": "fatal", "code": "x", "message": "y", "hint": ""}, Finding, "here")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"hu_inside": [1, 2, 3]}, "64 counts, or none"),
        ({"axis_codes": "PI"}, "the axes do not fit"),
        ({"axis_codes": "PIX"}, "the axes do not fit"),
        ({"shape": None}, "the axes do not fit"),
        ({"shape": [9, 11]}, "shape"),
        ({"spacing_mm": [1.0, 1.0, "wide"]}, "spacing_mm.2"),
        ({"spacing_mm": [1.0, 1.0, float("inf")]}, "spacing_mm.2"),
        ({"label_voxels": {"99": 1}}, "labels must be those of VerSe"),
        ({"label_voxels": {"L1": 1}}, "label_voxels.L1"),
        ({"label_ml": {"8": 1.0}}, "labels must be those of VerSe"),
        ({"findings": [{"case": "b", "severity": "note", "code": "x", "message": "y"}]}, "about another case"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_a_survey_that_contradicts_itself_is_refused(tmp_path, change, reason):
    values = json.loads(json.dumps(survey_case(write_case(tmp_path)).to_dict()))
    with pytest.raises(DataError, match=reason):
        checked(values | change, CaseSurvey, "here")
