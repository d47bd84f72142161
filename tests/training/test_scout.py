"""The scout learns beside the fine network: within its share of time, resumable, and honest about what it missed."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.scans import tiny_config
from tests.training.runs import train
from verse3d.core.errors import CheckpointError, DataError
from verse3d.model.checkpoint import TrainedNetwork, load_checkpoint, save_checkpoint
from verse3d.model.scout import SCOUT, USABLE
from verse3d.training import scout as module
from verse3d.training import scout_samples
from verse3d.training.scout import ScoutTraining
from verse3d.training.scout_samples import ScoutSamples

CPU = torch.device("cpu")
SHAPE = (20, 17, 40)


def volumes(*_):
    """A bright column of three vertebrae in dark tissue."""
    random = np.random.default_rng(0)
    ids = np.zeros(SHAPE, np.uint8)
    for number, level in enumerate((12, 11, 10)):
        ids[7:11, 6:10, 4 + 10 * number : 13 + 10 * number] = level
    return (0.2 + 0.6 * (ids > 0) + random.normal(0, 0.02, SHAPE)).astype(np.float16), ids


@pytest.fixture(autouse=True)
def small_phantoms(monkeypatch):
    for where in (module, scout_samples):
        monkeypatch.setattr(where, "phantom_volumes", volumes)


def training(*, validation=(volumes,), **runtime) -> ScoutTraining:
    config = tiny_config(scout={"enabled": True, "channels": [4, 8, 8]}, runtime=runtime)
    return ScoutTraining(config, ScoutSamples(3, config.grid, 2, volumes), validation, CPU)


def same(one: dict, other: dict) -> bool:
    return all(torch.equal(one[name], other[name]) for name in one)


def sees_what_is_bright(network, image):
    """In place of ``look_for_spine``: a scout that has learnt all there is to learn from ``volumes``."""
    return (image > 0.5).astype(np.float32)


@pytest.mark.slow  # seconds, and what is like it runs quickly
def test_it_learns_where_the_spine_is(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_STEPS", 1)
    learner = training()
    losses = [learner.step() for _ in range(25)]
    assert np.mean(losses[-5:]) < 0.85 * np.mean(losses[:5])
    learner.assess()
    assert learner.assessed is not None
    assert learner.assessed.epoch == 25 and learner.assessed.scheme.name == "vertebrae"


def test_it_is_usable_if_it_misses_nothing(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_STEPS", 0)
    monkeypatch.setattr(module, "look_for_spine", sees_what_is_bright)
    learner = training(validation=(volumes, volumes))
    learner.assess()
    assert learner.assessed is not None
    assert learner.assessed.scores == {USABLE: 1.0, "missed_voxels": 0.0, "validation_cases": 2.0}


def test_a_single_voxel_that_is_missed_in_one_case_makes_it_unusable(monkeypatch):
    def with_a_far_voxel():
        image, ids = (np.pad(volume, ((0, 10), (0, 0), (0, 0))) for volume in volumes())
        ids[29, 8, 20] = 9  # 19 voxels, 76 mm, beside the bright column
        return image, ids

    monkeypatch.setattr(module, "FEWEST_STEPS", 0)
    monkeypatch.setattr(module, "look_for_spine", sees_what_is_bright)
    learner = training(validation=(volumes, with_a_far_voxel))
    learner.assess()
    assert learner.assessed is not None
    assert learner.assessed.scores == {USABLE: 0.0, "missed_voxels": 1.0, "validation_cases": 2.0}


def test_a_scout_that_sees_no_spine_has_missed_all_of_it(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_STEPS", 0)
    monkeypatch.setattr(module, "look_for_spine", lambda network, image: np.zeros_like(image))
    learner = training()
    learner.assess()
    assert learner.assessed is not None
    assert learner.assessed.scores["missed_voxels"] == 3 * np.count_nonzero(volumes()[1])


def test_without_a_validation_case_nothing_is_proven(monkeypatch):
    monkeypatch.setattr(module, "FEWEST_STEPS", 1)
    learner = training(validation=())
    learner.step()
    learner.assess()
    assert learner.assessed is not None and learner.assessed.scores[USABLE] == 0.0


def test_a_case_that_cannot_be_read_is_left_out_of_the_judgement(monkeypatch):
    def unreadable():
        raise DataError("it is gone")

    monkeypatch.setattr(module, "FEWEST_STEPS", 1)
    learner = training(validation=(unreadable, volumes))
    learner.step()
    learner.assess()
    assert learner.assessed is not None and learner.assessed.scores["validation_cases"] == 1.0


def test_before_it_has_learnt_anything_it_is_not_judged():
    learner = training()
    learner.step()
    learner.assess()
    assert learner.assessed is None


def test_it_goes_on_exactly_where_it_stopped():
    through, first = training(), training()
    for _ in range(4):
        through.step()
    for _ in range(2):
        first.step()
    second = training()
    second.restore(first.to_dict(), None)
    for _ in range(2):
        second.step()
    assert second.steps == 4
    assert same(through.network.state_dict(), second.network.state_dict())


def test_the_fine_networks_random_state_is_left_alone():
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    training()
    torch.testing.assert_close(torch.rand(3), expected)


@pytest.mark.parametrize(("begun_with", "early", "late"), [(False, 0.10, 0.05), (True, 0.01, 0.01)])
def test_it_takes_no_more_than_its_share_of_the_time(monkeypatch, begun_with, early, late):
    now = [0.0]
    learner = training()
    if begun_with:
        learner.begin_with(TrainedNetwork(tiny_config(), training().network.state_dict()), Path("a.pt"))
    monkeypatch.setattr(learner, "_now", lambda: now[0])

    def step():
        now[0] += 3.0
        learner.steps += 1

    monkeypatch.setattr(learner, "step", step)
    for fine in range(1, 2001):  # fine steps of one second each
        now[0] += 1.0
        learner.after_batch(fine, now[0])
        share = early if now[0] < 600 else max(late, early * 600 / now[0])
        assert learner.seconds <= share * now[0] + 0.5
    assert learner.seconds > 0.9 * late * now[0] - 3.0


def test_seconds_do_not_decide_in_a_deterministic_run(monkeypatch):
    learner = training(deterministic=True)
    taken = []
    monkeypatch.setattr(learner, "step", lambda: taken.append(1))
    for fine in range(1, 33):
        learner.after_batch(fine, 1e-9 * fine)
    assert len(taken) == 4


def test_a_loss_that_is_no_number_changes_no_weight(monkeypatch):
    learner = training()
    learner.step()
    before = {name: value.clone() for name, value in learner.network.state_dict().items()}
    monkeypatch.setattr(module, "scout_loss", lambda logits, _: logits.sum() * math.nan)
    learner.step()
    assert same(before, learner.network.state_dict())


def run(folder, index, *, epochs=2, resume=False, **scout):
    config = tiny_config(
        optim={"epochs": epochs, "steps_per_epoch": 8},
        runtime={"deterministic": True},
        scout={"enabled": True, **scout},
    )
    return train(index, folder, config, resume=resume)


def test_a_run_puts_its_scout_into_the_model_file_and_resumes_it(tmp_path, monkeypatch, dataset):
    monkeypatch.setattr(module, "FEWEST_STEPS", 1)
    run(tmp_path / "through", dataset)
    run(tmp_path / "halves", dataset, epochs=1)
    run(tmp_path / "halves", dataset, epochs=2, resume=True)
    one, other = (load_checkpoint(tmp_path / name / "last.pt") for name in ("through", "halves"))
    assert one.networks[SCOUT].epoch == 2 and {USABLE, "missed_voxels"} <= set(one.networks[SCOUT].scores)
    assert same(dict(one.networks[SCOUT].network), dict(other.networks[SCOUT].network))
    assert SCOUT in load_checkpoint(tmp_path / "through" / "best.pt").networks


def test_the_fine_network_is_the_same_with_and_without_a_scout(tmp_path, dataset):
    run(tmp_path / "with", dataset, epochs=1)
    run(tmp_path / "without", dataset, epochs=1, enabled=False)
    one, other = (load_checkpoint(tmp_path / name / "last.pt") for name in ("with", "without"))
    assert same(one.network, other.network)
    assert not other.networks and not other.training["scout"]


def test_a_damaged_state_of_the_scout_is_refused(tmp_path, dataset):
    run(tmp_path / "run", dataset, epochs=1)
    last = tmp_path / "run" / "last.pt"
    checkpoint = load_checkpoint(last)
    checkpoint.training["scout"]["steps"] = -4
    save_checkpoint(last, checkpoint)
    with pytest.raises(CheckpointError, match="cannot be gone on with"):
        run(tmp_path / "run", dataset, resume=True)


def test_a_binary_mask_teaches_spine_without_levels(tmp_path, dataset):
    assert run(tmp_path / "run", dataset, epochs=1).epochs == 1


def test_one_that_begins_with_another_has_its_weights_and_is_judged_before_its_first_step(monkeypatch):
    monkeypatch.setattr(module, "look_for_spine", sees_what_is_bright)
    first = training()
    for _ in range(2):
        first.step()
    monkeypatch.setattr(module, "FEWEST_STEPS", 0)
    first.assess()
    assert first.assessed is not None
    monkeypatch.setattr(module, "FEWEST_STEPS", 50)
    second = training(seed=9)
    second.assess()
    assert second.assessed is None
    second.begin_with(first.assessed, Path("a.pt"))
    assert same(first.assessed.network, second.network.state_dict())
    second.assess()
    assert second.assessed is not None and same(second.assessed.network, first.assessed.network)
    third = training(seed=9)
    third.restore(second.to_dict(), None)
    third.assess()
    assert third.assessed is not None


@pytest.mark.parametrize("is_resumed", [False, True])
@pytest.mark.parametrize(("usable", "steps", "phantoms"), [(1.0, 0, 0), (0.0, 0, 2), (1.0, 1, 2)])
def test_phantoms_are_asked_again_only_of_a_scout_that_has_changed_or_was_not_usable(
    monkeypatch, usable, steps, phantoms, is_resumed
):
    drawn = []

    def draw(seed, number, grid):
        drawn.append(number)
        return volumes()

    monkeypatch.setattr(module, "look_for_spine", sees_what_is_bright)
    monkeypatch.setattr(module, "phantom_volumes", draw)
    learner = training()
    stored = TrainedNetwork(tiny_config(), training().network.state_dict(), 100, {USABLE: usable})
    learner.begin_with(stored, Path("a.pt"))
    for _ in range(steps):
        learner.step()
    if is_resumed:
        state, learner = learner.to_dict(), training()
        learner.restore(state, None)
    learner.assess()
    assert len(drawn) == phantoms
    assert learner.assessed.scores[USABLE] == 1.0


def farthest_move(learner: ScoutTraining) -> float:
    """Of any weight in one step."""
    before = {name: weight.clone() for name, weight in learner.to_dict()["network"].items()}
    learner.step()
    return max(float((weight - before[name]).abs().max()) for name, weight in learner.to_dict()["network"].items())


def test_one_that_begins_with_another_takes_smaller_steps_so_that_nothing_is_lost():
    begun, plain = training(), training()
    begun.begin_with(TrainedNetwork(tiny_config(), plain.network.state_dict()), Path("a.pt"))
    assert farthest_move(begun) < 0.3 * farthest_move(plain)
