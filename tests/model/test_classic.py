"""The U-Net of 2015: its size by hand, any size in and out, and that it really has the skips it is known for."""

import pytest
import torch

from verse3d.core.config import NetworkConfig
from verse3d.model.classic import ClassicUNet
from verse3d.model.networks import build_network, parameter_count


def classic(channels=(4, 6, 8), spatial_dims=2, **changes) -> ClassicUNet:
    torch.manual_seed(0)
    sizes = {"spatial_dims": spatial_dims, "input_channels": 1, "output_channels": 1, "channels": channels}
    return ClassicUNet(**sizes, **changes)


def counted_by_hand(channels, spatial_dims, upsampling) -> int:
    """Kernels of 3^d without offset (the normalisation has it, and a scale); of 2^d or 1^d with one on the way up."""
    kernel = 3**spatial_dims

    def two_convolutions(before, after):
        return kernel * before * after + 2 * after + kernel * after * after + 2 * after

    total, before = 0, 1
    for width in channels:
        total += two_convolutions(before, width)
        before = width
    for width in channels[-2::-1]:
        total += (2**spatial_dims if upsampling == "transposed" else 1) * before * width + width
        total += two_convolutions(2 * width, width)
        before = width
    return total + before * 1 + 1


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_it_has_as_many_weights_as_the_paper_s_layers_add_up_to(spatial_dims, upsampling):
    model = classic((3, 5, 7, 9), spatial_dims, upsampling=upsampling)
    assert parameter_count(model) == counted_by_hand((3, 5, 7, 9), spatial_dims, upsampling)


def test_the_network_of_the_paper_has_31_million_weights():
    network = NetworkConfig(name="classic", channels=(64, 128, 256, 512, 1024), norm="batch")
    with torch.device("meta"):
        model = build_network(network, spatial_dims=2, output_channels=1)
    assert parameter_count(model) == counted_by_hand(network.channels, 2, "transposed") == 31_036_481


@pytest.mark.parametrize("upsampling", ["transposed", "linear"])
@pytest.mark.parametrize(
    ("spatial_dims", "size"),
    [(2, (250, 250)), (2, (17, 30)), (2, (4, 7)), (2, (5, 64)), (3, (8, 8, 8)), (3, (5, 9, 14)), (3, (4, 4, 7))],
    ids=str,
)
def test_the_size_of_the_input_comes_out_even_if_it_cannot_be_halved(spatial_dims, size, upsampling):
    model = classic(spatial_dims=spatial_dims, upsampling=upsampling)
    logits = model(torch.rand(2, 1, *size))
    assert tuple(logits.shape) == (2, 1, *size)
    logits.square().mean().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@pytest.mark.parametrize("norm", ["batch", "instance"])
def test_it_runs_in_half_precision_with_any_norm_and_with_dropout(norm):
    model = classic(norm=norm, dropout=0.4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = model(torch.rand(2, 1, 21, 18))
    assert logits.dtype == torch.bfloat16 and logits.isfinite().all()


def test_a_single_bright_pixel_reaches_the_logits_through_the_uppermost_skip():
    """With everything below cut off, only the two convolutions of the top level, twice, look around: 4 pixels far."""
    model = classic().eval()
    with torch.no_grad():
        for weight in model.up[-1].parameters():
            weight.zero_()
        dark, bright = torch.zeros(1, 1, 31, 33), torch.zeros(1, 1, 31, 33)
        bright[0, 0, 15, 16] = 1
        changed = torch.nonzero((model(bright) - model(dark))[0, 0].abs() > 0)
    assert changed.numel() > 0
    assert (changed - torch.tensor([15, 16])).abs().max() <= 4


def test_far_pixels_reach_the_logits_through_the_lower_levels():
    model = classic().eval()
    with torch.no_grad():
        dark, bright = torch.zeros(1, 1, 31, 33), torch.zeros(1, 1, 31, 33)
        bright[0, 0, 15, 16] = 1
        changed = torch.nonzero((model(bright) - model(dark))[0, 0].abs() > 0)
    assert (changed - torch.tensor([15, 16])).abs().max() > 8


def test_dropout_acts_in_training_only():
    model, image = classic(dropout=0.5), torch.rand(1, 1, 32, 32)
    assert not torch.equal(model(image), model(image))
    model.eval()
    assert torch.equal(model(image), model(image))
