"""What is read from a store equals what is prepared in memory."""

import pickle

import numpy as np
import pytest

from tests.data.samples.cases import LONG, OBLIQUE, config, job, store_in, write_case
from tests.scans import PIR, Spine, spine
from verse3d.core.geometry import Geometry
from verse3d.data.cases import Case
from verse3d.data.samples import arrays
from verse3d.data.samples.blocks import CentreDraw, DamagedEntryError, LabelBlocks
from verse3d.data.samples.entry import UNDECIDED
from verse3d.data.samples.stored import StoredCases
from verse3d.data.samples.transforms import prepare_case

GRIDS = {"PIR": PIR, "oblique": OBLIQUE, "long": LONG}


def stored(folder, cases, settings) -> StoredCases:
    store = store_in(folder)
    return StoredCases([job(store, case, settings) for case in cases], settings.labels.scheme)


@pytest.mark.parametrize("scheme", ["vertebrae", "binary"])
@pytest.mark.parametrize("name", GRIDS)
def test_voxels_equal_those_of_the_chain_in_memory_however_many_threads_pack_them(tmp_path, monkeypatch, name, scheme):
    monkeypatch.setattr(arrays, "thread_count", lambda: {"vertebrae": 1, "binary": 3}[scheme])
    settings = config(scheme=scheme)
    case = write_case(tmp_path, geometry=GRIDS[name], relabel=((20, 21),))
    expected, found = prepare_case(case, settings), stored(tmp_path, [case], settings)[0]
    image, ids = found.read((0, 0, 0), expected.geometry.shape)
    assert (image.dtype, ids.dtype) == (np.float16, np.uint8)
    np.testing.assert_array_equal(image, expected.image[0])
    np.testing.assert_array_equal(ids, expected.label[0])
    assert (found.geometry, found.source, found.case) == (expected.geometry, expected.source, "case0")
    assert ids.any()
    assert image.flags.writeable
    assert ids.flags.writeable


