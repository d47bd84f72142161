"""Looking only where the spine is: the mask stays as it was, windows are spared, and doubt means looking everywhere."""

import weakref
from dataclasses import replace

import nibabel as nib
import numpy as np
import pytest
import torch
from torch import nn

from tests import scans
from tests.scans import ThresholdNet, orientation, spine, tiny_config, turned
from verse3d.core.geometry import Geometry
from verse3d.core.handed import Handed
from verse3d.core.runtime import choose_precision
from verse3d.core.volume import Volume, stored_voxels
from verse3d.data.samples.grid import network_geometry
from verse3d.inference import overview
from verse3d.inference.budget import Budget
from verse3d.inference.loading import open_predictor
from verse3d.inference.predictor import Predictor
from verse3d.inference.scout import ScoutMaps, look, look_for_spine, scout_megabytes, spine_box
from verse3d.inference.spine_crop import CroppedGrids, Scouts, SpineRegion, covered_share
from verse3d.model.checkpoint import load_checkpoint, save_checkpoint
from verse3d.model.modes import Method
from verse3d.model.scout import SCOUT, USABLE, ScoutNetwork

CPU = torch.device("cpu")
FINE = tiny_config(
    grid={"spacing_mm": [2.0, 2.5, 3.0], "window_hu": [0, 1000]}, sampling={"patch_voxels": [16, 16, 16]}
)
LEVELS = tiny_config(
    grid={"spacing_mm": [2.0, 2.5, 3.0], "window_hu": [0, 1000]},
    sampling={"patch_voxels": [16, 16, 16]},
    labels={"scheme": "vertebrae"},
)
WIDE = {
    "LAS": orientation((0, 1, 2), (-1, 1, 1), (2.6, 2.0, 4.0), (101, 97, 31)),
    "oblique PIR": turned(orientation((1, 2, 0), (-1, -1, 1), (2.0, 4.1, 2.6), (97, 29, 101))),
    "strongly oblique ASL": turned(orientation((1, 2, 0), (1, 1, -1), (2.3, 3.0, 2.2), (89, 33, 121)), (25, 20, -31)),
}


class BrightIsSpine(ScoutNetwork):
    """Takes what is bright for T5 and the rest for background; what it sees at a voxel is that voxel."""

    def __init__(self, cut: float = 0.5) -> None:
        super().__init__((4, 4))
        self.head = nn.Conv3d(1, 27, 1)
        nn.init.zeros_(self.head.weight)
        nn.init.constant_(self.head.bias, -60.0)
        with torch.no_grad():
            self.head.bias[0], self.head.weight[0] = 0.0, 0.0
            self.head.weight[12], self.head.bias[12] = 80.0, -80.0 * cut

    def features(self, image: torch.Tensor) -> torch.Tensor:
        return image


def bright_block(geometry: Geometry, hu: float = 800.0) -> Volume:
    """Soft tissue of 300 HU all over, and a bright column of 30 x 35 mm off the middle of the axial plane."""
    index = np.stack(np.indices(geometry.shape), axis=-1).reshape(-1, 3)
    world = geometry.world_from_index(index)
    frame = geometry.reoriented("RAS")
    along = (world - frame.affine[:3, 3]) @ (frame.affine[:3, :3] / frame.spacing_mm)
    inside = (np.abs(along[:, 0] - 70.0) < 15.0) & (np.abs(along[:, 1] - 60.0) < 17.5)
    array = np.where(inside, hu, 300.0 * (hu > 0)).reshape(geometry.shape).astype(np.float32)
    return Volume(array, geometry, nib.Nifti1Image(array, geometry.affine).header, None)


def predictor(config, *scouts: ScoutNetwork, **changes) -> Predictor:
    channels = 27 if config.labels.scheme == "vertebrae" else 1
    known = Predictor.of_network(ThresholdNet(channels).eval(), Method(config), CPU, choose_precision("off", CPU))
    return replace(known, scouts=Scouts(scouts), **changes)


def segmented(by: Predictor, scan: Volume):
    image, grid = by.prepare(scan)
    answer, seen = by.segment(image, grid, scan.geometry, by.settings)
    return answer.mask(), seen


