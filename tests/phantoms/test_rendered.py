"""CT drawn around the vertebrae of a mask: exact truth, the mask's own shapes, the same bytes for the same seed."""

import json

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import apply_orientation, axcodes2ornt, inv_ornt_aff, ornt_transform

from verse3d import api
from verse3d.cli import main
from verse3d.core.errors import ConfigError, DataError, GeometryError
from verse3d.core.geometry import Geometry
from verse3d.core.phantom_sidecar import SOURCE, is_phantom
from verse3d.phantoms import write_phantom
from verse3d.phantoms.bone_tissue import BoneTissue
from verse3d.phantoms.deformation import draw_deformation
from verse3d.phantoms.fitted import fitted_spine
from verse3d.phantoms.grid import Block
from verse3d.phantoms.mask_shapes import read_shapes
from verse3d.phantoms.profile import profile_of
from verse3d.phantoms.render import Density, Drawn
from verse3d.phantoms.rendered import make_rendered
from verse3d.phantoms.soft_variation import fill_canal
from verse3d.phantoms.spine import rotation_matrix

STEP, NAMES = 22, ("L2", "L3", "L4")
SEED = 6


def tiny_spine() -> np.ndarray:
    """Three small vertebrae, L2 to L4, with a round body, a canal and an arch whose right process is longer (RAS)."""
    mask = np.zeros((31, 40, 3 * STEP + 14), np.float64)
    x, y = np.meshgrid(np.arange(31) - 15, np.arange(40) - 26, indexing="ij")
    body, arch = x**2 + y**2 <= 81, (np.hypot(x, y + 15) <= 8) & (np.hypot(x, y + 14) > 4) & (y < -8)
    process = (np.abs(y + 16) <= 2) & (x > 5) & (x < 13)
    for number, label in enumerate((23, 22, 21)):
        bottom = 12 + number * STEP
        mask[:, :, bottom : bottom + 15][body] = label
        mask[:, :, bottom + 2 : bottom + 10][arch | process] = label
    return mask


def write(path, mask, spacing=(1.0, 1.0, 1.0), codes="RAS", rotation=None):
    """The mask with its axes stored as ``codes``, in a scanner that is turned by ``rotation``; float64, qform 0."""
    affine = np.diag([*spacing, 1.0])
    change = ornt_transform(axcodes2ornt("RAS"), axcodes2ornt(codes))
    stored, affine = apply_orientation(mask, change), affine @ inv_ornt_aff(change, mask.shape)
    if rotation is not None:
        affine[:3] = rotation @ affine[:3]
    nib.save(nib.Nifti1Image(stored, affine), path)
    return path


@pytest.fixture(scope="module")
def mask_file(tmp_path_factory):
    return write(tmp_path_factory.mktemp("masks") / "tiny_seg.nii.gz", tiny_spine())


@pytest.fixture(scope="module")
def shapes(mask_file):
    return read_shapes(mask_file)


@pytest.fixture(scope="module")
def case(shapes):
    return make_rendered(shapes, SEED)


def test_image_and_truth_lie_on_one_grid_and_labels_come_from_the_mask_alone(case):
    assert case.image_hu.shape == case.mask.shape == case.geometry.shape
    assert case.image_hu.dtype == np.int16 and case.mask.dtype == np.uint8
    assert case.levels == NAMES and set(np.unique(case.mask)) == {0, 21, 22, 23}


def test_volumes_are_those_of_the_mask_scaled_by_the_deformation(case):
    for label in (21, 22, 23):
        volume = np.count_nonzero(case.mask == label) * case.geometry.voxel_ml
        # .85 to 1.15 per axis, and the smooth displacement changes a little more
        assert 0.5 < volume / (np.count_nonzero(tiny_spine() == label) / 1000) < 1.7


def test_bone_is_brighter_than_what_surrounds_it(case):
    bone = case.mask > 0
    assert case.image_hu[bone].mean() > case.image_hu[~bone].mean() + 100


def test_bone_beyond_the_ends_is_drawn_as_dense_and_not_labelled(shapes):
    case = make_rendered(shapes[1:2], SEED)
    assert case.levels == ("L3",)
    heights = case.geometry.world_from_index(np.argwhere((case.image_hu > 250) & (case.mask == 0)))[:, 2]
    own = case.geometry.world_from_index(np.argwhere(case.mask == 22))[:, 2]
    assert (heights > own.max()).sum() + (heights < own.min()).sum() > 50


