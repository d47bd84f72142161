"""Ways to damage bytes, texts and trees of plain values. Each returns the damaged thing and says what was done."""

import json
from collections.abc import Iterator
from typing import Any

from fuzz.target import Dice

DEEP = 100_000
"""Levels of nesting that no recursive reader survives."""
NUMBERS: tuple[Any, ...] = (
    0, 1, -1, 2, 255, 256, 65_536, 2**31 - 1, 2**31, 2**63, 2**64, -(2**63), 10**30, 10**400,
    0.5, -0.0, 1e-300, 1e308, -1e308, float("inf"), float("-inf"), float("nan"),
)  # fmt: skip
TEXTS = (
    "", " ", "x", "0", "-1", "nan", "inf", "1e999", "true", "null", "None", ".", "..", "...", "/", "../../../escaped",
    "/dev/zero", "/dev/full", "a\0b", "\ud800", "\udcff", "\x1b[31mred\x1b[0m", "=1+1", "@SUM(A1)", "<b>&amp;</b>",
    "line\nbreak", "\r", "\u202e", "a" * 300, "a" * 70_000, "[bold]", "{", "ß" * 200, "C1", "L5", "12>3", "9" * 5000,
)  # fmt: skip
FRAGMENTS = (
    b"\0", b"\xff\xfe", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"\n", b"\r\n", b"{", b"}", b"[", b"]", b'"', b",", b":",
    b"'", b"-", b"#", b"&a", b"*a", b"!!python/object:os.system", b"NaN", b"Infinity", b"1e999", b"9" * 5000,
    b"\\u0000", b"\\ud800", b"[" * DEEP, b'{"a":' * DEEP, b"- " * 5000, b"\x1b]0;x\x07",
)  # fmt: skip

_SHORT_FRAGMENTS = tuple(fragment for fragment in FRAGMENTS if len(fragment) < 100)
_OF_LENGTH = ("remove", "double", "random")


def nasty(dice: Dice) -> Any:
    """A value that few readers expect."""
    kind = dice.randrange(10)
    if kind < 4:
        return dice.choice(NUMBERS)
    if kind < 8:
        return dice.choice(TEXTS)
    return dice.choice((None, True, False, [], {}, [[]], [None], {"": None}, {"case": {}}, [1, "x"], nested(60)))


def nested(depth: int) -> list[Any]:
    """Lists within lists."""
    value: list[Any] = []
    for _ in range(depth):
        value = [value]
    return value


def data(dice: Dice, original: bytes, *, head: int = 0) -> tuple[bytes, str]:
    """Flip, cut, double or insert bytes, once to three times.

    Args:
        dice: decides.
        original: is left alone.
        head: as many bytes at the beginning are hit in half of the cases, whatever the length of the rest.
    """
    content, words = bytearray(original), []
    for _ in range(dice.choice((1, 1, 1, 2, 3))):
        if not content:
            break
        reach = min(head, len(content)) if head and dice.random() < 0.5 else len(content)
        place = dice.randrange(reach)
        words.append(_damage(dice, content, place))
    return bytes(content), "; ".join(words)


def _damage(dice: Dice, content: bytearray, place: int) -> str:
    """Change the bytes at ``place``, and say how."""
    length = dice.choice((1, 2, 4, 16, 64))
    end = place + length
    kind = dice.choice(("flip", "set", "cut", "remove", "double", "random", "insert"))
    if kind == "flip":
        content[place] ^= 1 << dice.randrange(8)
    elif kind == "set":
        content[place] = dice.choice((0, 0x7F, 0x80, 0xFF, dice.randrange(256)))
    elif kind == "cut":
        del content[place:]
    elif kind == "remove":
        del content[place:end]
    elif kind == "double":
        content[place:place] = content[place:end]
    elif kind == "random":
        content[place:end] = dice.randbytes(length)
    else:
        content[place:place] = dice.choice(_SHORT_FRAGMENTS)
    return f"{kind} {length if kind in _OF_LENGTH else ''} at byte {place}".replace("  ", " ")


