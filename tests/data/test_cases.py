"""Indexes survive being written and moved, broken ones are refused, and no subject is ever on both sides of a split."""

import json
import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from verse3d.core.errors import DataError, OutputError
from verse3d.data.cases import SPLITS, Case, CaseIndex, read_index, write_index
from verse3d.data.splits import assign_splits, split_by_subject

FOLDER = Path("/somewhere")


def case(name, subject=None, split=None, *, image=True, mask=True) -> Case:
    return Case(
        name,
        subject or name,
        FOLDER / f"{name}_ct.nii.gz" if image else None,
        FOLDER / f"{name}_msk.nii.gz" if mask else None,
        split=split,
        split_origin="release" if split else "",
    )


def index(*cases: Case) -> CaseIndex:
    return CaseIndex(cases)


def splits(cases: CaseIndex) -> dict[str, str | None]:
    return {case.case: case.split for case in cases}


@pytest.fixture
def lines(tmp_path):
    """Write lines as an index file and return its path."""

    def write(*rows) -> Path:
        path = tmp_path / "cases.jsonl"
        path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))
        return path

    return write


# --- what a case must have


def test_a_case_without_scan_names_its_mask_when_the_scan_is_asked_for():
    with pytest.raises(DataError, match=r"case a has a mask \(/somewhere/a_msk\.nii\.gz\) but no CT"):
        case("a", image=False).image_path()


def test_a_case_without_mask_names_its_scan_when_the_mask_is_asked_for():
    with pytest.raises(DataError, match=r"case a \(/somewhere/a_ct\.nii\.gz\) has no mask"):
        case("a", mask=False).mask_path()


def test_two_cases_of_one_name_are_refused():
    with pytest.raises(DataError, match=r"more than once: a, b$"):
        index(case("b"), case("a"), case("c"), case("a"), case("b"))


def test_a_subject_in_two_splits_is_refused():
    with pytest.raises(DataError, match=r"different splits: s, t\n"):
        index(
            case("1", "t", "train"),
            case("2", "s", "train"),
            case("3", "s", "test"),
            case("4", "t", None),
            case("5", "u", "train"),
            case("6", "u", "train"),
        )


def test_a_split_holds_only_cases_with_both_scan_and_mask():
    cases = index(
        case("a", split="train"),
        case("b", split="train", mask=False),
        case("c", split="train", image=False),
        case("d", split="test"),
        case("e"),
    )
    assert [found.case for found in cases.in_split("train")] == ["a"]
    assert len(cases) == 5


# --- writing and reading


def test_an_index_is_read_as_it_was_written(tmp_path):
    cases = index(
        Case("größe", "s", tmp_path / "in" / "a b.nii.gz", tmp_path / "m.nii", tmp_path / "c.json", "train", "seed 3"),
        Case("scan only", "s", Path("/elsewhere/x.nii.gz"), split="train", split_origin="release"),
        Case("mask only", "t", None, Path("/elsewhere/y.nii.gz")),
    )
    write_index(tmp_path / "cases.jsonl", cases)
    assert read_index(tmp_path / "cases.jsonl") == cases


def test_paths_below_the_index_are_stored_relative_and_others_absolute(tmp_path):
    here, beside = tmp_path / "here", tmp_path / "here-too" / "b.nii.gz"
    write_index(here / "cases.jsonl", index(Case("a", "a", here / "deep" / "a.nii.gz", beside)))
    row = json.loads((here / "cases.jsonl").read_text())
    assert (row["image"], row["mask"], row["centroids"]) == ("deep/a.nii.gz", str(beside), None)


def test_a_folder_can_be_moved_with_its_index(tmp_path, monkeypatch):
    old, new = tmp_path / "old", tmp_path / "far" / "new"
    (old / "scans").mkdir(parents=True)
    (old / "scans" / "a.nii.gz").touch()
    monkeypatch.chdir(old)
    write_index(Path("cases.jsonl"), index(Case("a", "a", Path("scans/a.nii.gz"))))
    monkeypatch.chdir(tmp_path)
    shutil.move(old, new)
    assert read_index(new / "cases.jsonl").cases[0].image == new / "scans" / "a.nii.gz"
    assert read_index(Path("far/new/cases.jsonl")).cases[0].image_path().is_file()


