"""Where something may be written whose name somebody else chose: never outside of its folder, never under a trick name.

Names of cases come from file names, from JSON and from zips; none of them is trusted::

    path_below(OUT, "train", "verse004")     ->  OUT/train/verse004
    path_below(OUT, "..", "verse004")        ->  refused: ".." leads out
    path_below(OUT, "train", "verse004")     ->  refused if OUT/train is a link to another place
"""

import os
import re
import stat
import unicodedata
from pathlib import Path

from verse3d.core.errors import DataError

TEMPORARY_PREFIX = ".verse3d-"
"""So begins what is not yet whole, and is removed where its process was killed: no name from elsewhere may."""
LONGEST_NAME_BYTES = 255
"""What the file systems in use take (ext4, XFS, APFS, NTFS)."""
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_DRIVE = re.compile(r"[A-Za-z]:")
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com[0-9¹²³]|lpt[0-9¹²³])(\..*)?", re.IGNORECASE)
_WINDOWS_REFUSES = frozenset('<>:"|?*')
_ON_WINDOWS = os.name == "nt"


def path_below(root: Path, *names: str) -> Path:
    """The path of a file or folder below ``root``. Every name is that of one folder, or of the file at the end.

    Folders on the way may exist or not. If one of them is a link, it must stay below ``root``. The last name may be a
    link: files are written beside it and take its place, so nothing goes through it.

    Args:
        root: chosen by the user, and trusted: it may be a link itself.
        names: chosen by somebody else, at least one.

    Raises:
        DataError: a name cannot be that of a file, or the path would leave ``root``.
    """
    for name in names:
        if problem := name_problem(name):
            raise DataError(f"{name!r} cannot be the name of a file in {root}: it {problem}", hint="rename it")
    # Without links on the way the checked names cannot leave, so that following links is the rare and slow case.
    folder = root
    for name in names[:-1]:
        folder /= name
        if _is_link(folder) and not folder.resolve().is_relative_to(root.resolve()):
            raise DataError(
                f"{folder} is a link that leads out of {root}", hint="remove the link, or name the folder behind it"
            )
    return folder / names[-1]


def _is_link(path: Path) -> bool:
    try:
        return stat.S_ISLNK(path.lstat().st_mode)
    except OSError:  # not there yet
        return False


def name_problem(name: str) -> str:
    """Why one name must not be given to a file or folder, as a clause ("leads out of its folder"), or "".

    Bytes of a file name that are no text (Python's escapes U+DC80 to U+DCFF) are allowed: the file system has them.
    """
    if name in ("", "."):
        return "is no name"
    if name == ".." or "/" in name or "\\" in name or _DRIVE.match(name):
        return "leads out of its folder"
    if name.startswith(TEMPORARY_PREFIX):
        return "begins as verse3d's temporary files do"
    if _CONTROL.search(name):
        return "holds control characters"
    return _bytes_problem(name) or (_windows_problem(name) if _ON_WINDOWS else "")


def _bytes_problem(name: str) -> str:
    try:
        # File systems count bytes, not letters.
        length = len(os.fsencode(name))
    except UnicodeEncodeError:
        return "holds half of a character (a lone surrogate)"
    if length > LONGEST_NAME_BYTES:
        return f"has {length} bytes, at most {LONGEST_NAME_BYTES} are possible"
    return ""


def _windows_problem(name: str) -> str:
    """Windows drops dots and spaces at the end, and takes some names for devices: other files would be meant."""
    if name[-1] in ". ":
        return "ends with a dot or a space, which Windows drops"
    if _RESERVED.fullmatch(name):
        return "is the name of a device in Windows"
    if _WINDOWS_REFUSES & set(name):
        return "holds characters that Windows refuses"
    return ""


def composed(name: str) -> str:
    """A name with its accents in one coding: a keyboard types composed letters, macOS stores decomposed ones.

    Example:
        >>> composed("a\\u0308") == composed("\\u00e4")
        True
    """
    return name if name.isascii() else unicodedata.normalize("NFC", name)


def codings(name: str) -> tuple[str, ...]:
    """A name as it is, then as other systems code its accents, each once."""
    return tuple(dict.fromkeys((name, composed(name), unicodedata.normalize("NFD", name))))


def same_on_disk(name: str) -> str:
    """A key that is equal for names that some disk takes for one: they differ in case, or in how accents are coded.

    Example:
        >>> same_on_disk("Straße_A\\u0308") == same_on_disk("STRASSE_\\u00e4")
        True
    """
    if name.isascii():
        return name.lower()
    # Folding may decompose, and composing may give something to fold: both again, as Unicode's caseless match does.
    return unicodedata.normalize("NFC", unicodedata.normalize("NFD", name).casefold())
