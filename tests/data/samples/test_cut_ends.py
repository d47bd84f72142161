"""Bone that may be a cut vertebra teaches nothing; all other background stays background."""

import pickle

import nibabel as nib
import numpy as np
import pytest
import torch
from scipy import ndimage

from tests.data.samples.cases import config, job, store_in
from tests.scans import write_nifti
from verse3d.core.labels import BONES, IGNORED, vertebra
from verse3d.data.cases import Case
from verse3d.data.samples.augment import Augment
from verse3d.data.samples.cut import PatchCut
from verse3d.data.samples.cut_ends import (
    BESIDE_MM,
    BEYOND_MM,
    INTO_MM,
    LAST_MM,
    PackedMask,
    ignore,
    maybe_cut,
    open_ends,
)
from verse3d.data.samples.ignored import Ignored
from verse3d.data.samples.packing import PackedBatch
from verse3d.data.samples.patches import PatchDataset
from verse3d.data.samples.stored import StoredCases

SHAPE = (31, 29)
BONE = 0.5
NEXT = [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)]


def scene(levels=("T5", "T6", "T7"), *, above=6, below=5):
    """Blocks of bone at 4 mm: labelled ones of 8 planes, and unlabelled ones from them to both faces of the scan."""
    height = 8 * len(levels) + above + below + 4
    image, ids = np.zeros((*SHAPE, height), np.float16), np.zeros((*SHAPE, height), np.uint8)
    image[10:20, 8:22] = 0.6  # from face to face, but for two planes of disc at each end of the labels
    for number, name in enumerate(levels):
        top = height - above - 2 - 8 * number
        ids[10:20, 8:22, top - 8 : top] = vertebra(name).id if isinstance(name, str) else name
    for disc in (height - above - 2, below):
        image[..., disc : disc + 2] = 0.1
    image[2, 3] = 0.6  # a rib far beside the spine
    image[23, 8:12, 3:-3] = 0.6  # and something bright near it, which no face cuts
    return image, ids


def plainly(image, ids, bone, upper, lower):
    """The same from every voxel's distances, in mm, and by walking from the face of the scan."""
    labelled = np.argwhere(ids > 0)
    cut = np.zeros(ids.shape, bool)
    for sign, wanted in ((1, upper), (-1, lower)):
        face, last = (ids.shape[2] - 1 if sign > 0 else 0), (sign * labelled[:, 2]).max()
        if not wanted or (sign * face - last) * 4.0 > BEYOND_MM:
            continue
        end = labelled[(last - sign * labelled[:, 2]) * 4.0 < LAST_MM][:, :2]
        low, high = end.min(axis=0) - BESIDE_MM / 4.0, end.max(axis=0) + BESIDE_MM / 4.0
        open_, reached = {}, []
        for voxel in map(tuple, np.argwhere((image >= bone) & (ids == 0)).tolist()):
            beside = (low <= voxel[:2]).all() and (voxel[:2] <= high).all()
            if beside and (last - sign * voxel[2]) * 4.0 < INTO_MM:
                open_[voxel] = True
                reached += [voxel] if voxel[2] == face else []
        while reached:
            i, j, k = reached.pop()
            if open_.pop((i, j, k), False):
                cut[i, j, k] = True
                reached += [(i + a, j + b, k + c) for a, b, c in NEXT]
    near = np.zeros_like(cut)
    for i, j, k in np.argwhere(cut):
        for a, b, c in ((0, 0, 0), *NEXT):
            if all(0 <= at < size for at, size in zip((i + a, j + b, k + c), cut.shape, strict=True)):
                near[i + a, j + b, k + c] = True
    return near & (ndimage.distance_transform_cdt(ids == 0, "chessboard") > 1)


@pytest.mark.parametrize(
    ("levels", "upper", "lower"),
    [
        (("T5", "T6", "T7"), True, True),
        (("C1", "C2"), False, True),
        (("L4", "L5"), True, False),
        ((255, 255), True, True),
    ],
)
def test_unlabelled_bone_at_the_ends_is_what_a_plain_search_finds(levels, upper, lower):
    image, ids = scene(levels)
    assert open_ends(ids) == (upper, lower)
    found = maybe_cut(image, ids, BONE)
    np.testing.assert_array_equal(found, plainly(image, ids, BONE, upper, lower))
    assert found[14, 14, -1] == upper and found[14, 14, 0] == lower
    assert not found[2, 3].any() and not found[23].any() and not found[ids > 0].any()


def test_a_process_that_hangs_down_beside_the_uppermost_label_is_unknown_and_one_that_reaches_farther_is_not():
    image, ids = scene(above=6)
    top = int(np.flatnonzero(ids.any(axis=(0, 1)))[-1])
    image[14, 6, top - 12 :] = 0.6  # behind the labels, joined to the bone above
    found = maybe_cut(image, ids, BONE)
    np.testing.assert_array_equal(found, plainly(image, ids, BONE, upper=True, lower=True))
    assert found[14, 6, top - 6 :].all() and not found[14, 6, 20 : top - 8].any()


def test_where_the_scan_goes_on_for_longer_than_a_vertebra_nothing_is_cut():
    reach = int(BEYOND_MM / 4)
    for above, expected in ((reach - 2, True), (reach - 1, False)):  # two planes of disc come first
        image, ids = scene(above=above)
        assert maybe_cut(image, ids, BONE)[..., -3:].any() == expected


