"""A network on a CPU is computed in quicker ways, and is the same network: PyTorch's own layers are the oracle."""

import pytest
import torch
from torch import nn

from verse3d.model import half_resolution, on_cpu
from verse3d.model.on_cpu import AtHalfResolution, QuickConvolutions, QuickOnCpu, quick_on
from verse3d.model.residual import ResidualUNet


def outcome(layer, image, *, quick):
    """What a layer gives, and the gradients of its weights and of its image for some gradient of the result."""
    layer.zero_grad()
    image = image.clone().requires_grad_()
    if quick:
        with QuickOnCpu():
            result = layer(image)
    else:
        result = layer(image)
    torch.manual_seed(3)
    result.backward(torch.randn(result.shape, dtype=result.dtype))  # in no order of memory
    return [result.detach(), image.grad, *(parameter.grad.clone() for parameter in layer.parameters())]


def assert_the_same(layer, image):
    layer, image = layer.double(), image.double()
    for plain, quick in zip(outcome(layer, image, quick=False), outcome(layer, image, quick=True), strict=True):
        assert quick.shape == plain.shape
        torch.testing.assert_close(quick, plain, rtol=1e-10, atol=1e-10)


WAYS = ("doubled", "halved", "convolved_at_half", "_convolved_in_float32", "_shared_prelu", "_instance_norm")


