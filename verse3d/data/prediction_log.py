"""The log of one running ``verse3d predict``: a line per finished scan, in a file that no other process writes to.

So several processes can fill one folder, and whatever kills one of them, what it had finished is known::

    predictions.4711.9f86d081.1718000000000000000.jsonl
                |    |        when the call began
                |    the machine
                the process                                       (the first word names the list it belongs to)

    {"about": {"model": ..., "scheme": ...}}                      again only when it has changed
    {"case": "sub-01", "status": "written", "finished": ...}
"""

import errno
import json
import os
import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError
from verse3d.core.files import output_error
from verse3d.core.logs import logger
from verse3d.core.owners import is_alive, owner
from verse3d.core.readers import RECORD_BYTES, checked, parsed, read_text
from verse3d.data.prediction_format import HINT, StoredAbout, StoredRecord

_NAME = re.compile(r"(?P<list>predictions[A-Za-z0-9-]*)\.(?P<owner>[0-9]+\.[0-9a-f]{8})\.[0-9]+\.jsonl")
_log = logger(__name__)


@dataclass(frozen=True)
class LoggedPredictions:
    """What a log holds: what was said last about the call as a whole, and the records by case."""

    about: Mapping[str, Any] = field(default_factory=dict)
    records: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class PredictionLog:
    """The log of this call. The file appears with the first record."""

    def __init__(self, list_path: Path) -> None:
        """Begin a log that belongs to a list, beside it."""
        self.path = list_path.with_name(f"{list_path.stem}.{owner()}.{time.time_ns()}.jsonl")
        self._about: Mapping[str, Any] = {}

    def append(self, about: Mapping[str, Any], record: Mapping[str, Any]) -> None:
        """Add a record, and what is to be said about the call if that has changed.

        Raises:
            OutputError: the file system refuses.
        """
        lines = [record] if about == self._about else [{"about": about}, record]
        content = "".join(json.dumps(line, allow_nan=False) + "\n" for line in lines).encode()
        try:
            with self.path.open("ab", buffering=0) as handle:  # it goes to the system at once, whatever happens to us
                start = handle.tell()
                if handle.write(content) != len(content):  # a disk that is full takes what it can
                    handle.truncate(start)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise output_error(self.path, error) from error
        self._about = about


def is_log(name: str) -> bool:
    """Whether a file of that name is a log."""
    return _NAME.fullmatch(name) is not None


def logs_in(folder: Path) -> list[Path]:
    """The logs in a folder, the oldest first."""
    logs = [path for path in folder.glob("predictions*.jsonl") if is_log(path.name) and path.is_file()]
    return sorted(logs, key=lambda path: (path.stat().st_mtime_ns, path.name))


def abandoned_logs(list_path: Path) -> list[Path]:
    """The logs of a list whose processes live no more."""
    abandoned = []
    for path in logs_in(list_path.parent):
        name = _NAME.fullmatch(path.name)
        if name and name["list"] == list_path.stem and not is_alive(name["owner"], path):
            abandoned.append(path)
    return abandoned


def read_log(path: Path) -> LoggedPredictions:
    """Read a log. A last line that was cut off is left out, and said to be; a log that has gone meanwhile is empty.

    Raises:
        DataError: another line is damaged, or the file cannot be read.
    """
    try:
        *lines, torn = read_text(path, max_bytes=RECORD_BYTES, what="the log").split("\n")
    except DataError:
        if path.exists():
            raise
        return LoggedPredictions()  # its process has just put it into the list
    if torn:
        _log.warning("%s: the last line was cut off when its process was killed; it is left out", path)
    about: Mapping[str, Any] = {}
    records: dict[str, Mapping[str, Any]] = {}
    for number, line in enumerate(lines, start=1):
        content = parsed(line, dict[str, Any], f"{path}, line {number}", hint=HINT)
        if "about" in content:
            checked(content["about"], StoredAbout, f"{path}, line {number}", hint=HINT)
            about = content["about"]
        else:
            record = checked(content, StoredRecord, f"{path}, line {number}", hint=HINT)
            records[record.case] = content
    return LoggedPredictions(about, records)


def newest(
    known: Mapping[str, Mapping[str, Any]], more: Mapping[str, Mapping[str, Any]]
) -> dict[str, Mapping[str, Any]]:
    """Both together; of a case in both the record that was finished last, in doubt that of ``more``.

    That a mask was found and kept says less than the record of the call that wrote it, whichever came first.
    """
    merged = dict(known)
    for case, record in more.items():
        if case not in merged or _rank(record) >= _rank(merged[case]):
            merged[case] = record
    return merged


def _rank(record: Mapping[str, Any]) -> tuple[bool, float]:
    """Whether something was done, and when (0 for records of versions that did not tell)."""
    finished = record.get("finished", 0.0)
    return record.get("status") != "skipped", float(finished) if isinstance(finished, int | float) else 0.0