def test_centroids_lie_in_their_vertebra(case):
    assert list(case.centroids) == [21, 22, 23]
    for label, point in case.centroids.items():
        assert case.mask[tuple(np.round(point).astype(int))] == label


def test_the_same_numbers_give_the_same_voxels_and_others_do_not(case, shapes):
    again = make_rendered(shapes, SEED)
    assert np.array_equal(again.image_hu, case.image_hu) and np.array_equal(again.mask, case.mask)
    assert make_rendered(shapes, SEED, 2).geometry != case.geometry


@pytest.mark.parametrize("codes", ["PIR", "LPS"])
def test_a_flipped_and_oblique_mask_gives_the_shapes_of_the_upright_one(tmp_path, shapes, codes):
    turned = write(tmp_path / "turned.nii", tiny_spine(), codes=codes, rotation=rotation_matrix(14.0, -8.0, 9.0))
    for one, other in zip(shapes, read_shapes(turned), strict=True):
        assert one.name == other.name
        np.testing.assert_allclose(one.distance, other.distance, atol=1e-3)
        np.testing.assert_allclose(one.centre, other.centre, atol=1e-3)


def test_thick_slices_leave_no_steps(tmp_path, shapes):
    thick = read_shapes(write(tmp_path / "thick.nii", tiny_spine()[1::3], (3.0, 1.0, 1.0)))
    for fine, coarse in zip(shapes, thick, strict=True):
        assert coarse.step.max() < 1.1
        points = fine.origin[:, None] + fine.step[:, None] * np.argwhere(np.abs(fine.distance) < 1).T
        # The grid of the thick one begins at the second sample.
        distance = coarse.at(points - np.array([[1.0], [0.0], [0.0]]))
        assert np.abs(distance).mean() < 1.0 and np.abs(distance).max() < 4.0


def test_vertebrae_that_an_end_of_the_mask_cuts_are_left_out(tmp_path):
    cut = tiny_spine()[:, :, 18:]
    assert [shape.name for shape in read_shapes(write(tmp_path / "cut.nii", cut))] == ["L2", "L3"]
    with pytest.raises(DataError, match="no whole vertebra"):
        read_shapes(write(tmp_path / "none.nii", tiny_spine()[:, :, 16:24]))


def test_the_centre_of_an_atlas_lies_in_bone_and_not_in_the_canal_between_its_masses(tmp_path):
    mask = np.zeros((41, 20, 40))
    mask[2:16, 3:17, 24:34] = mask[25:39, 3:17, 24:34] = mask[2:39, 14:17, 27:30] = 1
    mask[12:29, 3:17, 6:20] = 2
    for shape in read_shapes(write(tmp_path / "neck.nii", mask)):
        assert shape.at(shape.centre[:, None])[0] < -0.8 * shape.radius


def test_a_deformation_is_undone_by_its_inverse():
    deformation = draw_deformation(np.random.default_rng(2), np.zeros(3), np.array([90.0, 80.0, 200.0]))
    points = np.random.default_rng(3).uniform(0, 80, (40, 3))
    back = deformation.source(deformation.drawn_at(points).T).T
    np.testing.assert_allclose(back, points, atol=0.1)


def test_a_fitted_spine_stands_where_the_mask_does_and_goes_on_beyond():
    centres = {"T11": np.array([0.0, 0.0, 60.0]), "L1": np.array([1.0, 3.0, 30.0])}
    spine = fitted_spine(np.random.default_rng(0), centres, {"T11": 22.0, "L1": 24.0})
    names = spine.names()
    assert names[:2] == ["C1", "C2"] and names[-1] == "L5" and "T12" not in names
    assert np.array_equal(spine.named("L1").pose.centre, centres["L1"])
    heights = [vertebra.pose.centre[2] for vertebra in spine.vertebrae] + [spine.sacrum.centre[2]]
    assert np.all(np.diff(heights) < -5)


def test_bone_has_a_soft_outline_a_dense_shell_and_a_spongy_core():
    depth = np.linspace(0.0, 12.0, 60, dtype=np.float32)[None, None]
    one = np.ones(3, np.int64)
    item = Drawn("L3", Block(0 * one, np.array(depth.shape), one), -depth, -depth)
    density = Density(core_hu=120.0, shell_hu=800.0, shell_mm=1.0, joint_mm=1.0)
    for seed in range(6):
        tissue = BoneTissue.drawn(np.random.default_rng(seed), density, ["L3"])
        hu = tissue.hu(item, np.zeros(depth.shape, np.float32))[0, 0]
        shell = hu[(depth[0, 0] > tissue.inset_mm + 0.4) & (depth[0, 0] < tissue.inset_mm + 0.9)].mean()
        assert shell > hu[0] + 20 and shell > hu[30:].mean() + 50
        assert 40 < hu[30:].mean() < 220


