"""What was measured of files, kept beside the index, so that unchanged files are not read again."""

import hashlib
import json
import os
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError, OutputError
from verse3d.core.files import is_file, write_text
from verse3d.core.jsontext import json_checksum
from verse3d.core.logs import logger
from verse3d.core.readers import MEGABYTE, Record, Text, checked, numbered_lines, parsed
from verse3d.core.wording import how_many
from verse3d.data.cases import Case
from verse3d.data.quality.record import SURVEY_VERSION, CaseSurvey

_log = logger(__name__)
_MOST_BYTES = 256 * MEGABYTE
_LONGEST_LINE = MEGABYTE // 4
"""Characters. A survey has about 3,000; one with thousands of findings is measured anew each time."""


def cache_path(index: Path) -> Path:
    """Where the surveys of an index are kept: ``cases.survey.jsonl`` beside ``cases.jsonl``."""
    return index.with_name(f"{index.stem}.survey.jsonl")


def cache_key(case: Case) -> str:
    """Changes whenever the survey of the case may: its name, corrections, files (path, size, time), our checks."""
    files = [_file_state(path) for path in (case.image, case.mask, case.centroids)]
    state = json.dumps([SURVEY_VERSION, case.case, case.relabel, files])
    return hashlib.blake2b(state.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _file_state(path: Path | None) -> list[Any] | None:
    if path is None:
        return None
    absolute = os.path.abspath(path)  # noqa: PTH100 - links are not followed: two links may change apart
    try:
        status = path.stat()
    except (OSError, ValueError):  # not there, or a name that the system refuses
        return [absolute]
    return [absolute, status.st_size, status.st_mtime_ns]


class SurveyCache:
    """A file of JSON lines ``{"key": ..., "check": ..., "survey": {...}}``, appended to case by case.

    ``check`` is a hash of the survey: a number that a disk or somebody else has changed is noticed although it is still
    a number. Lines that are damaged, torn or of an older version are dropped, and their cases measured again; a cache
    that cannot be written is left alone with a warning. Surveys of files that could not be read are not kept: the
    reason may pass.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._damaged = 0
        self._kept = {} if path is None else self._read(path)
        self._torn = bool(path and is_file(path) and not _ends_whole(path))
        if self._damaged:
            _log.warning("%s: %s: measured again", path, how_many(self._damaged, "damaged line"))

    def _read(self, path: Path) -> dict[str, dict[str, Any]]:
        """The undamaged lines; of one that is there twice the last."""
        kept: dict[str, dict[str, Any]] = {}
        if not os.path.lexists(path):
            return kept
        try:
            # Any byte is a character of Latin-1, so that a damaged one spoils its own line only; ours are ASCII.
            lines = numbered_lines(path, max_bytes=_MOST_BYTES, what="the earlier surveys in", encoding="latin-1")
            for number, line in lines:
                if (entry := _entry(line, f"line {number}")) is None:
                    self._damaged += 1
                else:
                    kept[entry.key] = entry.survey
        except DataError as error:  # the file as a whole: it is written anew
            _log.warning("%s: all cases are measured again", error.message)
            self._path = path if is_file(path) else None
            self._damaged += 1
        return kept

    def get(self, key: str, case: str) -> CaseSurvey | None:
        """What was kept under that key, if it is about that case."""
        values = self._kept.get(key)
        if values is None or values.keys() != _FIELDS:  # a default must never stand for what was measured
            return None
        try:
            found = checked(values, CaseSurvey, case)
        except DataError:  # whole, but of a version that measured something else
            return None
        return found if found.case == case else None

    def put(self, key: str, survey: CaseSurvey) -> None:
        """Keep a survey, at once and on disk."""
        if self._path is None or any(finding.code in _PASSING for finding in survey.findings):
            return
        values: dict[str, Any] = json.loads(json.dumps(survey.to_dict()))  # as it is read back: texts for the ids
        self._kept[key] = values
        line = _line(key, values)
        try:
            with self._path.open("a", encoding="utf-8") as handle:
                handle.write(f"\n{line}" if self._torn else line)
        except OSError as error:
            _log.warning("what was measured cannot be kept in %s: %s", self._path, error)
            self._path = None
        self._torn = False

    def tidy(self, keys: Iterable[str]) -> None:
        """Drop what belongs to none of the keys: files that have changed or gone."""
        wanted = {key: self._kept[key] for key in keys if key in self._kept}
        if self._path is None or (len(wanted) == len(self._kept) and not self._damaged):
            return
        try:
            write_text(self._path, "".join(_line(key, values) for key, values in wanted.items()))
        except OutputError as error:
            _log.warning("%s", error.message)


_FIELDS = {field.name for field in fields(CaseSurvey)}
_PASSING = ("scan-unreadable", "mask-unreadable", "centroid-unreadable", "case-failed")


class _Entry(Record):
    key: Text
    check: Text
    survey: dict[str, Any]


def _line(key: str, values: dict[str, Any]) -> str:
    return json.dumps({"key": key, "check": json_checksum([key, values]), "survey": values}) + "\n"


def _entry(line: str, place: str) -> _Entry | None:
    """A line of the cache; None if it is damaged."""
    if len(line) > _LONGEST_LINE:
        return None
    try:
        entry = parsed(line, _Entry, place)
    except DataError:
        return None
    return entry if entry.check == json_checksum([entry.key, entry.survey]) else None


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - 1))
        return size == 0 or handle.read(1) == b"\n"
