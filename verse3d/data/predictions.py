"""What ``verse3d predict`` says about the masks in a folder: its lists of records, one per part of a divided job."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError
from verse3d.core.files import read_json

PREDICTIONS_FILE = "predictions.json"
_PARTS = "predictions-part*.json"


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
    about: dict[str, Any] = {}
    records: dict[str, Mapping[str, Any]] = {}
    for path in prediction_lists(folder):
        content = read_json(path)
        try:
            records |= {str(record["case"]): record for record in content["cases"]}
            about = {key: value for key, value in content.items() if key != "cases"}
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(
                f"{path} is no list of predictions: {error!r}", hint="remove it, or predict into a new folder"
            ) from error
    return Predictions(about, records)
