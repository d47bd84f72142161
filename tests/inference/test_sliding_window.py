"""The streamed labels are those of MONAI's sliding window, voxel for voxel, while only a few planes are open."""

from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from monai.inferers import sliding_window_inference
from torch import nn

from tests.scans import tiny_config
from tests.tiles import CPU, FunctionBackend, placed, placed_network, segmented, whole_scores
from verse3d.core.geometry import Geometry
from verse3d.core.logs import no_progress
from verse3d.inference.ensemble import Ensemble
from verse3d.inference.oom_fallback import Placement
from verse3d.inference.open_sums import FinishedPlanes
from verse3d.inference.sliding_window import StreamSettings, _Sweep, batches, open_planes
from verse3d.model.tilings import SliceTiling, WindowTiling

TIE = 1e-5
WINDOW = (8, 12, 16)


def network(channels, seed=0) -> nn.Module:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv3d(1, 6, 3, padding=1), nn.Tanh(), nn.Conv3d(6, channels, 3, padding=1)).eval()


def tiling(shape, overlap=0.5, blending="gaussian", **sampling) -> WindowTiling:
    config = tiny_config(
        sampling={"patch_voxels": WINDOW, **sampling}, inference={"overlap": overlap, "blending": blending}
    )
    return WindowTiling.of(config.sampling, config.inference, shape)


def picture(shape, seed=0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape).astype(np.float32)


def monai(image, model, overlap, mode) -> torch.Tensor:
    """Logits (channels, I, J, K) by the stock implementation."""
    with torch.inference_mode():
        return sliding_window_inference(
            torch.from_numpy(image)[None, None], WINDOW, 2, model, overlap, mode, padding_mode="constant", cval=0.0
        )[0]


def assert_decided_by(found, scores: torch.Tensor):
    """The best label of the scores, or the probability; where two scores tie within rounding either will do."""
    if len(scores) == 1:
        np.testing.assert_allclose(found, torch.sigmoid(scores[0]), atol=1e-5)
        return
    best = scores.max(0).values
    chosen = torch.gather(scores, 0, torch.from_numpy(found)[None].long())[0]
    assert (chosen >= best - TIE).all()
    clear = best - scores.topk(2, dim=0).values[1] > TIE
    assert clear.float().mean() > 0.99
    assert torch.equal(torch.from_numpy(found)[clear], scores.argmax(0)[clear].to(torch.uint8))


SHAPES = [(9, 13, 17), (23, 12, 16), (8, 31, 19), (17, 14, 41), (3, 5, 7), (5, 40, 3), (8, 12, 16)]


@pytest.mark.parametrize("mode", ["constant", "gaussian"])
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.5, 0.75])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_labels_are_those_of_monais_sliding_window(shape, overlap, mode):
    image = picture(shape)
    for channels in (1, 5) if mode == "constant" else (2, 27):
        model = network(channels)
        expected = monai(image, model, overlap, mode)
        found = segmented(
            image,
            tiling(shape, overlap, mode),
            placed_network(model),
            channels=channels,
            settings=StreamSettings(3),
        )
        assert found.dtype == (np.float32 if channels == 1 else np.uint8)
        assert_decided_by(found, expected)


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("channels", [1, 5])
def test_batches_side_by_side_give_the_same_labels_to_the_last_bit(channels, batch):
    image, windows, model = picture((17, 14, 41)), tiling((17, 14, 41)), network(channels)
    told = []
    alone = segmented(image, windows, placed(model), channels=channels, settings=StreamSettings(batch))
    beside = segmented(
        image,
        windows,
        placed(model),
        channels=channels,
        settings=StreamSettings(batch, side_by_side=2),
        progress=lambda what, done, total: told.append(done),
    )
    assert np.array_equal(alone, beside)
    assert told == sorted(told) and told[0] == 0 and told[-1] == len(windows.regions)


def test_a_single_batch_has_all_threads_of_pytorch_for_itself():
    before, model, seen = torch.get_num_threads(), network(1), []

    def counting(windows):
        seen.append(torch.get_num_threads())
        return model(windows)

    torch.set_num_threads(4)
    try:
        for shape in ((8, 12, 16), (17, 14, 41)):
            segmented(
                picture(shape), tiling(shape), placed(counting), channels=1, settings=StreamSettings(side_by_side=2)
            )
    finally:
        torch.set_num_threads(before)
    assert seen[0] == 4 and set(seen[1:]) == {2}


