import numpy as np
import pytest

from verse3d.core.errors import ConfigError, DataError
from verse3d.core.labels import VERSE_IDS, VERTEBRAE, label_scheme, unknown_ids, vertebra

NAMES = {
    **{number: f"C{number}" for number in range(1, 8)},
    **{number + 7: f"T{number}" for number in range(1, 13)},
    **{number + 19: f"L{number}" for number in range(1, 7)},
    28: "T13",
}


def test_the_table_holds_the_26_vertebrae_of_verse():
    assert {label.id: label.name for label in VERTEBRAE} == NAMES
    assert set(NAMES) == VERSE_IDS


def test_the_table_runs_from_head_to_tail_with_t13_between_t12_and_l1():
    names = [label.name for label in VERTEBRAE]
    assert names[:3] == ["C1", "C2", "C3"]
    assert names[names.index("T12") : names.index("T12") + 3] == ["T12", "T13", "L1"]
    assert names[-2:] == ["L5", "L6"]


def test_every_vertebra_has_a_name_and_a_colour_of_its_own():
    assert len({label.name for label in VERTEBRAE}) == 26
    assert len({label.rgb for label in VERTEBRAE}) == 26
    assert all(0 <= part <= 255 for label in VERTEBRAE for part in label.rgb)


def test_neighbouring_vertebrae_differ_clearly_in_colour():
    colours = np.array([label.rgb for label in VERTEBRAE])
    assert np.linalg.norm(np.diff(colours, axis=0), axis=1).min() > 100


@pytest.mark.parametrize("key", [28, "T13", "t13", np.uint8(28), np.int64(28)])
def test_a_vertebra_is_found_by_id_or_name(key):
    assert (vertebra(key).id, vertebra(key).name) == (28, "T13")


@pytest.mark.parametrize("key", [0, 26, 27, 29, -1, "S1", "", "T14", np.uint8(26)])
def test_an_unknown_vertebra_is_refused_with_what_was_asked(key):
    with pytest.raises(DataError, match=r"known: 1-25 and 28") as caught:
        vertebra(key)
    assert repr(key) in str(caught.value)


def test_unknown_ids_leaves_out_background_and_vertebrae():
    assert unknown_ids([0, 1, 25, 28]) == []
    assert unknown_ids(np.array([300, 27, 1, 26, 26, -4])) == [-4, 26, 27, 300]


@pytest.mark.parametrize("dtype", [np.uint8, np.int16, np.uint16, np.int64, ">i2"])
@pytest.mark.parametrize("order", ["C", "F"])
def test_network_ids_are_contiguous_and_lead_back_to_the_same_mask(dtype, order):
    scheme = label_scheme("vertebrae")
    mask = np.array([0, *sorted(VERSE_IDS)], dtype=dtype).reshape(3, 3, 3, order=order)
    network = scheme.network_from_verse(mask)
    assert network.dtype == np.uint8
    assert sorted(network.ravel().tolist()) == list(range(27))
    np.testing.assert_array_equal(scheme.file_from_network(network), mask)


def test_only_t13_gets_another_id_in_the_network():
    mask = np.array([1, 19, 20, 25, 28], dtype=np.uint8)
    assert label_scheme("vertebrae").network_from_verse(mask).tolist() == [1, 19, 20, 25, 26]


def test_the_binary_scheme_makes_every_vertebra_one():
    scheme = label_scheme("binary")
    network = scheme.network_from_verse(np.array([[0, *sorted(VERSE_IDS)]], dtype=np.uint8))
    assert network.tolist() == [[0] + [1] * 26]
    assert scheme.file_from_network(network).tolist() == network.tolist()


def test_a_scheme_says_how_many_channels_the_network_needs():
    assert label_scheme("binary").output_channels == 1
    assert label_scheme("vertebrae").output_channels == 27


@pytest.mark.parametrize("name", ["binary", "vertebrae"])
@pytest.mark.parametrize(
    ("dtype", "bad"),
    [(np.uint8, [26, 27]), (np.uint16, [26, 27, 300]), (np.int32, [-1, 26, 27, 300]), (np.float64, [26, 27, 300])],
)
def test_unknown_ids_in_a_mask_are_all_named(name, dtype, bad):
    mask = np.zeros((4, 5, 6), dtype=np.int64)
    mask.flat[: len(bad)] = bad
    mask.flat[10:13] = 1, 25, 28
    with pytest.raises(DataError) as caught:
        label_scheme(name).network_from_verse(mask.astype(dtype))
    assert str(bad) in str(caught.value)
    assert caught.value.hint


def test_a_single_unknown_voxel_is_found_anywhere_in_a_large_mask():
    mask = np.zeros((130, 130, 130), dtype=np.uint8)  # larger than one counted piece
    mask[-1, -1, -1] = 26
    with pytest.raises(DataError, match=r"\[26\]"):
        label_scheme("vertebrae").network_from_verse(mask)


@pytest.mark.parametrize("shape", [(0, 3), (1,), ()])
def test_masks_of_any_shape_are_mapped(shape):
    assert label_scheme("vertebrae").network_from_verse(np.full(shape, 28, dtype=np.uint8)).shape == shape


def test_an_unknown_scheme_is_refused_with_the_known_ones():
    with pytest.raises(ConfigError, match=r"'vertebra' is unknown.*binary.*vertebrae"):
        label_scheme("vertebra")
