"""What lies in a folder that holds no NIfTI scan, in words: usually a DICOM series."""

import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.filekinds import DICOM, FileKind, dicom_series, kind_of
from verse3d.core.wording import how_many
from verse3d.data.index.file_roles import is_junk

_MOST_FILES = 20_000
"""Are looked into; who points at a whole archive need not wait for all of it."""
_ANY_NAME = re.compile(".*", re.DOTALL)
_DICOM_NAME = re.compile(r"[^.]+|.*\.(dcm|ima|[0-9]+)", re.IGNORECASE | re.DOTALL)
"""``IM0001``, ``a.dcm``, ``1.2.840.113``"""


def no_scan_found(roots: Sequence[Path]) -> DataError:
    """The error to raise when there is no NIfTI file below ``roots``: what is there instead, and what to do."""
    places = ", ".join(map(str, roots))
    counts, series = _counted(roots)
    if not counts:
        hint = "point at the folder that holds the unpacked data set"
        return DataError(f"no NIfTI scan (.nii or .nii.gz) was found in {places}", hint=hint)
    found = [_in_words(kind, count, len(series)) for kind, count in counts.most_common()]
    hint = counts.most_common(1)[0][0].hint.replace("FOLDER", str(roots[0] if roots[0].is_dir() else roots[0].parent))
    if len(roots) == 1 and roots[0].is_file():
        return DataError(f"{places} is {next(iter(counts)).name}, not NIfTI", hint=hint)
    return DataError(f"{places} holds {' and '.join(found)}, but no NIfTI scan (.nii or .nii.gz)", hint=hint)


def dicom_beside(roots: Sequence[Path]) -> Iterator[tuple[Path, str]]:
    """The roots that hold DICOM files beside what is read, and how many: "40 DICOM files of 1 series".

    Only files that are named like DICOM are looked into: a data set of ten thousand NIfTI files costs nothing.
    """
    for root in roots:
        counts, series = _counted([root], only=_DICOM_NAME)
        if counts[DICOM]:
            yield root, _in_words(DICOM, counts[DICOM], len(series))


def _counted(roots: Sequence[Path], only: re.Pattern[str] = _ANY_NAME) -> tuple[Counter[FileKind], set[str]]:
    """How many images of other kinds there are, and the series that the DICOM files among them belong to."""
    counts: Counter[FileKind] = Counter()
    series: set[str] = set()
    named_so = (path for path in _files(roots) if only.fullmatch(path.name))
    for number, path in enumerate(named_so):
        if number == _MOST_FILES:
            break
        kind = kind_of(path)
        if kind.hint:  # something can be done with it
            counts[kind] += 1
        if kind == DICOM and (uid := dicom_series(path)):
            series.add(uid)
    return counts, series


def _files(roots: Sequence[Path]) -> Iterator[Path]:
    for root in roots:
        if root.is_file():
            yield root
        for folder, subfolders, names in os.walk(root):
            subfolders[:] = sorted(name for name in subfolders if not is_junk(name))
            yield from (Path(folder) / name for name in sorted(names) if not is_junk(name))


def _in_words(kind: FileKind, count: int, series: int) -> str:
    name = kind.name.split(maxsplit=1)[1]
    some = how_many(count, name)
    return f"{some} of {series} series" if kind == DICOM and series else some
