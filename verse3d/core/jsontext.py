"""JSON that anybody may have written: bounded in depth and in its numbers, and never read in two ways.

Python's own reader takes ``NaN`` and ``1e999`` for numbers, keeps the last of two equal keys without a word, and runs
out of stack on a hundred thousand brackets.
"""

import hashlib
import itertools
import json
import math
import re
from typing import Any

from verse3d.core.errors import DataError
from verse3d.core.wording import brief, clipped

MAX_DEPTH = 32
"""None of our own files nests deeper than eight."""
_LONGEST_NUMBER = 40
_INTEGER_BITS = 64
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+"?', re.DOTALL)
_NO_BRACKETS = re.compile(r"[^\[\]{}]+")
_STEP = {"[": 1, "{": 1, "]": -1, "}": -1}


def json_checksum(values: Any) -> str:  # noqa: ANN401 - whatever JSON can hold
    """32 hexadecimal digits that tell plain values from others; the same after they were written and read back."""
    text = json.dumps(values, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def parse_json(text: str, *, allow_nan: bool = False) -> Any:  # noqa: ANN401 - any JSON
    """The value of a JSON text: dicts, lists, texts, numbers, true, false and null.

    Args:
        text: one JSON value.
        allow_nan: take the word ``NaN`` for a number, as files of other programs hold it.

    Raises:
        DataError: it is not JSON; it nests too deep; a key is given twice; a number is infinite, not a number, or a
            whole number of more than 64 bits. The message begins with "not" or
            "ambiguous", for whoever knows the file to put its name and "is" before it.
    """
    _refuse_depth(text)
    try:
        return json.loads(
            text,
            object_pairs_hook=_without_doubles,
            parse_int=_whole,
            parse_float=_finite,
            parse_constant=lambda word: _constant(word, allow_nan),
        )
    except json.JSONDecodeError as error:
        message = f"not JSON: {error.msg} at line {error.lineno}, column {error.colno}"
        raise DataError(message) from None  # the error itself holds the whole text


def _refuse_depth(text: str) -> None:
    if text.count("[") + text.count("{") <= MAX_DEPTH:
        return
    # Only brackets outside of strings count: "[[" is a text.
    brackets = _NO_BRACKETS.sub("", _STRING.sub("", text))
    deepest = max(itertools.accumulate(map(_STEP.__getitem__, brackets)), default=0)
    if deepest > MAX_DEPTH:
        raise DataError(f"not readable: it nests {deepest} brackets deep, at most {MAX_DEPTH} are allowed")


def _without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        seen = set[str]()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise DataError(f"ambiguous: the key {brief(twice)} is given twice")
    return values


def _whole(digits: str) -> int:
    # Long ones are refused unread: the time to read one grows with the square of its length.
    if len(digits) > _LONGEST_NUMBER or int(digits).bit_length() > _INTEGER_BITS:
        raise DataError(f"not readable: the number {clipped(digits, _LONGEST_NUMBER)} is too large")
    return int(digits)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise DataError(f"not readable: the number {clipped(text, _LONGEST_NUMBER)} is too large")
    return value


def _constant(word: str, allow_nan: bool) -> float:
    if word == "NaN" and allow_nan:
        return math.nan
    raise DataError(f"not JSON: {word} is no number there")