def test_one_store_serves_both_label_schemes_also_where_no_single_vertebra_wins(tmp_path):
    made = spine(0, LONG)
    made.mask = np.random.default_rng(0).choice(np.array([0, 7, 20, 28], np.uint8), LONG.shape)
    made.write(tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz")
    case = Case("mixed", "mixed", tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz")
    store = store_in(tmp_path)
    for scheme in ("vertebrae", "binary"):
        settings = config((1.7, 1.9, 1.5), scheme=scheme)
        found = StoredCases([job(store, case, settings)], scheme)[0]
        np.testing.assert_array_equal(
            found.read((0, 0, 0), found.geometry.shape)[1], prepare_case(case, settings).label[0]
        )
    (name,) = store.names()
    assert UNDECIDED in store.entry(name).blocks.code  # else this test shows nothing


@pytest.fixture(scope="module")
def long_case(tmp_path_factory):
    """The same case in memory and in a store."""
    folder, settings = tmp_path_factory.mktemp("long"), config()
    case = write_case(folder, geometry=LONG)
    return prepare_case(case, settings), stored(folder, [case], settings)[0]


@pytest.mark.parametrize("start", [(0, 0, 0), (-5, -70, 3), (7, 30, 60), (1, 200, 1), (-300, 0, 0)])
@pytest.mark.parametrize("size", [(1, 1, 1), (9, 65, 33), (96, 96, 96)])
def test_a_box_reaches_beyond_the_volume_into_air_and_background(long_case, start, size):
    memory, disk = long_case
    index = np.ix_(*map(np.arange, start, np.add(start, size)))
    i, j, k = ((along >= 0) & (along < length) for along, length in zip(index, memory.geometry.shape, strict=True))
    for source in (memory, disk):
        for found, whole in zip(source.read(start, size), (memory.image[0], memory.label[0]), strict=True):
            nearest = whole[tuple(np.clip(along, 0, size - 1) for along, size in zip(index, whole.shape, strict=True))]
            np.testing.assert_array_equal(found, np.where(i & j & k, nearest, 0))


def test_the_labelled_part_of_a_box_is_the_smallest_one_of_whole_blocks():
    labels = np.zeros((70, 100, 45), np.uint8)
    labels[33:40, 20:70, 31:33] = 3
    labels[69, 99, 44] = 255
    blocks, random = LabelBlocks.of(labels), np.random.default_rng(0)
    for _ in range(200):
        start = tuple(int(number) for number in random.integers(-40, 100, 3))
        size = tuple(int(number) for number in random.integers(1, 90, 3))
        # Voxel by voxel: a block counts if it holds a label anywhere, and the part is where it meets the box.
        bounds = [
            [(max(a, first), min(a + 32, first + length)) for a, first, length in zip(block, start, size, strict=True)]
            for block in {tuple(voxel // 32 * 32) for voxel in np.argwhere(labels)}
        ]
        met = np.array([bound for bound in bounds if all(low < high for low, high in bound)])
        found = blocks.labelled_part(start, size)
        if not len(met):
            assert found is None
            continue
        low, high = met[:, :, 0].min(axis=0), met[:, :, 1].max(axis=0)
        assert found == (tuple(low), tuple(high - low))


@pytest.mark.parametrize("fraction", [0.0, 0.5, 1.0])
def test_centres_are_the_same_from_memory_and_from_disk_and_of_the_wanted_kind(long_case, fraction):
    memory, disk = long_case
    one, two = np.random.RandomState(3), np.random.RandomState(3)
    labelled = []
    for _ in range(50):
        centre = disk.draw_centre(fraction, one)
        np.testing.assert_array_equal(centre, memory.draw_centre(fraction, two))
        labelled.append(memory.label[0][tuple(centre)] > 0)
    assert one.random_sample() == two.random_sample()
    assert {0.0: not any(labelled), 1.0: all(labelled), 0.5: 10 < sum(labelled) < 40}[fraction]


def test_every_voxel_of_a_kind_is_drawn_equally_often(long_case):
    memory, _ = long_case
    random = np.random.RandomState(0)
    drawn = np.array([memory.draw_centre(1.0, random) for _ in range(4000)])
    where = np.argwhere(memory.label[0])
    # Means along each axis, against the spread of a mean of 4000.
    error = where.std(axis=0) / np.sqrt(len(drawn))
    assert (np.abs(drawn.mean(axis=0) - where.mean(axis=0)) < 4 * error).all()
    assert len(np.unique(drawn, axis=0)) > 1500


def test_the_small_copy_is_the_case_prepared_at_4_mm(tmp_path):
    case = write_case(tmp_path, geometry=OBLIQUE)
    found = stored(tmp_path, [case], config())[0]
    expected = prepare_case(case, config((4.0, 4.0, 4.0)))
    image, ids = found.read_coarse()
    np.testing.assert_array_equal(image, expected.image[0])
    np.testing.assert_array_equal(ids, expected.label[0])
    assert found.coarse == expected.geometry


@pytest.mark.parametrize("scheme", ["binary", "vertebrae"])
def test_the_small_copy_tells_verse_ids_whatever_the_label_scheme_is(tmp_path, scheme):
    case = write_case(tmp_path, geometry=LONG, ids=(19, 20, 28))
    found = stored(tmp_path, [case], config(scheme=scheme))[0]
    image, ids = found.read_coarse_levels()
    np.testing.assert_array_equal(image, found.read_coarse()[0])
    assert set(np.unique(ids)) - {UNDECIDED} == {0, 19, 20, 28}
    np.testing.assert_array_equal(ids > 0, stored(tmp_path, [case], config(scheme="binary"))[0].read_coarse()[1] > 0)


def test_of_a_binary_mask_the_small_copy_tells_some_vertebra(tmp_path):
    made = spine(0, LONG, (19, 20, 21))
    made.mask[made.mask > 0] = 1
    made.write(tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz")
    case = Case("binary", "binary", tmp_path / "ct.nii.gz", tmp_path / "msk.nii.gz")
    found = stored(tmp_path, [case], config(scheme="binary"))[0]
    assert set(np.unique(found.read_coarse_levels()[1])) == {0, UNDECIDED}


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 40, 1), (31, 33, 65)])
def test_volumes_smaller_than_a_chunk_a_block_or_a_patch_are_stored(tmp_path, shape):
    geometry = Geometry(shape, np.diag([1.5, 1.5, 1.5, 1.0]))
    mask = np.zeros(shape, np.uint8)
    mask[-1, -1, -1] = 20
    made = Spine(np.random.default_rng(0).integers(-300, 1300, shape).astype(np.int16), mask, geometry)
    made.write(tmp_path / "ct.nii", tmp_path / "msk.nii")
    case = Case("tiny", "tiny", tmp_path / "ct.nii", tmp_path / "msk.nii")
    expected, found = prepare_case(case, config()), stored(tmp_path, [case], config())[0]
    for one, other in zip(
        found.read((-2, -2, -2), (70, 70, 70)), expected.read((-2, -2, -2), (70, 70, 70)), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    one, two = np.random.RandomState(0), np.random.RandomState(0)
    np.testing.assert_array_equal(found.draw_centre(1.0, one), expected.draw_centre(1.0, two))


def test_a_case_without_any_label_gives_centres_elsewhere(tmp_path):
    case = write_case(tmp_path, ids=())
    found = stored(tmp_path, [case], config())[0]
    centre = found.draw_centre(1.0, np.random.RandomState(0))
    assert (centre >= 0).all()
    assert (centre < found.geometry.shape).all()


def test_the_cases_travel_to_another_process_without_their_files(tmp_path):
    settings = config()
    cases = [write_case(tmp_path, f"case{number}", seed=number) for number in range(3)]
    here = stored(tmp_path, cases, settings)
    before = here[1].read((0, 0, 0), (9, 9, 9))
    text = pickle.dumps(here)
    there = pickle.loads(text)
    assert len(text) < 10_000
    assert len(there) == 3
    for one, other in zip(there[1].read((0, 0, 0), (9, 9, 9)), before, strict=True):
        np.testing.assert_array_equal(one, other)
    with pytest.raises(IndexError):
        there[3]


def test_asking_all_cases_for_their_grey_values_opens_none_for_good(tmp_path):
    cases = stored(tmp_path, [write_case(tmp_path, f"case{number}", seed=number) for number in range(3)], config())
    for number, case in enumerate(cases.each()):
        case.open()
        if number != 1:  # one is in use
            case.close()
    measures = [case.tissue_hu() for case in cases.each()]
    assert all(measures)
    assert [case._opened is not None for case in cases.each()] == [False, True, False]


def test_a_count_that_the_stored_labels_contradict_is_damage_and_nothing_is_drawn():
    labels = np.zeros((40, 8, 8), np.uint8)
    labels[33, 2, 2] = 7
    draw = CentreDraw(LabelBlocks.of(labels), np.arange(256) > 0)
    nothing = np.zeros((8, 8, 8), np.uint8)
    with pytest.raises(DamagedEntryError, match="none of the labels"):
        draw.centre(1.0, [0.0, 0.0, 0.0], lambda start, size: nothing[: size[0], : size[1], : size[2]])