def test_an_error_in_a_batch_beside_others_comes_out_and_pytorch_keeps_its_threads():
    before, windows = torch.get_num_threads(), tiling((17, 14, 41))

    def failing(windows):
        raise torch.OutOfMemoryError("no room")

    with pytest.raises(torch.OutOfMemoryError, match="no room"):
        segmented(picture((17, 14, 41)), windows, placed(failing), channels=1, settings=StreamSettings(side_by_side=2))
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("channels", [1, 27])
def test_the_labels_on_a_gpu_are_those_of_monais_sliding_window(channels, monkeypatch):
    # Of float32 a GPU would otherwise multiply the first ten bits only, as PyTorch lets it: 6e-5 of a probability.
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
    image, model = picture((17, 14, 41)), network(channels)
    expected = monai(image, model, 0.5, "gaussian")
    ensemble = placed_network(model).ensemble.to(torch.device("cuda"))
    found = segmented(image, tiling(image.shape), Placement(ensemble), channels=channels, settings=StreamSettings(2))
    assert_decided_by(found, expected)


@pytest.mark.parametrize("margins", [(0, 0, 5), (3, 1, 9), (8, 12, 16), (20, 0, 0)])
@pytest.mark.parametrize("shape", [(9, 13, 17), (3, 5, 7)], ids=str)
def test_a_margin_is_air_around_the_volume(shape, margins):
    image, model = picture(shape), network(4)
    framed = np.pad(image, [(margin, margin) for margin in margins])
    inside = tuple(slice(margin, margin + size) for margin, size in zip(margins, shape, strict=True))
    expected = monai(framed, model, 0.5, "gaussian")[(slice(None), *inside)]
    found = segmented(
        image,
        tiling(shape, margin_voxels=margins),
        placed_network(model),
        channels=4,
        settings=StreamSettings(2),
    )
    assert_decided_by(found, expected)


@pytest.mark.parametrize("batch", [1, 2, 5, 100])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_neither_the_batch_nor_the_order_in_memory_changes_anything(batch, memory_format):
    image, model = picture((17, 14, 23)), network(5)

    def ordered(windows):
        with torch.inference_mode():
            return model(windows).to(memory_format=memory_format)

    placement = placed(ordered)
    found = segmented(image, tiling(image.shape), placement, channels=5, settings=StreamSettings(batch))
    assert_decided_by(found, monai(image, model, 0.5, "gaussian"))
    assert max(shape[0] for shape in placement.ensemble.backends[0].seen) <= batch


@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_scores_in_bfloat16_are_summed_in_float32(channels, memory_format):
    image, model = picture((17, 14, 23)), network(channels)

    def rounded(windows):
        with torch.inference_mode():
            return model(windows).bfloat16().to(memory_format=memory_format)

    settings = StreamSettings(2)
    found = segmented(image, tiling(image.shape), placed(rounded), channels=channels, settings=settings)
    assert_decided_by(found, monai(image, lambda windows: rounded(windows).float(), 0.5, "gaussian"))


@pytest.mark.parametrize("plane", ["sagittal", "coronal", "axial"])
@pytest.mark.parametrize("channels", [1, 5])
@pytest.mark.parametrize("batch", [1, 4, 50])
def test_slices_are_put_together_too(plane, channels, batch):
    shape = (9, 14, 23)
    config = tiny_config("2.5d", slices={"plane": plane, "size_pixels": [20, 16], "neighbours": 1})
    slices = SliceTiling.of(config.slices, Geometry(shape, np.eye(4)), shape)
    torch.manual_seed(0)
    model = nn.Conv2d(3, channels, 3, padding=1).eval()
    image, placement = picture(shape), placed(model)
    found = segmented(image, slices, placement, channels=channels, settings=StreamSettings(batch))
    assert_decided_by(found, whole_scores(slices, image, model).float())
    count = shape[slices.axis]
    expected = [min(batch, count - start) for start in range(0, count, batch)]
    assert [seen[0] for seen in placement.ensemble.backends[0].seen] == expected


@pytest.mark.parametrize("channels", [1, 4])
def test_what_no_window_speaks_about_is_background(channels):
    image, model = picture((17, 14, 41)), network(channels)
    windows = tiling(image.shape, overlap=0.25)
    wanted = [number for number in range(len(windows.regions)) if number % 3 == 1]
    some = segmented(
        image, windows, placed_network(model), channels=channels, settings=StreamSettings(2), wanted=wanted
    )
    covered = np.zeros(image.shape, dtype=bool)
    for number in wanted:
        covered[windows.regions[number]] = True
    assert not some[~covered].any() and not covered.all()
    nothing = segmented(image, windows, placed(model), channels=channels, settings=StreamSettings(), wanted=[])
    assert nothing.shape == image.shape and not nothing.any()


