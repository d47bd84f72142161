"""Borders of masks that a program made teach nothing, and only those."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from tests.data.samples.cases import config, job, store_in
from tests.scans import write_nifti
from verse3d.core.config import load_config
from verse3d.core.errors import ConfigError
from verse3d.core.labels import IGNORED
from verse3d.data.cases import Case
from verse3d.data.samples.ignored import Ignored, ignore_borders
from verse3d.data.samples.stored import StoredCases

PLUS = ndimage.generate_binary_structure(3, 1)


def bordered(ids):
    """What ``ignore_borders`` is to do, by another program."""
    largest, smallest = (
        find(ids, footprint=PLUS, mode="nearest") for find in (ndimage.maximum_filter, ndimage.minimum_filter)
    )
    return np.where(largest != smallest, IGNORED, ids)


@pytest.mark.parametrize("shape", [(1, 1, 1), (1, 7, 4), (9, 8, 13)])
@pytest.mark.parametrize("levels", [[0], [0, 1], [0, 20, 21]])
def test_a_voxel_beside_another_id_is_ignored(shape, levels):
    ids = np.random.default_rng(3).choice(np.array(levels, np.uint8), shape)
    ids = np.repeat(np.repeat(np.repeat(ids, 3, 0), 4, 1), 3, 2)
    expected = bordered(ids)
    ignore_borders(ids)
    np.testing.assert_array_equal(ids, expected)
    assert (ids != IGNORED).any() or len(levels) > 1


@pytest.fixture
def blocks(tmp_path):
    """The files of a scan with two vertebrae that touch."""
    ids = np.zeros((24, 20, 30), np.uint8)
    ids[8:16, 5:15, 4:14], ids[8:16, 5:15, 14:24] = 21, 20
    affine = nib.affines.from_matvec(np.diag([-2.0, 2.0, 2.0]), (20.0, -10.0, 5.0))
    write_nifti(tmp_path / "ct.nii.gz", np.where(ids > 0, 400, -50).astype(np.int16)[::-1], affine)
    write_nifti(tmp_path / "msk.nii.gz", ids[::-1], affine)
    return tmp_path


@pytest.mark.parametrize("scheme", ["binary", "vertebrae", "bones"])
def test_only_masks_of_a_program_lose_their_borders_and_only_for_who_wants_it(blocks, scheme):
    settings, store = config((2.0, 2.0, 2.0)), store_in(blocks)
    start, size = (-2, 0, 3), (30, 20, 24)

    def read(*, automatic, ignored):
        case = Case("a", "a", blocks / "ct.nii.gz", blocks / "msk.nii.gz", split="train", automatic=automatic)
        return StoredCases([job(store, case, settings)], scheme, ignored)[0].read(start, size)[1]

    plain = read(automatic=False, ignored=Ignored())
    np.testing.assert_array_equal(read(automatic=True, ignored=Ignored()), plain)
    np.testing.assert_array_equal(read(automatic=False, ignored=Ignored(automatic_borders=True)), plain)
    unsure = read(automatic=True, ignored=Ignored(automatic_borders=True))
    np.testing.assert_array_equal(unsure, bordered(plain))
    assert set(np.unique(unsure)) == {*np.unique(plain), IGNORED}
    # Nothing was prepared twice: what teaches nothing is decided when patches are read.
    assert len(store.names()) == 1


def test_borders_are_the_same_however_the_boxes_lie_that_are_read(blocks):
    case = Case("a", "a", blocks / "ct.nii.gz", blocks / "msk.nii.gz", split="train", automatic=True)
    jobs = [job(store_in(blocks), case, config((2.0, 2.0, 2.0)))]
    source = StoredCases(jobs, "binary", Ignored(automatic_borders=True))[0]
    shape = source.geometry.shape
    whole = source.read((0, 0, 0), shape)[1]
    # A slice, as the slice modes read it: what lies beside it counts.
    slices = [source.read((i, 0, 0), (1, *shape[1:]))[1] for i in range(shape[0])]
    np.testing.assert_array_equal(np.concatenate(slices), whole)
    assert (whole[8] == IGNORED)[6:14, 6:22].all() and not (whole[11] == IGNORED)[6:14, 6:12].any()


def test_borders_between_bones_are_learnt_where_names_come_from_their_sequence():
    with pytest.raises(ConfigError, match=r"labels\.automatic_borders: ignore would leave nothing that parts one bone"):
        load_config("vertebrae", ["labels.automatic_borders=ignore"])
