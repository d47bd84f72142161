"""What is remembered of every predicted scan, and the list of it that is written beside the masks."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from verse3d.core.files import write_json
from verse3d.core.logs import logger
from verse3d.data.predictions import read_prediction_list, read_predictions

_log = logger(__name__)


@dataclass(frozen=True)
class PredictionRecord:
    """What happened to one scan. ``status`` is "written", "skipped" or "failed".

    Attributes:
        case, image, mask: its name, the path of the scan, the name of the mask in the folder.
        status, error: see above, and why it failed.
        seconds: from reading the scan to the mask on disk, without waiting for a neighbour.
        seconds_of: the same by stage: read, prepare, network, home, clean, write.
        peak_rss_mb: largest resident memory of the program while the scan was worked on (where the system cannot count
            anew: since the program started). If neighbours are worked on meanwhile, their memory is part of it.
        plan: the plan of memory, see ``Plan.to_dict``.
        windows, windows_left_out: pieces that the network saw, and those that were only air.
        voxels, labelled_voxels, levels: what is in the mask.
        warnings: for the user.
        model_sha256: of the model file (of several: joined by "+"); empty for a skipped scan, whose mask may be
            another model's.
    """

    case: str
    image: str
    mask: str
    status: str
    error: str = ""
    seconds: float = 0.0
    seconds_of: Mapping[str, float] = field(default_factory=dict)
    peak_rss_mb: float = 0.0
    plan: Mapping[str, Any] = field(default_factory=dict)
    windows: int = 0
    windows_left_out: int = 0
    voxels: int = 0
    labelled_voxels: int = 0
    levels: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    model_sha256: str = ""


@dataclass(frozen=True)
class PredictionReport:
    """All records of one call, in the order of the scans."""

    folder: Path
    records: tuple[PredictionRecord, ...] = field(default_factory=tuple)

    @property
    def failures(self) -> tuple[PredictionRecord, ...]:
        """The scans that have no mask now."""
        return tuple(record for record in self.records if record.status == "failed")


def log_record(record: PredictionRecord) -> None:
    """Tell the user, one line per fact."""
    if record.status == "failed":
        _log.error("%s: %s", record.case, record.error)
    elif record.status == "skipped":
        _log.info("%s: kept %s, which exists (--overwrite replaces it)", record.case, record.mask)
    else:
        _log.info("%s: %s in %.1f s, peak %.0f MB", record.case, record.mask, record.seconds, record.peak_rss_mb)
    for warning in record.warnings:
        _log.log(logging.WARNING, "%s: %s", record.case, warning)


class RecordList:
    """The latest record of every scan whose mask is in the folder, rewritten after each scan.

    Several programs may fill one folder, each with a list of its own.
    """

    def __init__(self, path: Path, about: Callable[[], Mapping[str, Any]], cases: Sequence[str]) -> None:
        """Start from what any list of the folder knows about ``cases``, and what this very list knows.

        ``about`` is asked anew with every record: what ran the network may have given way meanwhile.
        """
        self._path, self._about = path, about
        earlier = read_predictions(path.parent).records
        self._earlier = dict(earlier)
        own = _cases_in(path)
        self._records = {case: record for case, record in earlier.items() if case in own or case in set(cases)}

    def previous(self, case: str) -> Mapping[str, Any]:
        """The record of an earlier call, or nothing."""
        return self._earlier.get(case, {})

    def add(self, record: PredictionRecord) -> None:
        """Store a record; a skipped scan keeps the record of the call that wrote its mask."""
        if record.status == "skipped" and record.case in self._records:
            return
        self._records[record.case] = asdict(record)
        write_json(self._path, {**self._about(), "cases": list(self._records.values())})


def _cases_in(path: Path) -> frozenset[str]:
    """The cases that one list names; none if it is not there."""
    return frozenset(read_prediction_list(path).records) if path.is_file() else frozenset()
