"""The scout: any size in, one channel per level out, and a loss that softens levels but no regions."""

import numpy as np
import pytest
import torch

from verse3d.core.config import parse_config
from verse3d.core.errors import ConfigError
from verse3d.core.labels import IGNORED, vertebra
from verse3d.data.samples.entry import UNDECIDED
from verse3d.model.modes import MODES
from verse3d.model.networks import parameter_count
from verse3d.model.scout import CHANNELS, LEVEL_IDS, ScoutNetwork, scout_loss

SMALL = parse_config({"scout": {"channels": [4, 8, 8]}})


def channel(name: str) -> int:
    return 1 + LEVEL_IDS.index(vertebra(name).id)


def one_voxel(**logits: float) -> torch.Tensor:
    """(1, 27, 1, 1, 1) logits, 0 but for the named channels."""
    values = torch.zeros(1, CHANNELS, 1, 1, 1)
    for name, value in logits.items():
        values[0, 0 if name == "background" else channel(name)] = value
    return values


def truth(*ids: int) -> torch.Tensor:
    return torch.tensor(ids, dtype=torch.uint8).reshape(1, 1, 1, 1, -1)


def test_the_channels_are_the_levels_from_head_to_tail() -> None:
    assert [LEVEL_IDS[at] for at in (0, 6, 7, 18, 19, 20, 25)] == [1, 7, 8, 19, 28, 20, 25]
    assert CHANNELS == 27


@pytest.mark.parametrize("size", [(1, 1, 1), (5, 17, 3), (16, 8, 33)])
def test_any_size_comes_out_as_it_went_in(size: tuple[int, int, int]) -> None:
    network = ScoutNetwork(SMALL.scout.channels).eval()
    with torch.inference_mode():
        logits = network(torch.rand(2, 1, *size))
    assert logits.shape == (2, 27, *size)
    assert bool(torch.isfinite(logits).all())


def test_the_usual_scout_is_tiny_and_sees_half_a_metre() -> None:
    network = ScoutNetwork(parse_config({}).scout.channels)
    assert 200_000 < parameter_count(network) < 1_000_000
    image = torch.rand(1, 1, 1, 1, 160, requires_grad=True)
    network(image)[0, :, 0, 0, 80].sum().backward()
    assert image.grad is not None
    seen = torch.nonzero(image.grad[0, 0, 0, 0]).ravel()
    assert float(seen.max() - seen.min()) * 4.0 >= 480.0


def test_what_it_says_about_a_scan_does_not_depend_on_the_scan_beside_it() -> None:
    network = ScoutNetwork(SMALL.scout.channels).eval()
    pair = torch.rand(2, 1, 9, 10, 11)
    with torch.inference_mode():
        torch.testing.assert_close(network(pair)[1:], network(pair[1:]))


def test_a_level_is_mistaken_for_its_neighbour_more_cheaply_than_for_one_farther_away() -> None:
    costs = {name: float(scout_loss(one_voxel(**{name: 6.0}), truth(vertebra("T5").id))) for name in ("T5", "T6", "T7")}
    assert costs["T5"] < costs["T6"] < costs["T7"]


@pytest.mark.parametrize(("level", "inside", "across"), [("C7", "C6", "T1"), ("T13", "T12", "L1"), ("L1", "L2", "T13")])
def test_no_share_goes_to_the_neighbour_in_another_region(level: str, inside: str, across: str) -> None:
    wanted = truth(vertebra(level).id)
    far = "L5" if level[0] != "L" else "C1"
    assert float(scout_loss(one_voxel(**{across: 6.0}), wanted)) == pytest.approx(
        float(scout_loss(one_voxel(**{far: 6.0}), wanted))
    )
    assert float(scout_loss(one_voxel(**{inside: 6.0}), wanted)) < float(scout_loss(one_voxel(**{far: 6.0}), wanted))


def test_some_vertebra_teaches_spine_but_no_level() -> None:
    logits = one_voxel(background=1.0).requires_grad_()
    scout_loss(logits, truth(UNDECIDED)).backward()
    assert logits.grad is not None
    gradient = logits.grad[0, :, 0, 0, 0]
    assert gradient[0] > 0
    torch.testing.assert_close(gradient[1:], gradient[1:2].expand(26))
    assert float(gradient[1]) < 0


def test_an_ignored_voxel_changes_nothing() -> None:
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn((1, 27, 1, 1, 4), generator=generator, requires_grad=True)
    scout_loss(logits, truth(0, 5, IGNORED, UNDECIDED)).backward()
    assert logits.grad is not None
    gone = np.flatnonzero(logits.grad.abs().sum(1).numpy().ravel() == 0)
    assert gone.tolist() == [2]


def test_nothing_but_ignored_voxels_costs_nothing() -> None:
    logits = torch.randn(1, 27, 1, 1, 2, requires_grad=True)
    loss = scout_loss(logits, truth(IGNORED, IGNORED))
    loss.backward()
    assert loss.item() == 0.0


def test_slices_have_no_scout() -> None:
    assert [name for name, mode in MODES.items() if mode.scout is not None] == ["3d"]


def test_channels_that_cannot_be_normalised_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"scout\.channels"):
        parse_config({"scout": {"channels": [8, 10]}})
