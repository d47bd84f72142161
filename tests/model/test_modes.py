"""What every mode must do, whatever it is: cut patches, learn from a batch of them, and label a whole volume."""

import numpy as np
import pytest
import torch

import verse3d
from tests.scans import PIR, spine
from tests.tiles import whole_scores
from verse3d.core.config import Config, load_config
from verse3d.core.errors import ConfigError
from verse3d.core.geometry import Geometry
from verse3d.core.labels import label_scheme
from verse3d.core.runtime import choose_precision
from verse3d.core.volume import read_geometry, read_image, read_labels
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import PatchDataset
from verse3d.data.samples.transforms import PreparedCase
from verse3d.inference.predictor import Predictor
from verse3d.model.checkpoint import Checkpoint, load_checkpoint, load_weights, save_checkpoint
from verse3d.model.modes import MODES, Method, get_mode, require_suitable

SCHEMES, LOSSES = ("binary", "vertebrae"), ("dice", "dice_ce", "bce")
OVERLAP_LOSSES = ("dice", "dice_ce")
each_mode = pytest.mark.parametrize("mode", MODES.values(), ids=MODES)
each_scheme = pytest.mark.parametrize("scheme", SCHEMES)
SUITABLE = [*(("binary", loss) for loss in LOSSES), *(("vertebrae", loss) for loss in OVERLAP_LOSSES)]
each_loss = pytest.mark.parametrize(("scheme", "loss"), SUITABLE)


def small(mode: str, scheme="binary", loss="dice", **changes) -> Config:
    """The mode's own default config, made small; ``changes`` are settings with their dots as double underscores."""
    values = {
        "labels.scheme": scheme,
        "loss.name": loss,
        "network.channels": "[4, 6, 8]",
        "sampling.patch_voxels": "[8, 12, 16]",
        "sampling.margin_voxels": 0,
        "sampling.batch_size": 2,
        "slices.size_pixels": "[13, 18]",
        **{key.replace("__", "."): value for key, value in changes.items()},
    }
    return load_config(get_mode(mode).default_config, [f"{key}={value}" for key, value in values.items()])


def grid(shape) -> Geometry:
    return Geometry(shape, np.eye(4))


def a_batch(mode, config, shape=(13, 17, 19)) -> dict[str, torch.Tensor]:
    case = prepared(shape, config.labels.scheme)
    cut = mode.cut(config)
    boxes = list(PatchDataset([case], cut, length=2, seed=0).epoch(1))
    return Augment(cut.size)(PackedBatch.of(boxes).on(torch.device("cpu")))


def prepared(shape, scheme) -> PreparedCase:
    random = np.random.default_rng(0)
    label = random.integers(0, 2 if scheme == "binary" else 27, (1, *shape)).astype(np.uint8)
    image = random.random((1, *shape)).astype(np.float16)
    return PreparedCase.of("a", image, label, grid(shape), grid(shape))


@each_mode
@each_loss
@pytest.mark.parametrize("shape", [(13, 17, 19), (5, 30, 7)], ids=["larger", "smaller than the patch"])
def test_patches_become_a_batch_that_the_network_learns_from(mode, scheme, loss, shape):
    config = small(mode.name, scheme, loss)
    batch = a_batch(mode, config, shape)
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
def test_the_windows_give_logits_of_the_volume_s_own_size(mode, scheme, shape):
    config = small(mode.name, scheme)
    network = mode.network(config).eval()
    logits = whole_scores(mode.tiling(config, grid(shape), shape), torch.rand(shape), network)
    assert tuple(logits.shape) == (label_scheme(scheme).output_channels, *shape)
    assert torch.isfinite(logits).all()


