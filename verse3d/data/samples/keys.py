"""Names of entries: they change whenever what was prepared would no longer be what is prepared today."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from verse3d.core.config import GridConfig
from verse3d.core.errors import DataError
from verse3d.core.files import regular_file
from verse3d.data.cases import Case

PREPARATION_VERSION = 1
"""Raised whenever the voxels that a preparation gives change, or the files they are kept in."""

_END_BYTES = 2**16
_LONGEST_NAME = 100


def file_state(path: Path) -> list[Any]:
    """What tells one content of a file from another without reading all of it: size, time, hash of both ends.

    The end of a .nii.gz holds a checksum of its voxels.

    Raises:
        DataError: the file cannot be read.
    """
    try:
        with regular_file(path).open("rb") as handle:
            status = os.fstat(handle.fileno())
            ends = handle.read(_END_BYTES)
            handle.seek(max(0, status.st_size - _END_BYTES))
            ends += handle.read(_END_BYTES)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror or error}") from error
    return [status.st_size, status.st_mtime_ns, hashlib.blake2b(ends, digest_size=16).hexdigest()]


def entry_name(case: Case, grid: GridConfig) -> str:
    """The folder of a case in a store, e.g. "sub-verse004-1f0c...".

    Where the files lie does not matter, so that a data set can be moved (with its times) without preparing it again.

    Raises:
        DataError: the case lacks a file, or one cannot be read.
    """
    files = [file_state(case.image_path()), file_state(case.mask_path())]
    state = json.dumps([PREPARATION_VERSION, case.case, grid.model_dump(mode="json"), case.relabel, files])
    return f"{case.case[:_LONGEST_NAME]}-{hashlib.blake2b(state.encode(), digest_size=10).hexdigest()}"
