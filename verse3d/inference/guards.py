"""What may not be written over: the data themselves, masks that somebody else made, masks of another scan."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from verse3d.core.errors import DataError, GeometryError
from verse3d.core.volume import made_by_verse3d, read_geometry
from verse3d.data.cases import Case


def refuse_own_output(target: Path, case: Case) -> None:
    """A mask must never take the place of a file that the case consists of.

    Raises:
        DataError: it would.
    """
    own = [path for path in (case.image, case.mask) if path is not None]
    if target.exists() and any(target.samefile(path) for path in own if path.exists()):
        raise DataError(
            f"{target} is a file of the data set and would be overwritten", hint="choose another --out folder"
        )


def refuse_foreign_mask(target: Path) -> None:
    """Even ``overwrite`` replaces only what verse3d wrote: anything else may be somebody's truth.

    Raises:
        DataError: the file is there and not ours.
    """
    if not target.exists():
        return
    if not made_by_verse3d(read_geometry(target)[1]):
        raise DataError(
            f"{target} exists and was not written by verse3d: it may be a true mask",
            hint="choose another --out folder, or remove the file yourself",
        )


def require_mask_of(target: Path, image: Path, previous: Mapping[str, Any]) -> None:
    """A mask that is there already may be kept only if it belongs to this scan.

    Raises:
        DataError: its latest prediction failed, it was made from another scan, or it lies on another grid.
    """
    made_from = previous.get("image")
    if previous.get("status") == "failed":
        raise DataError(
            f"{target} exists, but the latest prediction of this case failed", hint="--overwrite replaces it"
        )
    if made_from is not None and Path(made_from).resolve() != image.resolve():
        raise DataError(
            f"{target} was made from another scan ({made_from}), not from {image}",
            hint="choose another --out folder, or --overwrite to replace it",
        )
    try:
        same = read_geometry(target)[0] == read_geometry(image)[0]
    except GeometryError:
        same = False
    if not same:
        raise DataError(f"{target} exists but is not on the grid of {image}", hint="--overwrite replaces it")
