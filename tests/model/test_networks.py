"""Every network, for every scheme and norm: the size of its input comes out, it learns, and its weights travel."""

import pytest
import torch

from verse3d.core.config import NetworkConfig
from verse3d.model.networks import build_network, parameter_count

NAMES = ("unet", "dynunet", "segresnet", "classic")
CHANNELS = {"binary": 1, "vertebrae": 27}


def network(name="unet", output_channels=1, **settings) -> torch.nn.Module:
    torch.manual_seed(0)
    config = NetworkConfig(name=name, **({"channels": (4, 6, 8)} | settings))
    return build_network(config, spatial_dims=3, output_channels=output_channels)


@pytest.mark.parametrize("scheme", CHANNELS)
@pytest.mark.parametrize("name", NAMES)
def test_logits_have_the_size_of_an_odd_batch_and_every_weight_gets_a_gradient(name, scheme):
    model = network(name, CHANNELS[scheme])
    logits = model(torch.rand(3, 1, 8, 12, 16))
    assert tuple(logits.shape) == (3, CHANNELS[scheme], 8, 12, 16)
    assert logits.dtype == torch.float32
    logits.square().mean().backward()
    without = [key for key, weight in model.named_parameters() if weight.grad is None]
    assert without == []
    assert all(torch.isfinite(weight.grad).all() for weight in model.parameters())


@pytest.mark.parametrize(
    "settings",
    [
        {"norm": "batch"},
        {"residual_units": 0},
        {"dropout": 0.3},
        {"channels": (3, 5, 7, 9)},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", NAMES)
def test_every_setting_gives_a_network_that_runs(name, settings):
    model = network(name, **settings)
    model(torch.rand(2, 1, 8, 16, 24)).mean().backward()
    model.eval()
    with torch.inference_mode():
        assert tuple(model(torch.rand(1, 1, 8, 16, 24)).shape) == (1, 1, 8, 16, 24)


@pytest.mark.parametrize(
    ("name", "channels"), [("unet", (4, 8)), ("segresnet", (4, 8)), ("dynunet", (4, 6, 8)), ("classic", (4, 8))]
)
def test_the_fewest_levels_that_a_config_allows_make_a_network(name, channels):
    assert tuple(network(name, channels=channels)(torch.rand(2, 1, 4, 8, 12)).shape) == (2, 1, 4, 8, 12)


@pytest.mark.parametrize("name", NAMES)
def test_the_smallest_patch_that_a_config_allows_can_be_learnt_from(name):
    network(name, channels=(4, 6, 8, 10))(torch.rand(1, 1, 8, 8, 16)).mean().backward()


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("name", NAMES)
def test_weights_travel_to_another_network_of_the_same_config(name, norm):
    one, inputs = network(name, norm=norm), torch.rand(2, 1, 8, 8, 8)
    one(inputs)  # moves the running means of batch norm
    torch.manual_seed(99)
    other = build_network(NetworkConfig(name=name, channels=(4, 6, 8), norm=norm), spatial_dims=3, output_channels=1)
    other.load_state_dict(one.state_dict())
    with torch.inference_mode():
        assert torch.equal(one.eval()(inputs), other.eval()(inputs))


@pytest.mark.parametrize("name", NAMES)
def test_the_random_state_decides_the_first_weights(name):
    one, two = network(name).state_dict(), network(name).state_dict()
    assert all(torch.equal(one[key], two[key]) for key in one)


@pytest.mark.parametrize("name", NAMES)
def test_a_network_also_works_on_slices(name):
    config = NetworkConfig(name=name, channels=(4, 6, 8))
    for seen in (1, 5):
        model = build_network(config, spatial_dims=2, input_channels=seen, output_channels=1)
        assert tuple(model(torch.rand(3, seen, 12, 16)).shape) == (3, 1, 12, 16)


def test_only_trainable_numbers_are_counted():
    model = torch.nn.Sequential(torch.nn.Linear(3, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 2, bias=False))
    model[2].weight.requires_grad_(False)
    assert parameter_count(model) == 3 * 5 + 5 + 5 + 5
