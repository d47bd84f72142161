"""A box looked up between its voxels, against PyTorch's ``grid_sample``, which computes each voxel by itself."""

import numpy as np
import pytest
import torch
from torch.nn.functional import grid_sample

from verse3d.data.samples import augment, interpolation
from verse3d.data.samples.augment import resample
from verse3d.data.samples.draws import Changes, Warp
from verse3d.data.samples.interpolation import PaddedBox
from verse3d.data.samples.matrices import rotation
from verse3d.data.samples.packing import BoxTensors

SHAPE = (5, 8, 3)


def box(shape=SHAPE, channels=1, dtype=torch.float16):
    """Random grey values, and random ids of which most are 0."""
    source = torch.Generator().manual_seed(3)
    image = (torch.rand((channels, *shape), generator=source) * 200).to(dtype)
    label = torch.randint(0, 40, (1, *shape), generator=source)
    return image, torch.where(label < 20, 0, label).to(torch.uint8)


def places(shape, count=(4, 6, 7), beyond=2.5):
    """Anywhere in a volume and around it."""
    source = torch.Generator().manual_seed(5)
    return [torch.rand(count, generator=source) * (length + 2 * beyond) - beyond for length in shape]


def by_grid_sample(values, where, mode):
    """(n, ...): PyTorch names the last axis first, and counts from -1 to 1 between the outer edges."""
    lengths = values.shape[1:]
    scaled = [(2 * place.double() + 1) / length - 1 for place, length in zip(where, lengths, strict=True)]
    grid = torch.stack(scaled[::-1], dim=-1)[None]
    return grid_sample(values[None].double(), grid, mode=mode, padding_mode="zeros", align_corners=False)[0]


def looked_up(image, label, where):
    """What ``PaddedBox`` finds; places are copied because it changes them."""
    found = torch.full((image.shape[0], *where[0].shape), -1.0), torch.full((1, *where[0].shape), 99, dtype=torch.uint8)
    PaddedBox(image, label).look_up([place + PaddedBox.FIRST for place in where], *found)
    return found


@pytest.mark.parametrize(
    ("shape", "channels", "dtype"),
    [(SHAPE, 1, torch.float16), ((1, 9, 1), 3, torch.uint8), ((2, 2, 2), 2, torch.float32)],
)
def test_values_are_those_of_grid_sample_inside_the_box_and_out(shape, channels, dtype):
    image, label = box(shape, channels, dtype)
    where = places(shape)
    values, ids = looked_up(image, label, where)
    torch.testing.assert_close(values.double(), by_grid_sample(image, where, "bilinear"), rtol=1e-5, atol=1e-3)
    assert torch.equal(ids, by_grid_sample(label, where, "nearest").to(torch.uint8))


def test_a_place_on_a_voxel_gives_this_voxel_and_one_on_the_edge_of_what_is_outside_gives_0():
    image, label = box()
    on_voxels = list(torch.meshgrid(*(torch.arange(float(length)) for length in SHAPE), indexing="ij"))
    values, ids = looked_up(image, label, on_voxels)
    assert torch.equal(values, image.float())
    assert torch.equal(ids, label)
    for outside in (-1.0, -1e9, 5.0, 1e9):
        values, ids = looked_up(image, label, [torch.full_like(on_voxels[0], outside), *on_voxels[1:]])
        assert not values.any()
        assert not ids.any()


def test_a_box_too_large_to_count_its_voxels_in_float32_is_looked_up_all_the_same(monkeypatch):
    image, label = box()
    expected = looked_up(image, label, places(SHAPE))
    monkeypatch.setattr(interpolation, "_EXACT_IN_FLOAT32", 1)
    for found, wanted in zip(looked_up(image, label, places(SHAPE)), expected, strict=True):
        assert torch.equal(found, wanted)


def test_without_any_label_the_mask_of_the_patch_is_emptied():
    image, label = box()
    _, ids = looked_up(image, torch.zeros_like(label), places(SHAPE))
    assert not ids.any()


@pytest.mark.parametrize("slab", [1, 100, 10**6])
@pytest.mark.parametrize("bent", [False, True], ids=["turned", "turned and bent"])
def test_a_patch_resampled_slab_by_slab_is_the_one_that_grid_sample_makes(monkeypatch, slab, bent):
    monkeypatch.setattr(augment, "_SLAB", slab)
    size, shape = (7, 5, 6), (12, 11, 13)
    random = np.random.default_rng(1)
    shifts = random.uniform(-2, 2, (3, 4, 4, 4)).astype(np.float32) if bent else None
    warp = Warp(rotation(np.array([0.3, -0.2, 0.4])) @ np.diag([1.1, -0.9, 1.0]), shifts)
    image, label = box(shape)
    source = BoxTensors(image, label, (5.2, 5.0, 6.4), Changes(warp=warp))
    values, ids = torch.empty((1, *size)), torch.empty((1, *size), dtype=torch.uint8)
    resample(source, warp, values, ids)
    # Where each voxel comes from, written out: the middle of the box, and the matrix times the way from the middle.
    way = np.stack(np.meshgrid(*(np.arange(n) - (n - 1) / 2 for n in size), indexing="ij"))
    if bent:
        way = (
            way
            + torch.nn.functional.interpolate(
                torch.from_numpy(shifts)[None], size, mode="trilinear", align_corners=True
            )[0].numpy()
        )
    origin = np.einsum("ab,b...->a...", warp.matrix, way) + np.reshape(source.middle, (3, 1, 1, 1))
    where = [torch.from_numpy(axis) for axis in origin]
    torch.testing.assert_close(values.double(), by_grid_sample(image, where, "bilinear"), rtol=1e-5, atol=5e-3)
    assert torch.equal(ids, by_grid_sample(label, where, "nearest").to(torch.uint8))
