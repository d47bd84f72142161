"""Core and bone beside other bones: what a network without names learns."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from verse3d.core.config import load_config, parse_config
from verse3d.core.errors import ConfigError
from verse3d.core.labels import BONES, IGNORED, PARTS
from verse3d.data.samples.entry import network_table
from verse3d.model.losses import build_loss
from verse3d.model.modes import require_suitable
from verse3d.model.parts import CORE, NEAR_MM, VERTEBRA, PartsLoss, parts_of
from verse3d.phantoms import make_case

SPACING_MM = (1.5, 1.25, 3.0)


def parts(ids, spacing_mm=SPACING_MM):
    return parts_of(torch.from_numpy(np.asarray(ids, np.uint8))[None, None], spacing_mm)[0, 0].numpy()


def plainly(ids, spacing_mm):
    """The same voxel by voxel."""
    reach = [max(1, round(NEAR_MM / mm)) for mm in spacing_mm]
    found = np.zeros(ids.shape, np.uint8)
    for index in np.argwhere(ids):
        near = ids[tuple(slice(max(0, i - r), i + r + 1) for i, r in zip(index, reach, strict=True))]
        alone = set(np.unique(near)) <= {0, ids[tuple(index)]} and ids[tuple(index)] != BONES.undecided
        found[tuple(index)] = CORE if alone else VERTEBRA
    return found


def test_parts_are_those_of_a_plain_search_around_every_voxel():
    ids = np.random.default_rng(1).choice([0, 0, 0, 0, 0, 0, 5, 6, BONES.undecided], (9, 11, 7)).astype(np.uint8)
    ids[:5, :4] = 3
    found = parts(ids)
    assert {0, VERTEBRA, CORE} == set(np.unique(found))
    assert np.array_equal(found, plainly(ids, SPACING_MM))


def test_every_vertebra_of_a_phantom_has_one_core_and_cores_do_not_touch():
    case = make_case(3, 1)
    grid = ndimage.zoom(case.mask, np.array(case.geometry.spacing_mm) / 1.25, order=0)
    core = parts(grid, (1.25, 1.25, 1.25)) == CORE
    components, count = ndimage.label(core, np.ones((3, 3, 3)))
    sizes = np.bincount(components.ravel())[1:]
    large = 1 + np.flatnonzero(sizes > 100)  # 0.2 ml
    of_bone = [set(np.unique(grid[components == number])) for number in large]
    assert all(len(ids) == 1 for ids in of_bone)
    assert count >= len(large) == len(case.levels)


def test_a_bone_alone_is_all_core_and_undecided_bone_is_none():
    ids = np.zeros((8, 8, 8), np.uint8)
    ids[2:6, 2:6, 2:6] = 26
    assert np.array_equal(parts(ids), ids.clip(max=1) * CORE)
    ids[ids > 0] = BONES.undecided
    assert np.array_equal(parts(ids), ids.clip(max=1) * VERTEBRA)


def test_samples_of_a_batch_do_not_see_each_other():
    ids = torch.zeros((2, 1, 6, 6, 6), dtype=torch.uint8)
    ids[0], ids[1] = 4, 5
    assert (parts_of(ids, SPACING_MM) == CORE).all()


def test_voxels_between_two_bones_of_the_store_count_as_bone_without_a_core():
    table = network_table(BONES)
    assert table[255] == BONES.undecided == 27
    assert table[28] == 26
    assert network_table(PARTS)[255] == 0


def sequence(**changes):
    return load_config("unet3d", ["labels.scheme=vertebrae", "labels.naming=sequence", *changes.get("also", [])])


def test_the_network_of_a_sequence_has_three_channels_and_its_loss_takes_bones():
    config = sequence(also=["loss.name=dice_ce"])
    loss = build_loss(config.loss, config.labels, config.grid.spacing_mm)
    assert isinstance(loss, PartsLoss)
    ids = torch.zeros((2, 1, 8, 8, 8), dtype=torch.uint8)
    ids[:, :, 2:6] = 9
    ids[:, :, 6:] = 10
    target = parts_of(ids, config.grid.spacing_mm).long()
    sure = 20.0 * torch.nn.functional.one_hot(target[:, 0], 3).movedim(-1, 1).float()
    assert loss(sure, ids) < 0.01
    assert loss(-sure, ids) > 0.5
    assert config.labels.network_scheme.output_channels == 3


def test_ignored_voxels_stay_so_and_are_no_neighbour_of_a_bone():
    ids = np.random.default_rng(2).choice([0, 0, 0, 0, 0, 5, 6, IGNORED], (9, 11, 7)).astype(np.uint8)
    ids[:5, :4] = 3
    ids[5:, :4] = IGNORED
    expected = plainly(np.where(ids == IGNORED, 0, ids), SPACING_MM)
    assert np.array_equal(parts(ids), np.where(ids == IGNORED, IGNORED, expected))


def binary(*also):
    return load_config("unet3d", list(also))


LOSSES = {
    "binary dice": binary("loss.name=dice"),
    "binary bce": binary("loss.name=bce"),
    "binary dice_ce": binary("loss.name=dice_ce"),
    "sequence": sequence(also=["loss.name=dice_ce"]),
    "direct": load_config("unet3d", ["labels.scheme=vertebrae", "loss.name=dice_ce"]),
}


@pytest.mark.parametrize("joint", [False, True])
@pytest.mark.parametrize(
    ("name", "setting"),
    [
        *((name, "cut_vertebrae") for name in LOSSES),
        ("binary dice", "automatic_borders"),
        ("direct", "automatic_borders"),
    ],
)
def test_ignored_voxels_teach_nothing_and_cost_nothing(name, joint, setting):
    plain = LOSSES[name]
    config = plain.model_copy(update={"labels": plain.labels.model_copy(update={setting: "ignore"})})

    def build(settings):
        arguments = settings.loss, settings.labels, settings.grid.spacing_mm
        return build_loss(*arguments, (lambda sums: sums) if joint else None)

    loss, loss_without = build(config), build(plain)
    channels = config.labels.network_scheme.output_channels
    random = torch.Generator().manual_seed(5)
    ids = torch.zeros((2, 1, 12, 10, 8), dtype=torch.uint8)
    ids[:, :, 2:6, 2:8] = 1
    ids[1, :, 6:9, 2:8] = 1 if channels == 1 else 2
    known = ids.clone()
    ids[:, :, 9:, :5] = IGNORED
    ignored = (ids == IGNORED).expand(-1, channels, -1, -1, -1)
    logits = torch.randn((2, channels, *ids.shape[2:]), generator=random).requires_grad_()
    other = torch.where(ignored, torch.randn(logits.shape, generator=random) * 9, logits.detach())
    # Whatever the network says there, the loss and what follows from it are the same.
    assert torch.equal(loss(logits, ids), loss(other, ids))
    (slope,) = torch.autograd.grad(loss(logits, ids), logits)
    assert not slope[ignored].any() and bool(slope[~ignored].any()) and bool(torch.isfinite(slope).all())
    # The oracle: background there, and a network that is sure of it.
    sure = torch.full_like(other, -60.0)
    sure[:, 0] = 60.0 if channels > 1 else -60.0
    expected = loss_without(torch.where(ignored, sure, logits.detach()), known)
    assert float(loss(logits, ids).detach()) == pytest.approx(float(expected), abs=1e-6)
    # Without voxels to ignore nothing changes.
    assert torch.equal(loss(logits, known), loss_without(logits, known))


def test_only_the_config_of_named_vertebrae_ignores_cut_ones():
    shipped = {name: load_config(name).labels.ignores_cut for name in ("vertebrae", "vertebrae-direct", "unet3d")}
    assert shipped == {"vertebrae": True, "vertebrae-direct": False, "unet3d": False}
    assert not parse_config({}).labels.ignores_cut


def test_naming_is_direct_unless_a_config_says_otherwise():
    assert parse_config({"labels": {"scheme": "vertebrae"}}).labels.naming == "direct"
    assert parse_config({}).labels.network_scheme.name == "binary"


def test_a_sequence_needs_vertebrae():
    with pytest.raises(ConfigError, match=r"labels\.naming: sequence names vertebrae"):
        parse_config({"labels": {"naming": "sequence"}})


@pytest.mark.parametrize("mode", ["2d", "2.5d"])
def test_slices_cannot_be_named_by_sequence(mode):
    name = {"2d": "slices2d", "2.5d": "slices25d"}[mode]
    config = load_config(name, ["labels.scheme=vertebrae", "labels.naming=sequence"])
    with pytest.raises(ConfigError, match=r"labels\.naming: slices do not show"):
        require_suitable(config)