@pytest.mark.parametrize("through", ["link", "real"])
def test_a_folder_behind_a_link_can_be_moved_with_its_index_too(tmp_path, through):
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    (real / "a.nii.gz").touch()
    link.symlink_to(real)
    write_index(link / "cases.jsonl", index(Case("a", "a", tmp_path / through / "a.nii.gz")))
    assert json.loads((real / "cases.jsonl").read_text())["image"] == "a.nii.gz"
    assert read_index(link / "cases.jsonl").cases[0].image_path().is_file()


def test_an_index_written_over_a_link_to_another_folder_still_finds_its_files(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.nii.gz").touch()
    (tmp_path / "data" / "cases.jsonl").touch()
    (tmp_path / "mine.jsonl").symlink_to(tmp_path / "data" / "cases.jsonl")
    write_index(tmp_path / "mine.jsonl", index(Case("a", "a", tmp_path / "data" / "a.nii.gz")))
    assert read_index(tmp_path / "mine.jsonl").cases[0].image_path().is_file()


def test_an_index_reached_through_a_link_finds_its_files(tmp_path):
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.nii.gz").touch()
    write_index(tmp_path / "data" / "cases.jsonl", index(Case("a", "a", tmp_path / "data" / "a.nii.gz")))
    (tmp_path / "link.jsonl").symlink_to("data/cases.jsonl")
    assert read_index(tmp_path / "link.jsonl").cases[0].image_path().is_file()


def test_a_short_index_written_by_hand_is_enough(lines, tmp_path):
    path = lines({"case": "a", "image": "a.nii.gz"}, "", {"case": 7, "mask": "/m.nii", "subject": None, "split": None})
    assert read_index(path).cases == (
        Case("a", "a", tmp_path / "a.nii.gz"),
        Case("7", "7", None, Path("/m.nii")),
    )


def test_an_index_that_cannot_be_written_leaves_nothing_behind(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(OutputError):
        write_index(tmp_path / "file" / "cases.jsonl", index(case("a")))
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


# --- refusals


def test_a_missing_index_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"cannot read the index .*none\.jsonl"):
        read_index(tmp_path / "none.jsonl")


def test_an_index_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "cases.jsonl").write_bytes(b"\x1f\x8b\x08\xff\xfe")
    with pytest.raises(DataError, match="cannot read the index"):
        read_index(tmp_path / "cases.jsonl")


@pytest.mark.parametrize("rows", [[], ["", "   "]])
def test_an_empty_index_is_refused(lines, rows):
    with pytest.raises(DataError, match="holds no case") as caught:
        read_index(lines(*rows))
    assert "verse3d index" in caught.value.hint


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ('{"case": "b"', "is not JSON: .* at line 1, column 13"),
        ("[1, 2]", r"is damaged: .*, got \[1, 2\]"),
        ("null", "is damaged: .*, got None"),
        ("[" * 100_000, "is not readable: it nests 100000 brackets deep"),
        ('{"case": "b", "image": "b.nii.gz", "case": "c"}', "is ambiguous: the key 'case' is given twice"),
        ({"image": "b.nii.gz"}, "is damaged: case: field required"),
        ({"case": "b", "image": 5}, "image: input should be a valid string, got 5"),
        (
            {"case": "b", "image": "b.nii.gz", "split": "training"},
            "split: input should be 'train', 'validation' or 'test', got 'training'",
        ),
        ({"case": "b", "image": "b.nii.gz", "split": ["train"]}, r"split: .*, got \['train'\]"),
        ({"case": "b", "image": "b.nii.gz", "relabel": [[19, 20.5]]}, r"relabel.0.1: .* valid integer, got 20.5"),
        ({"case": "b", "image": "b.nii.gz", "relabel": [[True, 20]]}, r"relabel.0.0: .* valid integer, got True"),
        ({"case": "b", "image": "b.nii.gz", "relabel": [[19]]}, "relabel.0.1: field required"),
        ({"case": "b", "image": "b.nii.gz", "fold": "0"}, "fold: .* valid integer, got '0'"),
        ({"case": "b", "image": "b.nii.gz", "automatic": "perhaps"}, "automatic: .* valid boolean.*, got 'perhaps'"),
        (
            {"case": "b", "image": "b.nii.gz", "fold": 2**80},
            "the number 1208925819614629174706176 is too large",
        ),
        ({"case": "b\0", "image": "b.nii.gz"}, r"'b\\x00' is no name"),
        ({"case": "b\ud800", "image": "b.nii.gz"}, r"'b\\ud800' is no name"),
        ({"case": "b"}, "neither an 'image' nor a 'mask'"),
        ({"case": "b", "img": "b.nii.gz", "image": ""}, "neither an 'image' nor a 'mask'"),
        ({"case": None, "image": "b.nii.gz"}, "case: input should be a valid string, got None"),
        ({"case": "", "image": "b.nii.gz"}, "'' is no name"),
        ({"case": "../b", "image": "b.nii.gz"}, "'../b' is no name"),
        ({"case": "..", "image": "b.nii.gz"}, "is no name"),
        ({"case": "c\\b", "image": "b.nii.gz"}, "is no name"),
    ],
)
def test_a_broken_line_is_refused_by_its_number(lines, row, reason):
    with pytest.raises(DataError, match=rf"cases\.jsonl, line 3.*{reason}"):
        read_index(lines({"case": "a", "image": "a.nii.gz"}, "", row))