@pytest.mark.parametrize("name", WIDE)
def test_a_cropped_scan_has_the_mask_of_the_whole_one_and_takes_fewer_windows(name):
    scan = bright_block(WIDE[name])
    everywhere, all_of_it = segmented(predictor(FINE), scan)
    there, seen = segmented(predictor(FINE, BrightIsSpine()), scan)
    assert everywhere.any() and there.shape == scan.geometry.shape
    np.testing.assert_array_equal(there, everywhere)
    assert 0 < seen.windows < 0.5 * all_of_it.windows and seen.of == all_of_it.of
    assert seen.crop.skipped > 0.5 and all_of_it.crop.skipped == 0.0


def test_the_whole_image_is_given_back_before_the_network_looks_at_the_part_with_the_spine():
    scan, by = bright_block(WIDE["LAS"]), predictor(FINE, BrightIsSpine())
    image, grid = by.prepare(scan)
    whole = weakref.ref(image if image.base is None else image.base)
    handed, held = Handed(image), []
    del image
    by.backend.network.register_forward_pre_hook(lambda *_: held.append(whole() is not None))
    by.segment(handed.take(), grid, scan.geometry, by.settings)
    assert held and not any(held)


def test_a_part_of_more_than_half_of_the_image_is_not_copied():
    grid, image = Geometry((8, 8, 8), np.eye(4)), np.zeros((8, 8, 8), np.float16)
    small, large = (
        CroppedGrids.of((slice(0, size), slice(0, 8), slice(0, 8)), grid, grid).cut(image) for size in (3, 5)
    )
    assert small.shape == (3, 8, 8) and not np.shares_memory(small, image)
    assert large.shape == (5, 8, 8) and np.shares_memory(large, image)


def test_levels_are_pasted_back_with_background_around():
    scan = bright_block(WIDE["oblique PIR"])
    by = predictor(LEVELS, BrightIsSpine())
    mask, seen = segmented(by, scan)
    everywhere, _ = segmented(predictor(LEVELS), scan)
    inside = np.zeros(mask.shape, bool)
    grid = by.prepare(scan)[1]
    part = CroppedGrids.of(tuple(slice(*along) for along in seen.crop.box), grid, scan.geometry)
    inside[part.source_box] = True
    # Soft tissue of 300 HU is a level to a network that knows grey values only; beyond the crop it must be background.
    assert everywhere[~inside].any() and not mask[~inside].any()
    column = scan.array > 500
    assert column[inside].sum() == column.sum()
    np.testing.assert_array_equal(mask[column], everywhere[column])


def test_the_crop_keeps_the_whole_height_and_is_never_smaller_than_a_patch():
    near = np.zeros((40, 30, 20), bool)
    near[20, 3, 8] = True
    region = SpineRegion(near, (0.5, 0.5, 0.5))
    box = region.crop((80, 60, 40), (32, 24, 16), (0, 0, 0))
    assert [along.stop - along.start for along in box] == [32, 24, 40]
    assert all(along.start >= 0 and along.stop <= size for along, size in zip(box, (80, 60, 40), strict=True))
    assert box[0].start <= 40 < box[0].stop and box[1].start <= 6 < box[1].stop


def test_a_volume_smaller_than_a_patch_is_kept_as_it_is():
    region = SpineRegion(np.ones((3, 4, 5), bool), (0.5, 0.5, 0.5))
    assert region.crop((6, 8, 10), (32, 32, 32), (0, 0, 0)) == (slice(0, 6), slice(0, 8), slice(0, 10))


def test_an_axis_with_a_margin_of_air_is_not_cut():
    near = np.zeros((40, 30, 20), bool)
    near[20, 15, 8] = True
    box = SpineRegion(near, (0.5, 0.5, 0.5)).crop((80, 60, 40), (16, 16, 16), (0, 4, 4))
    assert box[1:] == (slice(0, 60), slice(0, 40))
    assert box[0].stop - box[0].start == 16


@pytest.mark.parametrize("spacing", [0.7, 1.5, 4.0, 6.5])
def test_every_voxel_of_the_spine_lies_in_the_crop_and_in_a_window_that_is_looked_at(spacing):
    grid = Geometry((61, 53, 47), np.diag([spacing, spacing, spacing, 1.0]))
    coarse = grid.resampled((4.0, 4.0, 4.0))
    random = np.random.default_rng(round(10 * spacing))
    for _ in range(20):
        near = np.zeros(coarse.shape, bool)
        near[tuple(random.integers(0, coarse.shape))] = True
        region = SpineRegion(near, (spacing / 4,) * 3)
        box = region.crop(grid.shape, (8, 8, 8), (0, 0, 0))
        index = np.rint(grid.index_from_world(coarse.world_from_index(np.argwhere(near)))[0]).astype(int)
        index = np.minimum(index, np.array(grid.shape) - 1)
        assert all(along.start <= at < along.stop for along, at in zip(box, index, strict=True))
        assert region.touches(tuple(slice(at, at + 1) for at in index))


