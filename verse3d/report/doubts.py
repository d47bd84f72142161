"""What is doubtful about the names in a predicted mask, as marks beside them: L5 partial, T12?"""

from dataclasses import dataclass, field
from pathlib import Path

from pydantic import Field

from verse3d.core.errors import DataError
from verse3d.core.labels import VERSE_IDS, vertebra
from verse3d.core.logs import logger
from verse3d.core.readers import Many, Number, Record, Text, Whole, checked
from verse3d.core.wording import how_many
from verse3d.data.predictions import read_predictions

_SURE = 0.9
_log = logger(__name__)


@dataclass(frozen=True)
class Doubts:
    """What to write beside and below a mask.

    Attributes:
        marks: VerSe id -> what follows its name.
        remarks: sentences.
    """

    marks: dict[int, str] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


class _Vertebra(Record):
    id: Whole
    confidence: Number = 1.0
    partial: bool = False
    in_mask: bool = True


class _Reading(Record):
    probability: Number
    names: Many[Text]


class _Naming(Record):
    ambiguous: bool = False
    readings: Many[_Reading] = ()


class _Named(Record):
    """What is read of a record."""

    vertebrae: Many[_Vertebra] = ()
    naming: _Naming = Field(default_factory=_Naming)
    corrections: Many[dict[str, object]] = ()


def doubts_about(mask: Path) -> Doubts:
    """What the list beside a mask says about its names; nothing if there is none, or none that can be read."""
    try:
        records = read_predictions(mask.parent).records.values()
        record = next((one for one in records if one.get("mask") == mask.name), None)
        if record is None or not record.get("vertebrae"):
            return Doubts()
        named = checked(dict(record), _Named, f"the record of {mask.name}")
    except DataError as error:
        _log.warning("nothing is known about the names in %s: %s", mask, error.message)
        return Doubts()
    # Only what the mask shows can be marked; the rest is told below the picture.
    shown = [one for one in named.vertebrae if one.in_mask and one.id in VERSE_IDS]
    marks = {}
    for one in shown:
        # Of an ambiguous spine some names are the same in all likely readings.
        doubtful = named.naming.ambiguous and one.confidence < _SURE
        if doubtful or one.partial:
            marks[one.id] = ("?" if doubtful else "") + (" partial" if one.partial else "")
    return Doubts(marks, _remarks(named))


def _remarks(named: _Named) -> tuple[str, ...]:
    remarks = []
    if named.naming.ambiguous:
        spans = [
            f"{one.names[0]}-{one.names[-1]} ({100 * one.probability:.0f} %)"
            for one in named.naming.readings[:2]
            if one.names
        ]
        remarks.append(f"the names are ambiguous: {' or '.join(spans)}")
    left_out = [vertebra(one.id).name for one in named.vertebrae if not one.in_mask and one.id in VERSE_IDS]
    if left_out:
        remarks.append(f"cut by the end of the scan and not in the mask: {', '.join(left_out)}")
    if named.corrections:
        remarks.append(f"names were corrected by hand ({how_many(len(named.corrections), 'time')})")
    return tuple(remarks)