def test_the_canal_is_filled_with_contrast_in_some_cases_and_around_the_cord_alone():
    spine = fitted_spine(np.random.default_rng(0), {"L2": np.zeros(3)}, {"L2": 26.0})
    profile = profile_of(spine, np.random.default_rng(0))
    geometry = Geometry((60, 80, 6), np.array([[1, 0, 0, -30], [0, 1, 0, -55], [0, 0, 1, 0], [0, 0, 0, 1.0]]))
    brightest = []
    for seed in range(40):
        hu = np.zeros(geometry.shape, np.float32)
        fill_canal(hu, profile, geometry, np.random.default_rng(seed))
        brightest.append(hu.max())
        if hu.max() > 0:
            x, y, _ = geometry.world_from_index(np.argwhere(hu > 100)).T
            canal = profile.tables["canal_y"][profile.rows(np.float32(0.0))]
            assert np.hypot(x, y - canal).max() < 12 and np.hypot(x, y - canal).min() > 1
    assert 0 < np.count_nonzero(brightest) < 15 and max(brightest) > 150


def test_written_cases_name_their_mask_and_are_the_same_bytes_each_time(tmp_path, mask_file):
    first, second = (write_phantom(tmp_path / name, cases=1, seed=SEED, masks=[mask_file]) for name in "ab")
    assert first[0].read_bytes() == second[0].read_bytes()
    told = json.loads((first[0].parent / "sub-verse1000_ct.json").read_text())
    assert told[SOURCE] == "tiny_seg.nii.gz" and is_phantom(first[0])


def test_masks_take_turns(tmp_path, mask_file, case, monkeypatch):
    monkeypatch.setattr("verse3d.phantoms.writer.make_rendered", lambda *_: case)
    other = write(tmp_path / "other_seg.nii.gz", tiny_spine())
    images = api.phantom(tmp_path / "out", cases=2, seed=SEED, masks=[tmp_path, mask_file.parent])
    sidecars = [json.loads((image.parent / f"{image.name[:-7]}.json").read_text()) for image in images]
    assert {told[SOURCE] for told in sidecars} == {other.name, mask_file.name}


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        (lambda mask: mask * 0, DataError, "empty"),
        (lambda mask: (mask > 0) * 1.0, DataError, "binary"),
        (lambda mask: mask + (mask > 0) * 3, DataError, r"unknown label ids \[26\]"),
        (lambda mask: np.broadcast_to(mask[..., :1], (*mask.shape[:2], 4)) + 0.5, DataError, "whole number"),
    ],
)
def test_masks_that_are_none_of_verse_are_refused_before_anything_is_written(tmp_path, change, error, words):
    mask = write(tmp_path / "bad_seg.nii", change(tiny_spine()))
    with pytest.raises(error, match=words):
        api.phantom(tmp_path / "out", cases=1, masks=mask)
    assert not (tmp_path / "out").exists()


def test_a_mask_that_is_too_large_or_on_no_grid_of_a_ct_is_refused(tmp_path, mask_file, monkeypatch):
    with pytest.raises(GeometryError, match="cannot be those of a CT"):
        read_shapes(write(tmp_path / "huge_seg.nii", tiny_spine(), (150.0, 1.0, 1.0)))
    monkeypatch.setattr("verse3d.phantoms.mask_shapes._MOST_VOXELS", 1000)
    with pytest.raises(DataError, match="too large"):
        read_shapes(mask_file)


def test_no_mask_negative_seeds_and_anomalies_are_refused(tmp_path, mask_file, capsys):
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3), np.int16), np.eye(4)), tmp_path / "a_ct.nii.gz")
    assert main(["phantom", str(tmp_path / "out"), "--masks", str(tmp_path)]) == 3
    assert "there is no mask in" in capsys.readouterr().err
    with pytest.raises(DataError, match="no mask"):
        write_phantom(tmp_path / "out", masks=[])
    with pytest.raises(ConfigError, match="own anomalies"):
        write_phantom(tmp_path / "out", masks=[mask_file], anomalies=True)
    with pytest.raises(DataError, match="negative"):
        write_phantom(tmp_path / "out", masks=[mask_file], seed=-1)
