"""A shift that somebody found by eye: names of a predicted mask moved along the spine, written down, and undone.

The record says what mask and centroids should hold before they do, and how their names were last moved. If the program
is killed in between, forwards or back, the next call finds which of them still have the names from before, and moves
these first.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from numpy.typing import NDArray
from pydantic import AfterValidator, ConfigDict, Field

from verse3d.core.errors import DataError
from verse3d.core.labels import VERSE_IDS, VERTEBRAE, label_counts, vertebra
from verse3d.core.paths import composed
from verse3d.core.readers import Many, Number, Record, checked
from verse3d.core.volume import Volume, read_labels, stored_scheme, write_labels
from verse3d.data.centroids import parse_centroids, write_centroids
from verse3d.data.predictions import PREDICTIONS_FILE, centroid_path, mask_path, read_predictions
from verse3d.inference.guards import refuse_foreign_mask
from verse3d.inference.records import RecordList
from verse3d.labelling.shifting import MOST_PLACES, shifted_ids

_SHOWN_CASES = 8


@dataclass(frozen=True)
class Relabelled:
    """What became of a mask.

    Attributes:
        case: its case.
        mask: the file.
        before, after: names from head to feet.
        corrections: how many corrections it carries now.
    """

    case: str
    mask: Path
    before: tuple[str, ...]
    after: tuple[str, ...]
    corrections: int


def relabel_mask(out: Path, case: str, shift: int) -> Relabelled:
    """Move all names of a predicted mask by so many places towards the feet (up if negative), or undo the latest move.

    The mask, its centroids and its record change; nothing does if something is wrong.

    Args:
        out: the folder of predictions.
        case: whose mask.
        shift: places; 0 undoes the latest correction.

    Raises:
        ConfigError: ``shift`` is longer than any spine.
        DataError: there is no such case, its mask is not what its record says, a name would leave the spine, or there
            is nothing to undo.
        OutputError: something cannot be written.
    """
    predictions = read_predictions(out)
    case = next((known for known in predictions.records if composed(known) == composed(case)), case)
    record = _record(predictions.records, case, out)
    target = mask_path(out, case)
    stored = checked(dict(record), _Correctable, f"the record of {case} in {out}")
    mask = _own_mask(target)
    past = list(stored.corrections)
    mask = _as_recorded(mask, stored, target)
    ids, latest = _ids(mask), dict(stored.latest_move)
    # Vertebrae that are listed but not in the mask (the scan cuts them) move, too.
    listed = {vertebra(one.name).id for one in stored.vertebrae}
    if shift:
        moved = shifted_ids(ids | listed, shift)
        past.append(_Correction(shift=shift, ids=tuple(moved.items()), when=round(time.time(), 3)))
    elif past:
        moved = past.pop().undone
    else:
        raise DataError(f"the mask of {case} carries no correction that could be undone")
    changed = _changed(record, moved, past, ids)
    # The record first: a mask whose record is behind could not be told from one that somebody else has changed.
    with RecordList(out / PREDICTIONS_FILE, lambda: predictions.about) as records:
        records.put(changed)
        _write(mask, target, moved)
    _move_centroids(centroid_path(out, case), mask, latest, moved)
    return Relabelled(case, target, _names(ids), _names({moved.get(one, one) for one in ids}), len(past))


def _exchange(pairs: tuple[tuple[int, int], ...]) -> tuple[tuple[int, int], ...]:
    before, after = {pair[0] for pair in pairs}, {pair[1] for pair in pairs}
    are_known = before | after <= VERSE_IDS
    is_reversible = len(before) == len(after) == len(pairs)
    if not (are_known and is_reversible):
        raise ValueError("is no way to exchange VerSe ids")
    return pairs


class _Correction(Record):
    """One move: which id became which, and when."""

    shift: Annotated[int, Field(ge=-MOST_PLACES, le=MOST_PLACES)]
    ids: Annotated[Many[tuple[int, int]], AfterValidator(_exchange)]
    when: Number = 0.0

    @property
    def undone(self) -> dict[int, int]:
        """The way back."""
        return {after: before for before, after in self.ids}


class _Listed(Record):
    model_config = ConfigDict(extra="allow")

    name: str


class _Correctable(Record):
    """What is read of a record."""

    model_config = ConfigDict(extra="allow")

    levels: Many[str] = ()
    vertebrae: Many[_Listed] = ()
    corrections: Many[_Correction] = ()
    latest_move: Annotated[Many[tuple[int, int]], AfterValidator(_exchange)] = ()


def _record(records: Mapping[str, Mapping[str, Any]], case: str, out: Path) -> Mapping[str, Any]:
    if case not in records:
        known = ", ".join(list(records)[:_SHOWN_CASES]) or "none"
        raise DataError(f"{out} has no prediction of {case}", hint=f"there are: {known}", option="case")
    record = records[case]
    if record.get("status") != "written":
        raise DataError(f"the latest prediction of {case} failed", hint="predict it again")
    return record


def _own_mask(target: Path) -> Volume:
    if not target.is_file():
        raise DataError(f"{target} is not there any more", hint="predict the case again")
    refuse_foreign_mask(target)
    mask = read_labels(target)
    if stored_scheme(mask.header) != "vertebrae":
        raise DataError(f"{target} does not tell vertebrae apart: there are no names to move")
    return mask


def _as_recorded(mask: Volume, stored: _Correctable, target: Path) -> Volume:
    """The mask as its record says it is; a move that was interrupted is finished in memory.

    Raises:
        DataError: it is neither that nor what it was before the latest move.
    """
    ids, recorded = _ids(mask), {vertebra(name).id for name in stored.levels}
    if ids == recorded:
        return mask
    moved = dict(stored.latest_move)
    if moved and {moved.get(one, one) for one in ids} == recorded:
        return Volume(_looked_up(mask.array, moved), mask.geometry, mask.header, mask.path)
    found, expected = (", ".join(_names(each)) or "nothing" for each in (ids, recorded))
    raise DataError(
        f"{target} holds {found}, its record says {expected}",
        hint="somebody else has changed the mask; predict it again with `overwrite`",
    )


def _changed(
    record: Mapping[str, Any], moved: Mapping[int, int], past: list[_Correction], ids: set[int]
) -> dict[str, Any]:
    """The record with its names moved."""
    # Only names and ids move: centres and volumes are those of the same bones.
    vertebrae = []
    for one in record.get("vertebrae", ()):
        label = vertebra(one["name"])
        new = vertebra(moved.get(label.id, label.id))
        vertebrae.append({**one, "name": new.name, "id": new.id})
    return {
        **record,
        "levels": list(_names({moved.get(one, one) for one in ids})),
        "vertebrae": vertebrae,
        "corrections": [one.model_dump(mode="json") for one in past],
        "latest_move": [list(pair) for pair in moved.items()],
    }


def _write(mask: Volume, target: Path, moved: Mapping[int, int]) -> None:
    write_labels(target, _looked_up(mask.array, moved), like=mask.header, scheme="vertebrae")


def _looked_up(labels: NDArray[Any], moved: Mapping[int, int]) -> NDArray[np.uint8]:
    # Ids that do not move, and the background, stay what they are.
    table = np.arange(256, dtype=np.uint8)
    table[list(moved)] = list(moved.values())
    result = np.empty_like(labels, np.uint8)
    for number, plane in enumerate(labels):
        result[number] = table[plane]
    return result


def _move_centroids(path: Path, mask: Volume, latest: Mapping[int, int], moved: Mapping[int, int]) -> None:
    """Give the centroids beside the mask, if there are any, their new names.

    Args:
        path: the file.
        mask: as it was recorded before this move.
        latest: the move before this one, which the file may have missed.
        moved: this one.
    """
    if not path.is_file():
        return
    # Back through the world, since the file counts along axes of its own.
    stored = parse_centroids(path)
    places = mask.geometry.reoriented(stored.direction).world_from_index(np.reshape(stored.points, (-1, 3)))
    labels, ids = set(stored.labels), _ids(mask)
    missed = latest if labels != ids and {latest.get(one, one) for one in labels} == ids else {}
    names = [missed.get(label, label) for label in stored.labels]
    centres = {moved.get(label, label): place for label, place in zip(names, places, strict=True)}
    write_centroids(path, centres, mask.geometry)


def _ids(mask: Volume) -> set[int]:
    return {int(label) for label in np.flatnonzero(label_counts(mask.array)) if label}


def _names(ids: set[int]) -> tuple[str, ...]:
    return tuple(label.name for label in VERTEBRAE if label.id in ids)
