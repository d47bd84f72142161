"""What ``verse3d convert`` wrote down about the cases of a data set that it made, for when that is indexed again."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.files import is_file
from verse3d.core.logs import logger
from verse3d.core.readers import Many, Record, Text, Whole, read_record
from verse3d.data.cases import Split

_log = logger(__name__)
MANIFEST = "conversion.json"
_LEVELS_UP = 4  # from the scan in a VerSe tree to the folder of its manifest


@dataclass(frozen=True)
class Origin:
    """What a converted case was in the index that it came from; ``subject`` is None where its name still says it."""

    subject: str | None
    split: Split | None
    split_origin: str
    fold: int | None


def origin_of(path: Path) -> Origin | None:
    """The entry of a scan or mask in the ``conversion.json`` above it, or None."""
    for folder in list(path.parents)[:_LEVELS_UP]:
        if found := _origins(folder / MANIFEST).get(path.relative_to(folder).as_posix()):
            return found
    return None


class _File(Record):
    path: Text


class _Converted(Record):
    """A case in the manifest; one that was left out has no files."""

    subject: Text
    split: Split | None
    split_origin: Text = ""
    fold: Whole | None
    files: Many[_File] = ()


class _Manifest(Record):
    to: Text
    cases: Many[_Converted]


@lru_cache(maxsize=512)
def _origins(manifest: Path) -> Mapping[str, Origin]:
    if not is_file(manifest):
        return {}
    try:
        content = read_record(manifest, _Manifest)
    except DataError as error:  # damaged, or somebody else's file of that name
        _log.warning("%s; subjects and splits are taken from names and folders", error.message)
        return {}
    keeps_names = content.to == "verse"
    return {file.path: _origin(case, keeps_names) for case in content.cases for file in case.files}


def _origin(case: _Converted, keeps_names: bool) -> Origin:
    return Origin(None if keeps_names else case.subject, case.split, case.split_origin, case.fold)