@each_mode
@pytest.mark.parametrize(
    "inference",
    [{"inference__overlap": 0.0}, {"inference__overlap": 0.9}, {"inference__blending": "constant"}],
    ids=str,
)
def test_windows_are_put_together_without_changing_what_they_say(mode, inference):
    """A network that only looks at one voxel gives the same logits, however the windows lie.

    Slices show 8-bit grey values stretched to a fixed size: here there is nothing to round and nothing to stretch.
    """
    shape = (21, 18, 33)
    config = small(mode.name, slices__size_pixels=f"[{shape[2]}, {shape[1]}]", **inference)
    volume = torch.randint(0, 256, shape) / 255

    def look(windows):
        middle = windows.shape[1] // 2
        return 3 * windows[:, middle : middle + 1] - 1

    logits = whole_scores(mode.tiling(config, grid(shape), shape), volume, look)
    torch.testing.assert_close(logits[0].float(), 3 * volume - 1, atol=1e-4, rtol=0)


def test_beyond_the_volume_the_windows_of_the_3d_mode_show_air():
    tiling = get_mode("3d").tiling(small("3d"), grid((3, 5, 7)), (3, 5, 7))
    (window,) = (tiling.cut(np.ones((3, 5, 7)), number) for number in range(len(tiling.regions)))
    assert set(np.unique(window).tolist()) == {0.0, 1.0}
    assert window.sum() == 3 * 5 * 7


@each_mode
@each_scheme
def test_the_weights_of_a_network_travel_through_a_checkpoint(mode, scheme, tmp_path):
    config = small(mode.name, scheme)
    batch, one, two = a_batch(mode, config), mode.network(config), mode.network(config)
    one(batch["image"])  # moves the running means of batch norm
    save_checkpoint(tmp_path / "a.pt", Checkpoint(config, one.state_dict(), epoch=1, scores={}))
    read = load_checkpoint(tmp_path / "a.pt")
    assert read.config == config
    load_weights(two, read.network, tmp_path / "a.pt")
    with torch.inference_mode():
        assert torch.equal(one.eval()(batch["image"]), two.eval()(batch["image"]))


@each_mode
@each_scheme
def test_a_checkpoint_alone_is_enough_to_label_a_scan_on_its_own_grid(mode, scheme, tmp_path):
    torch.manual_seed(0)
    config = small(mode.name, scheme, grid__spacing_mm=4, inference__min_component_ml=0)
    network = mode.network(config).eval()
    save_checkpoint(tmp_path / "best.pt", Checkpoint(config, network.state_dict(), epoch=1, scores={}))
    ct = spine(geometry=PIR).write(tmp_path / "ct.nii.gz")
    heard = []
    report = verse3d.predict(
        ct,
        model=tmp_path / "best.pt",
        out=tmp_path / "out",
        backend="torch",  # random weights leave many voxels in the balance
        progress=lambda *what: heard.append(what),
    )
    assert [record.status for record in report.records] == ["written"]
    mask = read_labels(tmp_path / "out" / report.records[0].mask)
    assert mask.geometry == read_geometry(ct)[0]
    here = Predictor.of_network(
        network, Method(config), torch.device("cpu"), choose_precision("auto", torch.device("cpu"))
    )
    np.testing.assert_array_equal(mask.array, here.label(read_image(ct)))
    done, total = [(done, total) for what, done, total in heard if what == "windows"][-1]
    assert done == total > 0


def logits_for(label: torch.Tensor, scheme: str, certainty: float) -> torch.Tensor:
    """Logits that vote for the right answer with this certainty (negative: for the wrong one)."""
    if scheme == "binary":
        return certainty * (2 * label.float() - 1)
    return certainty * torch.nn.functional.one_hot(label[:, 0].long(), 27).movedim(-1, 1).float()


@each_mode
@each_loss
def test_the_loss_falls_as_the_prediction_improves(mode, scheme, loss):
    measure = mode.loss(small(mode.name, scheme, loss))
    label = torch.from_numpy(np.stack([prepared((8, 12, 16), scheme).label] * 2))
    values = [float(measure(logits_for(label, scheme, certainty), label)) for certainty in (-4, 0, 2, 5, 20)]
    assert values == sorted(values, reverse=True)
    assert len(set(values)) == len(values)
    assert values[-1] == pytest.approx(0, abs=1e-3)


