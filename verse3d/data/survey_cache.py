"""What was measured of files, kept beside the index, so that unchanged files are not read again."""

import hashlib
import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from verse3d.core.errors import OutputError
from verse3d.core.files import write_text
from verse3d.core.logs import logger
from verse3d.data.cases import Case
from verse3d.data.examine.record import SURVEY_VERSION, CaseSurvey

_log = logger(__name__)


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
    except OSError:
        return [absolute]
    return [absolute, status.st_size, status.st_mtime_ns]


class SurveyCache:
    """A file of JSON lines ``{"key": ..., "survey": {...}}``, appended to case by case.

    Lines that are damaged, torn or of an older version are ignored; a cache that cannot be written is left alone with
    a warning. Surveys of files that could not be read are not kept: the reason may pass.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._kept = {} if path is None else _read(path)
        self._torn = bool(path and path.is_file() and not _ends_whole(path))

    def get(self, key: str) -> CaseSurvey | None:
        """What was kept under that key."""
        found = self._kept.get(key)
        return None if found is None else _survey(found)

    def put(self, key: str, survey: CaseSurvey) -> None:
        """Keep a survey, at once and on disk."""
        if self._path is None or any(finding.code in _PASSING for finding in survey.findings):
            return
        values = survey.to_dict()
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
        if self._path is None or len(wanted) == len(self._kept):
            return
        try:
            write_text(self._path, "".join(_line(key, values) for key, values in wanted.items()))
        except OutputError as error:
            _log.warning("%s", error.message)


_PASSING = ("scan-unreadable", "mask-unreadable", "centroid-unreadable", "case-failed")


def _line(key: str, values: dict[str, Any]) -> str:
    return json.dumps({"key": key, "survey": values}) + "\n"


def _ends_whole(path: Path) -> bool:
    with path.open("rb") as handle:
        size = handle.seek(0, os.SEEK_END)
        handle.seek(max(0, size - 1))
        return size == 0 or handle.read(1) == b"\n"


def _read(path: Path) -> dict[str, dict[str, Any]]:
    kept: dict[str, dict[str, Any]] = {}
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError:
        return kept
    for line in lines:
        try:
            row = json.loads(line)
            kept[str(row["key"])] = row["survey"]
        except (ValueError, KeyError, TypeError):
            continue
    return kept


def _survey(values: dict[str, Any]) -> CaseSurvey | None:
    try:
        return CaseSurvey.from_dict(values)
    except (KeyError, TypeError, ValueError, AttributeError):
        return None
