"""What every mode must do, whatever it is: cut patches, learn from a batch of them, and label a whole volume."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from verse3d.core.config import Config, load_config, parse_config
from verse3d.core.errors import ConfigError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import label_scheme
from verse3d.data.patches import PatchDataset
from verse3d.data.transforms import PreparedCase
from verse3d.model.modes import MODES, get_mode

SCHEMES, LOSSES = ("binary", "vertebrae"), ("dice", "dice_ce")
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)
each_loss = pytest.mark.parametrize("loss", LOSSES)


def small(mode: str, scheme="binary", loss="dice", **inference) -> Config:
    return parse_config(
        {
            "mode": mode,
            "labels": {"scheme": scheme},
            "network": {"channels": [4, 6, 8]},
            "loss": {"name": loss},
            "sampling": {"patch_voxels": [8, 12, 16], "batch_size": 2},
            "inference": inference,
        }
    )


def prepared(shape, scheme) -> PreparedCase:
    random = np.random.default_rng(0)
    label = random.integers(0, 2 if scheme == "binary" else 27, (1, *shape)).astype(np.uint8)
    flat = label.ravel() > 0
    image = random.random((1, *shape)).astype(np.float16)
    return PreparedCase("a", image, label, Geometry(shape, np.eye(4)), np.flatnonzero(flat), np.flatnonzero(~flat))


@each_mode
@each_scheme
@each_loss
@pytest.mark.parametrize("shape", [(13, 17, 19), (5, 30, 7)], ids=["larger", "smaller than the patch"])
def test_patches_become_a_batch_that_the_network_learns_from(mode, scheme, loss, shape):
    config = small(mode.name, scheme, loss)
    dataset = PatchDataset([prepared(shape, scheme)], mode.sampler(config), length=2, seed=0)
    (batch,) = DataLoader(dataset, batch_size=2)
    network = mode.network(config)
    logits = network(batch["image"])
    assert logits.shape[:2] == (2, label_scheme(scheme).output_channels)
    assert logits.shape[2:] == batch["image"].shape[2:] == batch["label"].shape[2:]
    value = mode.loss(config)(logits, batch["label"])
    assert value.ndim == 0
    value.backward()
    gradients = [weight.grad for weight in network.parameters()]
    assert all(gradient is not None and torch.isfinite(gradient).all() for gradient in gradients)
    assert any(gradient.abs().sum() > 0 for gradient in gradients)


@each_mode
@each_scheme
@pytest.mark.parametrize("shape", [(3, 5, 7), (8, 12, 16), (9, 13, 17), (1, 31, 12), (23, 11, 29)], ids=str)
def test_the_inferer_gives_logits_of_the_volume_s_own_size(mode, scheme, shape):
    config = small(mode.name, scheme)
    network = mode.network(config).eval()
    with torch.inference_mode():
        logits = mode.inferer(config)(torch.rand(1, 1, *shape), network)
    assert tuple(logits.shape) == (1, label_scheme(scheme).output_channels, *shape)
    assert torch.isfinite(logits).all()


@each_mode
@pytest.mark.parametrize("inference", [{"overlap": 0.0}, {"overlap": 0.9}, {"windows_per_batch": 5}], ids=str)
def test_the_inferer_blends_windows_without_changing_what_they_say(mode, inference):
    """A network that only looks at one voxel gives the same logits, however the windows lie."""
    volume = torch.rand(1, 1, 21, 18, 33)
    logits = mode.inferer(small(mode.name, **inference))(volume, lambda windows: 3 * windows - 1)
    torch.testing.assert_close(logits, 3 * volume - 1, atol=1e-4, rtol=0)


@each_mode
def test_beyond_the_volume_the_inferer_sees_air(mode):
    seen = []

    def remember(windows):
        seen.append(windows.clone())
        return windows

    mode.inferer(small(mode.name))(torch.ones(1, 1, 3, 5, 7), remember)
    windows = torch.cat(seen)
    assert set(windows.unique().tolist()) == {0.0, 1.0}
    assert windows[0].sum() == 3 * 5 * 7


def logits_for(label: torch.Tensor, scheme: str, certainty: float) -> torch.Tensor:
    """Logits that vote for the right answer with this certainty (negative: for the wrong one)."""
    if scheme == "binary":
        return certainty * (2 * label.float() - 1)
    return certainty * torch.nn.functional.one_hot(label[:, 0].long(), 27).movedim(-1, 1).float()


@each_mode
@each_scheme
@each_loss
def test_the_loss_falls_as_the_prediction_improves(mode, scheme, loss):
    measure = mode.loss(small(mode.name, scheme, loss))
    label = torch.from_numpy(np.stack([prepared((8, 12, 16), scheme).label] * 2))
    values = [float(measure(logits_for(label, scheme, certainty), label)) for certainty in (-4, 0, 2, 5, 20)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)
    assert values[-1] == pytest.approx(0, abs=1e-3)


@each_mode
@each_scheme
@each_loss
def test_the_loss_is_defined_where_a_batch_holds_no_vertebra(mode, scheme, loss):
    measure = mode.loss(small(mode.name, scheme, loss))
    label = torch.zeros((2, 1, 8, 12, 16), dtype=torch.uint8)
    logits = torch.zeros((2, label_scheme(scheme).output_channels, 8, 12, 16), requires_grad=True)
    value = measure(logits, label)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@each_mode
@each_loss
def test_an_empty_patch_in_a_batch_does_not_weigh_like_a_full_one(mode, loss):
    """The overlap is that of the whole batch: a few false voxels in the empty patch hardly count."""
    label = torch.zeros((2, 1, 8, 12, 16), dtype=torch.uint8)
    label[0] = 1
    logits = logits_for(label, "binary", 20)
    logits[1, 0, 0, 0, :4] = 20
    assert float(mode.loss(small(mode.name, loss=loss))(logits, label)) < 0.06


@each_mode
def test_the_default_config_of_a_mode_is_shipped_and_names_the_mode(mode):
    assert load_config(mode.default_config).mode == mode.name
    assert get_mode(mode.name) is mode


def test_an_unknown_mode_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(ConfigError, match=r"mode '4d' is unknown; expected one of \[.*'3d'"):
        get_mode("4d")
