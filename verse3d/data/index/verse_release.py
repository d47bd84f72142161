"""The VerSe release as published: its six parts, what they should hold, and what of it was found.

The names are those of the complete subject-based release (374 scans of 355 subjects). Licence of the data: CC BY-SA
4.0; cite Sekuboyina et al. 2021 (10.1016/j.media.2021.102166), Löffler et al. 2020 (10.1148/ryai.2020190138) and Liebl
et al. 2021 (10.1038/s41597-021-01060-0).
"""

import csv
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources

from verse3d.data.cases import Case, Split

PARTS = {
    "verse19training": "dataset-verse19training",
    "verse19validation": "dataset-verse19validation",
    "verse19test": "dataset-verse19test",
    "verse20training": "dataset-01training",
    "verse20validation": "dataset-02validation",
    "verse20test": "dataset-03test",
}
"""The six parts, named by the first release that holds their scans, and their folders in the subject-based release."""
_SPLIT_OF_WORD: dict[str, Split] = {"training": "train", "validation": "validation", "test": "test"}
_RELEASE_FOLDER = re.compile(r"^dataset-(?:verse)?\d+(training|validation|test)(?:\.zip)?$", re.IGNORECASE)
_SPLIT_SERIES = re.compile(r"_split-(verse\d{3})")


@dataclass(frozen=True)
class ReleasedScan:
    """One scan of the release: its part, its file stem, and subject and series as in ``VerseName``."""

    part: str
    stem: str
    subject: str
    series: str

    @property
    def split(self) -> Split:
        """The official split."""
        return _SPLIT_OF_WORD[self.part.removeprefix("verse19").removeprefix("verse20")]


@dataclass(frozen=True)
class PartReport:
    """What was found of one part.

    Attributes:
        part: e.g. "verse19training".
        scans: how many of its scans were found.
        expected_scans: how many it has.
        subjects: of the scans found.
        expected_subjects: how many it has.
        missing: stems of the scans that were not found.
        without_mask: stems of the scans found whose mask was not.
    """

    part: str
    scans: int
    expected_scans: int
    subjects: int
    expected_subjects: int
    missing: tuple[str, ...]
    without_mask: tuple[str, ...]


def split_of_folder(name: str) -> Split | None:
    """The split that a release folder (or its zip) holds by its name, e.g. "dataset-01training"; None for any other."""
    match = _RELEASE_FOLDER.match(name)
    return _SPLIT_OF_WORD[match[1].lower()] if match else None


@cache
def released_scans() -> tuple[ReleasedScan, ...]:
    """All 374 scans, part by part."""
    text = (resources.files("verse3d.data.index") / "verse_release.csv").read_text(encoding="utf-8")
    scans = []
    for row in csv.DictReader(text.splitlines()):
        part, stem = row["part"], row["stem"]
        subject, split = stem.partition("_")[0], _SPLIT_SERIES.search(stem)
        # A scan that is the only one of its subject has the subject's number.
        series = split[1] if split else subject.removeprefix("sub-")
        scans.append(ReleasedScan(part, stem, subject, series))
    return tuple(scans)


@cache
def released_series() -> Mapping[str, ReleasedScan]:
    """The scans by their series, which is unique."""
    return {scan.series: scan for scan in released_scans()}


@cache
def released_subjects() -> Mapping[str, Split]:
    """The official split of every subject."""
    return {scan.subject: scan.split for scan in released_scans()}


def release_report(cases: Iterable[Case]) -> tuple[PartReport, ...]:
    """Compare the cases found with the release, part by part; empty if none of them belongs to it."""
    found = {case.series: case for case in cases if case.part and case.image}
    reports = []
    for part in PARTS if found else ():
        expected = [scan for scan in released_scans() if scan.part == part]
        present = [scan for scan in expected if scan.series in found]
        reports.append(
            PartReport(
                part=part,
                scans=len(present),
                expected_scans=len(expected),
                subjects=len({scan.subject for scan in present}),
                expected_subjects=len({scan.subject for scan in expected}),
                missing=tuple(scan.stem for scan in expected if scan.series not in found),
                without_mask=tuple(scan.stem for scan in present if found[scan.series].mask is None),
            )
        )
    return tuple(reports)
