"""A network that answers NaN or infinity fails its scan, whatever runs it and however its answers are combined."""

import numpy as np
import pytest
import torch

from tests.inference.backends.models import config_of, needs, write_model
from tests.scans import ThresholdNet, spine, tiny_config
from tests.tiles import CPU, FunctionBackend, placed, segmented
from verse3d.core.errors import DataError, NotFiniteError
from verse3d.core.geometry import Geometry
from verse3d.core.runtime import Precision
from verse3d.data.cases import Case
from verse3d.inference.backends import torch_backend
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.loading import open_predictor
from verse3d.inference.oom_fallback import Placement
from verse3d.inference.predict import predict_cases
from verse3d.inference.predictor import Predictor
from verse3d.inference.sliding_window import StreamSettings
from verse3d.model.checkpoint import Checkpoint, save_checkpoint
from verse3d.model.modes import Method
from verse3d.model.tilings import SliceTiling, WindowTiling

WINDOW = (8, 12, 16)
BAD = [float("nan"), float("inf"), -float("inf")]


def picture(shape=(19, 25, 17)) -> np.ndarray:
    return np.random.default_rng(0).random(shape).astype(np.float32)


def windows(shape=(19, 25, 17), overlap=0.0) -> WindowTiling:
    config = tiny_config(sampling={"patch_voxels": WINDOW}, inference={"overlap": overlap})
    return WindowTiling.of(config.sampling, config.inference, shape)


class SpoiltAt:
    """Logits that are sound but for one value in the window of that number."""

    def __init__(self, channels, window, value):
        self.channels, self.window, self.value, self.asked = channels, window, value, 0
        self.spoilt = None

    def __call__(self, windows):
        logits = windows[:, :1].repeat(1, self.channels, *[1] * (windows.dim() - 2))
        for number, window in enumerate(windows):
            if self.asked + number == self.window:
                self.spoilt = window.clone()
            if self.spoilt is not None and torch.equal(window, self.spoilt):
                logits[number].flatten()[7] = self.value
        self.asked += len(windows)
        return logits


@pytest.mark.parametrize("value", BAD, ids=str)
@pytest.mark.parametrize("channels", [1, 2, 27])
@pytest.mark.parametrize("batch", [1, 3])
def test_one_value_in_one_window_is_noticed_and_its_window_named(channels, value, batch):
    tiling = windows()
    settings = StreamSettings(batch)
    with pytest.raises(NotFiniteError) as caught:
        segmented(picture(), tiling, placed(SpoiltAt(channels, 5, value)), channels=channels, settings=settings)
    message = caught.value.message
    assert f"first in window 6 of {len(tiling.regions)}" in message
    assert f"{1 / np.prod(WINDOW):.2%} of its voxels" in message
    assert caught.value.exit_code == 3 and caught.value.hint