def test_a_mask_without_labels_hides_nothing():
    image, _ = scene()
    assert not maybe_cut(image, np.zeros(image.shape, np.uint8), BONE).any()


@pytest.mark.parametrize("start", [(0, 0, 0), (-7, 3, 20), (9, -4, -30), (300, 0, 0)])
def test_a_box_of_a_finer_grid_is_marked_voxel_by_voxel(start):
    spacing, size, shape = (1.25, 1.5, 0.8), (17, 23, 61), (41, 39, 80)
    random = np.random.default_rng(4)
    unknown = random.random((14, 16, 17)) < 0.3
    ids = random.choice(np.array([0, 0, 7], np.uint8), size)
    expected = ids.copy()
    for index in np.argwhere(ids == 0):
        fine = index + start
        if ((fine >= 0) & (fine < shape)).all():
            coarse = np.minimum(np.rint(fine * spacing / 4.0).astype(int), np.array(unknown.shape) - 1)
            expected[tuple(index)] = IGNORED if unknown[tuple(coarse)] else 0
    ignore(ids, start, unknown, shape, spacing)
    np.testing.assert_array_equal(ids, expected)


@pytest.fixture
def stored(tmp_path):
    """A case whose scan cuts vertebrae at both ends, in a store."""
    image, ids = scene()
    hu = np.where(image > 0.3, 500, -100).astype(np.int16)
    # Feet first, and left before right: what is up follows from the affine.
    affine = nib.affines.from_matvec(np.diag([-3.0, 3.5, -4.0]), (40.0, -30.0, 150.0))
    write_nifti(tmp_path / "ct.nii.gz", hu[::-1, :, ::-1], affine)
    write_nifti(tmp_path / "msk.nii.gz", ids[::-1, :, ::-1], affine)
    case = Case("cut", "cut", tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz", split="train")
    return store_in(tmp_path), case


SETTINGS = config(
    (2.0, 2.5, 2.0),
    sampling={"patch_voxels": [32, 32, 32], "batch_size": 3, "margin_voxels": [0, 0, 8]},
    network={"channels": [4, 8]},
    augment={"affine": 1.0, "elastic": 1.0, "mirror_left_right": 0.5},
)


@pytest.mark.parametrize("scheme", ["binary", "vertebrae", "bones"])
def test_a_store_gives_unknown_bone_to_whoever_wants_it_and_background_to_all_others(stored, scheme):
    store, case = stored
    jobs = [job(store, case, SETTINGS)]
    plain, unsure = (StoredCases(jobs, scheme, Ignored(cut=wanted))[0] for wanted in (False, True))
    start, size = (-3, 0, -9), tuple(length + 20 for length in plain.geometry.shape)
    (image, before), (same, after) = plain.read(start, size), unsure.read(start, size)
    np.testing.assert_array_equal(image, same)
    unknown = after == IGNORED
    assert unknown.any() and not before[unknown].any() and IGNORED not in before
    np.testing.assert_array_equal(np.where(unknown, 0, after), before)
    planes = np.flatnonzero((before > 0).any(axis=(0, 1)))
    assert unknown[..., planes[-1] + 1 :].any() and unknown[..., : planes[0]].any()
    # Air around the scan is known to be nothing.
    assert not unknown[..., :9].any() and not unknown[:3].any()
    assert len(store.names()) == 1
    # A worker process gets it by pickle.
    again = pickle.loads(pickle.dumps(StoredCases(jobs, scheme, Ignored(cut=True))))[0]
    np.testing.assert_array_equal(again.read(start, size)[1], after)


def test_turned_bent_and_mirrored_samples_of_a_batch_keep_their_unknown_bone(stored):
    store, case = stored
    cases = StoredCases([job(store, case, SETTINGS)], "bones", Ignored(cut=True))
    cut = PatchCut(SETTINGS.sampling, SETTINGS.augment, SETTINGS.grid.spacing_mm)
    boxes = list(PatchDataset(cases, cut, length=6, seed=3).epoch(1))
    batch = Augment(cut.size)(PackedBatch.of(boxes).on(torch.device("cpu")))["label"]
    assert sum(bool((sample == IGNORED).any()) for sample in batch) >= 2
    allowed = {0, IGNORED, BONES.undecided, *(vertebra(name).id for name in ("T5", "T6", "T7"))}
    assert set(batch.unique().tolist()) <= allowed
    # One after the other they are the same: a resumed run draws what it would have drawn.
    alone = [Augment(cut.size)(PackedBatch.of([box]).on(torch.device("cpu")))["label"][0] for box in boxes]
    assert all(torch.equal(one, other) for one, other in zip(alone, batch, strict=True))


@pytest.mark.parametrize("shape", [(3, 5, 7), (8, 8, 8), (1, 1, 1)])
@pytest.mark.parametrize("share", [0.0, 0.1, 1.0])
def test_a_packed_mask_is_what_was_packed(shape, share):
    mask = np.random.default_rng(0).random(shape) < share
    packed = PackedMask.of(mask)
    assert np.array_equal(packed.voxels(), mask)
    assert len(PackedMask.of(np.zeros((128, 128, 128), bool)).packed) < 2000
