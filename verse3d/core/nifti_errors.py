"""Why a file cannot be read as a NIfTI scan, in words that say what it is instead and what to do."""

import os
from pathlib import Path

from verse3d.core.errors import DataError
from verse3d.core.filekinds import NIFTI, kind_of


def unreadable(path: Path, error: BaseException) -> DataError:
    """The error to raise when ``path`` could not be read because of ``error``."""
    if isinstance(error, PermissionError):
        return DataError(f"{path} may not be read: permission denied", hint=f"as its owner: chmod u+r {path}")
    return DataError(
        f"cannot read {path}: {error or type(error).__name__}",
        hint="the file is damaged, incomplete or not NIfTI: download or export it again",
    )


def not_nifti(path: Path, error: BaseException) -> DataError:
    """A file that is whole, but another kind of file under a NIfTI's name, is not called damaged."""
    kind = kind_of(path)
    if kind == NIFTI or not kind.hint or isinstance(error, PermissionError):
        return unreadable(path, error)
    return DataError(f"{path} is not NIfTI but {kind.name}", hint=kind.hint)


def not_a_file(path: Path) -> DataError:
    """The error to raise when there is no file at ``path``."""
    archive = next((parent for parent in path.parents if os.path.isfile(parent)), None)  # noqa: PTH113
    if archive is not None:
        return DataError(
            f"{path} is still packed in {archive.name}",
            hint="unpack it with `verse3d.index(DATA, unpack=FOLDER, out='cases.jsonl')`",
        )
    # os.path says no to names that the system refuses, where Path raises.
    if os.path.isdir(path):  # noqa: PTH112
        return DataError(f"{path} is a folder", hint="name the NIfTI file in it")
    return DataError(f"{path} is not a file" if os.path.exists(path) else f"{path} does not exist")  # noqa: PTH110
