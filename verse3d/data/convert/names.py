"""Names for cases and subjects that every file system and every program accepts, never one for two."""

import re

from verse3d.core.paths import same_on_disk

_AWKWARD = re.compile(r"[^A-Za-z0-9._-]+")
_NOT_ALPHANUMERIC = re.compile(r"[^A-Za-z0-9]+")


def plain_name(text: str) -> str:
    """The text with everything but letters, digits and ``._-`` replaced by "_", and none of ``._-`` at its ends.

    Example:
        >>> plain_name("CT spine (2).v1")
        'CT_spine_2_.v1'
    """
    return _AWKWARD.sub("_", text).strip("._-") or "case"


def alphanumeric(text: str) -> str:
    """Only the letters and digits of ASCII."""
    return _NOT_ALPHANUMERIC.sub("", text) or "case"


def unique_name(wanted: str, taken: set[str], *, joint: str = "-") -> str:
    """The wanted name, or with 2, 3, ... behind it if it is taken; then it is taken too.

    Names that differ only in upper and lower case count as the same: on some disks they are the same file.

    Example:
        >>> taken = set()
        >>> [unique_name(name, taken) for name in ("a", "A", "a")]
        ['a', 'A-2', 'a-3']
    """
    name, number = wanted, 2
    while same_on_disk(name) in taken:
        name = f"{wanted}{joint}{number}"
        number += 1
    taken.add(same_on_disk(name))
    return name
