"""Folds put every subject on one side, whatever the index."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse3d.core.errors import DataError
from verse3d.data.cases import Case, CaseIndex, read_index, write_index
from verse3d.data.splits import assign_folds, hold_out_fold, split_by_subject


def make(subjects: dict[str, list[bool]], splits=None, origin="release") -> CaseIndex:
    """A case per entry; True where it has a mask."""
    splits = splits or {}
    return CaseIndex(
        tuple(
            Case(
                f"{subject}-{number}",
                subject,
                f"/{subject}-{number}.nii.gz",
                f"/{subject}-{number}_seg.nii.gz" if masked else None,
                split=splits.get(subject, "train"),
                split_origin=origin,
            )
            for subject, scans in subjects.items()
            for number, masked in enumerate(scans)
        )
    )


scans_of_subjects = st.dictionaries(
    st.text("abcdefgh", min_size=1, max_size=4),
    st.lists(st.booleans(), min_size=1, max_size=4),
    min_size=1,
    max_size=30,
)
some_split = st.sampled_from(["train", "train", "train", "validation", "test", None])


@st.composite
def indexes(draw) -> CaseIndex:
    subjects = draw(scans_of_subjects)
    splits = {subject: draw(some_split) for subject in subjects}
    return make(subjects, splits, draw(st.sampled_from(["release", "seed 3", "assigned"])))


@given(indexes(), st.integers(2, 6), st.integers(0, 5))
def test_no_subject_is_ever_on_both_sides(index, folds, seed):
    try:
        folded = assign_folds(index, folds, seed=seed)
    except DataError:
        return
    assert [case.case for case in folded] == [case.case for case in index]
    for fold in range(folds):
        held_out = hold_out_fold(folded, fold)
        trained_on = {case.subject for case in held_out.in_split("train")}
        validated = {case.subject for case in held_out.in_split("validation")}
        assert not trained_on & validated
        assert validated
        tested = {case.subject for case in index if case.split == "test"}
        assert not (trained_on | validated) & tested
    everybody = [{case.subject for case in hold_out_fold(folded, fold).in_split("validation")} for fold in range(folds)]
    assert len(set().union(*everybody)) == sum(len(fold) for fold in everybody)  # each subject once


@given(indexes(), st.integers(2, 4), st.randoms())
def test_folds_do_not_depend_on_the_order_of_the_cases(index, folds, shuffler):
    cases = list(index)
    shuffler.shuffle(cases)
    try:
        first = {case.case: case.fold for case in assign_folds(index, folds, seed=1)}
    except DataError:
        return
    assert {case.case: case.fold for case in assign_folds(CaseIndex(tuple(cases)), folds, seed=1)} == first


def test_folds_hold_almost_equally_many_cases():
    index = make({f"s{number}": [True] * (1 + number % 3) for number in range(31)})
    sizes = [sum(case.fold == fold for case in assign_folds(index, 5)) for fold in range(5)]
    assert max(sizes) - min(sizes) <= 1
    assert sum(sizes) == len(index)


def test_test_cases_and_the_validation_of_a_release_are_in_no_fold():
    index = make({name: [True] for name in "abcdef"}, {"e": "validation", "f": "test"})
    folded = {case.subject: case.fold for case in assign_folds(index, 2)}
    assert folded["e"] is folded["f"] is None
    assert {folded[name] for name in "abcd"} == {0, 1}
    held_out = {case.subject: case.split for case in hold_out_fold(assign_folds(index, 2), 1)}
    assert (held_out["e"], held_out["f"]) == (None, "test")


def test_cases_that_were_drawn_into_validation_take_part():
    index = split_by_subject(make({name: [True] for name in "abcdef"}, dict.fromkeys("abcdef")), validation=0.4)
    assert {case.split for case in index} == {"train", "validation"}
    assert all(case.fold is not None for case in assign_folds(index, 3))


def test_the_same_seed_gives_the_same_folds_and_another_seed_others():
    index = make({f"s{number}": [True] for number in range(20)})
    assert assign_folds(index, 4, seed=1) == assign_folds(index, 4, seed=1)
    assert assign_folds(index, 4, seed=1) != assign_folds(index, 4, seed=2)


def test_folds_survive_writing_and_reading(tmp_path):
    folded = assign_folds(make({name: [True] for name in "abcd"}), 2)
    write_index(tmp_path / "cases.jsonl", folded)
    assert [case.fold for case in read_index(tmp_path / "cases.jsonl")] == [case.fold for case in folded]


@pytest.mark.parametrize("folds", [-1, 1, 4])
def test_folds_that_cannot_be_made_are_refused(folds):
    with pytest.raises(DataError, match=rf"cannot make {folds} folds? of 3 subjects"):
        assign_folds(make({"a": [True], "b": [True, True], "c": [True], "d": [False]}), folds)


def test_a_fold_that_is_not_there_is_refused():
    index = make({name: [True] for name in "abcd"})
    with pytest.raises(DataError, match="there is no fold 0: the index has none"):
        hold_out_fold(index, 0)
    with pytest.raises(DataError, match="there is no fold 2: the index has folds 0 to 1"):
        hold_out_fold(assign_folds(index, 2), 2)