@each_mode
@each_loss
def test_the_loss_is_defined_where_a_batch_holds_no_vertebra(mode, scheme, loss):
    measure = mode.loss(small(mode.name, scheme, loss))
    label = torch.zeros((2, 1, 8, 12, 16), dtype=torch.uint8)
    logits = torch.zeros((2, label_scheme(scheme).output_channels, 8, 12, 16), requires_grad=True)
    value = measure(logits, label)
    value.backward()
    assert torch.isfinite(value) and torch.isfinite(logits.grad).all()


@each_mode
@pytest.mark.parametrize("loss", OVERLAP_LOSSES)
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


@each_mode
def test_the_default_config_of_a_mode_suits_it(mode):
    require_suitable(load_config(mode.default_config))


@each_mode
def test_binary_cross_entropy_is_refused_for_several_labels(mode):
    with pytest.raises(ConfigError, match="bce tells one label from the rest"):
        require_suitable(small(mode.name, "vertebrae", "bce"))


@pytest.mark.parametrize(
    ("mode", "changes", "words"),
    [
        ("2d", {"sampling__margin_voxels": "[0, 0, 16]"}, "sampling.margin_voxels: slices show all of the scan"),
        ("2.5d", {"sampling__margin_voxels": 1}, "sampling.margin_voxels: slices show all of the scan"),
        ("2d", {"slices__neighbours": 2}, "mode 2.5d sees its neighbours"),
        ("2.5d", {"slices__neighbours": 0}, "must be at least 1"),
        ("2d", {"network__name": "unet", "slices__size_pixels": 250}, "slices.size_pixels: must be multiples of 4"),
        ("2d", {"slices__size_pixels": "[3, 250]"}, "slices.size_pixels: must be larger, because nothing would remain"),
        ("2d", {"slices__size_pixels": "[5, 7]"}, "slices.size_pixels: must be larger, because a single voxel"),
    ],
    ids=str,
)
def test_settings_that_contradict_the_mode_are_refused_with_their_names(mode, changes, words):
    with pytest.raises(ConfigError, match=f"does not suit mode {mode}") as caught:
        require_suitable(small(mode, **changes))
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("mode", "changes", "setting"),
    [
        ("3d", {"sampling__patch_voxels": "[8, 12, 20]"}, "sampling.patch_voxels"),
        ("3d", {"inference__overlap": 0.75}, "inference.overlap"),
        ("2d", {"slices__plane": "axial"}, "slices.plane"),
        ("2.5d", {"slices__neighbours": 3}, "slices.neighbours"),
        ("2d", {"grid__spacing_mm": 2}, "grid.spacing_mm"),
        ("3d", {"inference__min_component_ml": 2}, "inference.min_component_ml"),
        ("2d", {"inference__overlap": 0.75}, None),
        ("3d", {"slices__plane": "axial"}, None),
        ("3d", {"optim__lr": 0.1}, None),
    ],
    ids=str,
)
def test_models_share_what_decides_about_their_windows_and_labels_and_nothing_else(mode, changes, setting):
    one, other = Method(small(mode)).shared, Method(small(mode, **changes)).shared
    assert one.keys() == other.keys()
    assert [key for key in one if one[key] != other[key]] == ([setting] if setting else [])


def test_a_method_says_what_its_config_says():
    config = small("3d", "vertebrae", labels__naming="sequence", loss__name="dice_ce")
    method = Method(config)
    assert (method.mode, method.by_sequence, method.cut_scheme, method.has_scout) == ("3d", True, "bones", True)
    assert (method.scheme.output_channels, method.network_scheme.output_channels) == (27, 3)
    assert method.settings == config.to_dict()
    slices = Method(small("2d"))
    assert not slices.has_scout
    with pytest.raises(ValueError, match="mode 2d has no scout"):
        slices.scout()
