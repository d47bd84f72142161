"""``conversion.json``: what a conversion wrote down about the data set that it made.

    {"verse3d": "1.0", "finished": true, "to": "nnunet", "options": {...}, "notes": [...],
     "cases": [{"case": ..., "subject": ..., "split": ..., "fold": ..., "files": [{"path": "imagesTr/a.nii.gz", ...}]}],
     "files": [{"path": "imagesTr/a.nii.gz", "bytes": ..., "modified": ...}]}

It is read for two ends: by the next conversion, which may replace these files only, and by the next index, which takes
subjects, splits, folds and who made the masks from it. While a conversion is at work ``finished`` is false and
``files`` holds the plan.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError
from verse3d.core.files import is_file, write_json
from verse3d.core.logs import logger
from verse3d.core.readers import Many, Record, Text, Whole, read_record
from verse3d.data.cases import Split
from verse3d.version import __version__

_log = logger(__name__)
MANIFEST = "conversion.json"
_LEVELS_UP = 4  # from the scan in a VerSe tree to the folder of its manifest


@dataclass(frozen=True)
class ConvertedFrom:
    """What a converted case was in the index that it came from; ``subject`` is None where its name still says it."""

    subject: str | None
    split: Split | None
    split_origin: str
    fold: int | None
    automatic: bool = False


def origin_of(path: Path) -> ConvertedFrom | None:
    """The entry of a scan or mask in the ``conversion.json`` above it, or None."""
    # OUT/conversion.json, OUT/<split>/rawdata/<subject>/<scan>
    for folder in list(path.parents)[:_LEVELS_UP]:
        name = path.relative_to(folder).as_posix()
        found = _origins(folder / MANIFEST).get(name)
        if found is not None:
            return found
    return None


class StoredFile(Record):
    """A file that was written, or was about to be: then it has no size yet.

    Attributes:
        path: below the folder of the data set, with slashes.
        bytes: its size, or that of the link.
        modified: when it was changed last, in whole seconds since 1970.
    """

    path: Text
    bytes: Whole | None = None
    modified: Whole | None = None


class StoredConversion(Record):
    """What the next conversion into the same folder has to know."""

    finished: bool
    files: Many[StoredFile]


def write_conversion(
    root: Path, files: Iterable[Mapping[str, Any]], *, finished: bool, content: Mapping[str, Any] | None = None
) -> None:
    """Write what a conversion has done, or is about to do.

    Args:
        root: the folder of the data set.
        files: with the keys of ``StoredFile``.
        finished: all of it is done.
        content: what became of every case.

    Raises:
        OutputError: it cannot be written.
    """
    listed = {"files": list(files)}
    write_json(root / MANIFEST, {"verse3d": __version__, "finished": finished, **(content or {}), **listed})


def read_conversion(root: Path) -> StoredConversion:
    """What an earlier conversion wrote into a folder.

    Raises:
        DataError: it is missing or damaged.
    """
    return read_record(root / MANIFEST, StoredConversion)


class _FileName(Record):
    path: Text


class _Converted(Record):
    """A case in the manifest; one that was left out has no files."""

    subject: Text
    split: Split | None
    split_origin: Text = ""
    fold: Whole | None
    automatic: bool = False
    files: Many[_FileName] = ()


class _Cases(Record):
    to: Text
    cases: Many[_Converted]


@lru_cache(maxsize=512)
def _origins(manifest: Path) -> Mapping[str, ConvertedFrom]:
    # Most folders have none: nothing is said about that.
    if not is_file(manifest):
        return {}
    try:
        content = read_record(manifest, _Cases)
    except DataError as error:  # damaged, or somebody else's file of that name
        _log.warning("%s; subjects and splits are taken from names and folders", error.message)
        return {}
    # VerSe's own names say the subject, and the index reads it from there; nnU-Net's flat names do not.
    keeps_names = content.to == "verse"
    return {
        file.path: ConvertedFrom(
            None if keeps_names else case.subject, case.split, case.split_origin, case.fold, case.automatic
        )
        for case in content.cases
        for file in case.files
    }