@pytest.mark.parametrize("value", BAD, ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_of_several_opinions_a_single_spoilt_one_is_noticed(channels, value):
    tiling, sound = windows(), SpoiltAt(channels, -1, value)
    for placement, window in (
        (placed(sound, SpoiltAt(channels, 2, value)), 3),
        (placed(SpoiltAt(channels, 2, value), mirrored=True), 2),  # asked twice about each window
    ):
        with pytest.raises(NotFiniteError, match=f"window {window} of"):
            segmented(picture(), tiling, placement, channels=channels, settings=StreamSettings())


@pytest.mark.parametrize("value", BAD, ids=str)
def test_a_slice_is_noticed(value):
    config = tiny_config("2d", slices={"size_pixels": [20, 24], "neighbours": 0})
    image = picture((9, 25, 17))
    tiling = SliceTiling.of(config.slices, Geometry(image.shape, np.eye(4)), image.shape)
    with pytest.raises(NotFiniteError, match=r"window 4 of"):
        segmented(image, tiling, placed(SpoiltAt(1, 3, value)), channels=1, settings=StreamSettings())


def test_the_last_window_is_looked_at():
    tiling = windows()
    last = len(tiling.regions) - 1
    with pytest.raises(NotFiniteError, match=f"window {last + 1} of {last + 1}"):
        segmented(picture(), tiling, placed(SpoiltAt(1, last, np.nan)), channels=1, settings=StreamSettings())


def test_finite_logits_whose_sum_is_infinite_are_let_pass():
    large = placed(lambda windows: torch.full_like(windows, 3e38))
    assert (segmented(picture(), windows(), large, channels=1, settings=StreamSettings()) == 1).all()


def test_a_spoilt_answer_that_does_not_come_again_is_noticed_too():
    asked = []

    def once(windows):
        asked.append(len(windows))
        return windows * (np.nan if len(asked) == 2 else 1)

    with pytest.raises(NotFiniteError, match="not again when asked twice"):
        segmented(picture(), windows(), placed(once), channels=1, settings=StreamSettings())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_an_overflow_of_a_lower_precision_is_noticed(dtype):
    class Overflowing(ThresholdNet):
        def forward(self, image):
            return (
                torch.nn.functional.conv3d(image, torch.full((1, 1, 1, 1, 1), 3e38 if dtype is torch.bfloat16 else 6e4))
                * 50
            )

    backend = torch_backend(Overflowing(), CPU, Precision(dtype, scales_loss=False))
    with pytest.raises(NotFiniteError, match=str(dtype).removeprefix("torch.")):
        segmented(picture(), windows(), Placement(Ensemble([backend])), channels=1, settings=StreamSettings())


def test_a_window_that_is_noticed_keeps_the_others_from_being_asked():
    backend = FunctionBackend(SpoiltAt(1, 0, np.nan))
    with pytest.raises(NotFiniteError):
        segmented(picture((90, 12, 16)), windows((90, 12, 16)), Placement(Ensemble([backend])), channels=1,
                  settings=StreamSettings())  # fmt: skip
    assert len(backend.seen) <= 3


# --- in predict


def overflowing_model(path, backend_of="3d", scheme="binary"):
    """A model whose weights are finite and whose answers are not."""
    model = write_model(path, config_of(backend_of, scheme=scheme))
    weights = {name: weight * 1e20 if weight.dim() > 1 else weight for name, weight in model.checkpoint.network.items()}
    save_checkpoint(path, Checkpoint(model.checkpoint.config, weights, 1, {}))
    return path


@pytest.mark.parametrize(
    ("backend", "mode", "scheme"),
    [
        ("torch", "3d", "binary"),
        ("torch", "3d", "vertebrae"),
        ("torch", "2d", "binary"),
        ("openvino", "3d", "vertebrae"),
        ("openvino", "2d", "binary"),
    ],
)
@pytest.mark.usefixtures("as_for_users")
def test_predict_fails_the_scan_and_writes_no_mask(tmp_path, mode, backend, scheme):
    if backend == "openvino":
        needs("openvino")
    spine().write(tmp_path / "a_ct.nii.gz", tmp_path / "a_msk.nii.gz")
    cases = [Case("a", "a", tmp_path / "a_ct.nii.gz"), Case("b", "b", tmp_path / "none_ct.nii.gz")]
    model = overflowing_model(tmp_path / "best.pt", mode, scheme)
    predictor = open_predictor([model], CPU, backend=backend)
    report = predict_cases(cases, predictor, tmp_path / "out", about=dict)
    assert [record.status for record in report.records] == ["failed", "failed"]
    assert "NaN or infinity" in report.records[0].error and "first in window" in report.records[0].error
    assert not list((tmp_path / "out").glob("*.nii.gz"))


def test_a_scan_fails_by_itself(tmp_path):
    spine().write(tmp_path / "a_ct.nii.gz", tmp_path / "a_msk.nii.gz")
    spine(1).write(tmp_path / "b_ct.nii.gz", tmp_path / "b_msk.nii.gz")
    cases = [Case(name, name, tmp_path / f"{name}_ct.nii.gz") for name in "ab"]
    predictor = Predictor.of_network(
        SpoiltFirst(), Method(tiny_config()), CPU, Precision(torch.float32, scales_loss=False)
    )
    report = predict_cases(cases, predictor, tmp_path / "out", about=dict)
    assert [record.status for record in report.records] == ["failed", "written"]


class SpoiltFirst(ThresholdNet):
    """NaN for the first windows that show something and the one that is asked again, then sound."""

    def __init__(self):
        super().__init__()
        self.spoilt = 0

    def forward(self, image):
        logits = super().forward(image)
        if float(image.max()) == 0 or self.spoilt >= 2:
            return logits
        self.spoilt += 1
        return logits * np.nan


def test_the_error_is_one_of_data():
    assert issubclass(NotFiniteError, DataError)