def text(dice: Dice, original: str) -> tuple[bytes, str]:
    """Damage a text: its bytes, its lines, or with a fragment that means something to some parser."""
    content = original.encode("utf-8", "surrogatepass")
    kind = dice.randrange(4)
    if kind == 0:
        return data(dice, content)
    if kind == 1:
        return _lines(dice, content)
    fragment = dice.choice(FRAGMENTS)
    place = dice.randrange(len(content) + 1)
    replaced = dice.choice((0, 0, 1, 5, len(content)))
    shown = f"insert {fragment[:12]!r} ({len(fragment)} bytes) at {place}, instead of {replaced} bytes"
    return content[:place] + fragment + content[place + replaced :], shown


def _lines(dice: Dice, content: bytes) -> tuple[bytes, str]:
    lines = content.split(b"\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    kind = dice.randrange(4)
    if kind == 0:
        lines.insert(one, lines[other])
        return b"\n".join(lines), f"double line {other}"
    if kind == 1:
        del lines[one]
        return b"\n".join(lines), f"remove line {one}"
    if kind == 2:
        lines[one], lines[other] = lines[other], lines[one]
        return b"\n".join(lines), f"exchange lines {one} and {other}"
    return b"\r".join(lines), "end lines with CR"


def tree(dice: Dice, value: Any) -> tuple[Any, str]:
    """Damage one or two places of a tree of dicts and lists; the original is left alone."""
    # Through JSON rather than copied: what shares a node in memory must not do so afterwards.
    changed, words = json.loads(json.dumps(value)), []
    for _ in range(dice.choice((1, 1, 1, 2))):
        places = list(_places(changed))
        if not places or dice.random() < 0.03:
            return nasty(dice), "replace everything"
        holder, key = dice.choice(places)
        words.append(_change(dice, holder, key))
    return changed, "; ".join(words)


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    """Every (container, key) below."""
    if not isinstance(value, dict | list):
        return
    for key in list(value) if isinstance(value, dict) else range(len(value)):
        yield value, key
        yield from _places(value[key])


def _change(dice: Dice, holder: Any, key: Any) -> str:
    kind = dice.randrange(8)
    if kind == 0:
        del holder[key]
        return f"remove {key!r}"
    if kind == 1:
        holder[key] = [holder[key]] if dice.random() < 0.5 else {"a": holder[key]}
        return f"wrap {key!r}"
    if kind == 2 and isinstance(holder, dict):
        name = dice.choice(TEXTS)
        holder[name] = holder.pop(key)
        return f"rename {key!r} to {name[:12]!r}"
    if kind == 3 and isinstance(holder, list):
        holder.extend(holder[key : key + 1] * dice.choice((1, 2, 500)))
        return f"repeat element {key}"
    if kind == 4 and isinstance(holder[key], int | float):
        holder[key] = holder[key] * dice.choice((-1, 2, 1000, 10**12, 0.5)) + dice.choice((0, 1, -1))
        return f"set {key!r} to {holder[key]!r}"
    holder[key] = nasty(dice)
    return f"set {key!r} to {str(holder[key])[:30]!r}"


def json_file(dice: Dice, value: Any) -> tuple[bytes, str]:
    """A JSON text, damaged as a tree (mostly) or as a text. NaN and infinity are written as Python does."""
    if dice.random() < 0.25:
        return text(dice, json.dumps(value, indent=1))
    changed, words = tree(dice, value)
    return json.dumps(changed).encode("utf-8", "surrogatepass"), words


def json_lines(dice: Dice, rows: list[Any]) -> tuple[bytes, str]:
    """A file with a JSON value per line, of which one is damaged, or the text as a whole."""
    if dice.random() < 0.25:
        return text(dice, "".join(json.dumps(row) + "\n" for row in rows))
    number = dice.randrange(len(rows))
    changed, words = tree(dice, rows[number])
    texts = [json.dumps(changed if place == number else row) for place, row in enumerate(rows)]
    return "".join(one + "\n" for one in texts).encode("utf-8", "surrogatepass"), f"line {number + 1}: {words}"
