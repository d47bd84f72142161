"""Values in messages, however large or strange they are: bounded, in bounded time; numbers with what they count."""

import math
import reprlib
from collections.abc import Sequence

_MOST_CHARACTERS = 120
_WIDEST_NUMBER_BITS = 256


class _Brief(reprlib.Repr):
    """``reprlib`` with short limits, and without its two ways to take for ever (huge numbers, a foreign ``repr``)."""

    def __init__(self) -> None:
        super().__init__()
        self.maxlevel = 3
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = self.maxdeque = self.maxarray = 6
        self.maxdict = 4
        self.maxstring = self.maxother = _MOST_CHARACTERS

    def repr_int(self, value: int, level: int) -> str:
        """Python refuses to write out numbers of thousands of digits, and needs quadratic time before that."""
        if value.bit_length() <= _WIDEST_NUMBER_BITS:
            return repr(value)
        return f"{'-' if value < 0 else ''}<a number of {value.bit_length()} bits>"

    def repr_instance(self, value: object, level: int) -> str:
        """What is none of Python's plain values is named by its kind only, unless its text is known to be short."""
        return repr(value) if value is None or isinstance(value, bool | float) else f"<{type(value).__name__}>"


_BRIEF = _Brief()


def brief(value: object) -> str:
    """``repr`` of a value from a file, cut to about 120 characters. Shared (YAML aliases) or deep parts are not walked.

    Example:
        >>> brief({"a": [1.5, None]})
        "{'a': [1.5, None]}"
        >>> brief([[[[[["deep"]]]]]] * 100)
        '[[[[...]]], [[[...]]], [[[...]]], [[[...]]], [[[...]]], [[[...]]], ...]'
    """
    return clipped(_BRIEF.repr(value))


def clipped(text: str, most: int = _MOST_CHARACTERS) -> str:
    """The beginning and the end of a long text.

    Example:
        >>> clipped("a very long text", most=9)
        'a ve...xt'
    """
    if len(text) <= most:
        return text
    ahead = (most - 3) * 2 // 3
    return f"{text[:ahead]}...{text[ahead + 3 - most :]}"


def first_line(error: BaseException) -> str:
    """The beginning of what an error says, or its type where it says nothing: some of PyTorch's fill pages."""
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]


def number_text(value: float, digits: int) -> str:
    """A score with so many decimals; "undefined" for NaN."""
    return "undefined" if math.isnan(value) else f"{value:.{digits}f}"


def how_many(count: int, one: str, several: str = "") -> str:
    """A number and what it counts, in the singular or in the plural: that of most words if none is given.

    Example:
        >>> how_many(1, "voxel"), how_many(0, "voxel"), how_many(2, "bone has", "bones have")
        ('1 voxel', '0 voxels', '2 bones have')
    """
    return f"{count} {one if count == 1 else several or one + 's'}"


def listed(names: Sequence[str], most: int = 8) -> str:
    """The first names with commas in between, and how many more there are.

    Example:
        >>> listed(["a", "b", "c"], most=2)
        'a, b and 1 more'
    """
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
