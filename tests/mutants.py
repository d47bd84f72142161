"""Damaged copies of small text files (JSON, JSON lines, CSV, YAML), the same ones on every run.

text ──┬── as bytes:   flip, cut, repeat, drop, insert                 what disks and interrupted writers do
       ├── as a text:  a number or word becomes another one            what an editor, or somebody else, does
       └── as a value: a key goes, a value becomes one of NASTY        what another program writes
"""

import json
import random
import re
from collections.abc import Iterator
from copy import deepcopy
from typing import Any

NASTY: tuple[Any, ...] = (
    None,
    True,
    False,
    -1,
    0,
    300,
    2**31,
    2**70,
    10**400,
    -0.5,
    1e308,
    float("nan"),
    float("inf"),
    "",
    "NaN",
    "\0",
    "\ud800",
    "a" * 300,
    "../../x",
    "=1+1",
    [],
    {},
    [[]],
    [None],
    [1, 2],
    {"case": {}},
)
"""Values that some place does not expect."""
_WORDS = (
    "",
    "NaN",
    "1e999",
    "-1",
    "null",
    "true",
    "[" * 40,
    "{}",
    "9" * 50,
    '"',
    "\x00",
    "*a",
    "&a [*a]",
    "!!x",
    "\ud800",
)
_TOKEN = re.compile(r"-?\d[\d.eE+-]*|\w+")


def byte_mutants(content: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Bytes that were flipped, lost, doubled or added."""
    draw = random.Random(seed)
    for _ in range(count):
        raw = bytearray(content)
        at = draw.randrange(len(raw))
        length = draw.choice((1, 1, 2, 8, 64))
        match draw.randrange(5):
            case 0:
                raw[at] ^= 1 << draw.randrange(8)
            case 1:
                del raw[at:]
            case 2:
                del raw[at : at + length]
            case 3:
                raw[at:at] = raw[at : at + length]
            case _:
                raw[at:at] = draw.randbytes(length)
        yield bytes(raw)


def text_mutants(text: str, count: int, seed: int) -> Iterator[str]:
    """Texts in which one number or word is another one."""
    draw = random.Random(seed)
    tokens = list(_TOKEN.finditer(text))
    for _ in range(count):
        token = draw.choice(tokens)
        yield text[: token.start()] + draw.choice(_WORDS) + text[token.end() :]


def value_mutants(value: Any, count: int, seed: int) -> Iterator[Any]:
    """Copies of a JSON value in which one place was removed, or holds something ``NASTY``."""
    draw = random.Random(seed)
    places = list(_places(value))
    for _ in range(count):
        copy = deepcopy(value)
        *above, last = draw.choice(places)
        holder = copy
        for part in above:
            holder = holder[part]
        if draw.random() < 0.2:
            del holder[last]
        else:
            holder[last] = draw.choice(NASTY)
        yield copy


def json_mutants(value: Any, count: int, seed: int = 0) -> Iterator[bytes]:
    """JSON files that ``value`` could have become: in equal parts by bytes, words and values."""
    text = json.dumps(value)
    third = -(-count // 3)
    yield from byte_mutants(text.encode(), third, seed)
    yield from (mutant.encode("utf-8", "surrogatepass") for mutant in text_mutants(text, third, seed))
    yield from (json.dumps(mutant).encode() for mutant in value_mutants(value, third, seed))


def _places(value: Any, above: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """The path to every part of a value, the whole of it left out."""
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        yield (*above, key)
        yield from _places(part, (*above, key))
