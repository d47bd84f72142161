"""The phantom of a whole body: as wide as one, the same every time, with every vertebra of the person in it."""

import numpy as np
import pytest

from verse3d.core.labels import VERSE_IDS
from verse3d.phantoms.body import make_body

SPACING_MM = 8.0


@pytest.fixture(scope="module")
def body():
    return make_body(1, 0, SPACING_MM)


def test_it_is_as_wide_as_a_body_with_air_around(body):
    width, depth, height = np.array(body.geometry.shape) * body.geometry.spacing_mm
    assert 330 < width < 480 and 230 < depth < 380 and height > 550
    tissue = (body.image_hu > -300).any(axis=(1, 2))
    assert tissue.sum() * SPACING_MM > 250
    assert (body.image_hu[0] < -800).mean() > 0.5


def test_it_shows_the_whole_spine_and_little_of_the_body_is_spine(body):
    ids = set(np.unique(body.mask).tolist()) - {0}
    assert {1, 7, 8, 18, 20, 24} <= ids <= VERSE_IDS
    assert 0.001 < (body.mask > 0).mean() < 0.02
    assert np.median(body.image_hu[body.mask > 0]) > 150


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_an_anomaly_can_be_asked_for():
    body = make_body(0, 0, 12.0, anomaly="l5-missing")
    assert body.anomaly == "l5-missing"
    assert (body.mask == 23).any() and not (body.mask == 24).any()


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_the_same_numbers_give_the_same_voxels(body):
    again = make_body(1, 0, SPACING_MM)
    np.testing.assert_array_equal(again.image_hu, body.image_hu)
    np.testing.assert_array_equal(again.mask, body.mask)
