"""The labels in the ``dataset.json`` of an nnU-Net raw data set: how they are written, and what they say.

{"labels": {"background": 0, "C1": 1, ..., "L6": 25, "T13": 26}, ...}       v2, and what verse3d writes
{"labels": {"0": "background", "1": "vertebrae_C1", ...}, ...}              v1, and other programs
"""

import re
from collections.abc import Iterator, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError
from verse3d.core.files import is_file
from verse3d.core.labels import LabelScheme, level_called
from verse3d.core.logs import logger
from verse3d.core.readers import Record, Text, Whole, read_record
from verse3d.core.wording import brief

DATASET_FILE = "dataset.json"
_log = logger(__name__)
_NUMBER = re.compile(r"^\d{1,9}$", re.ASCII)


def dataset_labels(scheme: LabelScheme) -> dict[str, int]:
    """Name -> number in masks for nnU-Net, without gaps."""
    return {"background": 0} | {label.name: number for number, label in enumerate(scheme.labels, start=1)}


def label_corrections(mask: Path) -> tuple[tuple[int, int], ...]:
    """(id in the mask, VerSe id) where they differ, by the names in the ``dataset.json`` above ``labelsTr/``.

    nnU-Net counts its labels without gaps, so that T13 (28 in VerSe) has another id there. Names such as "L1" and
    "vertebrae_L1" are understood; a data set whose labels have other names is left as it is.
    """
    # labelsTr, labelsTs
    if not mask.parent.name.lower().startswith("labelst"):
        return ()
    return _corrections(mask.parent.parent / DATASET_FILE)


class _DataSet(Record):
    labels: dict[str, Whole | Text]


@lru_cache(maxsize=64)
def _corrections(dataset: Path) -> tuple[tuple[int, int], ...]:
    if not is_file(dataset):
        return ()
    try:
        named = _named(read_record(dataset, _DataSet).labels)
    except DataError as error:  # of another program, as often as not: regions are labels of several numbers there
        _log.warning("%s: the labels cannot be read: ids are taken for those of VerSe (%s)", dataset, error.message)
        return ()
    if named and not _verse_ids(named):
        _log.warning("%s: not all labels are levels such as L1: ids are taken for those of VerSe", dataset)
    return tuple((number, right) for number, right in sorted(_verse_ids(named).items()) if number != right)


def _named(labels: Mapping[str, int | str]) -> dict[int, str]:
    """Number -> name.

    Raises:
        DataError: there is no whole number where one should be.
    """
    named = {}
    for number, name in numbered(labels):
        if not _NUMBER.match(str(number)):
            raise DataError(f"label {brief(name)} has the number {brief(number)}")
        named[int(number)] = str(name)
    return named


def numbered(labels: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    """(number, name) of every label, neither of them checked; v1 wrote {"1": "C1"}, v2 writes {"C1": 1}."""
    # Whichever of the two looks like a number is the number.
    return ((key, value) if _NUMBER.match(key) else (value, key) for key, value in labels.items())


def _verse_ids(named: Mapping[int, str]) -> Mapping[int, int]:
    """VerSe ids of those labels whose names are levels; nothing unless all of them are."""
    try:
        levels = {number: level_called(name) for number, name in named.items() if number != 0}
    except DataError:  # L9
        return {}
    # One name that is no level, and the data set is about something else.
    if None in levels.values():
        return {}
    return {number: level.id for number, level in levels.items() if level}
