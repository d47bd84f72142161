"""Where the VerSe release lies: its six archives, the mirrors that hold them, and how to fetch them by hand.

No link here was ever followed while this was written. The S3 addresses are those of the README of anjany/verse (their
server was reported dead and alive by turns since 2024); the ids of the OSF folders are those that other public loaders
of VerSe name: torch-em and others for VerSe20, one loader for VerSe19. The sizes are what users reported.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args
from urllib.parse import urlsplit

from verse3d.core.errors import ConfigError

MirrorName = Literal["s3", "osf"]
MIRRORS: tuple[MirrorName, ...] = get_args(MirrorName)
YEARS = (19, 20)
RELEASE_SPLITS = ("training", "validation", "test")
S3 = "https://s3.bonescreen.de/public/VerSe-complete"
OSF = "https://files.de-1.osf.io/v1/resources/{node}/providers/osfstorage/{folder}/?zip="
LICENCE = "CC BY-SA 4.0, https://creativecommons.org/licenses/by-sa/4.0/"
CITATIONS = (
    "Sekuboyina et al. 2021, VerSe: a vertebrae labelling and segmentation benchmark for multi-detector CT images, "
    "https://doi.org/10.1016/j.media.2021.102166",
    "Löffler et al. 2020, A vertebral segmentation dataset with fracture grading, "
    "https://doi.org/10.1148/ryai.2020190138",
    "Liebl et al. 2021, A computed tomography vertebral segmentation dataset with anatomical variations and "
    "multi-vendor scanner data, https://doi.org/10.1038/s41597-021-01060-0",
)
"""What the authors of VerSe ask to be cited."""
_NODES = {19: "jtfa5", 20: "4skx2"}
_PAGES = {
    19: "https://osf.io/jtfa5 (or 923ap), subject-based; the whole of VerSe19 is https://osf.io/nqjyw",
    20: "https://osf.io/4skx2, subject-based; the whole of VerSe20 is https://osf.io/t98fz, as for MICCAI "
    "https://osf.io/b2wxj",
}
_PARTS = {  # year, split: (folder at OSF, rough size in GB)
    (19, "training"): ("5ffca086e80d370320a594cc", 6.6),
    (19, "validation"): ("5ffcb524ba0109031c8931fa", 3.0),
    (19, "test"): ("5ffcbd71e80d370336a56f8c", 3.0),
    (20, "training"): ("5ffa463786541a01e714d390", 11.5),
    (20, "validation"): ("5ffa463686541a01eb15048c", 13.1),
    (20, "test"): ("5ffa4635ba010901f0891bd0", 14.0),
}


@dataclass(frozen=True)
class Archive:
    """One of the six zip files of the subject-based release.

    Attributes:
        year: 19 or 20.
        split: "training", "validation" or "test".
    """

    year: int
    split: str

    @property
    def name(self) -> str:
        """Its file name, e.g. "dataset-verse19training.zip"."""
        return f"dataset-verse{self.year}{self.split}.zip"

    @property
    def rough_bytes(self) -> int:
        """About how large it is, where no server says so."""
        return int(_PARTS[self.year, self.split][1] * 1e9)

    def url(self, mirror: MirrorName) -> str:
        """Its address at a mirror. OSF packs its folder when asked, so that archive has no length and other bytes."""
        folder = _PARTS[self.year, self.split][0]
        return f"{S3}/{self.name}" if mirror == "s3" else OSF.format(node=_NODES[self.year], folder=folder)


@dataclass(frozen=True)
class Source:
    """An address of an archive.

    Attributes:
        mirror: "s3", "osf", or "base" for an address that the user gave.
        url: the address.
    """

    mirror: str
    url: str

    @property
    def steady(self) -> bool:
        """Whether the same address gives the same bytes every time."""
        return self.mirror != "osf"


def archives(years: Sequence[int] = YEARS, splits: Sequence[str] = RELEASE_SPLITS) -> tuple[Archive, ...]:
    """The archives of some years and splits, each once, in the order of the release.

    Raises:
        ConfigError: a year or a split is none of VerSe's, or there is none at all.
    """
    wrong = [f"year {year}" for year in years if year not in YEARS]
    wrong += [f"split {split!r}" for split in splits if split not in RELEASE_SPLITS]
    if wrong or not years or not splits:
        raise ConfigError(
            f"VerSe has no {', no '.join(wrong) or 'archive without a year and a split'}",
            hint=f"years are {', '.join(map(str, YEARS))}, splits are {', '.join(RELEASE_SPLITS)}",
        )
    return tuple(
        Archive(year, split) for year in YEARS for split in RELEASE_SPLITS if year in years and split in splits
    )


def sources(
    archive: Archive, base_url: str | None = None, mirrors: Sequence[MirrorName] = MIRRORS
) -> tuple[Source, ...]:
    """Where to ask for an archive, in this order.

    Args:
        archive: the archive.
        base_url: a folder that holds the archives; it is asked instead of the mirrors.
        mirrors: names of mirrors.

    Raises:
        ConfigError: the base address is not http(s), or a mirror is unknown.
    """
    if base_url is not None:
        address = _checked(base_url).rstrip("/")
        return (Source("base", f"{address}/{archive.name}"),)
    if wrong := [name for name in mirrors if name not in MIRRORS]:
        raise ConfigError(f"mirror {wrong[0]!r} is unknown; expected {' or '.join(MIRRORS)}")
    wanted = dict.fromkeys(mirrors or MIRRORS)  # each once, in the order that was asked for
    return tuple(Source(name, archive.url(name)) for name in wanted)


def _checked(base_url: str) -> str:
    try:
        parts = urlsplit(base_url)
        fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
        fine = fine and not (parts.query or parts.fragment or parts.username or any(map(str.isspace, base_url)))
    except ValueError:  # a port that is no number, a bracket that is not closed
        fine = False
    if not fine:
        raise ConfigError(
            f"base address {base_url!r} is not the http(s) address of a folder",
            hint=f"e.g. {S3}: the archives' names are added to it; passwords belong into ~/.netrc",
        )
    return base_url


def by_hand(missing: Sequence[Archive], folder: Path) -> str:
    """What to do where no mirror delivered, line by line."""
    years = sorted({archive.year for archive in missing})
    lines = [
        f"To fetch {', '.join(archive.name for archive in missing)} by hand:",
        *(f"  - open {_PAGES[year]}; download the folder of each split as a zip" for year in years),
        f"  - put the zip files under the names above into {folder}",
        "  - run this command again: it takes them into its list without downloading them",
        f"  - verse3d index {folder} then says which scans are missing",
    ]
    return "\n".join(lines)
