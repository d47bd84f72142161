"""Slices of physical size, as a mode: what is refused, what stays as it was, and every voxel back in its place."""

import numpy as np
import pytest
import torch

import verse3d
from tests.model.test_tilings import PLANES, SHAPE, middle
from tests.scans import orientation, save_model, spine, tiny_config, turned
from tests.tiles import placed, segmented, whole_scores
from verse3d.core.config import Config, load_config, parse_config
from verse3d.core.errors import ConfigError
from verse3d.core.geometry import Geometry
from verse3d.core.resample import resample_above, resample_linear
from verse3d.core.volume import read_geometry, read_labels
from verse3d.data.samples.grid import network_geometry
from verse3d.data.samples.slices import SliceCut
from verse3d.inference.aggregator import BinaryAggregator
from verse3d.inference.memory_plan import Demand
from verse3d.inference.sliding_window import StreamSettings, segment
from verse3d.model.modes import Method, require_suitable
from verse3d.model.slice_windows import SliceWindowTiling
from verse3d.model.tilings import SliceTiling

GRID = Geometry(SHAPE, np.eye(4))


def physical(plane="sagittal", size=(8, 6), neighbours=0, spacing_mm=4.0, **sections) -> Config:
    slices = {"plane": plane, "size_pixels": size, "neighbours": neighbours, "spacing_mm": spacing_mm}
    return tiny_config("2.5d" if neighbours else "2d", slices=slices, **sections)


def tiling(*arguments, shape=SHAPE, source=GRID, **options):
    return Method(physical(*arguments, **options)).tiling(source, shape)


@pytest.mark.parametrize("inference", [{}, {"overlap": 0.0}, {"overlap": 0.75, "blending": "constant"}], ids=str)
@pytest.mark.parametrize("size", [(8, 6), (23, 14), (40, 31), (5, 64)], ids=str)
@pytest.mark.parametrize("plane", PLANES)
def test_every_voxel_comes_back_to_its_place_whatever_the_windows_are(plane, size, inference):
    volume = torch.randint(0, 256, SHAPE) / 255
    windows = tiling(plane, size, neighbours=1, inference=inference)
    assert isinstance(windows, SliceWindowTiling) and windows.axis == PLANES[plane][0]
    torch.testing.assert_close(whole_scores(windows, volume, middle)[0].float(), volume, atol=1e-6, rtol=0)


@pytest.mark.parametrize("batch", [1, 3, 16])
def test_windows_shown_in_batches_give_what_single_ones_give(batch):
    volume = np.random.default_rng(0).random(SHAPE).astype(np.float32)
    network = torch.nn.Conv2d(3, 1, 5, padding=2)
    windows = tiling("coronal", (8, 6), neighbours=1)
    found = segmented(volume, windows, placed(network), channels=1, settings=StreamSettings(batch))
    expected = torch.sigmoid(whole_scores(windows, volume, network)[0]).float().numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("plane", PLANES)
def test_windows_come_slice_by_slice_so_that_one_plane_is_open_and_planned_for(plane):
    windows = tiling(plane, (8, 6))
    starts = [region[windows.axis].start for region in windows.regions]
    assert starts == sorted(starts) and set(starts) == set(range(SHAPE[windows.axis]))
    assert all(region[windows.axis].stop == start + 1 for region, start in zip(windows.regions, starts, strict=True))
    assert windows.thickness == 1
    stretched = SliceTiling(SHAPE, windows.axis, (8, 6), 0)
    more, fewer = (
        Demand(1000, 2, one, channels=2, window_mb=1.0, windows_per_batch=1).network_mb(StreamSettings())
        for one in (windows, stretched)
    )
    assert more == fewer


@pytest.mark.parametrize("plane", PLANES)
@pytest.mark.parametrize("neighbours", [0, 1])
def test_a_mirrored_window_is_that_of_the_mirrored_patient(plane, neighbours):
    # Windows of 6, 3 apart, end with these slices and so lie symmetrically.
    shape = (9, 12, 15)
    one = tiling(plane, (6, 6), neighbours=neighbours, shape=shape, source=Geometry(shape, np.eye(4)))
    volume = np.random.default_rng(0).random(shape).astype(np.float32)
    windows = torch.stack([torch.from_numpy(one.cut(volume, number)) for number in range(len(one.regions))])
    flipped = np.ascontiguousarray(volume[::-1])
    mirrors = {one.cut(flipped, number).tobytes() for number in range(len(one.regions))}
    assert {window.numpy().tobytes() for window in one.mirrored(windows)} == mirrors
    assert one.mirror_differs == (plane != "sagittal" or neighbours > 0)
    centre = windows[:, neighbours : neighbours + 1]
    back = one.mirrored_back(one.mirrored(windows)[:, neighbours : neighbours + 1])
    assert torch.equal(back, centre)


