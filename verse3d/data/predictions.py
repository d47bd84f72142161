"""What ``verse3d predict`` says about the masks in a folder.

Every finished call has put its records into a list, one per part of a divided job. A call that is still at work, or was
killed, has left them in a log of its own (see ``prediction_log``), which is read as well.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError
from verse3d.core.files import write_json
from verse3d.core.paths import path_below
from verse3d.core.readers import checked, read_record
from verse3d.data.centroids import CENTROID_SUFFIX
from verse3d.data.prediction_format import HINT, StoredList
from verse3d.data.prediction_log import is_log, logs_in, newest, read_log

PREDICTIONS_FILE = "predictions.json"
MASK_SUFFIX = "_seg-vert_msk.nii.gz"
_PARTS = "predictions-part*.json"


@dataclass(frozen=True)
class Predictions:
    """The lists of a folder taken together.

    Attributes:
        about: what the latest list or log says about the call as a whole: model, scheme, device ...; may be empty.
        records: by case, as ``inference.records.PredictionRecord`` holds them; of several the one finished last.
    """

    about: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


def mask_path(out: Path, case: str) -> Path:
    """Where the mask of a case is written.

    Raises:
        DataError: the case's name is none for a file.
    """
    return path_below(out, f"{case}{MASK_SUFFIX}")


def centroid_path(out: Path, case: str) -> Path:
    """Where the centroids of the vertebrae of a case are written, as VerSe does.

    Raises:
        DataError: the case's name is none for a file.
    """
    return path_below(out, f"{case}{CENTROID_SUFFIX}")


def has_mask(out: Path, case: str) -> bool:
    """Whether there is a mask of that case; there is none under a name that cannot be written."""
    try:
        return mask_path(out, case).is_file()
    except DataError:
        return False


def predictions_file(part: int, parts: int) -> str:
    """The name of the list that part ``part`` (0 ...) of ``parts`` writes."""
    return PREDICTIONS_FILE if parts == 1 else f"predictions-part{part}of{parts}.json"


def is_predictions_file(name: str) -> bool:
    """Whether a file of that name is such a list, or a log."""
    return name == PREDICTIONS_FILE or fnmatch(name, _PARTS) or is_log(name)


def prediction_lists(folder: Path) -> list[Path]:
    """The lists in a folder, the oldest first."""
    lists = [folder / PREDICTIONS_FILE, *folder.glob(_PARTS)]
    return sorted((path for path in lists if path.is_file()), key=lambda path: (path.stat().st_mtime_ns, path.name))


def read_predictions(folder: Path) -> Predictions:
    """Read all lists and logs of a folder; there may be none.

    Raises:
        DataError: a list or a log is damaged.
    """
    about: Mapping[str, Any] = {}
    records: dict[str, Mapping[str, Any]] = {}
    for path in prediction_lists(folder):
        one = read_prediction_list(path)
        about, records = one.about, newest(records, one.records)
    for path in logs_in(folder):
        log = read_log(path)
        about, records = log.about or about, newest(records, log.records)
    return Predictions(about, records)


def write_prediction_list(path: Path, predictions: Predictions) -> None:
    """Write one list, whole or not at all.

    Raises:
        OutputError: the file system refuses.
    """
    write_json(path, {**predictions.about, "cases": list(predictions.records.values())})


def read_prediction_list(path: Path) -> Predictions:
    """Read one list.

    Raises:
        DataError: it is damaged; names the place in it.
    """
    content = read_record(path, dict[str, Any], hint=HINT)
    stored = checked(content, StoredList, str(path), hint=HINT).cases
    # What is returned is the content itself: a typed copy could not hold what other versions wrote.
    records = {}
    for record, plain in zip(stored, content["cases"], strict=True):
        records[record.case] = plain
    about = {key: value for key, value in content.items() if key != "cases"}
    return Predictions(about, records)
