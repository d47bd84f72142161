"""PyTorch as a backend: right, quick for single windows, movable, and silent about nothing."""

import gc
import weakref

import pytest
import torch
from torch import nn

from tests.inference.backends.models import (
    BFLOAT16,
    CPU,
    FLOAT32,
    KINDS,
    MODES,
    NETWORKS,
    config_of,
    reference,
    windows_of,
    write_model,
)
from verse3d.core.runtime import Precision
from verse3d.inference.backends import TorchBackend, open_backend, torch_backend


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("mode", MODES)
def test_logits_are_those_of_the_network_of_one_window_and_of_several(tmp_path, mode, network):
    model = write_model(tmp_path / "best.pt", config_of(mode, network, "vertebrae"))
    for batch in (1, 3):
        windows = windows_of(MODES[mode], batch)
        logits = torch_backend(model.network, CPU, FLOAT32)(windows)
        assert logits.dtype is torch.float32 and logits.shape == (batch, 27, *MODES[mode][1:])
        torch.testing.assert_close(logits.double(), reference(model.network, windows), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(("mode", "network", "scheme"), KINDS)
def test_bfloat16_is_as_near_to_float32_as_with_the_layers_of_pytorch(tmp_path, mode, network, scheme):
    model = write_model(tmp_path / "best.pt", config_of(mode, network, scheme))
    backends = (
        torch_backend(model.network, CPU, BFLOAT16),
        open_backend("torch", model.checkpoint, model.path, CPU, BFLOAT16),
    )
    for batch in (1, 3):
        windows = windows_of(MODES[mode], batch)
        exact = reference(model.network, windows)
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            plain = (model.network(windows).double() - exact).abs().mean()
        for backend in backends:
            logits = backend(windows)
            assert backend.precision == "bfloat16" and logits.shape == exact.shape
            assert 0 < (logits.double() - exact).abs().mean() < 1.2 * plain


@pytest.mark.parametrize(("mode", "network", "scheme"), KINDS)
def test_a_network_that_is_opened_to_predict_gives_the_logits_of_the_one_that_is_validated(
    tmp_path, mode, network, scheme
):
    model, windows = write_model(tmp_path / "best.pt", config_of(mode, network, scheme)), windows_of(MODES[mode], 1)
    validated = torch_backend(model.network, CPU, BFLOAT16)(windows)
    opened = open_backend("torch", model.checkpoint, model.path, CPU, BFLOAT16)(windows)
    assert opened.dtype is validated.dtype
    torch.testing.assert_close(opened, validated, rtol=0, atol=0)


def test_many_channels_come_in_bfloat16_and_lie_together_for_each_voxel(tmp_path):
    model = write_model(tmp_path / "best.pt", config_of("3d", "unet", "vertebrae"))
    logits = open_backend("torch", model.checkpoint, model.path, CPU, BFLOAT16)(windows_of(MODES["3d"], 1))
    assert logits.dtype is torch.bfloat16 and logits.stride(1) == 1


def test_in_bfloat16_no_layer_between_exchanges_the_order_in_memory(tmp_path):
    model = write_model(tmp_path / "best.pt", config_of("3d", "unet", "vertebrae"))
    backend = open_backend("torch", model.checkpoint, model.path, CPU, BFLOAT16)
    wrong = []
    for name, layer in backend.network.named_modules():
        if isinstance(layer, (nn.Conv3d, nn.ConvTranspose3d, nn.InstanceNorm3d)):
            layer.register_forward_hook(
                lambda _, given, gives, name=name: wrong.extend(
                    name for one in (given[0], gives) if not one.is_contiguous(memory_format=torch.channels_last_3d)
                )
            )
    backend(windows_of((1, 32, 48, 16), 2))
    assert wrong == []


def test_a_single_small_window_takes_no_plain_loop(tmp_path):
    model = write_model(tmp_path / "best.pt", config_of())
    backend, window = torch_backend(model.network, CPU, FLOAT32), windows_of(MODES["3d"], 1)
    with torch.profiler.profile() as profile:
        backend(window)
    ran = {event.key for event in profile.key_averages()}
    assert "aten::mkldnn_convolution" in ran
    assert not any("slow_conv3d" in name for name in ran)


def test_out_of_memory_passes_through():
    class Greedy(nn.Module):
        def forward(self, _):
            raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        torch_backend(Greedy(), CPU, FLOAT32)(windows_of((1, 4, 4, 4)))


def test_moved_to_a_cpu_half_precision_becomes_what_a_cpu_can_do(tmp_path):
    model = write_model(tmp_path / "best.pt", config_of())
    backend = torch_backend(model.network, CPU, Precision(torch.float16, scales_loss=True)).to(CPU)
    assert backend.precision in ("float32", "bfloat16") and backend.device == CPU
    assert backend.record() == {"name": "torch", "precision": backend.precision, "device": "cpu"}
    assert torch_backend(model.network, CPU, BFLOAT16).to(CPU).precision == "bfloat16"


def test_the_network_is_built_once_and_not_before_it_is_needed(tmp_path):
    built = []

    def build() -> nn.Module:
        built.append(nn.Conv3d(1, 2, 1))
        return built[-1]

    backend = TorchBackend(build, CPU, FLOAT32)
    assert backend.record()["name"] == "torch" and backend.device == CPU and built == []
    backend.make_ready((1, 4, 4, 4))
    backend(windows_of((1, 4, 4, 4)))
    assert backend.network is built[0] and len(built) == 1


def test_what_a_network_was_built_from_is_not_held_any_longer():
    weights = torch.ones(2, 1, 1, 1, 1)
    known = weakref.ref(weights)

    def build(weights: torch.Tensor = weights) -> nn.Module:
        layer = nn.Conv3d(1, 2, 1)
        layer.load_state_dict({"weight": weights, "bias": torch.zeros(2)})
        return layer

    backend = TorchBackend(build, CPU, FLOAT32)
    backend.make_ready((1, 4, 4, 4))
    del build, weights
    gc.collect()
    assert known() is None


def test_dropout_is_off(tmp_path):
    network = nn.Sequential(nn.Conv3d(1, 2, 1), nn.Dropout(0.5)).train()
    backend, windows = torch_backend(network, CPU, FLOAT32), windows_of((1, 4, 4, 4))
    torch.testing.assert_close(backend(windows), backend(windows), rtol=0, atol=0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU here")
def test_a_gpu_agrees_and_can_be_left(tmp_path):
    model = write_model(tmp_path / "best.pt", config_of())
    windows = windows_of(MODES["3d"])
    on_gpu = torch_backend(model.network, torch.device("cuda"), FLOAT32)
    logits = on_gpu(windows)
    assert logits.device.type == "cuda"
    torch.testing.assert_close(logits.cpu().double(), reference(model.network, windows), rtol=1e-2, atol=1e-2)
    assert on_gpu.to(CPU)(windows).device == CPU
