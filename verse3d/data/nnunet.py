"""What the ``dataset.json`` of an nnU-Net raw data set says about its labels."""

import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.files import read_json
from verse3d.core.labels import vertebra
from verse3d.core.logs import logger

DATASET_FILE = "dataset.json"
_log = logger(__name__)
_LEVEL = re.compile(r"^(?:vertebrae?[_ ])?([CTL]\d{1,2})$", re.IGNORECASE)


def label_corrections(mask: Path) -> tuple[tuple[int, int], ...]:
    """(id in the mask, VerSe id) where they differ, by the names in the ``dataset.json`` above ``labelsTr/``.

    nnU-Net counts its labels without gaps, so that T13 (28 in VerSe) has another id there. Names such as "L1" and
    "vertebrae_L1" are understood; a data set whose labels have other names is left as it is.
    """
    if not mask.parent.name.lower().startswith("labelst"):
        return ()
    return _corrections(mask.parent.parent / DATASET_FILE)


@lru_cache(maxsize=64)
def _corrections(dataset: Path) -> tuple[tuple[int, int], ...]:
    try:
        labels = read_json(dataset)["labels"] if dataset.is_file() else {}
        old_style = all(str(key).isdecimal() for key in labels)  # nnU-Net v1 wrote {"1": "C1"}
        named = {int(key if old_style else value): str(value if old_style else key) for key, value in labels.items()}
    except (DataError, KeyError, TypeError, ValueError, AttributeError):
        _log.warning("%s: the labels cannot be read: ids are taken for those of VerSe", dataset)
        return ()
    if named and not _verse_ids(named):
        _log.warning("%s: not all labels are levels such as L1: ids are taken for those of VerSe", dataset)
    return tuple((number, right) for number, right in sorted(_verse_ids(named).items()) if number != right)


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
