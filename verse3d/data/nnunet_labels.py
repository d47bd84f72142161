"""What the ``dataset.json`` of an nnU-Net raw data set says about its labels."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.files import is_file
from verse3d.core.labels import vertebra
from verse3d.core.logs import logger
from verse3d.core.readers import Record, Text, Whole, read_record
from verse3d.core.wording import brief

DATASET_FILE = "dataset.json"
_log = logger(__name__)
_NUMBER = re.compile(r"^\d{1,9}$", re.ASCII)
_LEVEL = re.compile(r"^(?:vertebrae?[_ ])?([CTL]\d{1,2})$", re.IGNORECASE)


def label_corrections(mask: Path) -> tuple[tuple[int, int], ...]:
    """(id in the mask, VerSe id) where they differ, by the names in the ``dataset.json`` above ``labelsTr/``.

    nnU-Net counts its labels without gaps, so that T13 (28 in VerSe) has another id there. Names such as "L1" and
    "vertebrae_L1" are understood; a data set whose labels have other names is left as it is.
    """
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
    """Number -> name; nnU-Net v1 wrote {"1": "C1"}, v2 writes {"C1": 1}.

    Raises:
        DataError: there is no whole number where one should be.
    """
    old_style = all(_NUMBER.match(key) for key in labels)
    pairs = labels.items() if old_style else ((value, key) for key, value in labels.items())
    named = {}
    for number, name in pairs:
        if not _NUMBER.match(str(number)):
            raise DataError(f"label {brief(name)} has the number {brief(number)}")
        named[int(number)] = str(name)
    return named


def _verse_ids(named: Mapping[int, str]) -> Mapping[int, int]:
    """VerSe ids of those labels whose names are levels; nothing unless all of them are."""
    ids: dict[int, int] = {}
    for number, name in named.items():
        if number == 0:
            continue
        match = _LEVEL.match(name)
        try:
            ids[number] = vertebra(match[1] if match else name).id
        except DataError:
            return {}
    return ids
