"""What is read back is what was asked for, or an error that names file, place and expectation; never anything else."""

import json
import math
import os
import time
from dataclasses import asdict, dataclass, field
from typing import ClassVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ConfigDict

from tests.mutants import byte_mutants, json_mutants, text_mutants
from verse3d.core.errors import DataError
from verse3d.core.jsontext import MAX_DEPTH, parse_json
from verse3d.core.readers import (
    LINE_CHARACTERS,
    RECORD_CONFIG,
    Many,
    Number,
    Record,
    Text,
    Whole,
    numbered_lines,
    read_record,
    read_table,
    read_text,
)
from verse3d.core.wording import brief, clipped, how_many


class Scan(Record):
    name: Text
    index: Whole
    spacing: tuple[Number, Number, Number]
    levels: Many[Text] = ()


@dataclass(frozen=True)
class Kept:
    __pydantic_config__: ClassVar[ConfigDict] = RECORD_CONFIG
    case: str
    counts: dict[int, int] = field(default_factory=dict)


GOOD = {"name": "a", "index": 3, "spacing": [1, 2.5, 0.8], "levels": ["L1", "L2"], "unknown": [{"deep": None}]}


@pytest.fixture
def written(tmp_path):
    def write(content):
        path = tmp_path / "a.json"
        path.write_bytes(content if isinstance(content, bytes) else content.encode("utf-8", "surrogatepass"))
        return path

    return write


# --- JSON


def test_a_record_comes_back_typed_and_without_keys_nobody_asked_for(written):
    scan = read_record(written(json.dumps(GOOD)), Scan)
    assert scan == Scan(name="a", index=3, spacing=(1.0, 2.5, 0.8), levels=("L1", "L2"))
    assert not hasattr(scan, "unknown")


def test_a_dataclass_comes_back_from_what_json_makes_of_it(written):
    kept = Kept("a", {20: 7, 28: 1})
    assert read_record(written(json.dumps(asdict(kept))), Kept) == kept


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("", "is not JSON: Expecting value at line 1, column 1"),
        ('{"name": "a",\n "index" 3}', "is not JSON: .* at line 2, column 10"),
        (json.dumps(GOOD) + "x", "is not JSON: Extra data at line 1"),
        ("[" * 100_000, "is not readable: it nests 100000 brackets deep"),
        ('{"a":' * 40 + "1" + "}" * 40, "nests 40 brackets deep"),
        ('{"name": "a", "name": "b"}', "is ambiguous: the key 'name' is given twice"),
        ("NaN", "is not JSON: NaN is no number there"),
        ("[-Infinity]", "-Infinity is no number there"),
        ("[1e999]", "the number 1e999 is too large"),
        ("[-1e999]", "the number -1e999 is too large"),
        (f"[{2**64}]", "the number 18446744073709551616 is too large"),
        (f"[{'9' * 100_000}]", r"the number 9+\.\.\.9+ is too large"),
        (b"\xff\xfe[]", "byte 0 is not valid utf-8"),
        ("[]", r"is damaged: .*, got \[\]"),
        ("null", "is damaged: .*, got None"),
        (json.dumps(GOOD | {"index": True}), "index: input should be a valid integer, got True"),
        (json.dumps(GOOD | {"index": "3"}), "index: input should be a valid integer, got '3'"),
        (json.dumps(GOOD | {"index": 3.0}), "index: input should be a valid integer, got 3.0"),
        (json.dumps(GOOD | {"name": 3}), "name: input should be a valid string, got 3"),
        (json.dumps(GOOD | {"spacing": [1, 2]}), "spacing.2: field required"),
        (json.dumps(GOOD | {"spacing": [1, 2, None]}), "spacing.2: input should be a valid number, got None"),
        (json.dumps({"name": "a", "index": 3}), "spacing: field required"),
        (json.dumps({}), "name: field required; index: field required; spacing: field required"),
    ],
)
def test_what_is_not_such_a_record_is_refused_with_file_place_and_expectation(written, content, expected):
    path = written(content)
    with pytest.raises(DataError, match=expected) as caught:
        read_record(path, Scan, hint="make it again")
    assert str(path) in caught.value.message and len(caught.value.message) < 700


def test_nan_is_a_number_only_where_other_programs_write_it(written):
    path = written("[1.5, NaN]")
    first, second = read_record(path, list[float], allow_nan=True)
    assert first == 1.5 and math.isnan(second)
    with pytest.raises(DataError, match="NaN"):
        read_record(path, list[float])
    with pytest.raises(DataError, match="Infinity"):
        read_record(written("[Infinity]"), list[float], allow_nan=True)


def test_brackets_inside_of_texts_do_not_nest():
    assert parse_json(json.dumps(['[{"\\' * 100])) == ['[{"\\' * 100]
    with pytest.raises(DataError, match="not JSON"):
        parse_json('"' + "[" * 100)


@settings(max_examples=40)
@given(st.integers(1, 3 * MAX_DEPTH), st.lists(st.sampled_from(["[", "{"]), min_size=1, max_size=4))
def test_depth_is_counted_as_the_brackets_that_are_open_at_once(depth, kinds):
    value = 1
    for level in range(depth):
        value = [value, "]"] if kinds[level % len(kinds)] == "[" else {"}": value}
    text = json.dumps([value] * 3)
    if depth + 1 <= MAX_DEPTH:
        assert parse_json(text) == [value] * 3
    else:
        with pytest.raises(DataError, match=f"nests {depth + 1} brackets deep"):
            parse_json(text)


