"""Our UNet with residual units and MONAI's are the same network: the same draws, names, logits and gradients."""

import subprocess
import sys

import pytest
import torch
from monai.networks.nets import UNet

from verse3d.core.config import NetworkConfig
from verse3d.model.networks import build_network

SETTINGS = {
    "as shipped, thinner": {},
    "two levels": {"channels": (4, 6)},
    "of equal width": {"channels": (5, 5, 5)},
    "without residual units": {"residual_units": 0},
    "three units": {"residual_units": 3},
    "batch norm": {"norm": "batch"},
    "dropout": {"dropout": 0.3},
}
NORMS = {"instance": ("INSTANCE", {"affine": True}), "batch": ("BATCH", {})}


def both(spatial_dims, output_channels, **settings):
    """Ours and MONAI's, each drawn from the same random state."""
    config = NetworkConfig(name="unet", **({"channels": (4, 6, 8, 12)} | settings))
    torch.manual_seed(3)
    ours = build_network(config, spatial_dims=spatial_dims, input_channels=3, output_channels=output_channels)
    torch.manual_seed(3)
    monai = UNet(
        spatial_dims=spatial_dims,
        in_channels=3,
        out_channels=output_channels,
        channels=config.channels,
        strides=(2,) * (len(config.channels) - 1),
        num_res_units=config.residual_units,
        norm=NORMS[config.norm],
        dropout=config.dropout,
    )
    return ours, monai


@pytest.mark.parametrize("output_channels", [1, 27])
@pytest.mark.parametrize("spatial_dims", [2, 3])
@pytest.mark.parametrize("name", SETTINGS)
def test_weights_names_logits_and_gradients_are_those_of_monai(name, spatial_dims, output_channels):
    ours, monai = both(spatial_dims, output_channels, **SETTINGS[name])
    own, theirs = ours.state_dict(), monai.state_dict()
    assert list(own) == list(theirs)
    for key, weight in own.items():
        torch.testing.assert_close(weight, theirs[key], rtol=0, atol=0)
    image = torch.rand(2, 3, *(8, 16, 24)[-spatial_dims:], generator=torch.Generator().manual_seed(1))
    given = []
    for network in (ours, monai):
        torch.manual_seed(5)  # dropout draws, too
        logits = network(image)
        logits.square().mean().backward()
        given.append([logits, *(weight.grad for weight in network.parameters())])
    for one, other in zip(*given, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0)


@pytest.mark.parametrize("name", ["as shipped, thinner", "batch norm"])
def test_weights_of_monai_fit_and_give_its_logits_at_inference(name):
    ours, monai = both(3, 27, **SETTINGS[name])
    for weight in monai.state_dict().values():
        if weight.is_floating_point():
            weight.uniform_(0.1, 0.9)
    ours.load_state_dict(monai.state_dict())
    image = torch.rand(1, 3, 16, 8, 24)
    with torch.inference_mode():
        torch.testing.assert_close(ours.eval()(image), monai.eval()(image), rtol=0, atol=0)


@pytest.mark.slow  # it starts Python and PyTorch anew
def test_building_it_and_its_loss_loads_no_monai():
    code = (
        "import sys; from verse3d.core.config import load_config; from verse3d.model.modes import Method;"
        "method = Method(load_config('unet3d-cpu', ['network.channels=[4,8]'])); method.network(); method.loss();"
        "print('monai' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