def test_crumbs_are_no_spine_and_margins_are_added():
    spine_map = np.zeros((30, 30, 30), np.float32)
    spine_map[2, 2, 2] = 1.0
    assert SpineRegion.of(spine_map, (1.5, 1.5, 1.5)) is None
    spine_map[14:18, 14:18, 14:18] = 1.0
    found = SpineRegion.of(spine_map, (1.5, 1.5, 1.5))
    assert found is not None
    # 28 mm on all sides; beyond its ends 12 mm more, and 48 mm up and down (here: to the faces of the scan).
    assert np.argwhere(found.near[:, :, 16]).min() == 7 and np.argwhere(found.near[:, :, 16]).max() == 24
    assert np.argwhere(found.near)[:, :2].min() == 4 and np.argwhere(found.near)[:, :2].max() == 27
    assert np.argwhere(found.near)[:, 2].min() == 0 and np.argwhere(found.near)[:, 2].max() == 29


def test_above_and_below_what_is_seen_a_spine_may_go_on_whatever_else_is_seen_farther_up():
    spine_map = np.zeros((30, 40, 120), np.float32)
    spine_map[12:18, 12:18, 40:60] = 1.0
    spine_map[12:18, 12:18, 110:112] = 1.0  # a crumb of 5 ml above the head
    found = SpineRegion.of(spine_map, (1.5, 1.5, 1.5))
    assert found is not None
    heights = np.flatnonzero(found.near[15, 15])
    assert heights.min() == 40 - 7 - 12 and {77, 78} <= set(heights.tolist()) and 85 not in heights


def test_no_number_is_no_spine():
    assert SpineRegion.of(np.full((9, 9, 9), np.nan, np.float32), (1.5, 1.5, 1.5)) is None


def test_where_no_spine_is_found_everything_is_looked_at_and_that_is_said():
    scan = bright_block(WIDE["LAS"], hu=800.0)
    everywhere, all_of_it = segmented(predictor(FINE), scan)
    mask, seen = segmented(predictor(FINE, BrightIsSpine(cut=5.0)), scan)
    np.testing.assert_array_equal(mask, everywhere)
    assert seen.windows == all_of_it.windows and "no spine was found" in seen.crop.why and not seen.crop.box


def test_several_scouts_look_wherever_one_of_them_sees_spine():
    scan = bright_block(WIDE["LAS"])
    blind, seeing = BrightIsSpine(cut=5.0), BrightIsSpine()
    one, both = (segmented(predictor(FINE, *who), scan)[1].crop.box for who in ((seeing,), (blind, seeing)))
    assert one == both and one


def test_slices_thicker_than_the_crop_are_looked_at_everywhere():
    grid = Geometry((80, 80, 80), np.eye(4))
    thick = Geometry((80, 4, 80), np.diag([1.0, 25.0, 1.0, 1.0]))
    part = CroppedGrids.of((slice(0, 80), slice(30, 46), slice(0, 80)), grid, thick)
    assert part.grid == grid and part.source == thick


def test_the_covered_share_counts_overlaps_once():
    regions = [(slice(0, 4), slice(0, 4), slice(0, 4)), (slice(2, 6), slice(0, 4), slice(0, 4))]
    within = (slice(2, 10), slice(0, 10), slice(0, 10))
    assert covered_share(regions, within, (10, 10, 10)) == pytest.approx(6 * 4 * 4 / 1000)
    assert covered_share([], within, (10, 10, 10)) == 0.0


def test_the_maps_of_a_tall_scan_blend_their_windows_into_probabilities():
    network = ScoutNetwork((4, 8, 8)).eval()
    grid = Geometry((9, 10, 250), np.diag([4.0, 4.0, 4.0, 1.0]))
    image = np.random.default_rng(0).random(grid.shape).astype(np.float16)
    spine, probabilities = look(network, image.astype(np.float32))
    assert spine.shape == grid.shape and probabilities.shape == (27, 9, 10, 250)
    np.testing.assert_allclose(probabilities.sum(0), 1.0, atol=1e-5)
    np.testing.assert_allclose(ScoutMaps(probabilities, grid).spine, spine, atol=1e-5)
    # To the last bit: whether levels are wanted, too, must not move the crop.
    np.testing.assert_array_equal(look_for_spine(network, image.astype(np.float32)), spine)