@settings(max_examples=40)
@given(
    st.recursive(
        st.none()
        | st.booleans()
        | st.integers(-(2**63), 2**63)
        | st.floats(allow_nan=False, allow_infinity=False)
        | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_all_other_json_reads_as_python_itself_reads_it(value):
    assert parse_json(json.dumps(value)) == json.loads(json.dumps(value))


def test_of_many_wrong_elements_the_first_is_told(written):
    path = written(json.dumps(GOOD | {"levels": [[1]] * 100_000}))
    start = time.process_time()
    with pytest.raises(DataError, match=r"levels.0: input should be a valid string, got \[1\]"):
        read_record(path, Scan)
    assert time.process_time() - start < 2


def test_every_mutant_is_read_or_refused_in_words(written):
    read = refused = 0
    for mutant in json_mutants(GOOD, 600):
        try:
            scan = read_record(written(mutant), Scan)
        except DataError as error:
            assert "a.json" in error.message and len(error.message) < 900
            refused += 1
            continue
        read += 1
        assert isinstance(scan.name, str) and type(scan.index) is int
        assert all(type(value) is float and math.isfinite(value) for value in scan.spacing)
    assert read > 50 and refused > 200


# --- files


def test_what_is_larger_than_allowed_is_not_read(written):
    path = written("[" + " " * 5000 + "]")
    assert read_record(path, list[int], max_bytes=5002) == []
    with pytest.raises(DataError, match="larger than"):
        read_record(path, list[int], max_bytes=5001)


def test_pipes_devices_and_impossible_names_are_refused_without_waiting(tmp_path):
    os.mkfifo(tmp_path / "pipe.json")
    for path in ("pipe.json", "a" * 300, "a\0b", "a\ud800", "", "nowhere.json"):
        with pytest.raises(DataError, match="cannot read the list"):
            read_text(tmp_path / path, max_bytes=10, what="the list")


def test_lines_end_with_line_feeds_only_and_blank_ones_are_passed_over(written):
    path = written('{"a": "x\u2028y"}\n\n  \n{"a": "\x0c"}')
    assert [number for number, _ in numbered_lines(path, max_bytes=1000)] == [1, 4]


def test_a_line_without_end_is_refused(written):
    path = written("\n" + "x" * (LINE_CHARACTERS + 1))
    with pytest.raises(DataError, match="line 2 is too long"):
        list(numbered_lines(path, max_bytes=2 * LINE_CHARACTERS))


# --- CSV


def table(path, needs=("a",)):
    return read_table(path, needs=needs, max_bytes=10_000, what="the table", hint="look at it")


def test_rows_are_named_cells_with_the_line_they_end_in(written):
    rows = table(written('\ufeffa,b\r\n1,"x,\ny"\r\n\r\n2\r\n3,4,5,6\r\n'))
    assert [(row.line, row.cells, row.surplus) for row in rows] == [
        (3, {"a": "1", "b": "x,\ny"}, 0),
        (5, {"a": "2", "b": ""}, 0),
        (6, {"a": "3", "b": "4"}, 2),
    ]
    assert table(written("")) == []


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("b,c\n1,2\n", r"lacks the columns a \(found: b, c\)"),
        ("\n1,2\n", r"lacks the columns a \(found: nothing\)"),
        ("a,a\n1,2\n", "two columns of the same name"),
        ('a,b\n1,"x\n', "cannot read the table .* line 2"),
        ('a,b\n1,"x"y\n', "cannot read the table .* line 2"),
        ("a,b\n" + "x" * 200_000, "larger than"),
        (b"a,b\n\xff,1\n", "byte 4 is not valid"),
    ],
)
def test_what_is_no_such_table_is_refused(written, content, expected):
    with pytest.raises(DataError, match=expected):
        table(written(content))


def test_every_mutant_of_a_table_is_read_or_refused(written):
    text = 'epoch,loss,note\n1,0.5,"a, b"\n2,0.25,\n3,,x\n'
    mutants = [*byte_mutants(text.encode(), 300, 1)]
    mutants += [mutant.encode("utf-8", "surrogatepass") for mutant in text_mutants(text, 300, 2)]
    for mutant in mutants:
        try:
            rows = table(written(mutant), needs=("epoch",))
        except DataError:
            continue
        assert all(isinstance(row.cells["epoch"], str) for row in rows)


# --- values in messages


@pytest.mark.parametrize("value", [None, True, -3, 1.5, "word", [1, "a"], {"a": (1, 2)}, {1}])
def test_short_values_are_shown_as_they_are(value):
    assert brief(value) == repr(value)


def test_no_value_makes_a_message_long_or_slow():
    shared: list[object] = ["x"]
    for _ in range(60):  # written out, 2 to the power of 60 texts
        shared = [shared, shared]
    deep: list[object] = []
    for _ in range(100_000):
        deep = [deep]
    itself: list[object] = []
    itself.append(itself)
    start = time.process_time()
    for value in (
        shared,
        deep,
        itself,
        "x" * 10**7,
        10**100_000,
        -(10**5000),
        dict.fromkeys(range(9999), shared),
        object(),
    ):
        assert 0 < len(brief(value)) <= 120
    assert time.process_time() - start < 2


def test_a_long_text_keeps_its_beginning_and_its_end():
    assert clipped("abcdefghij" * 100, 12) == "abcdef...hij"
    assert clipped("short", 12) == "short"


@pytest.mark.parametrize(("count", "words"), [(0, "0 voxels"), (1, "1 voxel"), (2, "2 voxels"), (1000, "1000 voxels")])
def test_a_number_and_what_it_counts_agree(count, words):
    assert how_many(count, "voxel") == words
    assert how_many(count, "bone has", "bones have") == f"{count} {'bone has' if count == 1 else 'bones have'}"