def test_voxels_whose_windows_are_all_wanted_do_not_depend_on_the_others():
    image, model = picture((17, 14, 41)), network(4)
    windows = tiling(image.shape)
    wanted = [number for number, region in enumerate(windows.regions) if region[2].start < 16]
    settings = StreamSettings(2)
    all_of_it = segmented(image, windows, placed_network(model), channels=4, settings=settings)
    some = segmented(image, windows, placed_network(model), channels=4, settings=settings, wanted=wanted)
    complete = ~np.zeros(image.shape, dtype=bool)
    for number, region in enumerate(windows.regions):
        if number not in wanted:
            complete[region] = False
    assert complete.any()
    np.testing.assert_array_equal(some[complete], all_of_it[complete])


def test_sums_in_half_precision_change_only_what_nearly_ties():
    image, model = picture((17, 14, 41)), network(5)
    expected = monai(image, model, 0.5, "gaussian")
    settings = StreamSettings(2, torch.float16)
    found = segmented(image, tiling(image.shape), placed_network(model), channels=5, settings=settings)
    lead = expected.topk(2, dim=0).values
    clear = (lead[0] - lead[1]) > 0.02
    assert clear.float().mean() > 0.5
    assert torch.equal(torch.from_numpy(found)[clear], expected.argmax(0)[clear].to(torch.uint8))


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_scores_that_float16_cannot_sum_are_summed_in_float32_from_then_on(memory_format):
    image, model = picture((17, 14, 41)), network(5)

    def large(windows):
        # far beyond the 65,504 at which float16 ends; small at first, so that sums have begun by then
        factor = 1.0 if windows[..., :4].eq(torch.from_numpy(image[None, None, :8, :12, :4])).all() else 1e6
        with torch.inference_mode():
            return (factor * model(windows)).to(memory_format=memory_format)

    windows = tiling(image.shape)
    half, single = (
        segmented(image, windows, placed(large), channels=5, settings=StreamSettings(1, dtype))
        for dtype in (torch.float16, torch.float32)
    )
    assert (half == single).mean() > 0.99
    assert single[..., 20:].any()


@pytest.mark.parametrize(
    ("name", "precision", "channels", "voices", "expected"),
    [
        ("torch", "bfloat16", 27, 1, torch.float16),
        ("torch", "bfloat16", 1, 1, torch.float32),
        ("torch", "float32", 27, 1, torch.float32),
        ("openvino", "bfloat16", 27, 1, torch.float16),
        ("torch", "bfloat16", 27, 2, torch.float32),
    ],
)
def test_sums_need_no_more_digits_than_scores_have(name, precision, channels, voices, expected):
    backend = SimpleNamespace(name=name, precision=precision, device=torch.device("cpu"))
    assert Ensemble([backend] * voices).sums_dtype(channels) is expected


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last_3d])
def test_scores_in_bfloat16_lose_nothing_that_matters_in_sums_of_half_precision(memory_format):
    image, model = picture((17, 14, 23)), network(5)

    def rounded(windows):
        with torch.inference_mode():
            return model(windows).bfloat16().to(memory_format=memory_format)

    expected = monai(image, lambda windows: rounded(windows).float(), 0.5, "gaussian")
    settings = StreamSettings(2, torch.float16)
    found = segmented(image, tiling(image.shape), placed(rounded), channels=5, settings=settings)
    lead = expected.topk(2, dim=0).values
    # two scores may tie within the step of a bfloat16 near 1, which is a 128th
    clear = (lead[0] - lead[1]) > 2**-7
    assert clear.float().mean() > 0.7
    assert torch.equal(torch.from_numpy(found)[clear], expected.argmax(0)[clear].to(torch.uint8))


def test_only_the_planes_that_later_windows_touch_are_open():
    windows = tiling((20, 20, 160), overlap=0.25)
    assert windows.axis == 2
    for size in (1, 4, 100):
        groups = batches(windows.regions, 2, range(len(windows.regions)), size)
        assert [number for group in groups for number in group] == list(range(len(windows.regions)))
        assert max(map(len, groups)) <= size
        assert open_planes(windows.regions, 2, groups) <= max(16, size)


def test_progress_counts_the_windows():
    heard = []
    image = picture((17, 14, 23))
    windows = tiling(image.shape)
    segmented(
        image,
        windows,
        placed(network(1)),
        channels=1,
        settings=StreamSettings(4),
        progress=lambda *told: heard.append(told),
    )
    done = [count for _, count, _ in heard]
    assert done[0] == 0 and done[-1] == len(windows.regions) and done == sorted(done)
    assert {(what, total) for what, _, total in heard} == {("windows", len(windows.regions))}


class Scarce(FunctionBackend):
    """A device whose memory holds so many windows at once; 0: none, until it is moved to the CPU."""

    def __init__(self, function, holds, device=CPU):
        super().__init__(function, device)
        self.holds = holds

    def __call__(self, windows):
        if len(windows) > self.holds:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return super().__call__(windows)

    def to(self, device):
        return Scarce(self.function, 100, device)


def scarce(model, holds, device=CPU) -> Placement:
    return Placement(Ensemble([Scarce(model, holds, device)]))