def test_an_index_with_a_torn_subject_is_refused(lines):
    row = {"case": "1", "subject": "s", "image": "x.nii", "split": "train"}
    with pytest.raises(DataError, match="different splits: s"):
        read_index(lines(row, {**row, "case": "2", "split": "test"}))


# --- splitting


@st.composite
def indexes(draw) -> CaseIndex:
    """Subjects with one to three cases each; some come with a split, some cases lack scan or mask."""
    cases = []
    for number in range(draw(st.integers(1, 14))):
        split = draw(st.sampled_from([None, None, *SPLITS]))
        for scan in range(draw(st.integers(1, 3))):
            image, mask = draw(st.sampled_from([(True, True), (True, True), (True, False), (False, True)]))
            cases.append(case(f"{number}-{scan}", f"s{number}", split, image=image, mask=mask))
    return CaseIndex(tuple(cases))


SHARES = st.sampled_from([(0.2, 0.0), (0.2, 0.2), (0.0, 0.0), (0.0, 0.5), (0.9, 0.05)])


@given(cases=indexes(), seed=st.integers(0, 5), shares=SHARES, resplit=st.booleans())
def test_no_subject_is_ever_on_both_sides(cases, seed, shares, resplit):
    divided = split_by_subject(cases, seed=seed, validation=shares[0], test=shares[1], resplit=resplit)
    for subject in {case.subject for case in cases}:
        assert len({case.split for case in divided if case.subject == subject}) == 1
    assert [case.case for case in divided] == [case.case for case in cases]
    complete = {case.subject for case in cases if case.image and case.mask}
    assert {case.subject for case in divided if case.split is None} <= {case.subject for case in cases} - complete


@given(cases=indexes(), seed=st.integers(0, 5), shares=SHARES, shuffled=st.randoms())
def test_the_order_of_the_cases_decides_nothing(cases, seed, shares, shuffled):
    other = list(cases)
    shuffled.shuffle(other)
    one = split_by_subject(cases, seed=seed, validation=shares[0], test=shares[1])
    two = split_by_subject(CaseIndex(tuple(other)), seed=seed, validation=shares[0], test=shares[1])
    assert splits(one) == splits(two)


@given(cases=indexes(), seed=st.integers(0, 5))
def test_splits_of_the_release_are_kept_except_training_cases_drawn_for_validation(cases, seed):
    divided = split_by_subject(cases, seed=seed, test=0.3)
    for before, after in zip(cases, divided, strict=True):
        if before.split in ("validation", "test"):
            assert after == before
        if before.split == "train" and after.split != "train":
            assert (after.split, after.split_origin) == ("validation", f"seed {seed}")
    if any(case.split == "validation" and case.image and case.mask for case in cases):
        assert all(after == before for before, after in zip(cases, divided, strict=True) if before.split)


@given(cases=indexes(), seed=st.integers(0, 5))
def test_something_is_left_to_train_on_wherever_the_release_allows_it(cases, seed):
    divided = split_by_subject(cases, seed=seed, validation=0.4, test=0.4, resplit=True)
    assert divided.in_split("train") or not any(case.image and case.mask for case in cases)


