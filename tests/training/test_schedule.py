"""The rate that follows the validation, against hand-written sequences. (The cosine is tested with the learner.)"""

import math

import pytest
import torch

from verse3d.core.config import OptimConfig
from verse3d.training.schedule import build_schedule


def plateau(**changes):
    optim = OptimConfig(**({"schedule": "plateau", "lr": 0.8, "warmup_steps": 0, "plateau_factor": 0.5} | changes))
    optimizer = torch.optim.RMSprop([torch.nn.Parameter(torch.zeros(1))], lr=optim.lr, momentum=optim.momentum)
    return build_schedule(optimizer, optim), lambda: optimizer.param_groups[0]["lr"]


@pytest.mark.parametrize(
    ("patience", "scores", "rates"),
    [
        (0, [0.1, 0.2, 0.2, 0.3, 0.1], [0.8, 0.8, 0.4, 0.4, 0.2]),
        (1, [0.5, 0.4, 0.4, 0.4, 0.4], [0.8, 0.8, 0.4, 0.4, 0.2]),
        (2, [0.5, 0.4, 0.5, 0.6, 0.1, 0.2, 0.3], [0.8, 0.8, 0.8, 0.8, 0.8, 0.8, 0.4]),
        (0, [math.nan, 0.1, math.nan], [0.4, 0.4, 0.2]),
    ],
    ids=str,
)
def test_the_rate_falls_when_too_many_validations_in_a_row_bring_nothing_better(patience, scores, rates):
    schedule, rate = plateau(plateau_patience=patience)
    found = []
    for score in scores:
        schedule.after_step()
        schedule.after_validation(score)
        found.append(rate())
    assert found == pytest.approx(rates)


def test_the_rate_rises_linearly_before_it_stays():
    schedule, rate = plateau(warmup_steps=4)
    rates = [rate()]
    for _ in range(5):
        schedule.after_step()
        rates.append(rate())
    assert rates == pytest.approx([0.2, 0.4, 0.6, 0.8, 0.8, 0.8])


@pytest.mark.parametrize("after", range(6))
def test_a_restored_schedule_goes_on_as_the_saved_one(after):
    scores = [0.1, 0.3, 0.2, 0.3, 0.1, 0.4, 0.2, 0.2]
    (one, one_rate), (two, two_rate) = (
        plateau(plateau_patience=1, warmup_steps=5),
        plateau(plateau_patience=1, warmup_steps=5),
    )
    for number, score in enumerate(scores):
        if number == after:
            two.load_state_dict(one.state_dict())
            assert two_rate() == one_rate()
        for schedule in (one, two) if number >= after else (one,):
            schedule.after_step()
            schedule.after_validation(score)
    assert two_rate() == one_rate()
    assert two.state_dict() == one.state_dict()


def test_the_cosine_does_not_care_about_scores():
    schedule, rate = plateau(schedule="cosine", epochs=2, steps_per_epoch=5)
    before = rate()
    for _ in range(9):
        schedule.after_validation(0.1)
    assert rate() == before
