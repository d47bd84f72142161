"""Whole scans are validated less often where they take long, and always in the same epochs where that matters."""

import pytest

from tests.scans import tiny_config
from verse3d.training.pace import validation_fits
from verse3d.training.session import Standing


def fits(standing, minutes, share=0.1, **sections):
    config = tiny_config(validation={"time_share": share}, **sections)
    return validation_fits(standing, minutes, config.validation, config.optim, config.runtime)


def share_of(training_minutes, validation_minutes, share=0.1, epochs=4000):
    """The part of the time that validations take when one could follow every epoch, and how many there were."""
    standing, minutes, count = Standing(), 0.0, 0
    for _ in range(epochs):
        minutes += training_minutes
        if fits(standing, minutes, share):
            minutes += validation_minutes
            standing.validation_minutes += validation_minutes
            standing.last_validation_minutes = validation_minutes
            count += 1
    return standing.validation_minutes / minutes, count


@pytest.mark.slow  # two seconds
def test_validations_take_no_more_than_their_share_of_the_time():
    for training, validation, share in ((1.0, 1.0, 0.1), (0.1, 3.0, 0.1), (2.0, 0.3, 0.1), (1.0, 1.0, 0.4)):
        found, count = share_of(training, validation, share)
        assert 0.8 * share < found <= share + 1e-9, (training, validation)
        assert count > 1


def test_short_validations_are_never_left_out():
    assert share_of(1.0, 0.05)[1] == 4000


def test_the_first_validation_comes_when_it_is_planned():
    assert fits(Standing(), 0.01)


def test_a_share_of_one_leaves_none_out():
    standing = Standing(validation_minutes=50.0, last_validation_minutes=10.0)
    assert fits(standing, 51.0, 1.0)
    assert not fits(standing, 51.0, 0.5)


def test_seconds_decide_nothing_in_a_deterministic_run_or_where_the_rate_follows_the_validation():
    slow = Standing(validation_minutes=50.0, last_validation_minutes=10.0)
    assert not fits(slow, 60.0)
    assert fits(slow, 60.0, runtime={"deterministic": True})
    assert fits(slow, 60.0, optim={"schedule": "plateau"})
