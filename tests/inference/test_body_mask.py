"""The patient is found, air and table are left out, and nothing of the patient ever is."""

import numpy as np
import pytest

from verse3d.core.config import GridConfig
from verse3d.inference.body_mask import BodyMask, _above, _shares

GRID = GridConfig(spacing_mm=1.5)
AIR, TABLE, TISSUE, LUNG = -1000.0, -50.0, 40.0, -800.0


def prepared(hu, grid=GRID) -> np.ndarray:
    low, high = grid.window_hu
    return np.clip((hu - low) / (high - low), 0, 1).astype(np.float16)


def patient(shape=(120, 100, 90)) -> np.ndarray:
    """An elliptic trunk with lungs in air, above a thin table."""
    i, j, _ = np.indices(shape)
    hu = np.full(shape, AIR)
    inside = ((i - 60) / 32) ** 2 + ((j - 55) / 24) ** 2 < 1
    lungs = (((np.abs(i - 60) - 15) / 9) ** 2 + ((j - 57) / 12) ** 2) < 1
    hu[inside] = TISSUE
    hu[lungs] = LUNG
    hu[:, 20:22] = TABLE
    return hu


def marked(body, shape) -> np.ndarray:
    mask = body.blocks
    for axis, edge in enumerate(body.voxels):
        mask = np.repeat(mask, edge, axis)
    return mask[tuple(slice(0, size) for size in shape)]


def region(*corners):
    return tuple(slice(start, stop) for start, stop in corners)


@pytest.mark.parametrize("spacing_mm", [(1.5, 1.5, 1.5), (1.0, 2.0, 3.0), (2.0, 1.2, 1.5)])
def test_every_voxel_of_the_patient_is_kept_and_the_far_air_is_not(spacing_mm):
    grid = GridConfig(spacing_mm=spacing_mm)
    hu = patient()
    kept = marked(BodyMask.of(prepared(hu, grid), grid), hu.shape)
    trunk = hu == TISSUE
    assert kept[trunk].all()
    assert kept[:, :, 0].mean() < 0.7


def test_windows_in_the_air_or_on_the_table_alone_are_left_out():
    body = BodyMask.of(prepared(patient()), GRID)
    assert not body.touches(region((0, 12), (0, 100), (0, 90)))
    assert not body.touches(region((0, 120), (14, 22), (0, 90)))
    assert body.touches(region((0, 40), (40, 60), (0, 90)))
    assert body.touches(region((50, 52), (50, 52), (40, 41)))


def test_a_margin_of_twelve_millimetres_is_kept_around_the_patient():
    hu = np.full((80, 80, 80), AIR)
    hu[24:56, 24:56, 24:56] = TISSUE
    kept = marked(BodyMask.of(prepared(hu), GRID), hu.shape)
    assert kept[16:64, 40, 40].all() and not kept[:12, 40, 40].any() and not kept[68:, 40, 40].any()


@pytest.mark.parametrize("value", [AIR, -300.0, TISSUE, 3000.0])
def test_a_volume_of_one_value_is_looked_at_everywhere(value):
    body = BodyMask.of(prepared(np.full((31, 20, 9), value)), GRID)
    assert body.blocks.all() and body.touches(region((30, 31), (19, 20), (8, 9)))


def test_a_small_lump_by_itself_is_no_patient_but_the_patient_beside_it_is():
    hu = patient()
    hu[2:8, 80:86, 10:16] = TISSUE  # 0.7 ml, like a tube
    kept = marked(BodyMask.of(prepared(hu), GRID), hu.shape)
    assert not kept[2:8, 80:86, 10:16].any()


def test_a_window_that_begins_in_the_lungs_grey_values_does_not_turn_air_into_tissue():
    grid = GridConfig(spacing_mm=1.5, window_hu=(-1000.0, 1000.0))
    assert not BodyMask.of(prepared(patient(), grid), grid).touches(region((0, 12), (0, 100), (0, 90)))


def test_blocks_that_reach_beyond_the_volume_count_what_is_inside():
    hu = np.full((81, 82, 83), AIR)
    hu[40:, 40:, 40:] = TISSUE
    assert marked(BodyMask.of(prepared(hu), GRID), hu.shape)[-1, -1, -1]


@pytest.mark.parametrize("order", "FC")
@pytest.mark.parametrize("voxels", [(4, 4, 4), (3, 5, 2), (1, 7, 40)])
def test_the_share_of_dense_voxels_is_counted_in_every_block_whatever_the_order_in_memory(order, voxels):
    image = np.asarray(np.random.default_rng(0).random((13, 9, 50)), np.float16, order=order)
    image[0, 0, 0] = -0.0
    shares = _shares(_above(image, 0.3), voxels)
    dense = np.pad(image > 0.3, [(0, -size % edge) for size, edge in zip(image.shape, voxels, strict=True)], "edge")
    for block in np.ndindex(shares.shape):
        part = dense[tuple(slice(at * edge, (at + 1) * edge) for at, edge in zip(block, voxels, strict=True))]
        assert shares[block] == pytest.approx(part.mean())