@pytest.mark.parametrize(("planes", "windows"), [(96, [96]), (100, [80, 80]), (125, [80, 80]), (161, [80, 80, 80])])
def test_windows_of_a_tall_scan_are_no_longer_than_they_have_to_be(planes, windows):
    shown = []

    class Watched(ScoutNetwork):
        def features(self, image):
            shown.append(image.shape[-1])
            return super().features(image)

    look_for_spine(Watched((4, 8)).eval(), np.zeros((3, 4, planes), np.float32))
    assert shown == windows


def test_the_box_of_the_maps_has_a_margin_and_ends_at_the_volume():
    probabilities = np.zeros((27, 20, 21, 22), np.float32)
    probabilities[0] = 1.0
    maps = ScoutMaps(probabilities, Geometry((20, 21, 22), np.diag([4.0, 4.0, 4.0, 1.0])))
    assert spine_box(maps) is None
    probabilities[:, 1:12, 10, 20] = 0.0
    probabilities[3, 1:12, 10, 20] = 1.0
    assert spine_box(maps) == (slice(0, 19), slice(3, 18), slice(13, 22))


def saved_with_scout(path, config, usable: float | None):
    """A model file whose scout has those words about it; with None it has no scout."""
    scans.save_model(path, config)
    checkpoint = load_checkpoint(path)
    if usable is not None:
        part = scans.scout_part(config, {USABLE: usable})
        save_checkpoint(path, replace(checkpoint, networks={SCOUT: part}))
    return path


def test_a_trusted_scout_is_opened_with_the_model(tmp_path):
    path = saved_with_scout(tmp_path / "best.pt", tiny_config(), 1.0)
    by = open_predictor([path], CPU, backend="torch")
    assert len(by.scouts.networks) == 1 and not by.scouts.networks[0].training


@pytest.mark.parametrize(("usable", "why"), [(None, "holds no scout"), (0.0, "not found to be reliable")])
def test_without_a_trusted_scout_everything_is_looked_at_and_the_reason_is_told(tmp_path, usable, why):
    path = saved_with_scout(tmp_path / "best.pt", tiny_config(), usable)
    by = open_predictor([path], CPU, backend="torch")
    found = spine()
    scan = Volume(found.hu, found.geometry, nib.Nifti1Image(found.hu, found.geometry.affine).header, None)
    _, seen = segmented(by, scan)
    assert not by.scouts.networks and why in seen.crop.why and "best.pt" in seen.crop.why


def test_one_model_without_a_scout_makes_an_ensemble_look_everywhere(tmp_path):
    with_scout = saved_with_scout(tmp_path / "one.pt", tiny_config(), 1.0)
    without = saved_with_scout(tmp_path / "two.pt", tiny_config(), None)
    assert not open_predictor([with_scout, without], CPU, backend="torch").scouts.networks


def test_the_plan_counts_what_the_scouts_take(tmp_path):
    scan = spine(geometry=WIDE["LAS"]).write(tmp_path / "ct.nii.gz")
    budgets = [Budget.measured(by, 4.0) for by in (predictor(FINE), predictor(FINE, BrightIsSpine()))]
    without, with_scout = (budget.plan(stored_voxels(scan)).stages_mb["scouting"] for budget in budgets)
    grid = network_geometry(WIDE["LAS"], FINE.grid)
    assert with_scout - without == pytest.approx(scout_megabytes(grid)) and scout_megabytes(grid) > 1.0


def test_a_scout_that_does_not_fit_the_gpu_goes_on_with_the_cpu(monkeypatch):
    tried = []

    def full(network, coarse):
        tried.append(network.head.weight.device.type)
        if len(tried) == 1:
            raise torch.OutOfMemoryError("full")
        return np.zeros(coarse.shape, np.float32)

    monkeypatch.setattr(overview, "look_for_spine", full)
    grid = Geometry((8, 8, 8), np.eye(4))
    elsewhere = BrightIsSpine().to("meta")
    monkeypatch.setattr(elsewhere, "cpu", BrightIsSpine)
    assert Scouts([elsewhere]).find(np.zeros(grid.shape, np.float32), grid) is None
    assert tried == ["meta", "cpu"]


def test_who_wants_all_windows_asks_no_scout(tmp_path):
    path = saved_with_scout(tmp_path / "best.pt", tiny_config(), 1.0)
    by = open_predictor([path], CPU, backend="torch", skip_air=False)
    assert not by.scouts.networks and not by.scouts.absence