@pytest.mark.parametrize("plane", [*PLANES, "as-stored"])
@pytest.mark.parametrize(
    "source",
    [
        turned(orientation((1, 2, 0), (-1, -1, 1), (2.5, 3.0, 4.0), (31, 25, 17))),
        orientation((2, 0, 1), (1, -1, -1), (5.0, 1.3, 2.1), (9, 41, 33)),
    ],
    ids=["oblique", "anisotropic"],
)
def test_a_mask_that_a_network_sees_comes_back_on_the_grid_of_the_scan(source, plane):
    mask = np.zeros(source.shape, np.uint8)
    i, j, k = source.shape
    mask[i // 4 : -i // 4, j // 4 : -j // 4, k // 4 : -k // 4] = 1
    config = physical(plane, (24, 18), spacing_mm=2.5, grid={"spacing_mm": 2.0})
    grid = network_geometry(source, config.grid)
    seen = np.rint(resample_linear(mask, source, grid) * 255) / np.float32(255)
    back = BinaryAggregator(grid, source, 1)
    windows = Method(config).tiling(source, grid.shape)
    # The probability is what was seen, so the mask is the one that is carried there and back without any windows.
    as_seen = placed(lambda windows: torch.logit(windows, 1e-6))
    segment(seen, windows, as_seen, settings=StreamSettings(16), take=back.take)
    found, expected = back.mask(), resample_above(seen, grid, source, 0.5)
    assert found.shape == source.shape and (found != expected).mean() < 1e-4
    assert 2 * (found & mask).sum() / (found.sum() + mask.sum()) > 0.9


@pytest.mark.parametrize(
    ("plane", "spacing"),
    [
        ("sagittal", [3.0, 0.8, 0.8]),
        ("coronal", [0.8, 2.0, 0.8]),
        ("axial", [0.8, 0.8, 1.0]),
        ("as-stored", [0.8, 0.8, 0.8]),
    ],
)
def test_pixels_are_the_voxels_of_the_network_grid_and_slices_stay_as_far_apart_as_they_were(plane, spacing):
    config = physical(plane, spacing_mm=0.8, grid={"spacing_mm": [3.0, 2.0, 1.0]})
    assert list(config.grid.spacing_mm) == spacing
    assert parse_config(config.to_dict()) == config


def test_without_the_setting_slices_are_stretched_as_ever():
    before = {
        "mode": "2d",
        "network": {"name": "classic"},
        "slices": {"plane": "sagittal", "size_pixels": [250, 250], "neighbours": 0},
    }
    config = parse_config(before)
    assert config == parse_config({**before, "slices": {**before["slices"], "spacing_mm": None}})
    assert config.grid.spacing_mm == (1.5, 1.5, 1.5)
    method = Method(config)
    assert type(method.cut()) is SliceCut and type(method.tiling(GRID, SHAPE)) is SliceTiling
    assert "inference.overlap" not in method.shared


def test_models_are_averaged_only_if_their_windows_lie_alike():
    one, other = (Method(physical(inference={"overlap": overlap})).shared for overlap in (0.5, 0.25))
    assert {key for key in one if one[key] != other[key]} == {"inference.overlap"}
    assert one != Method(tiny_config("2d", slices={"size_pixels": [8, 6]})).shared


@pytest.mark.parametrize("value", [0, -1.0, 1e-6, 1000, float("nan"), float("inf"), True, [1.0, 1.0], "stretch"])
def test_a_pixel_without_a_sensible_size_is_refused(value):
    with pytest.raises(ConfigError, match=r"slices\.spacing_mm"):
        parse_config({"mode": "2d", "slices": {"spacing_mm": value}})


def test_pixels_with_a_size_are_refused_where_there_are_no_slices():
    with pytest.raises(ConfigError, match=r"does not suit mode 3d:\n  - slices\.spacing_mm: is of slices"):
        require_suitable(tiny_config("3d", slices={"spacing_mm": 1.0}))


def test_the_shipped_config_shows_a_millimetre_per_pixel():
    config = load_config("slices2d-mm")
    require_suitable(config)
    assert config.slices.spacing_mm == 1.0 and config.grid.spacing_mm == (1.5, 1.0, 1.0)
    # A slice of 160 mm is one window, one of 512 mm nine.
    for size, count in ((160, 1), (512, 9)):
        assert len(Method(config).tiling(GRID, (1, size, size)).regions) == count


@pytest.mark.slow  # two seconds
def test_a_model_alone_is_enough_to_label_a_scan_of_another_field_of_view(tmp_path):
    model = save_model(tmp_path / "best.pt", physical(size=(16, 16), neighbours=1), seed=1)
    wide = turned(orientation((0, 1, 2), (-1, 1, 1), (9.0, 2.5, 6.0), (25, 41, 23)))
    ct = spine(geometry=wide).write(tmp_path / "ct.nii.gz")
    report = verse3d.predict(ct, model=model, out=tmp_path / "out", backend="torch")
    assert [record.status for record in report.records] == ["written"]
    assert read_labels(tmp_path / "out" / report.records[0].mask).geometry == read_geometry(ct)[0]
