"""What the name of a VerSe file says: whom the scan shows, and which acquisition it is.

The same acquisition ("series") goes by different names in the releases: ``sub-verse401_split-verse201`` in the
subject-based release, ``verse401_verse201_CT-iso`` in VerSe'20 as given out at MICCAI, ``verse201`` in VerSe'19 there.
"""

import re
from dataclasses import dataclass
from typing import Literal

from verse3d.data.index.verse_release import released_series

NamingStyle = Literal["subject-based", "MICCAI"]

_SUBJECT_BASED = re.compile(r"^sub-(verse|gl)(\d{3})(?:_split-verse(\d{3}))?(?:_dir-(?:ax|iso|sag))?$")
_MICCAI = re.compile(r"^(verse|gl)(\d{3})(?:_verse(\d{3}))?(?:[_-]ct)?(?:[_-](ax|iso|sag))?$", re.IGNORECASE)
_BEGINS_LIKE_VERSE = re.compile(
    r"^(?:sub-)?(verse|gl)(\d{3})(?:_(?:split-)?verse(\d{3}))?(?![A-Za-z0-9])", re.IGNORECASE
)
_SUBJECT_OF_BIDS = re.compile(r"^(sub-[A-Za-z0-9]+)(?:_|$)")


@dataclass(frozen=True)
class VerseName:
    """What a name in the style of VerSe says.

    Attributes:
        subject: e.g. "sub-verse401".
        series: the acquisition, e.g. "verse201", the same in every release.
        style: which release names its files so.
        orientation: "ax", "iso", "sag" or "".
    """

    subject: str
    series: str
    style: NamingStyle
    orientation: str = ""


def parse_verse_name(name: str) -> VerseName | None:
    """Take a name apart (without folder, ending and ``_ct``/``_seg``/... suffix); None if it is no VerSe name.

    A MICCAI name of 2019 gives only the series; the patient behind it is looked up in the list of the release.

    Example:
        >>> parse_verse_name("sub-verse401_split-verse201").series
        'verse201'
        >>> parse_verse_name("verse201").subject
        'sub-verse401'
        >>> parse_verse_name("GL017_CT_ax").subject
        'sub-gl017'
    """
    if match := _SUBJECT_BASED.match(name):
        kind, number, series = match.groups()
        return VerseName(f"sub-{kind}{number}", f"verse{series}" if series else f"{kind}{number}", "subject-based")
    if match := _MICCAI.match(name):
        kind, number, series, orientation = match.groups()
        own = f"{kind.lower()}{number}"
        return VerseName(
            _subject(own, series=series), f"verse{series}" if series else own, "MICCAI", (orientation or "").lower()
        )
    return None


def subject_of(name: str) -> str:
    """Whom a scan of that name shows: as VerSe names it, else the ``sub-...`` of BIDS, else the name itself.

    A name that only begins like one of VerSe's (``verse201_resampled``) shows the same patient.
    """
    if verse := parse_verse_name(name):
        return verse.subject
    if match := _BEGINS_LIKE_VERSE.match(name):
        return _subject(f"{match[1].lower()}{match[2]}", series=match[3])
    bids = _SUBJECT_OF_BIDS.match(name)
    return bids[1] if bids else name


def is_gl(name: str) -> bool:
    """Whether a name (of a case, a series, a subject or a file) is one of the gl scans of VerSe'20."""
    return re.match(r"^(sub-)?gl\d{3}(?![A-Za-z0-9])", name, re.IGNORECASE) is not None


def _subject(own: str, *, series: str | None) -> str:
    """A lone number of VerSe'19 as given out at MICCAI is a series, whose patient the list of the release knows."""
    known = None if series else released_series().get(own)
    return known.subject if known else f"sub-{own}"


def pairing_name(name: str) -> str:
    """The name by which a scan finds its mask; VerSe mixes spellings such as ``GL017_CT_ax`` and ``GL017_CT-ax``."""
    verse = parse_verse_name(name)
    if verse is None or verse.style != "MICCAI":
        return name
    return f"{verse.subject}/{verse.series}/{verse.orientation}"
