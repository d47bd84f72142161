"""What a scout learns from depends on seed and step alone, always shows spine, and says nothing of cut vertebrae."""

import numpy as np
import pytest
import torch

from verse3d.core.config import GridConfig
from verse3d.core.labels import IGNORED
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.training import scout_samples
from verse3d.training.scout_samples import ScoutSamples, field_of_view, with_ignored_ends

SHAPE = (60, 50, 130)


def column(first: int = 30, last: int = 100, ids=(10, 11, 12, 13)) -> np.ndarray:
    """Blocks of ids along k in the middle of a volume, the uppermost id first (k grows to the head)."""
    mask = np.zeros(SHAPE, np.uint8)
    edges = np.linspace(last, first, len(ids) + 1).astype(int)
    for level, high, low in zip(ids, edges[:-1], edges[1:], strict=True):
        mask[25:35, 20:30, low:high] = level
    return mask


def image() -> np.ndarray:
    return np.random.default_rng(0).random(SHAPE).astype(np.float16)


def made(sample) -> dict[str, torch.Tensor]:
    return Augment(sample.size)(PackedBatch.of([sample.box]).on(torch.device("cpu")))


@pytest.fixture
def samples(monkeypatch):
    monkeypatch.setattr(scout_samples, "phantom_volumes", lambda *_: (image(), column(ids=(1, 2, 3))))
    asked = []

    def read(number):
        asked.append(number)
        return image(), column()

    return ScoutSamples(7, GridConfig(), 5, read), asked


def test_a_step_has_a_training_case_and_a_phantom_and_is_the_same_whenever_it_is_asked_for(samples):
    draw, _ = samples
    one, other, next_one = draw.step(3), draw.step(3), draw.step(4)
    for first, second in zip(one, other, strict=True):
        assert first.size == second.size
        np.testing.assert_array_equal(first.box.image, second.box.image)
        np.testing.assert_array_equal(first.box.label, second.box.label)
    assert set(np.unique(one[0].box.label)) <= {0, 10, 11, 12, 13}
    assert set(np.unique(one[1].box.label)) <= {0, 1, 2, 3}
    assert [s.size for s in next_one] != [s.size for s in one] or next_one[0].box.middle != one[0].box.middle


def test_early_steps_ask_for_early_cases_only(samples):
    draw, asked = samples
    draw.step(0)
    draw.step(1)
    assert max(asked) <= 1


def test_a_run_without_training_cases_learns_from_phantoms(monkeypatch):
    monkeypatch.setattr(scout_samples, "phantom_volumes", lambda *_: (image(), column(ids=(1, 2, 3))))
    boxes = ScoutSamples(7, GridConfig(), 0, lambda _: pytest.fail("there is no case")).step(0)
    assert len(boxes) == 2


def test_fields_of_view_differ_show_spine_and_are_at_least_three_vertebrae_tall():
    volume, mask = image(), column()
    sizes = []
    for seed in range(60):
        sample = field_of_view(volume, mask, np.random.RandomState(seed))
        sizes.append(sample.size)
        batch = made(sample)
        assert batch["image"].shape == (1, 1, *sample.size) and batch["label"].shape == (1, 1, *sample.size)
        assert bool((batch["label"] > 0).any())
    tall = np.array(sizes)[:, 2]
    assert tall.min() >= 25 and tall.max() == 96 and len(set(tall.tolist())) > 10
    assert np.array(sizes).max(axis=0).tolist() == [60, 50, 96]


def test_a_scan_without_spine_is_shown_too():
    sample = field_of_view(image(), np.zeros(SHAPE, np.uint8), np.random.RandomState(0))
    assert not made(sample)["label"].any()


def test_a_scan_smaller_than_three_vertebrae_is_shown_whole():
    tiny = np.ones((3, 4, 5), np.float16), np.full((3, 4, 5), 9, np.uint8)
    for seed in range(20):
        assert all(size >= 1 for size in field_of_view(*tiny, np.random.RandomState(seed)).size)


def test_an_unchanged_sample_is_a_piece_of_the_scan():
    volume, mask = image(), column()
    for seed in range(100):
        sample = field_of_view(volume, mask, np.random.RandomState(seed))
        if sample.box.changes.warp is None:
            assert sample.box.image.shape[1:] == sample.size
            assert (sample.box.image > 0).mean() > 0.99  # nothing is padded
            return
    pytest.fail("every sample was turned")


def test_above_and_below_the_labels_nothing_is_taught():
    ids = with_ignored_ends(column(40, 90))
    assert (ids[30, 25, 90:105] == IGNORED).all() and ids[30, 25, 105] == 0
    assert (ids[30, 25, 25:40] == IGNORED).all() and ids[30, 25, 24] == 0
    assert ids[5, 5, 95] == 0  # far beside the spine there is none
    np.testing.assert_array_equal(ids[..., 40:90], column(40, 90)[..., 40:90])


@pytest.mark.parametrize(
    ("levels", "above", "below"), [((1, 2, 3), 0, IGNORED), ((23, 24), IGNORED, 0), ((24, 25), IGNORED, 0)]
)
def test_the_head_and_the_sacrum_are_background(levels, above, below):
    ids = with_ignored_ends(column(40, 90, levels))
    assert ids[30, 25, 92] == above and ids[30, 25, 37] == below


def test_what_is_some_vertebra_has_ignored_ends_too():
    ids = with_ignored_ends(column(40, 90, (255,)))
    assert ids[30, 25, 92] == IGNORED and ids[30, 25, 37] == IGNORED


def test_an_empty_mask_stays_empty():
    assert not with_ignored_ends(np.zeros(SHAPE, np.uint8)).any()