def test_fewer_windows_are_shown_when_the_memory_does_not_suffice(caplog):
    image, model = picture((17, 14, 41)), network(5)
    placement = scarce(model, 2)
    found = segmented(image, tiling(image.shape), placement, channels=5, settings=StreamSettings(7))
    assert_decided_by(found, monai(image, model, 0.5, "gaussian"))
    assert placement.windows_at_once in {1, 2}
    assert " at once" in caplog.text
    again = segmented(image, tiling(image.shape), placement, channels=5, settings=StreamSettings(7))
    np.testing.assert_array_equal(again, found)


def test_the_network_moves_to_the_cpu_when_not_even_one_window_fits(caplog):
    """Windows are given to "meta" as to a GPU; what comes back from it has no values, so it must not be used."""
    image, model = picture((17, 14, 41)), network(3)
    placement = scarce(model, 0, torch.device("meta"))
    found = segmented(image, tiling(image.shape), placement, channels=3, settings=StreamSettings(2))
    assert_decided_by(found, monai(image, model, 0.5, "gaussian"))
    assert placement.ensemble.device == placement.sums_device == CPU
    words = [record.message for record in caplog.records]
    expected = ["1 window at once", "summed on the CPU", "going on with the CPU"]
    assert [text in told for text, told in zip(expected, words, strict=True)] == [True, True, True]


def test_if_the_cpu_cannot_either_the_error_is_passed_on():
    with pytest.raises(torch.OutOfMemoryError):
        segmented(picture((9, 9, 9)), tiling((9, 9, 9)), scarce(network(1), 0), channels=1, settings=StreamSettings())


def test_what_was_added_before_the_memory_ran_out_is_not_added_twice():
    """The third call fails once: the windows shown before count once, those of the failed call count once, too."""
    image, model, calls = picture((17, 14, 41)), network(1), []

    def failing_once(windows):
        calls.append(len(windows))
        if len(calls) == 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return model(windows)

    found = segmented(image, tiling(image.shape), placed(failing_once), channels=1, settings=StreamSettings(4))
    assert_decided_by(found, monai(image, model, 0.5, "gaussian"))


def a_sweep(device) -> tuple[_Sweep, list[torch.device]]:
    """A pass whose sums are on a device, and where they have been moved."""
    image, moved = picture((9, 9, 9)), []
    sweep = _Sweep(image, tiling(image.shape), scarce(network(1), 1, device), StreamSettings(), no_progress)
    sweep.sums = SimpleNamespace(move=moved.append)
    return sweep, moved


def test_planes_that_a_gpu_cannot_resample_are_handed_over_again_on_the_cpu(monkeypatch, caplog):
    """Planes on "meta" stand for those on a GPU; they have no values to copy, so their copy is given here."""
    sweep, moved = a_sweep(torch.device("meta"))
    planes = FinishedPlanes(2, 0, torch.empty(1, 9, 9, 2, device="meta"), torch.empty(9, 9, 2, device="meta"), True)
    copied, given = replace(planes, scores=torch.zeros(1, 9, 9, 2), weights=torch.ones(9, 9, 2)), []
    monkeypatch.setattr(FinishedPlanes, "on_cpu", lambda _: copied)

    def take(offered):
        given.append(offered)
        if offered is planes:
            raise torch.OutOfMemoryError("CUDA out of memory")

    sweep.hand_over(planes, take)
    assert given == [planes, copied] and moved == [CPU] and sweep.placement.sums_device == CPU
    assert "summed on the CPU" in caplog.text


def test_planes_that_the_cpu_cannot_resample_end_the_scan():
    sweep, moved = a_sweep(CPU)

    def take(_):
        raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        sweep.hand_over(FinishedPlanes(2, 0, torch.zeros(1, 9, 9, 2), torch.ones(9, 9, 2), True), take)
    assert moved == []


@pytest.mark.parametrize("channels", [1, 5])
def test_several_networks_and_mirrors_are_averaged_as_probabilities(channels):
    image, models = picture((16, 12, 33)), [network(channels, seed) for seed in (0, 1, 2)]
    windows = tiling(image.shape)
    found = segmented(image, windows, placed(*models, mirrored=True), channels=channels, settings=StreamSettings(2))

    def mean(windows):
        squash = torch.sigmoid if channels == 1 else lambda scores: scores.softmax(1)
        answers = [squash(model(windows)) for model in models]
        mirrored = [squash(model(windows.flip(2))).flip(2) for model in models]
        return torch.stack([*answers, *mirrored]).mean(0)

    scores = whole_scores(windows, image, mean).float()
    if channels == 1:
        np.testing.assert_allclose(found, scores[0], atol=1e-5)
    else:
        assert_decided_by(found, scores)
