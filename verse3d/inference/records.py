"""What is remembered of every predicted scan, and the list of it that is written beside the masks."""

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from verse3d.core.logs import logger
from verse3d.core.system import lock
from verse3d.data.prediction_log import PredictionLog, abandoned_logs, logs_in, newest, read_log
from verse3d.data.predictions import (
    Predictions,
    prediction_lists,
    read_prediction_list,
    read_predictions,
    write_prediction_list,
)

_log = logger(__name__)


@dataclass(frozen=True)
class PredictionRecord:
    """What happened to one scan. ``status`` is "written", "skipped" or "failed".

    Attributes:
        case, image, mask: its name, the path of the scan, the name of the mask in the folder.
        status, error: see above, and why it failed.
        seconds: from reading the scan to the mask on disk, without waiting for a neighbour.
        seconds_of: the same by stage: read, prepare, scout, network, stitch, resample, clean, write.
        peak_rss_mb: largest resident memory of the program while the scan was worked on, see ``core.peak_memory``. If
            neighbours are worked on meanwhile, their memory is part of it.
        process_peak_rss_mb: that of the program since it was started, as the system tells it.
        plan: the plan of memory, see ``Plan.to_dict``.
        windows, windows_left_out: windows that the network saw, and those that were only air or far from the spine.
        scout: what was looked at and why, see ``spine_crop.CropRecord``.
        voxels, labelled_voxels, labelled_ml, levels: what is in the mask.
        vertebrae: where bones were named by their sequence, from head to feet; see ``NamedVertebra.to_dict``.
        naming: how sure that is: "ambiguous", the "readings" with their probabilities, and what is "missed".
        warnings: for the user.
        model_sha256: of the model file (of several: joined by "+"); empty for a skipped scan, whose mask may be
            another model's.
        models: the paths of the model files.
        settings: what else decides about the mask, see ``Predictor.mask_settings``.
        finished: when, in seconds since 1970.
        mask_of: of a scan that failed because its mask is another model's (or scan's): the record of that mask.
    """

    case: str
    image: str
    mask: str
    status: str
    error: str = ""
    seconds: float = 0.0
    seconds_of: Mapping[str, float] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    process_peak_rss_mb: float = 0.0
    plan: Mapping[str, Any] = field(default_factory=dict)
    windows: int = 0
    windows_left_out: int = 0
    scout: Mapping[str, Any] = field(default_factory=dict)
    voxels: int = 0
    labelled_voxels: int = 0
    labelled_ml: float = 0.0
    levels: tuple[str, ...] = ()
    vertebrae: tuple[Mapping[str, Any], ...] = ()
    naming: Mapping[str, Any] = field(default_factory=dict)
    warnings: tuple[str, ...] = ()
    model_sha256: str = ""
    models: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    finished: float = 0.0
    mask_of: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class PredictionReport:
    """All records of one call, in the order of the scans."""

    folder: Path
    records: tuple[PredictionRecord, ...] = field(default_factory=tuple)

    @property
    def failures(self) -> tuple[PredictionRecord, ...]:
        """The scans that have no mask of this call's model now."""
        return tuple(record for record in self.records if record.status == "failed")


def contents_told_by(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a record that was read back says is in its mask; nothing where an older version wrote it."""
    numbers = {name: record.get(name) for name in ("voxels", "labelled_voxels", "labelled_ml")}
    if not all(isinstance(number, int | float) for number in numbers.values()):
        return {}
    levels = record.get("levels")
    if not isinstance(levels, list | tuple):
        return {}
    return {**numbers, "levels": tuple(map(str, levels))}


def log_record(record: PredictionRecord) -> None:
    """Tell that a scan is done. Why it failed and what is doubtful stands in the report, which is shown at the end."""
    if record.status == "failed":
        _log.error("%s: failed", record.case)
    elif record.status == "skipped":
        _log.info("%s: kept %s, which exists (`overwrite` replaces it)", record.case, record.mask)
    else:
        _log.info("%s: %s in %.1f s, peak %.0f MB", record.case, record.mask, record.seconds, record.peak_rss_mb)


class RecordList:
    """The latest record of every scan whose mask is in the folder.

    While the call is at work its records go into a log of its own; at the end they are put into the list, together with
    those of killed calls. So any number of programs may fill one folder.
    """

    def __init__(self, path: Path, about: Callable[[], Mapping[str, Any]]) -> None:
        """Read what is known of the folder of the list ``path``.

        ``about`` is asked anew with every record: what ran the network may have given way meanwhile.

        Raises:
            DataError: what is there is damaged.
        """
        self._path, self._about = path, about
        # predictions.json               the list, read and replaced as a whole
        #     + logs, one per process    a line per scan, appended; so nothing is lost by a kill
        self._own = PredictionLog(path)
        self._seen = self._what_is_there()
        self._earlier = read_predictions(path.parent).records

    def previous(self, case: str) -> Mapping[str, Any]:
        """The record of the mask that is there, or nothing.

        Raises:
            DataError: what another process has written meanwhile is damaged.
        """
        seen = self._what_is_there()
        if seen != self._seen:
            self._seen, self._earlier = seen, read_predictions(self._path.parent).records
        record = self._earlier.get(case, {})
        mask_of = record.get("mask_of")
        return mask_of if isinstance(mask_of, Mapping) and mask_of else record

    def _what_is_there(self) -> list[tuple[Path, int, int]]:
        """The other files with records and their state: whether they have to be read again."""
        folder, found = self._path.parent, []
        for path in (*prediction_lists(folder), *logs_in(folder)):
            with contextlib.suppress(OSError):  # just put into the list
                if path != self._own.path:
                    found.append((path, path.stat().st_mtime_ns, path.stat().st_size))
        return found

    def add(self, record: PredictionRecord) -> None:
        """Store a record; a skipped scan keeps the record of the call that wrote its mask."""
        content: Mapping[str, Any] = asdict(record)
        if record.status == "skipped" and record.case in self._earlier:
            content = self.previous(record.case)
            # The list says so already: to write it again would only make it look newer.
            if content is self._earlier[record.case]:
                return
        self._own.append(self._about(), {**content, "finished": round(time.time(), 3)})

    def put(self, content: Mapping[str, Any]) -> None:
        """Store a record that was changed: it takes the place of the one of the same case."""
        self._own.append(self._about(), {**content, "finished": round(time.time(), 3)})

    def __enter__(self) -> Self:
        """Put into the list what killed calls have left."""
        self._fold()
        return self

    def __exit__(self, *_: object) -> None:
        """Put the records of this call into the list."""
        self._fold()

    def _fold(self) -> None:
        """Move what the logs hold into the list. Where folders cannot be locked, the logs stay and are read as well."""
        with _locked(self._path.parent) as is_locked:
            # Of living processes the logs are theirs; of dead ones nobody will add to them.
            logs = [path for path in (*abandoned_logs(self._path), self._own.path) if path.exists()]
            if not is_locked or not logs:
                return
            earlier = read_prediction_list(self._path) if self._path.is_file() else Predictions()
            about, records = earlier.about, earlier.records
            for log in map(read_log, logs):
                about, records = log.about or about, newest(records, log.records)
            write_prediction_list(self._path, Predictions(about, records))
            # Last: whoever is killed before this finds the same records twice, and takes the newest.
            for path in logs:
                path.unlink()


@contextlib.contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Let one process after the other into the block; false where the file system knows no locks."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        yield lock(handle, wait=True)
    finally:
        os.close(handle)