def test_every_seed_divides_by_the_shares_and_another_seed_differently():
    cases = index(*(case(f"c{number}") for number in range(40)))
    answers = [splits(split_by_subject(cases, seed=seed, validation=0.25, test=0.1)) for seed in range(5)]
    for answer in answers:
        found = list(answer.values())
        assert (found.count("train"), found.count("validation"), found.count("test")) == (26, 10, 4)
    assert len({tuple(answer.items()) for answer in answers}) == 5


def test_the_seed_is_stored_with_every_case_that_it_placed():
    cases = split_by_subject(
        index(case("a", split="train"), case("b", split="validation"), case("c"), case("d")), seed=9
    )
    assert {case.case: case.split_origin for case in cases} == {
        "a": "release",
        "b": "release",
        "c": "seed 9",
        "d": "seed 9",
    }


def test_validation_is_drawn_from_the_training_subjects_when_the_release_has_none():
    cases = index(
        *(case(f"{name}{scan}", name, "train") for name in "abcdefghij" for scan in "12"), case("t", split="test")
    )
    divided = split_by_subject(cases, seed=1)
    drawn = {case.subject for case in divided if case.split == "validation"}
    assert len(drawn) == 2
    assert {case.split_origin for case in divided if case.split == "validation"} == {"seed 1"}
    assert {case.split_origin for case in divided if case.split != "validation"} == {"release"}
    assert splits(divided)["t"] == "test"


def test_no_validation_is_drawn_when_none_is_wanted():
    cases = index(case("a", split="train"), case("b"), case("c"))
    assert set(splits(split_by_subject(cases, validation=0)).values()) == {"train"}


@pytest.mark.parametrize("split", [None, "train"])
def test_a_single_subject_is_trained_on(split):
    cases = index(case("a1", "a", split), case("a2", "a", split))
    assert set(splits(split_by_subject(cases, validation=0.5, test=0.3)).values()) == {"train"}


def test_a_single_case_of_the_release_validation_set_stays_there():
    assert splits(split_by_subject(index(case("a", split="validation")))) == {"a": "validation"}


def test_incomplete_cases_follow_their_subject_and_are_left_alone_without_one():
    cases = index(case("a1", "a"), case("a2", "a", mask=False), case("b", mask=False), case("c", image=False))
    assert splits(split_by_subject(cases)) == {"a1": "train", "a2": "train", "b": None, "c": None}


def test_resplitting_forgets_the_release():
    cases = index(*(case(name, split="test") for name in "abcdef"))
    divided = split_by_subject(cases, resplit=True)
    assert sorted(splits(divided).values()) == ["train"] * 5 + ["validation"]
    assert {case.split_origin for case in divided} == {"seed 0"}


@pytest.mark.parametrize(
    ("validation", "test"), [(-0.1, 0), (1.0, 0), (0.5, 0.5), (0, 1), (0.2, -1), (float("nan"), 0)]
)
def test_shares_that_leave_nothing_to_train_on_are_refused(validation, test):
    with pytest.raises(DataError, match="leave something to train on"):
        split_by_subject(index(case("a"), case("b")), validation=validation, test=test)


# --- assigning


def test_assigning_a_case_takes_all_cases_of_its_subject_along():
    cases = index(case("a1", "a", "train"), case("a2", "a", "train"), case("b", split="train"), case("c"))
    placed = assign_splits(cases, {"a2": "test", "c": "validation"})
    assert splits(placed) == {"a1": "test", "a2": "test", "b": "train", "c": "validation"}
    assert [case.split_origin for case in placed] == ["assigned", "assigned", "release", "assigned"]
    assert splits(assign_splits(cases, {"a": "test"}))["a1"] == "test"


def test_assigning_unknown_names_is_refused_and_the_known_ones_are_listed():
    with pytest.raises(DataError, match="no case or subject is called x, z; there are: a, a1, b"):
        assign_splits(index(case("a1", "a"), case("b")), {"z": "test", "b": "test", "x": "train"})


def test_assigning_an_unknown_split_is_refused():
    with pytest.raises(DataError, match="a: split 'holdout' is none of train, validation, test"):
        assign_splits(index(case("a")), {"a": "holdout"})


def test_assigning_one_subject_to_two_splits_is_refused():
    cases = index(case("a1", "a"), case("a2", "a"))
    with pytest.raises(DataError, match="the subject a is put into both train and test"):
        assign_splits(cases, {"a1": "train", "a2": "test"})
    assert set(splits(assign_splits(cases, {"a1": "test", "a": "test"})).values()) == {"test"}