def computed(layer, image):
    """Names of the quicker ways that a layer's forward pass takes."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        for name in WAYS:
            own = getattr(on_cpu, name)

            def noted(*args, _own=own, _name=name, **kwargs):
                found.append(_name)
                return _own(*args, **kwargs)

            patch.setattr(on_cpu, name, noted)
        with QuickOnCpu():
            layer(image)
    return found


NETWORKS = {
    "one label": {"spatial_dims": 3, "output_channels": 1},
    "three classes": {"spatial_dims": 3, "output_channels": 3},
    "27 classes": {"spatial_dims": 3, "output_channels": 27},
    "slices": {"spatial_dims": 2, "output_channels": 1},
    "neighbouring slices, batch norm": {"spatial_dims": 2, "output_channels": 2, "input_channels": 5, "norm": "batch"},
    "without residual units": {"spatial_dims": 3, "output_channels": 1, "residual_units": 0},
}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_and_its_gradients_stay_the_same(name):
    torch.manual_seed(0)
    usual = {"input_channels": 1, "channels": (16, 6, 32), "residual_units": 2, "norm": "instance", "dropout": 0.0}
    settings = usual | NETWORKS[name]
    size = (8, 12, 20)[: settings["spatial_dims"]]
    assert_the_same(ResidualUNet(**settings), torch.randn(2, settings["input_channels"], *size))


DOUBLING = {"kernel_size": 3, "stride": 2, "padding": 1, "output_padding": 1}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("few", [1, 3])
def test_a_transposed_convolution_to_few_channels_is_a_convolution_at_half_the_resolution(few, bias):
    layer, image = nn.ConvTranspose3d(5, few, **DOUBLING, bias=bias), torch.randn(2, 5, 3, 1, 4)
    assert computed(layer, image) == ["doubled"]
    assert_the_same(layer, image)
    flat = nn.ConvTranspose2d(5, few, **DOUBLING, bias=bias)
    assert_the_same(flat, torch.randn(2, 5, 7, 2))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("before", "after"), [(1, 1), (3, 2)])
def test_a_convolution_between_few_channels_is_one_at_half_the_resolution(before, after, bias):
    layer, image = nn.Conv3d(before, after, 3, padding=1, bias=bias), torch.randn(2, before, 6, 2, 10)
    assert computed(layer, image) == ["convolved_at_half"]
    assert_the_same(layer, image)
    assert_the_same(nn.Conv2d(before, after, 3, padding=1, bias=bias), torch.randn(1, before, 4, 8))


HALVING = {"kernel_size": 3, "stride": 2, "padding": 1}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("layer", "shape"), [(nn.Conv3d, (2, 1, 6, 2, 10)), (nn.Conv2d, (3, 1, 4, 8)), (nn.Conv3d, (1, 1, 2, 2, 2))]
)
def test_a_convolution_that_halves_one_channel_is_one_at_half_the_resolution(layer, shape, bias):
    layer, image = layer(1, 5, **HALVING, bias=bias).double(), torch.randn(shape).double()
    assert computed(layer, image) == []  # with gradients
    with torch.no_grad():
        assert computed(layer, image) == ["halved"]
        plain = layer(image)
        with QuickOnCpu():
            quick = layer(image)
    torch.testing.assert_close(quick, plain, rtol=1e-10, atol=1e-10)


def test_a_convolution_that_halves_two_channels_or_an_odd_size_is_left_to_pytorch():
    with torch.no_grad():
        assert computed(nn.Conv3d(2, 5, **HALVING), torch.randn(1, 2, 4, 4, 4)) == []
        assert computed(nn.Conv3d(1, 5, **HALVING), torch.randn(1, 1, 4, 5, 4)) == []


@pytest.mark.parametrize("name", NETWORKS)
def test_half_the_resolution_alone_leaves_norms_and_slopes_as_they_are(name):
    torch.manual_seed(2)
    usual = {"input_channels": 1, "channels": (16, 6, 32), "residual_units": 2, "norm": "instance", "dropout": 0.0}
    settings = usual | NETWORKS[name]
    network = ResidualUNet(**settings).double().eval()
    image = torch.randn(2, settings["input_channels"], *(8, 12, 20)[: settings["spatial_dims"]]).double()
    called = []
    with torch.no_grad(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(on_cpu, "_instance_norm", lambda *_, **__: called.append("norm"))
        plain = network(image)
        with AtHalfResolution():
            quick = network(image)
    torch.testing.assert_close(quick, plain, rtol=1e-10, atol=1e-10)
    assert not called


@pytest.mark.parametrize("order", ["exchanged axes", "every other voxel"])
def test_an_image_that_lies_differently_in_memory_gives_the_same(order):
    image = torch.randn(2, 2, 8, 6, 4)
    image = image.transpose(2, 4) if order == "exchanged axes" else image[:, :, ::2, :, ::2]
    assert_the_same(nn.Conv3d(2, 1, 3, padding=1), image)
    assert_the_same(nn.ConvTranspose3d(2, 1, **DOUBLING), image)


OTHERS = {
    "an odd size": (nn.Conv3d(1, 1, 3, padding=1), (1, 1, 6, 7, 8)),
    "a larger kernel": (nn.Conv3d(1, 1, 5, padding=2), (1, 1, 6, 6, 6)),
    "flat kernels": (nn.Conv3d(1, 1, (3, 3, 1), padding=(1, 1, 0)), (1, 1, 6, 6, 6)),
    "no padding": (nn.Conv3d(1, 1, 3), (1, 1, 6, 6, 6)),
    "padding in words": (nn.Conv3d(1, 1, 3, padding="same"), (1, 1, 6, 6, 6)),
    "mirrored padding": (nn.Conv3d(2, 2, 3, padding=1, padding_mode="reflect"), (1, 2, 6, 6, 6)),
    "dilated": (nn.Conv3d(1, 1, 3, padding=2, dilation=2), (1, 1, 6, 6, 6)),
    "in groups": (nn.Conv3d(2, 2, 3, padding=1, groups=2), (1, 2, 6, 6, 6)),
    "many channels": (nn.Conv3d(5, 2, 3, padding=1), (1, 5, 6, 6, 6)),
    "one axis": (nn.Conv1d(1, 1, 3, padding=1), (1, 1, 6)),
    "doubled to many": (nn.ConvTranspose3d(2, 5, **DOUBLING), (1, 2, 3, 3, 3)),
    "doubled without the last voxel": (nn.ConvTranspose3d(2, 1, 3, stride=2, padding=1), (1, 2, 3, 3, 3)),
    "doubled by a kernel of two": (nn.ConvTranspose3d(2, 1, 2, stride=2), (1, 2, 3, 3, 3)),
    "tripled": (nn.ConvTranspose3d(2, 1, 3, stride=3), (1, 2, 3, 3, 3)),
    "doubled in groups": (nn.ConvTranspose3d(2, 2, **DOUBLING, groups=2), (1, 2, 3, 3, 3)),
    "a slope for each channel": (nn.PReLU(2), (1, 2, 3, 3, 3)),
    "an instance norm of one axis": (nn.InstanceNorm1d(2, affine=True), (2, 2, 9)),
    "an instance norm with means of its own": (nn.InstanceNorm3d(2, track_running_stats=True).eval(), (2, 2, 4, 5, 6)),
}


@pytest.mark.parametrize("name", OTHERS)
def test_what_is_not_as_in_a_network_of_ours_is_left_to_pytorch(name):
    layer, shape = OTHERS[name]
    image = torch.randn(shape)
    assert computed(layer, image) == []
    assert_the_same(layer, image)


def test_forward_alone_half_the_resolution_is_for_a_single_channel():
    one, three = (nn.Conv3d(few, few, 3, padding=1) for few in (1, 3))
    with torch.no_grad():
        assert computed(one, torch.randn(1, 1, 4, 4, 4)) == ["convolved_at_half"]
        assert computed(three, torch.randn(1, 3, 4, 4, 4)) == []


@pytest.mark.parametrize("weight", [0.25, 0.0, -0.5, 1.5])
def test_one_slope_has_the_gradient_of_prelu(weight):
    layer, image = nn.PReLU(init=weight), torch.randn(2, 3, 5, 4, 6)
    image[0, 0, 0, 0, :2] = 0.0  # where the two halves meet
    assert computed(layer, image) == ["_shared_prelu"]
    assert_the_same(layer, image)


def test_the_gradient_of_a_slope_over_many_voxels_is_not_added_up_in_16_bits():
    layer, image = nn.PReLU(), -torch.ones(1, 4, 64, 64, 64, dtype=torch.bfloat16)
    with QuickOnCpu():
        layer.bfloat16()(image).sum().backward()
    assert layer.weight.grad.item() == pytest.approx(-image.numel(), rel=0.01)


NORMS = {
    "with weights, 3d": (nn.InstanceNorm3d(16, affine=True), (2, 16, 3, 4, 2)),
    "without weights, 2d": (nn.InstanceNorm2d(32), (3, 32, 3, 4)),
    "of one window": (nn.InstanceNorm3d(16, affine=True), (1, 16, 4, 1, 2)),
}


@pytest.mark.parametrize("name", NORMS)
def test_an_instance_norm_stays_the_same_sum(name):
    layer, shape = NORMS[name]
    for parameter in layer.parameters():
        nn.init.uniform_(parameter, -1.0, 2.0)
    image = torch.randn(shape, generator=torch.Generator().manual_seed(1)) * 3 + 1
    assert computed(layer, image) == ["_instance_norm"]
    assert_the_same(layer, image)


@pytest.mark.parametrize("channels", [1, 3, 27])
def test_an_instance_norm_of_any_number_of_channels_is_quicker_forward_alone(channels):
    layer, image = nn.InstanceNorm3d(channels, affine=True), torch.randn(2, channels, 3, 4, 5)
    assert computed(layer, image) == []
    with torch.no_grad():
        assert computed(layer, image) == ["_instance_norm"]
        plain = layer(image)
        with QuickOnCpu():
            torch.testing.assert_close(layer(image), plain, rtol=1e-5, atol=1e-5)


def test_an_instance_norm_of_a_single_voxel_is_refused_as_by_pytorch():
    with torch.no_grad(), QuickOnCpu(), pytest.raises(ValueError, match="more than 1 spatial element"):
        nn.InstanceNorm3d(2)(torch.rand(1, 2, 1, 1, 1))


@pytest.mark.parametrize("bias", [True, False])
def test_under_autocast_one_channel_is_convolved_in_float32(bias):
    layer = nn.Conv3d(1, 8, 3, stride=2, padding=(1, 0, 1), bias=bias)
    image = torch.rand(2, 1, 9, 10, 11)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert computed(layer, image) == ["_convolved_in_float32"]
        with QuickOnCpu():
            quick = layer(image)
    assert quick.dtype is torch.bfloat16
    torch.testing.assert_close(quick, layer(image).bfloat16(), rtol=0, atol=1e-2)


def test_in_bfloat16_a_network_is_as_near_to_float32_as_before():
    torch.manual_seed(1)
    network = ResidualUNet(
        spatial_dims=3, input_channels=1, output_channels=1, channels=(4, 8, 8), residual_units=2, norm="instance",
        dropout=0.0,
    )  # fmt: skip
    image = torch.randn(2, 1, 16, 24, 16)
    with torch.no_grad():
        exact = network(image)
        with torch.autocast("cpu", torch.bfloat16):
            plain = network(image)
            with QuickOnCpu():
                quick = network(image)
    assert (quick - exact).square().mean() < 1.2 * (plain - exact).square().mean()


def test_only_a_network_on_a_cpu_is_computed_in_another_way():
    assert isinstance(quick_on(torch.device("cpu")), QuickOnCpu)
    assert not isinstance(quick_on(torch.device("cuda", 0)), QuickOnCpu)


@pytest.mark.parametrize(
    "layer", [nn.ConvTranspose3d(3, 1, **DOUBLING), nn.Conv3d(1, 1, 3, padding=1)], ids=["doubled", "at half"]
)
def test_a_network_learns_after_it_has_predicted(layer):
    half_resolution._weights_of_doubling.cache_clear()
    half_resolution._weights_at_half.cache_clear()
    image = torch.randn(1, layer.in_channels, 4, 6, 2)
    with torch.inference_mode(), QuickOnCpu():
        layer(image)
    assert_the_same(layer, image)


CONVOLUTIONS = {
    "plain": nn.Conv3d(1, 4, 3, padding=1),
    "strided": nn.Conv3d(3, 4, 3, stride=2, padding=(1, 0, 2)),
    "dilated, no bias": nn.Conv3d(2, 4, 3, dilation=2, bias=False),
    "groups": nn.Conv3d(4, 4, 3, groups=2),
    "padding in words": nn.Conv3d(1, 4, 3, padding="same"),
    "mirrored padding": nn.Conv3d(1, 4, 3, padding=1, padding_mode="reflect"),
    "2d": nn.Conv2d(3, 4, (5, 3), padding=1),
    "double": nn.Conv3d(1, 4, 3).double(),
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_quick_convolutions_are_convolutions(name):
    layer = CONVOLUTIONS[name]
    size = (9, 10, 11) if isinstance(layer, nn.Conv3d) else (9, 10)
    image = torch.rand(1, layer.in_channels, *size, dtype=layer.weight.dtype)
    with torch.inference_mode():
        plain = layer(image)
        with QuickConvolutions():
            quick = layer(image)
    torch.testing.assert_close(quick, plain, rtol=1e-5, atol=1e-5)
