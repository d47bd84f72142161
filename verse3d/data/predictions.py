"""What ``verse3d predict`` says about the masks in a folder: its lists of records, one per part of a divided job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any, Literal

from pydantic import ConfigDict, Field

from verse3d.core.readers import Many, Number, Record, Text, Whole, read_record

PREDICTIONS_FILE = "predictions.json"
_PARTS = "predictions-part*.json"
_HINT = "remove it, or predict into a new folder"


@dataclass(frozen=True)
class Predictions:
    """The lists of a folder taken together.

    Attributes:
        about: what the latest list says about the call as a whole: model, scheme, device ...; empty without a list.
        records: by case, as ``inference.records.PredictionRecord`` holds them; of several the latest list's.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def predictions_file(part: int, parts: int) -> str:
    """The name of the list that part ``part`` (0 ...) of ``parts`` writes."""
    return PREDICTIONS_FILE if parts == 1 else f"predictions-part{part}of{parts}.json"


def is_predictions_file(name: str) -> bool:
    """Whether a file of that name is such a list."""
    return name == PREDICTIONS_FILE or fnmatch(name, _PARTS)


def prediction_lists(folder: Path) -> list[Path]:
    """The lists in a folder, the oldest first."""
    lists = [folder / PREDICTIONS_FILE, *folder.glob(_PARTS)]
    return sorted((path for path in lists if path.is_file()), key=lambda path: (path.stat().st_mtime_ns, path.name))


def read_predictions(folder: Path) -> Predictions:
    """Read all lists of a folder; there may be none.

    Raises:
        DataError: a list is damaged.
    """
    about: Mapping[str, Any] = {}
    records: dict[str, Mapping[str, Any]] = {}
    for path in prediction_lists(folder):
        one = read_prediction_list(path)
        records |= one.records
        about = one.about
    return Predictions(about, records)


class _Stored(Record):
    """A record as any version wrote it: what is read of it has a type, the rest is kept as it is."""

    model_config = ConfigDict(extra="allow")

    case: Text
    status: Literal["written", "skipped", "failed"]
    mask: Text = ""
    image: Text = ""
    error: Text = ""
    seconds: Number = 0.0
    seconds_of: dict[str, Number] = Field(default_factory=dict)
    peak_rss_mb: Number = 0.0
    windows: Whole = 0
    warnings: Many[Text] = ()
    model_sha256: Text = ""


class _StoredList(Record):
    model_config = ConfigDict(extra="allow")

    cases: Many[_Stored]
    scheme: Literal["binary", "vertebrae", ""] = ""
    model: Text = ""
    device: Text = ""


def read_prediction_list(path: Path) -> Predictions:
    """Read one list.

    Raises:
        DataError: it is damaged; names the place in it.
    """
    content = read_record(path, _StoredList, hint=_HINT)
    about = content.model_dump(mode="json", exclude={"cases"}, exclude_unset=True)
    records = {record.case: record.model_dump(mode="json", exclude_unset=True) for record in content.cases}
    return Predictions(about, records)
